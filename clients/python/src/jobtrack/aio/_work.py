"""Working on a job over asyncio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from jobtrack._errors import JobCancelled
from jobtrack._work import Work as SyncWork
from jobtrack._work import _length

T = TypeVar("T")


class Tracked(Generic[T]):
    """The items of an iterable, for `async for` and, unless it is an asynchronous one, for `for`."""

    def __init__(
        self, work: Work, iterable: Iterable[T] | AsyncIterable[T], total: int | None, unit: str | None
    ) -> None:
        self._work, self._iterable, self._total, self._unit = work, iterable, total, unit

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self._iterable, Iterable):
            raise TypeError("an asynchronous iterable needs async for")
        return SyncWork.track(self._work, self._iterable, self._total, self._unit)

    async def __aiter__(self) -> AsyncIterator[T]:
        if not isinstance(self._iterable, AsyncIterable):
            for item in self:
                yield item
            return
        work, completed = self._work, 0
        work._check()
        total: Any = self._iterable
        track = work._start_track(self._total if self._total is not None else _length(total), self._unit)
        async for item in self._iterable:
            yield item
            completed += 1
            track.completed = completed
            if work._is_stopped:
                work._check()


class Work(SyncWork):
    """One attempt at a job, which begins and ends with an `async with` block.

    Reports and heartbeats are sent by a thread, also while the event loop is blocked. When somebody asks for the
    cancellation, the task that entered the block is cancelled, and the block raises `JobCancelled`.
    """

    _loop: asyncio.AbstractEventLoop
    _changed: asyncio.Event
    _task: asyncio.Task[Any] | None = None
    _has_cancelled_task = False
    _has_left = False

    def track(  # type: ignore[override]
        self, iterable: Iterable[T] | AsyncIterable[T], total: int | None = None, unit: str | None = None
    ) -> Tracked[T]:
        """Yields the items of an iterable, asynchronous or not, and counts those that are done."""
        return Tracked(self, iterable, total, unit)

    def raise_if_cancelled(self) -> None:
        """Raises `JobCancelled` if somebody asked for the cancellation."""
        # A cancelled task gets `CancelledError` at its next await, so nothing is raised here.
        if not self._has_cancelled_task:
            self._has_left = self.cancelled
            super().raise_if_cancelled()

    def __enter__(self) -> Any:
        raise TypeError("jobtrack.aio.job needs async with")

    async def __aenter__(self) -> Work:
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._task = asyncio.current_task()
        self._shared.on_change.append(self._tell)
        self._shared.on_stop.append(self._tell_stop)
        self._start()
        if self._claim_timeout > 0:
            try:
                await asyncio.wait_for(self._until(lambda: self._shared.is_settled), self._claim_timeout)
            except asyncio.TimeoutError:
                self._shared.settle()
            except asyncio.CancelledError:
                await self.__aexit__(*sys.exc_info())
                raise
            self._raise_refusal()
        self._enter_context()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_left = True
        self._exit_context()
        if not self._shared.is_own_process:
            return
        stop = self._shared.stop
        is_stopped = self._has_cancelled_task and isinstance(error, asyncio.CancelledError)
        if is_stopped and isinstance(stop, JobCancelled):
            error = JobCancelled(stop.reason, stop.requester, stop.job)
            kind, trace = JobCancelled, None
            if self._task is not None and sys.version_info >= (3, 11):
                self._task.uncancel()
        self._end(self._outcome_of(kind, error, trace))
        try:
            finished = self._until(lambda: self._shared.has_ended)
            await asyncio.wait_for(finished, self._shared.flush_timeout + 1)
        except asyncio.TimeoutError:
            pass
        if is_stopped and error is not None:
            raise error from None
        if kind is None:
            self._raise_problem()

    async def _until(self, is_reached: Any) -> None:
        while not is_reached():
            self._changed.clear()
            if not is_reached():
                await self._changed.wait()

    def _tell(self) -> None:
        self._in_loop(self._changed.set)

    def _tell_stop(self) -> None:
        self._in_loop(self._cancel_task)

    def _in_loop(self, called: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(called)
        except RuntimeError:
            # The loop was closed.
            return

    def _cancel_task(self) -> None:
        is_wanted = self._raise_on_cancel and isinstance(self._shared.stop, JobCancelled)
        if is_wanted and not self._has_left and self._task is not None and not self._task.done():
            self._has_cancelled_task = True
            self._task.cancel()
