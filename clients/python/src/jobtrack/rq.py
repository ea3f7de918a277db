"""Jobs of RQ as jobs of jobtrack: `rq worker --worker-class jobtrack.rq.Worker`."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Any

import rq
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation
from rq.job import Job as RqJob

from jobtrack import _calls as calls
from jobtrack import _queue as queue
from jobtrack._convert import Seconds
from jobtrack._ends import Complete, Fail, Outcome, abandoned, failure
from jobtrack._errors import Error, JobCancelled
from jobtrack._tracker import Tracker, default
from jobtrack._values import Failure
from jobtrack._work import Work

__all__ = ["Queue", "Worker"]

STOP_TIMEOUT = 10.0
"""Maximum time in seconds that a work horse waits for its worker to stop it."""


class Queue(rq.Queue):
    """A queue that creates jobs as PENDING when they are enqueued. With RQ's own queue the worker creates them."""

    tracker: Tracker | None = None
    """By default the one that the environment names."""
    lease: Seconds = 30

    def enqueue_job(self, job: RqJob, *arguments: Any, **named: Any) -> RqJob:
        """Enqueues a job."""
        enqueued = super().enqueue_job(job, *arguments, **named)
        connection = (self.tracker or default())._connection
        queue.send(connection, calls.create(_kind(job), id=job.id, request_id=job.id, lease=self.lease))
        return enqueued


class _TrackedWorker:
    """Makes each job of RQ a job with the same id, whose kind is the name of the function."""

    tracker: Tracker | None = None
    """By default the one that the environment names."""
    lease: Seconds = 30
    """Time without a report or heartbeat after which a work horse counts as lost."""

    _work: Work | None = None
    _outcome: Outcome | None = None

    def perform_job(self, job: RqJob, *arguments: Any, **named: Any) -> Any:
        """Performs a job, in the work horse."""
        worker: Any = self
        is_retry = bool(job.number_of_retries)
        work = queue.start_task(self._connection, job.id, _kind(job), worker.name, self.lease, True, is_retry)
        self._work, self._outcome = work, None
        _keep_return_value(self, job)
        work._shared.on_stop.append(lambda: self._stop(job.id))
        try:
            return super().perform_job(job, *arguments, **named)  # type: ignore[misc]
        finally:
            queue.end_task(work, self._outcome or abandoned("the work horse ended without an outcome of the job"))
            # A work horse exits without running atexit handlers.
            work._shared.wait_finished(queue.BACKGROUND_TIMEOUT if work._shared.trouble is None else queue.END_WAIT)

    def handle_exception(self, job: RqJob, *exc_info: Any) -> Any:
        """Notes the exception that ended a job."""
        kind, error, trace = exc_info
        self._fail(failure(kind, error, trace if isinstance(trace, TracebackType) else None), job)
        return super().handle_exception(job, *exc_info)  # type: ignore[misc]

    def handle_job_failure(self, job: RqJob, *arguments: Any, **named: Any) -> Any:
        """Handles the failure of a job. In the worker process, this is a job whose work horse was killed."""
        if self._work is None:
            worker: Any = self
            if worker._stopped_job_id == job.id:
                self._call(calls.cancel(job.id, "the job was stopped", requester="rq", force=True))
            else:
                self._fail_lost(job, str(named.get("exc_string", "")))
        return super().handle_job_failure(job, *arguments, **named)  # type: ignore[misc]

    @property
    def _connection(self) -> Any:
        return (self.tracker or default())._connection

    def _fail(self, failed: Failure, job: RqJob) -> None:
        self._outcome = Fail(failed, retry=bool(job.should_retry))

    def _fail_lost(self, job: RqJob, message: str) -> None:
        """Ends the attempt of a work horse that was killed."""
        lost = Failure("WorkHorseTerminated", message.strip().rstrip(";"))
        stored = self._call(calls.get(job.id, documents=False))
        if stored is not None:
            self._call(calls.fail_with(job.id, lost, bool(job.should_retry), stored.attempt or None, ""))

    def _call(self, call: calls.Call[Any]) -> Any:
        """Makes a call. An error is logged."""
        connection = self._connection
        try:
            return connection.call(call)
        except Error as error:
            if not error.is_final:
                connection.trouble.begin(error, connection.settings.server)
            return None

    def _stop(self, job_id: str) -> None:
        """Stops a job whose cancellation is requested: its worker kills the work horse."""
        work, worker = self._work, self
        if work is not None and isinstance(work._shared.stop, JobCancelled):
            # If the job has not started yet, `_keep_return_value` checks for the cancellation.
            with suppress(InvalidJobOperation):
                send_stop_job_command(worker.connection, job_id)  # type: ignore[attr-defined]


class Worker(_TrackedWorker, rq.Worker):
    """RQ's worker with a work horse for each job, which makes each job of RQ a job with the same id."""


def _kind(job: RqJob) -> str:
    return str(job.func_name or "rq")


def _keep_return_value(worker: _TrackedWorker, job: RqJob) -> None:
    """Notes what the function of a job returns."""
    perform = job.perform

    def performed() -> Any:
        if worker._work is not None and queue.is_cancelled(worker._work):
            # RQ stops only a job that has started.
            worker._stop(job.id)
            time.sleep(STOP_TIMEOUT)
        value = perform()
        if isinstance(value, rq.Retry):
            worker._outcome = Fail(Failure("Retry", "the job returned Retry"), retry=True)
        else:
            worker._outcome = Complete(queue.result_of(value))
        return value

    job.perform = performed  # type: ignore[method-assign]
