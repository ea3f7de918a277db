"""Errors of calls, and the ends of jobs as exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from jobtrack._proto import rpc_status_pb2
from jobtrack._values import Document, Job

FINAL_CODES = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"}
    | {"UNIMPLEMENTED"}
)
"""Codes of errors that are about the request or the job: the same call would fail again."""

FENCED_REASONS = frozenset({"STALE_ATTEMPT", "JOB_FINISHED", "JOB_NOT_FOUND"})
"""Reasons of errors that say that the attempt is not this worker's any more."""


@dataclass(frozen=True)
class Violation:
    """An invalid field of a request."""

    field: str
    """Path of the field: `filter.labels`."""
    description: str
    """The rule that the field breaks."""


class Error(Exception):
    """An error of a call: the error that the server returned, or the reason for which the call could not be sent."""

    code: str
    """Name of the gRPC code: `NOT_FOUND`."""
    reason: str
    """Identifies the error, in UPPER_SNAKE_CASE: `JOB_NOT_FOUND`. Empty if the server gave none."""
    message: str
    """The error, for people."""
    metadata: Mapping[str, str]
    """Every variable part of the error, by name."""
    violations: tuple[Violation, ...]
    """The invalid fields of the request."""
    retry_after: timedelta | None
    """Time after which the call may be repeated, if the server named one."""

    def __init__(
        self,
        code: str,
        reason: str = "",
        message: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        self.code, self.reason, self.message = code, reason, message
        self.metadata, self.violations, self.retry_after = dict(metadata or {}), tuple(violations), retry_after
        super().__init__(code, reason, message)

    def __str__(self) -> str:
        text = self.message or self.code
        if self.reason:
            text += f" ({self.reason})"
        # The message names the first field only.
        return text + "".join(f"; {other.field}: {other.description}" for other in self.violations[1:])

    @property
    def is_final(self) -> bool:
        """True if the error is about the request or the job: the same call would fail again.

        Otherwise it is about the server, the connection or the credentials, and the call may succeed later.
        """
        return self.code in FINAL_CODES

    @property
    def is_fenced(self) -> bool:
        """True if the attempt no longer belongs to this worker."""
        return self.reason in FENCED_REASONS


class JobFailed(Exception):
    """The job has failed."""

    def __init__(self, reason: str, message: str = "", details: Document | None = None, job: Job | None = None) -> None:
        self.reason, self.message, self.details, self.job = reason, message, dict(details or {}), job
        super().__init__(reason, message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message


class JobCancelled(Exception):
    """The job was cancelled. In a worker: cancellation was requested, and the work must stop."""

    def __init__(self, reason: str = "", requester: str = "", job: Job | None = None) -> None:
        self.reason, self.requester, self.job = reason, requester, job
        super().__init__(reason, requester)

    def __str__(self) -> str:
        return self.reason or "the job was cancelled"


def from_rpc(failed: Any) -> Error:
    """Returns the error of a call that ended with a grpc.RpcError."""
    code = failed.code()
    name = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    message = failed.details() or ""
    packed = next((value for key, value in failed.trailing_metadata() or () if key == "grpc-status-details-bin"), b"")
    try:
        status = rpc_status_pb2.Status.FromString(packed)
    except Exception:
        # A proxy may send anything.
        return Error(name, message=message)
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in status.details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == "google.rpc.ErrorInfo":
            info = rpc_status_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif kind == "google.rpc.BadRequest":
            fields = rpc_status_pb2.BadRequest.FromString(detail.value).field_violations
            violations = [Violation(each.field, each.description) for each in fields]
        elif kind == "google.rpc.RetryInfo":
            retry_after = rpc_status_pb2.RetryInfo.FromString(detail.value).retry_delay.ToTimedelta()
    return Error(name, reason, message, metadata, violations, retry_after)


def invalid(field: str, description: str) -> Error:
    """Returns the error of an argument that can't be sent."""
    violation = Violation(field, description)
    return Error("INVALID_ARGUMENT", "INVALID_FIELD", f"{field}: {description}", violations=[violation])
