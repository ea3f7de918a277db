"""Values from and to messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from jobtrack._errors import invalid
from jobtrack._proto import job_pb2
from jobtrack._values import (
    Attempt,
    Cancellation,
    Document,
    Durability,
    Failure,
    Job,
    Liveness,
    Progress,
    State,
    _Name,
)

DEPTH_MAX = 16
"""Maximum depth of a document, as the server allows it."""

SAFE_INTEGER_MAX = 2**53
"""Largest integer that a number of a document holds exactly."""

Seconds = float | int | timedelta
"""A duration: seconds, or a timedelta."""

N = TypeVar("N", bound=_Name)

_STATES = dict(enumerate(State))
_LIVENESS = dict(enumerate(Liveness))
_DURABILITY = dict(enumerate(Durability))
_PROGRESS = ("percent", "completed", "total", "unit", "stage", "stage_index", "stage_count", "message")


def seconds(duration: Seconds) -> float:
    """Returns a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def put_duration(target: Any, field: str, duration: Seconds | None) -> None:
    """Sets the field of a message to a duration, unless it is None."""
    if duration is not None:
        value = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        getattr(target, field).FromTimedelta(value)


def put_time(target: Any, field: str, time: datetime | None) -> None:
    """Sets the field of a message to a time, unless it is None. A time without a zone is local."""
    if time is not None:
        getattr(target, field).FromDatetime(time.astimezone(timezone.utc))


def put_document(target: Any, field: str, document: Document | None) -> None:
    """Sets the field of a message to a document, unless it is None."""
    if document is not None:
        if not isinstance(document, Mapping):
            raise invalid(field, "must be a dict")
        value = getattr(target, field)
        value.SetInParent()
        _fill(value, document, field, 1)


def _fill(struct: Any, document: Document, path: str, depth: int) -> None:
    for key, value in document.items():
        if not isinstance(key, str):
            raise invalid(path, "keys must be strings")
        _put(struct.fields[key], value, f"{path}.{key}", depth)


def _put(target: Any, value: object, path: str, depth: int) -> None:
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise invalid(path, "must be a finite number")
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif depth >= DEPTH_MAX:
        raise invalid(path, f"must not be nested deeper than {DEPTH_MAX}")
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        _fill(target.struct_value, value, path, depth + 1)
    elif isinstance(value, (list, tuple)):
        target.list_value.SetInParent()
        for index, each in enumerate(value):
            _put(target.list_value.values.add(), each, f"{path}[{index}]", depth + 1)
    else:
        raise invalid(path, f"must be a JSON value, not {type(value).__name__}")


def document(struct: Any) -> dict[str, Any]:
    """Returns the document of a Struct."""
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "struct_value":
        return document(value.struct_value)
    if kind == "list_value":
        return [_value(each) for each in value.list_value.values]
    plain = getattr(value, kind)
    # JSON has one kind of number: whole ones come back as they were given.
    if kind == "number_value" and plain.is_integer() and abs(plain) <= SAFE_INTEGER_MAX:
        return int(plain)
    return plain


def _named(names: Mapping[int, N], number: int) -> N:
    """Returns the name for a number. A number that only a newer server knows becomes UNSPECIFIED."""
    return names.get(number, names[0])


def numbers(kind: type[N], names: Iterable[N | str], field: str) -> list[Any]:
    """Returns the numbers of names."""
    try:
        known = list(kind)
        return [known.index(kind(name)) for name in names]
    except ValueError as error:
        raise invalid(field, str(error)) from None


def time(message: Any, field: str) -> datetime | None:
    """Returns the time in the field of a message, if it is set."""
    if not message.HasField(field):
        return None
    stamp: datetime = getattr(message, field).ToDatetime(timezone.utc)
    return stamp


def _duration(message: Any, field: str) -> timedelta | None:
    if not message.HasField(field):
        return None
    duration: timedelta = getattr(message, field).ToTimedelta()
    return duration


def _failure(message: Any, field: str) -> Failure | None:
    if not message.HasField(field):
        return None
    failure = getattr(message, field)
    return Failure(failure.reason, failure.message, failure.code, document(failure.details))


def _progress(message: Any) -> Progress:
    plain = {field: getattr(message, field) for field in _PROGRESS if message.HasField(field)}
    return Progress(**plain, details=document(message.details))


def _cancellation(message: Any) -> Cancellation | None:
    if not message.HasField("cancel"):
        return None
    cancel = message.cancel
    return Cancellation(cancel.reason, cancel.requester, time(cancel, "request_time"), time(cancel, "force_time"))


def _attempt(message: Any) -> Attempt:
    start, end = time(message, "start_time"), time(message, "end_time")
    return Attempt(message.number, message.worker, start, end, _failure(message, "failure"))


def job(message: job_pb2.Job) -> Job:
    """Returns the plain value of a job."""
    return Job(
        id=message.id,
        kind=message.kind,
        state=_named(_STATES, message.state),
        owner=message.owner,
        title=message.title,
        labels=dict(message.labels),
        metadata=document(message.metadata),
        attempt=message.attempt,
        progress=_progress(message.progress),
        worker=message.worker,
        cancel=_cancellation(message),
        lease=_duration(message, "lease_timeout"),
        lease_expire_time=time(message, "lease_expire_time"),
        liveness=_named(_LIVENESS, message.liveness),
        create_time=time(message, "create_time"),
        start_time=time(message, "start_time"),
        update_time=time(message, "update_time"),
        progress_time=time(message, "progress_time"),
        end_time=time(message, "end_time"),
        expire_time=time(message, "expire_time"),
        start_timeout=_duration(message, "start_timeout"),
        start_expire_time=time(message, "start_expire_time"),
        result=document(message.result) if message.HasField("result") else None,
        failure=_failure(message, "failure"),
        last_failure=_failure(message, "last_failure"),
        attempts=tuple(_attempt(attempt) for attempt in message.attempts),
        revision=message.revision,
        durability=_named(_DURABILITY, message.durability),
    )


def progress(fields: Mapping[str, Any]) -> job_pb2.Progress:
    """Returns the message of the fields of a report."""
    plain = {name: value for name, value in fields.items() if name != "details"}
    message = job_pb2.Progress(**plain)
    put_document(message, "details", fields.get("details"))
    return message
