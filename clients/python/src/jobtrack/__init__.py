"""Client of jobtrack, a job tracker over gRPC: a worker in three lines, a watcher in two.

with jobtrack.job("video.render", total=len(frames)) as job:
    for frame in job.track(frames):
        encode(frame)

for state in jobtrack.watch(job_id):
    print(state.percent, state.stage)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobtrack._calls import Claim, Page
from jobtrack._convert import Seconds
from jobtrack._errors import Error, JobCancelled, JobFailed, Violation
from jobtrack._options import JobOptions
from jobtrack._tracker import Tracker
from jobtrack._tracker import default as _default
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
    WatchToken,
)
from jobtrack._work import Work, current

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Attempt",
    "Cancellation",
    "Claim",
    "Document",
    "Durability",
    "Error",
    "Failure",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobOptions",
    "Liveness",
    "Page",
    "Progress",
    "Seconds",
    "State",
    "Tracker",
    "Violation",
    "WatchToken",
    "Work",
    "current",
    "job",
    "wait",
    "watch",
]


def job(kind: str, *, tracker: Tracker | None = None, **options: Unpack[JobOptions]) -> Work:
    """Works on a job in a `with` block: creates the job, claims an attempt, and ends it when the block is left.

    - `kind`: kind of work, such as `video.render`. `title` is its name for people, `owner` the tenant that it belongs
      to, `labels` are pairs to filter by, `metadata` is a dict of your own.
    - `id`: up to 128 characters of `A-Za-z0-9._:-`, by default a new UUID. If the job exists, its next attempt is
      claimed. If another worker runs it, or it has ended, the `with` statement raises an `Error` with the reason
      `ATTEMPT_RUNNING` or `JOB_FINISHED`; `takeover` ends the attempt of the other worker. `request_id` names the
      claim: a worker that starts again with the same one gets the same attempt.
    - `total`, `unit`: number and name of the units to do.
    - `lease` (30 s): time without a report or heartbeat after which this worker counts as lost, and with
      `fail_when_lost` (true) the job fails. Heartbeats are sent at intervals of a third of the lease, at most 30 s.
      `retention`: time to keep the job after its end.
    - `retry`: an exception ends only the attempt, and the job waits for the next one.
    - `raise_on_cancel` (true): `track` raises `JobCancelled` when cancellation is requested.
    - `strict`: an `Error` is raised by the `with` statement if the tracker is unavailable, by `track` and reports if
      another worker has taken over the attempt, and at the end of the block if the end could not be sent. Without
      `strict` an unavailable tracker raises nothing: a warning is logged, and the newest state is kept and sent later.
    - `report_interval` (0.5 s): minimum time between two reports. `flush_timeout` (5 s): maximum time that leaving the
      block waits for the tracker.
    - `join` (true): inside of `jobtrack run` the job is that of the command, unless an `id` is given.

    - `worker`: name of this worker, by default host and process. `tracker`: by default the one that the environment
      names.

    Durations are in seconds, or timedeltas.
    """
    return (tracker or _default()).job(kind, **options)


def watch(
    id: str, *, min_interval: Seconds | None = None, documents: bool = True, timeout: Seconds | None = None
) -> Iterator[Job]:
    """Yields the versions of a job as they come, to its end; see `Tracker.watch`."""
    return _default().watch(id, min_interval=min_interval, documents=documents, timeout=timeout)


def wait(id: str, *, timeout: Seconds | None = None) -> Job:
    """Waits for the end of a job, and returns the job if it has succeeded; see `Tracker.wait`."""
    return _default().wait(id, timeout=timeout)
