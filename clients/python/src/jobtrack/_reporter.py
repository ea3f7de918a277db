"""The thread that reports for a worker: claim, reports, heartbeats, end."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from jobtrack import _calls as calls
from jobtrack._calls import Call
from jobtrack._channel import Connection, is_of_parent
from jobtrack._ends import Cancel, Complete, Outcome, lesser
from jobtrack._errors import Error, JobCancelled, from_rpc
from jobtrack._retry import Pause
from jobtrack._shared import REFUSING, Shared
from jobtrack._values import Job, State

T = TypeVar("T")

HEARTBEAT_INTERVAL_MAX = 30.0
"""Seconds between heartbeats without a lease, and the maximum with one: the answers also tell of cancellations."""

TRY_TIMEOUT = 2.0
"""Maximum time of one call in seconds: a silent server must not use up the time for the end."""

TAKEOVER_INTERVAL = 0.05
"""Time in seconds between two tries to claim an attempt while the one before is about to end."""

REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "MEMORY_FULL", "TOO_MANY_JOBS"})
"""Codes and reasons of errors of a server that can be reached but rejects calls: a short wait does not help."""

REFUSED_FACTOR = 15
"""Factor of the pauses after such an error: the server also limits the failed authentications of an address."""

logger = logging.getLogger("jobtrack")


class _Interrupted(Exception):
    """The work has ended while a call was under way, or the time to flush is over."""


@dataclass(frozen=True)
class Begin:
    """The beginning of an attempt."""

    worker: str
    create: Call[Job] | None = None
    """Creates the job first."""
    start: Call[calls.Claim] | None = None
    """Claims the attempt. None: the attempt of the environment is joined."""
    attempt: int | None = None
    """Number of the attempt to join, if it is known."""
    takeover_delay: float = 0.0
    """Time in seconds that the previous attempt has to end by itself. After that a takeover ends it."""


class Reporter:
    """Reports for a worker, in a thread of its own."""

    def __init__(self, shared: Shared, connection: Connection, begin: Begin, report_interval: float) -> None:
        self._shared = shared
        self._connection = connection
        self._begin = begin
        self._report_interval = report_interval
        self._heartbeat_interval = HEARTBEAT_INTERVAL_MAX
        self._claim = ""
        # The first number is the current time: if a process restarts with the same claim, its reports have higher
        # numbers than those before the restart.
        self._sequence = time.time_ns() // 1000
        self._wait_for_ready = False
        self._has_claimed = False
        self._has_takeover = begin.start is not None and begin.start.request.takeover
        self._takeover_time = time.monotonic() + begin.takeover_delay

    @property
    def _is_joined(self) -> bool:
        return self._begin.start is None

    def run(self) -> None:
        """Reports until the attempt has ended or the time to flush is over. Never raises."""
        shared = self._shared
        try:
            self._work()
        except _Interrupted:
            self._not_flushed()
        except Error as error:
            self._refused(error)
        except Exception:
            logger.exception("job %s is not tracked any more", shared.job_id)
        finally:
            shared.finish()

    def _work(self) -> None:
        self._claim_attempt()
        outcome = self._report()
        if self._is_joined:
            self._flush()
        else:
            self._end(outcome)

    def _claim_attempt(self) -> None:
        """Creates the job and claims its attempt, as soon as the tracker is available."""
        pause = Pause(0.05 if self._is_joined else 0.2)
        while True:
            try:
                claimed = self._join() if self._is_joined else self._create_and_start()
            except Error as error:
                is_waiting = error.reason == "ATTEMPT_RUNNING" and self._has_takeover
                if error.is_final and not is_waiting:
                    raise
                if is_waiting:
                    self._sleep(TAKEOVER_INTERVAL)
                else:
                    self._pause(error, pause)
                continue
            if claimed:
                self._has_claimed = True
                self._shared.settle()
                return
            # The wrapper has not claimed its attempt yet.
            self._sleep(pause.next())

    def _create_and_start(self) -> bool:
        begin, shared = self._begin, self._shared
        assert begin.start is not None
        if begin.create is not None:
            try:
                self._call(begin.create)
            except Error as error:
                # Somebody else has created the job, for this worker or another.
                if error.code != "ALREADY_EXISTS":
                    raise
        claim = self._call(self._start_call(begin.start))
        self._claim, shared.attempt = claim.claim, claim.job.attempt
        self._note(claim.job)
        return True

    def _start_call(self, start: Call[calls.Claim]) -> Call[calls.Claim]:
        """Returns the call that claims the attempt, without takeover until `takeover_delay` has passed."""
        start.request.takeover = self._has_takeover and time.monotonic() >= self._takeover_time
        return start

    def _join(self) -> bool:
        """Returns whether the attempt of the wrapper runs. A report before that would begin an attempt itself."""
        try:
            job = self._call(calls.get(self._shared.job_id, documents=False))
        except Error as error:
            if error.reason == "JOB_NOT_FOUND":
                return False
            raise
        if job.state is State.PENDING or (self._begin.attempt is not None and job.attempt < self._begin.attempt):
            return False
        self._shared.attempt = self._begin.attempt or job.attempt
        return True

    def _report(self) -> Outcome:
        """Sends reports and heartbeats until there is an outcome, which it returns."""
        shared, pause = self._shared, Pause()
        sent = time.monotonic()
        due = sent
        while True:
            outcome = self._wait_until_due(sent, due)
            if outcome is not None:
                return outcome
            sent = time.monotonic()
            due = sent + self._report_interval
            try:
                self._send_newest(is_interruptible=True)
            except _Interrupted:
                continue
            except Error as error:
                if error.is_fenced:
                    raise
                self._pause(error, pause)
                # A heartbeat that failed is repeated, too.
                shared.report({})
                due = time.monotonic()
            else:
                pause.reset()

    def _wait_until_due(self, sent: float, due: float) -> Outcome | None:
        """Waits for the next report or heartbeat, or for the outcome, which it returns."""
        shared = self._shared
        heartbeat = float("inf") if self._is_joined else sent + self._heartbeat_interval
        with shared.changed:
            while shared.outcome is None:
                shared.sample()
                now = time.monotonic()
                wake = min(due, heartbeat) if shared.has_waiting else heartbeat
                if now >= wake:
                    return None
                if shared.has_track:
                    # A loop counts without notifying this thread, so its count is read at intervals.
                    wake = min(wake, max(due, now + self._report_interval))
                shared.changed.wait(None if wake == float("inf") else wake - now)
            return shared.outcome

    def _send_newest(self, is_interruptible: bool = False) -> None:
        """Sends the newest report, or a heartbeat if there is none."""
        shared = self._shared
        waiting = shared.take_waiting()
        self._sequence += 1
        attempt = shared.attempt if self._is_joined else None
        try:
            request = calls.report(
                shared.job_id, waiting.fields, self._begin.worker, self._sequence, attempt, self._claim
            )
            self._note(self._call(request, is_interruptible))
        except (Error, TypeError, ValueError, OverflowError) as error:
            # An invalid report is not sent again: each retry would fail, and would delay later reports.
            if isinstance(error, Error) and (not error.is_final or error.is_fenced):
                shared.put_back(waiting)
                raise
            self._warn_refused("report", error)
        except _Interrupted:
            shared.put_back(waiting)
            raise

    def _flush(self) -> None:
        """Sends the last report, and repeats that for as long as the tracker is unavailable."""
        shared, pause = self._shared, Pause()
        while True:
            with shared.changed:
                shared.sample()
                if not shared.has_waiting:
                    return
            try:
                return self._send_newest()
            except Error as error:
                if error.is_fenced:
                    raise
                self._pause(error, pause)

    def _end(self, outcome: Outcome) -> None:
        """Sends the last report and the end."""
        self._flush()
        pause = Pause()
        while True:
            try:
                return self._send_end(outcome)
            except Error as error:
                other = lesser(outcome, error)
                if other is not None:
                    self._warn_refused("end", error)
                    outcome = other
                elif error.is_final:
                    raise
                else:
                    self._pause(error, pause)

    def _send_end(self, outcome: Outcome) -> None:
        job_id, claim = self._shared.job_id, self._claim
        if isinstance(outcome, Complete):
            try:
                request = calls.complete(job_id, result=outcome.result, claim=claim)
            except Error as error:
                self._warn_refused("result", error)
                request = calls.complete(job_id, claim=claim)
            self._shared.job = self._call(request)
        elif isinstance(outcome, Cancel):
            self._send_cancel(outcome)
        else:
            self._shared.job = self._call(calls.fail_with(job_id, outcome.failure, outcome.retry, None, claim))

    def _send_cancel(self, outcome: Cancel) -> None:
        job_id, claim = self._shared.job_id, self._claim
        confirm = calls.confirm_cancel(job_id, message=outcome.message, claim=claim)
        try:
            self._shared.job = self._call(confirm)
        except Error as error:
            if error.reason != "CANCEL_NOT_REQUESTED":
                raise
            self._call(calls.cancel(job_id, outcome.reason, requester=self._begin.worker))
            self._shared.job = self._call(confirm)

    def _call(self, call: Call[T], is_interruptible: bool = False) -> T:
        """Makes a call. Stops waiting after the flush timeout or, with `is_interruptible`, at the end of the work."""
        shared = self._shared
        if shared.is_abandoned:
            raise _Interrupted
        future = self._connection.start(call, TRY_TIMEOUT, self._wait_for_ready)
        future.add_done_callback(self._wake)
        with shared.changed:
            while not future.done():
                left = shared.flush_deadline - time.monotonic()
                if left <= 0 or (is_interruptible and shared.outcome is not None):
                    break
                shared.changed.wait(min(left, TRY_TIMEOUT + 1))
        if not future.done():
            future.cancel()
            raise _Interrupted
        try:
            answer = future.result()
        except grpc.FutureCancelledError:
            raise Error("CANCELLED", message="the connection was closed") from None
        except grpc.RpcError as failed:
            error = from_rpc(failed)
            if error.code == "DEADLINE_EXCEEDED" and not error.reason:
                error = Error(error.code, message=f"no answer within {TRY_TIMEOUT:g} s")
            raise error from None
        self._connection.trouble.end()
        shared.trouble, self._wait_for_ready = None, False
        return call.convert(answer)

    def _wake(self, _: Any) -> None:
        with self._shared.changed:
            self._shared.changed.notify_all()

    def _pause(self, error: Error, pause: Pause) -> None:
        """Notes an error that may pass, and waits before the next try."""
        shared = self._shared
        # The first error names the cause, those after it only that the server does not answer.
        shared.trouble = shared.trouble or error
        self._connection.trouble.begin(error, self._connection.settings.server)
        if not is_of_parent(error):
            shared.settle()
        is_refused = error.code in REFUSED or error.reason in REFUSED
        if is_refused and shared.outcome is not None:
            raise _Interrupted
        # Later calls wait for the connection: they are sent as soon as the server is back.
        self._wait_for_ready = not is_refused
        length = pause.next() * (REFUSED_FACTOR if is_refused else 1)
        if self._wait_for_ready:
            length = min(length, 0.2)
        if error.retry_after is not None:
            length = max(length, error.retry_after.total_seconds())
        self._sleep(length)

    def _sleep(self, length: float) -> None:
        """Waits. The end of the work ends the wait early, once, so that the call is tried once more."""
        shared = self._shared
        deadline = time.monotonic() + length
        with shared.changed:
            had_ended = shared.outcome is not None
            while (left := min(deadline, shared.flush_deadline) - time.monotonic()) > 0:
                if shared.outcome is not None and not had_ended:
                    return
                shared.changed.wait(left)
            if time.monotonic() >= shared.flush_deadline:
                raise _Interrupted

    def _note(self, job: Job) -> None:
        """Records a stored version: the length of the lease, and whether the cancellation was requested."""
        self._shared.job = job
        lease = job.lease.total_seconds() if job.lease else 0
        self._heartbeat_interval = min(lease / 3, HEARTBEAT_INTERVAL_MAX) if lease > 0 else HEARTBEAT_INTERVAL_MAX
        if job.cancel is not None:
            self._shared.set_stop(JobCancelled(job.cancel.reason, job.cancel.requester, job))

    def _refused(self, error: Error) -> None:
        """Tells the worker that the attempt is not its own any more, or that the server refused the job for good."""
        shared = self._shared
        shared.problem = error
        if error.metadata.get("state") == "CANCELLED" and self._has_claimed:
            shared.set_stop(JobCancelled("cancelled without waiting for the worker"))
            return
        is_raised = error.reason in REFUSING and not shared.is_settled
        shared.set_stop(error)
        if not is_raised:
            logger.warning("job %s is not tracked any more: %s", shared.job_id, error)

    def _warn_refused(self, part: str, error: Exception) -> None:
        self._shared.problem = error if isinstance(error, Error) else Error("INVALID_ARGUMENT", message=str(error))
        logger.warning("job %s: the %s was refused: %s", self._shared.job_id, part, error)

    def _not_flushed(self) -> None:
        shared = self._shared
        if shared.is_abandoned:
            return
        cause = f": {shared.trouble}" if shared.trouble else ""
        message = f"the end of the job could not be sent within {shared.flush_timeout:g} s{cause}"
        shared.problem = Error("UNAVAILABLE", "NOT_FLUSHED", message)
        # If the tracker is known to be unavailable, that was logged.
        level = logging.INFO if shared.trouble else logging.WARNING
        logger.log(level, "job %s: %s", shared.job_id, message)
