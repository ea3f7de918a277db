"""Jobs as plain values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Document = Mapping[str, Any]
"""A JSON object: keys are strings, values are None, booleans, numbers, strings, lists and objects."""


class _Name(str, enum.Enum):
    """A name of the protos without its prefix. Equal to the string."""

    def __str__(self) -> str:
        return str(self.value)


class State(_Name):
    """State of a job. An end is final."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """True if the state is one of the three ends."""
        return self in _ENDS


_ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Liveness(_Name):
    """Liveness of a job's worker. UNSPECIFIED: the job has no lease, waits for its start or has ended."""

    UNSPECIFIED = "UNSPECIFIED"
    LIVE = "LIVE"
    LOST = "LOST"


class Durability(_Name):
    """Durability of a version of a job: DURABLE is in Redis, VOLATILE only in the memory of the server."""

    UNSPECIFIED = "UNSPECIFIED"
    DURABLE = "DURABLE"
    VOLATILE = "VOLATILE"


@dataclass(frozen=True)
class Failure:
    """Reason of a failure."""

    reason: str = ""
    """The cause, for programs: the name of an exception, `EXIT_3`, `WORKER_LOST`."""
    message: str = ""
    """The cause, for people."""
    code: int = 2
    """Number of a gRPC code, 1 to 16."""
    details: Document = field(default_factory=dict)
    """The worker's own data."""


@dataclass(frozen=True)
class Progress:
    """Progress of the current attempt. None: never reported."""

    percent: float | None = None
    """0 to 100."""
    completed: int | None = None
    """Units done."""
    total: int | None = None
    """Units to do."""
    unit: str | None = None
    """Name of the units: `frames`."""
    stage: str | None = None
    """Name of the current stage."""
    stage_index: int | None = None
    """Number of the current stage."""
    stage_count: int | None = None
    """Number of stages."""
    message: str | None = None
    """A line for people."""
    details: Document = field(default_factory=dict)
    """The worker's own data."""


@dataclass(frozen=True)
class Cancellation:
    """A request to stop a job."""

    reason: str = ""
    requester: str = ""
    request_time: datetime | None = None
    force_time: datetime | None = None
    """Time at which the job becomes CANCELLED unless its worker has ended it."""


@dataclass(frozen=True)
class Attempt:
    """One try to do the work of a job."""

    number: int
    """From 1."""
    worker: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Job:
    """A version of a job. Times are in UTC. Documents are empty where a view leaves them out."""

    id: str
    kind: str
    state: State
    owner: str = ""
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Document = field(default_factory=dict)
    attempt: int = 0
    """Number of the current attempt: 0 before the first one."""
    progress: Progress = field(default_factory=Progress)
    worker: str = ""
    cancel: Cancellation | None = None
    """Set once somebody asked for the cancellation."""
    lease: timedelta | None = None
    """Time without a report after which the worker counts as lost."""
    lease_expire_time: datetime | None = None
    liveness: Liveness = Liveness.UNSPECIFIED
    create_time: datetime | None = None
    start_time: datetime | None = None
    update_time: datetime | None = None
    progress_time: datetime | None = None
    """Time at which the numbers or the stage last changed. Heartbeats leave it as it is."""
    end_time: datetime | None = None
    expire_time: datetime | None = None
    start_timeout: timedelta | None = None
    start_expire_time: datetime | None = None
    result: Document | None = None
    failure: Failure | None = None
    last_failure: Failure | None = None
    """Failure of the last attempt that ended in a retry."""
    attempts: tuple[Attempt, ...] = ()
    """The last 16 attempts."""
    revision: int = 0
    """Counts the stored changes, from 1."""
    durability: Durability = Durability.UNSPECIFIED

    @property
    def ended(self) -> bool:
        """True if the job has ended."""
        return self.state.ended

    @property
    def percent(self) -> float | None:
        """Percentage, 0 to 100."""
        return self.progress.percent

    @property
    def completed(self) -> int | None:
        """Units done."""
        return self.progress.completed

    @property
    def total(self) -> int | None:
        """Units to do."""
        return self.progress.total

    @property
    def stage(self) -> str | None:
        """The current step."""
        return self.progress.stage

    @property
    def message(self) -> str | None:
        """A line for people."""
        return self.progress.message


@dataclass(frozen=True)
class WatchToken:
    """A token with which somebody else can follow some jobs, and do nothing else."""

    token: str
    path: str
    """Path of the URL at which the events can be followed over HTTP, without the token."""
    expire_time: datetime | None = None
