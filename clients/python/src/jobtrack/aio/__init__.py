"""The API of `jobtrack` for asyncio.

async with jobtrack.aio.job("video.render", total=len(frames)) as job:
    async for frame in job.track(frames):
        await encode(frame)

async for state in jobtrack.aio.watch(job_id):
    print(state.percent, state.stage)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from jobtrack._channel import CALL_TIMEOUT, Settings, settings_of
from jobtrack._convert import Seconds
from jobtrack._options import JobOptions
from jobtrack._values import Job
from jobtrack._work import current
from jobtrack.aio._tracker import Tracker
from jobtrack.aio._work import Work

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Tracker", "Work", "current", "job", "wait", "watch"]

_defaults: dict[Settings, Tracker] = {}


def _default() -> Tracker:
    settings = settings_of({}, CALL_TIMEOUT)
    tracker = _defaults.get(settings)
    return tracker if tracker is not None else _defaults.setdefault(settings, Tracker())


def job(kind: str, *, tracker: Tracker | None = None, **options: Unpack[JobOptions]) -> Work:
    """Works on a job in an `async with` block; see `jobtrack.job`.

    When somebody asks for the cancellation, the task is cancelled, and the block raises `JobCancelled`; with
    `raise_on_cancel=False` only `Work.cancelled` says so.
    """
    return (tracker or _default()).job(kind, **options)


def watch(
    id: str, *, min_interval: Seconds | None = None, documents: bool = True, timeout: Seconds | None = None
) -> AsyncIterator[Job]:
    """Yields the versions of a job as they come, to its end; see `jobtrack.Tracker.watch`."""
    return _default().watch(id, min_interval=min_interval, documents=documents, timeout=timeout)


async def wait(id: str, *, timeout: Seconds | None = None) -> Job:
    """Waits for the end of a job, and returns the job if it has succeeded; see `jobtrack.Tracker.wait`."""
    return await _default().wait(id, timeout=timeout)
