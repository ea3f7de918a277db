"""Working on a job."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from types import TracebackType
from typing import TypeVar

from jobtrack import _exit
from jobtrack._channel import Connection
from jobtrack._convert import seconds
from jobtrack._ends import Cancel, Complete, Fail, Outcome, of_exception
from jobtrack._errors import Error, JobCancelled
from jobtrack._options import Options
from jobtrack._report import plain
from jobtrack._reporter import Begin, Reporter
from jobtrack._shared import REFUSING, Shared, Track
from jobtrack._values import Document, Failure, Job

T = TypeVar("T")
W = TypeVar("W", bound="Work")

CLAIM_TIMEOUT = 1.0
"""Maximum time in seconds that the work waits for its claim, unless it is strict."""

logger = logging.getLogger("jobtrack")
_current: contextvars.ContextVar[Work | None] = contextvars.ContextVar("jobtrack_current", default=None)


def current() -> Work | None:
    """Returns the work that this code is part of: the innermost `with` block, or the task of Celery or RQ."""
    work = _current.get()
    return work if work is not None and work._shared.is_own_process else None


class Work:
    """One attempt at a job, which begins and ends with a `with` block.

    A thread beside the work sends reports and heartbeats; no method waits for the tracker. Reports that wait are sent
    as one, with the newest values. Only `job()` makes instances.
    """

    def __init__(
        self,
        connection: Connection,
        begin: Begin,
        job_id: str,
        options: Options,
    ) -> None:
        self._shared = Shared(job_id, seconds(options.flush_timeout))
        self._connection = connection
        self._begin = begin
        self._strict = options.strict
        self._retry = options.retry
        # The wrapper of a joined job stops the process itself.
        self._raise_on_cancel = options.raise_on_cancel and begin.start is not None
        self._report_interval = seconds(options.report_interval)
        self._total = options.total
        self._unit = options.unit
        self._result: Document | None = None
        self._outcome: Outcome | None = None
        self._has_noticed_cancel = False
        # Read in each iteration of a loop, so it is an attribute and not a property.
        self._is_stopped = False
        self._bar: object = None
        """The outer bar of tqdm."""
        self._token: contextvars.Token[Work | None] | None = None

    # The job

    @property
    def id(self) -> str:
        """Id of the job."""
        return self._shared.job_id

    @property
    def attempt(self) -> int | None:
        """Number of the attempt, from 1. None until the server has confirmed the claim."""
        return self._shared.attempt

    @property
    def is_joined(self) -> bool:
        """True if the job is that of a surrounding `jobtrack run`, which ends it."""
        return self._begin.start is None

    @property
    def state(self) -> Job | None:
        """The last version that the server has sent."""
        return self._shared.job

    @property
    def result(self) -> Document | None:
        """The result of the job: a dict of JSON values, at most 1 MiB. Sent when the block is left."""
        return self._result

    @result.setter
    def result(self, result: Document | None) -> None:
        self._result = result

    # Reports

    def update(
        self,
        *,
        percent: float | None = None,
        completed: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        stage: str | None = None,
        stage_index: int | None = None,
        stage_count: int | None = None,
        message: str | None = None,
        details: Document | None = None,
    ) -> None:
        """Reports progress. Values that are not given are kept, but a new stage resets the numbers."""
        given: dict[str, object] = {
            "percent": percent,
            "completed": completed,
            "total": total,
            "unit": unit,
            "stage": stage,
            "stage_index": stage_index,
            "stage_count": stage_count,
            "message": message,
            "details": details,
        }
        self._report(given)

    def stage(self, name: str, index: int | None = None, count: int | None = None, total: int | None = None) -> None:
        """Begins a stage, such as the second of three. This resets the numbers."""
        self._total = total
        self._report({"stage": name, "stage_index": index, "stage_count": count, "total": total})

    def message(self, text: str) -> None:
        """Sets the line for people."""
        self._report({"message": text})

    def track(self, iterable: Iterable[T], total: int | None = None, unit: str | None = None) -> Iterator[T]:
        """Yields the items of an iterable, and counts those that are done.

        The total is that of the job or the stage if one was set, otherwise `total`, otherwise the length of the
        iterable. Raises `JobCancelled` after the item during which cancellation was requested, and with `strict` an
        `Error` when another worker has taken over the attempt.
        """
        self._check()
        track = self._start_track(total if total is not None else _length(iterable), unit)
        for completed, item in enumerate(iterable, 1):
            yield item
            track.completed = completed
            if self._is_stopped:
                self._check()

    def _start_track(self, total: int | None, unit: str | None) -> Track:
        track, self._total = Track(), total if self._total is None else self._total
        if not self._shared.is_own_process:
            return track
        fields = plain({"completed": 0, "total": self._total, "unit": unit})
        self._shared.report(fields, track)
        self._total = None
        return track

    def _report(self, given: Mapping[str, object]) -> None:
        if not self._shared.is_own_process:
            return
        try:
            fields = plain(given)
        except (TypeError, ValueError, OverflowError) as error:
            if self._strict:
                raise
            logger.warning("job %s: a report was left out: %s", self.id, error)
            return
        self._shared.report(fields)
        if self._is_stopped and self._strict:
            self._check()

    # Cancellation

    @property
    def cancelled(self) -> bool:
        """True if the work is to stop. Once this was read as true, leaving the block confirms the cancellation."""
        is_cancelled = isinstance(self._shared.stop, JobCancelled)
        self._has_noticed_cancel |= is_cancelled
        return is_cancelled

    def raise_if_cancelled(self) -> None:
        """Raises `JobCancelled` if somebody asked for the cancellation."""
        if self.cancelled:
            assert isinstance(self._shared.stop, JobCancelled)
            stop = self._shared.stop
            raise JobCancelled(stop.reason, stop.requester, stop.job)

    def _check(self) -> None:
        stop = self._shared.stop
        if isinstance(stop, JobCancelled) and self._raise_on_cancel and self._shared.is_own_process:
            self.raise_if_cancelled()
        if isinstance(stop, Error) and self._strict:
            raise stop

    def _on_stop(self) -> None:
        self._is_stopped = True

    # Ends

    def complete(self, result: Document | None = None) -> None:
        """Decides that the job ends as SUCCEEDED when the block is left without an exception."""
        if result is not None:
            self._result = result
        self._outcome = Complete()

    def fail(
        self, reason: str, message: str = "", *, details: Document | None = None, retry: bool | None = None
    ) -> None:
        """Decides that the job ends as FAILED when the block is left; with `retry` only this attempt."""
        failure = Failure(reason, message, details=details or {})
        self._outcome = Fail(failure, self._retry if retry is None else retry)

    def confirm_cancel(self, message: str | None = None) -> None:
        """Decides that the job ends as CANCELLED when the block is left, whether or not somebody asked for that."""
        self._outcome = Cancel("stopped by the worker", message)

    def _outcome_of(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Outcome:
        if kind is not None:
            outcome = of_exception(kind, error, trace, self._result)
            if isinstance(outcome, Fail) and self._retry:
                return Fail(outcome.failure, retry=True)
            return outcome
        if isinstance(self._outcome, Complete):
            return Complete(self._result)
        if self._outcome is not None:
            return self._outcome
        if self._has_noticed_cancel:
            return Cancel()
        return Complete(self._result)

    # The block

    def __enter__(self: W) -> W:
        self._start()
        self._wait_for_claim()
        self._enter_context()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._outcome_of(kind, error, trace))
        if kind is None:
            self._raise_problem()

    def _leave(self, outcome: Outcome) -> None:
        """Ends the attempt, and waits until that is sent or the time to flush is over."""
        self._exit_context()
        # The child of a fork may leave a block of its parent.
        if self._shared.is_own_process:
            self._end(outcome)
            self._shared.wait_finished(self._shared.flush_timeout + 1)

    def _start(self) -> None:
        """Begins to ask for the claim."""
        shared = self._shared
        shared.pid = os.getpid()
        shared.on_stop.append(self._on_stop)
        if self._total is not None or self._unit is not None:
            shared.report(plain({"completed": 0, "total": self._total, "unit": self._unit}))
        reporter = Reporter(shared, self._connection, self._begin, self._report_interval)
        _exit.add(shared)
        threading.Thread(target=reporter.run, name=f"jobtrack-{self.id}", daemon=True).start()

    def _wait_for_claim(self) -> None:
        """Waits until the work may begin. Raises an error if it must not."""
        if self._claim_timeout > 0:
            self._shared.wait_settled(self._claim_timeout)
            self._raise_refusal()

    @property
    def _claim_timeout(self) -> float:
        if self._strict:
            return self._connection.settings.timeout
        # The wrapper has the claim of a joined job.
        return 0 if self.is_joined else CLAIM_TIMEOUT

    def _raise_refusal(self) -> None:
        """Raises an error if the work must not begin."""
        shared = self._shared
        stop = shared.stop
        if isinstance(stop, Error) and (self._strict or stop.reason in REFUSING):
            raise stop
        if self._strict and shared.attempt is None:
            error = shared.trouble or Error("DEADLINE_EXCEEDED", message="the tracker does not answer")
            shared.abandon()
            raise error

    def _enter_context(self) -> None:
        self._token = _current.set(self)

    def _exit_context(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                _current.reset(token)
            except ValueError:
                # A generator was closed in another context than the one that it began in.
                _current.set(None)

    def _end(self, outcome: Outcome) -> None:
        """Ends the attempt. The reporter sends the last report and the end."""
        if self.is_joined and self._result is not None:
            # The wrapper ends the job, so the result has no other place.
            self._report({"details": {"result": self._result}})
        self._shared.end(outcome)

    def _raise_problem(self) -> None:
        if self._strict and self._shared.is_own_process and self._shared.problem is not None:
            raise self._shared.problem

    def __repr__(self) -> str:
        return f"<jobtrack.Work {self.id}>"


def _length(iterable: Iterable[object]) -> int | None:
    try:
        length = length_hint(iterable, -1)
    except Exception:
        # A foreign type may raise anything.
        return None
    return length if length >= 0 else None
