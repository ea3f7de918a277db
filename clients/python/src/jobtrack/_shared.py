"""The state that a worker shares with the thread that reports for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobtrack._ends import Cancel, Outcome
from jobtrack._errors import Error, JobCancelled
from jobtrack._report import Pending, Stage
from jobtrack._values import Job

logger = logging.getLogger("jobtrack")


REFUSING = frozenset({"ATTEMPT_RUNNING", "JOB_FINISHED"})
"""Reasons for which the work must not begin: another worker does it, or it is done."""


class Track:
    """The counter of a loop. The loop counts, and the reporter reads."""

    __slots__ = ("completed",)

    def __init__(self) -> None:
        self.completed = 0


class Shared:
    """The state that a worker shares with its reporter. `changed` guards all of it."""

    def __init__(self, job_id: str, flush_timeout: float) -> None:
        self.job_id = job_id
        self.flush_timeout = flush_timeout
        self.pid = os.getpid()
        self.changed = threading.Condition(threading.Lock())
        self.attempt: int | None = None
        self.outcome: Outcome | None = None
        self.flush_deadline = float("inf")
        self.is_settled = False
        """The claim was confirmed or refused, or the tracker is known to be unavailable."""
        self.has_ended = False
        self.is_abandoned = False
        """Nothing more is to be sent."""
        self.trouble: Error | None = None
        """The last error, while the tracker is unavailable."""
        self.problem: Error | None = None
        """The error for which the end or a report was refused."""
        self.job: Job | None = None
        """The last version that the server has sent."""
        self.stop: JobCancelled | Error | None = None
        """Reason for which the work is to stop, or is not this worker's any more."""
        self.on_stop: list[Callable[[], None]] = []
        self.on_change: list[Callable[[], None]] = []
        """Called when the work is settled, and when the reporter has ended."""
        self._waiting: Pending | None = None
        self._stage = Stage()
        self._track: Track | None = None
        self._sampled = 0

    @property
    def is_own_process(self) -> bool:
        """True in the process that the work began in, false in the child of a fork."""
        return self.pid == os.getpid()

    def report(self, fields: Mapping[str, Any], track: Track | None = None) -> None:
        """Adds a report; `track` counts from now on."""
        with self.changed:
            starts_stage = self._stage.follow(fields)
            if starts_stage or "completed" in fields or "stage" in fields:
                # The count of the loop belongs to the previous stage, or the worker now reports `completed` itself.
                self.sample()
                self._track = None
            self._add(fields, starts_stage)
            if track is not None:
                self._track, self._sampled = track, 0

    def _add(self, fields: Mapping[str, Any], starts_stage: bool = False) -> None:
        if self._waiting is None:
            self._waiting = Pending()
            # No notification if other reports wait: the reporter then already waits for the time of the next report.
            self.changed.notify_all()
        self._waiting.add(fields, starts_stage)

    def sample(self) -> None:
        """Adds what the loop has counted. Needs the lock."""
        track = self._track
        if track is not None and track.completed != self._sampled:
            self._sampled = track.completed
            self._add({"completed": self._sampled})

    @property
    def has_track(self) -> bool:
        """True while a loop counts its items."""
        return self._track is not None

    @property
    def has_waiting(self) -> bool:
        """True if there is a report to send."""
        return self._waiting is not None

    def put_back(self, unsent: Pending) -> None:
        """Puts a report back that could not be sent, before those that came meanwhile."""
        with self.changed:
            if self._waiting is not None:
                unsent.add_all(self._waiting)
            self._waiting = unsent

    def take_waiting(self) -> Pending:
        """Returns what waits to be sent."""
        with self.changed:
            self.sample()
            waiting, self._waiting = self._waiting or Pending(), None
            return waiting

    def end(self, outcome: Outcome) -> None:
        """Ends the attempt, unless it has ended."""
        with self.changed:
            if self.outcome is None:
                self.outcome = outcome
                self.flush_deadline = time.monotonic() + self.flush_timeout
                self.changed.notify_all()

    def abandon(self) -> None:
        """Ends the attempt without sending anything more."""
        with self.changed:
            self.is_abandoned = True
            self.outcome = self.outcome or Cancel()
            self.flush_deadline = 0.0
            self.changed.notify_all()

    def set_stop(self, stop: JobCancelled | Error) -> None:
        """Tells the worker to stop. The first reason is kept, but the loss of the attempt replaces a request."""
        with self.changed:
            is_new = self.stop is None or (isinstance(stop, Error) and not isinstance(self.stop, Error))
            if is_new:
                self.stop = stop
        if is_new:
            self._call_all(self.on_stop)

    def _call_all(self, told: list[Callable[[], None]]) -> None:
        for each in list(told):
            each()

    def settle(self) -> None:
        """Lets the work begin."""
        with self.changed:
            self.is_settled = True
            self.changed.notify_all()
        self._call_all(self.on_change)

    def wait_settled(self, timeout: float) -> None:
        """Waits until the claim is confirmed or refused, or the tracker is known to be unavailable."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_settled or self.has_ended, timeout)
            self.is_settled = True

    def finish(self) -> None:
        """Says that the reporter has ended."""
        with self.changed:
            self.has_ended = self.is_settled = True
            self.changed.notify_all()
        self._call_all(self.on_change)

    def wait_finished(self, timeout: float) -> bool:
        """Waits for the reporter to end."""
        with self.changed:
            return self.changed.wait_for(lambda: self.has_ended, timeout)
