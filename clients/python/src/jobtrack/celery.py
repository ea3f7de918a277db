"""Tasks of Celery as jobs: `jobtrack.celery.install(app)`."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import Any

from billiard.process import current_process
from celery import Celery, signals
from celery.exceptions import Ignore, Reject

from jobtrack import _calls as calls
from jobtrack import _exit
from jobtrack import _queue as queue
from jobtrack._convert import Seconds
from jobtrack._ends import Cancel, Complete, Fail, Outcome, abandoned, failure
from jobtrack._errors import JobCancelled
from jobtrack._tracker import Tracker, default
from jobtrack._work import Work

__all__ = ["TaskCancelled", "install"]

STOP_DELAY = 0.05
"""Delay in seconds before a task is stopped whose job was already cancelled: the task must have begun."""


class TaskCancelled(Ignore):
    """Raised in a task of the pools `threads` and `solo` when the cancellation of its job is requested."""


def install(app: Celery, *, tracker: Tracker | None = None, lease: Seconds = 30, publish: bool = True) -> None:
    """Makes each task of an app a job, whose id is that of the task and whose kind is the name of the task.

    Call it once in the module that creates the app, so that both workers and senders of tasks call it. With `publish`
    the job exists as PENDING once the task is sent; otherwise from its start on. `lease` is the time without a report
    or heartbeat after which a worker counts as lost. Then its job fails, unless the task is delivered again
    (`acks_late`).
    """
    integration = _Integration(app, tracker, lease)
    # Signals keep weak references.
    app.__dict__["_jobtrack"] = integration
    if publish:
        signals.after_task_publish.connect(integration.published)
    signals.task_prerun.connect(integration.begins)
    signals.task_retry.connect(integration.retries)
    signals.task_failure.connect(integration.fails)
    signals.task_revoked.connect(integration.is_revoked)
    signals.task_postrun.connect(integration.ends)
    signals.worker_process_shutdown.connect(_flush)


def _flush(**_: Any) -> None:
    _exit.end_all()


class _Running:
    """A task that runs, and its work."""

    def __init__(self, work: Work, task: Any) -> None:
        self.work = work
        self.task = task
        self.thread_id = threading.get_ident()
        self.outcome: Outcome | None = None


class _Integration:
    """The jobs of the tasks of an app."""

    def __init__(self, app: Celery, tracker: Tracker | None, lease: Seconds) -> None:
        self._app = app
        self._tracker = tracker
        self._lease = lease
        self._running: dict[str, _Running] = {}
        # Reentrant: an exception for a task may arrive while its end is handled.
        self._lock = threading.RLock()

    @property
    def _connection(self) -> Any:
        return (self._tracker or default())._connection

    def _is_own(self, task: Any) -> bool:
        name = task if isinstance(task, str) else getattr(task, "name", "")
        # Excludes tasks of other apps in this process, and tasks of Celery itself.
        return name in self._app.tasks and not name.startswith("celery.")

    def published(self, sender: Any = None, headers: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Creates the job of a task that was sent."""
        headers = headers or {}
        task_id, name = headers.get("id"), headers.get("task")
        if not task_id or not name or str(name).startswith("celery.") or headers.get("retries"):
            return
        task = self._app.tasks.get(name)
        create = calls.create(
            str(name), id=task_id, request_id=task_id, lease=self._lease, fail_when_lost=_is_final(task)
        )
        queue.send(self._connection, create)

    def begins(self, sender: Any = None, task_id: str = "", **_: Any) -> None:
        """Begins an attempt when a task begins."""
        if not self._is_own(sender):
            return
        worker = getattr(sender.request, "hostname", None) or ""
        may_return, retries = not _is_final(sender), sender.request.retries or 0
        work = queue.start_task(self._connection, task_id, sender.name, worker, self._lease, may_return, retries > 0)
        running = _Running(work, sender)
        with self._lock:
            self._running[task_id] = running
        _follow_updates(self, sender)
        work._shared.on_stop.append(lambda: self._stop(task_id))
        if queue.is_cancelled(work):
            # Exceptions in a handler of a signal do not reach the task.
            threading.Timer(STOP_DELAY, self._stop, (task_id,)).start()

    def reports(self, task_id: str | None, meta: object) -> None:
        """Reports what a task has given to `update_state`."""
        running = self._running.get(task_id or "")
        if running is not None:
            queue.report_meta(running.work, meta)

    def retries(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        """Ends the attempt of a task that will be tried again."""
        running = self._running.get(request.id)
        if running is not None:
            error = getattr(reason, "exc", None) or reason
            running.outcome = Fail(failure(type(error), error, error.__traceback__), retry=True)

    def fails(self, sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
        """Ends the job of a task that failed. The process of a task that was killed can't do that itself."""
        if not self._is_own(sender):
            return
        outcome = Fail(failure(type(exception), exception, getattr(exception, "__traceback__", None)))
        running = self._running.get(task_id)
        if running is not None:
            running.outcome = outcome
            return
        create = calls.create(sender.name, id=task_id, request_id=task_id)
        fail = calls.fail_with(task_id, outcome.failure, False, None, "")
        queue.call_in_background(self._connection, create, fail)

    def is_revoked(self, sender: Any = None, request: Any = None, **more: Any) -> None:
        """Cancels the job of a task that was revoked, in the process of the worker."""
        if self._is_own(sender):
            reason = "the task has expired" if more.get("expired") else "the task was revoked"
            task_id = str(request.id)
            create = calls.create(sender.name, id=task_id, request_id=task_id)
            cancel = calls.cancel(task_id, reason, requester="celery", force=True)
            queue.call_in_background(self._connection, create, cancel)

    def ends(
        self, sender: Any = None, task_id: str = "", state: str | None = None, retval: Any = None, **_: Any
    ) -> None:
        """Ends the attempt of a task that has ended."""
        try:
            self._end(task_id, state, retval)
        except TaskCancelled:
            # The request arrived when the task had ended already.
            self._end(task_id, state, retval)

    def _end(self, task_id: str, state: str | None, retval: Any) -> None:
        with self._lock:
            running = self._running.pop(task_id, None)
        if running is None:
            return
        if state is None and _is_pool_process():
            # The process is being terminated. The worker knows why, and ends the job.
            running.work._exit_context()
            running.work._shared.abandon()
            return
        stop = running.work._shared.stop
        if isinstance(stop, JobCancelled) and isinstance(retval, TaskCancelled):
            request = running.task.request
            running.task.backend.mark_as_revoked(task_id, stop.reason or "cancelled", request=request)
            running.outcome = Cancel()
        queue.end_task(running.work, running.outcome or _outcome_of(state, retval))

    def _stop(self, task_id: str) -> None:
        """Stops a task whose job is to be cancelled. Called by the thread that reports."""
        with self._lock:
            running = self._running.get(task_id)
            if running is None or not isinstance(running.work._shared.stop, JobCancelled):
                return
            if not _is_pool_process():
                # Celery can't terminate a task of the pools threads and solo.
                thread_id = ctypes.c_ulong(running.thread_id)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, ctypes.py_object(TaskCancelled))
                return
        self._app.control.revoke(task_id, terminate=True)


def _outcome_of(state: str | None, retval: Any) -> Outcome:
    """Returns the end of a task that neither failed nor was stopped on request."""
    if state is None:
        return abandoned("the worker was stopped")
    if isinstance(retval, Reject):
        return Fail(failure(Reject, retval, None), retry=bool(getattr(retval, "requeue", False)))
    return Complete(None if isinstance(retval, Ignore) else queue.result_of(retval))


def _is_pool_process() -> bool:
    """Returns whether this is a process of the pool `prefork`, which the worker can terminate."""
    return bool(current_process().name != "MainProcess")


def _is_final(task: Any) -> bool:
    """Returns whether a task is delivered only once, even if its worker is lost."""
    return not getattr(task, "acks_late", False)


def _follow_updates(integration: _Integration, task: Any) -> None:
    """Makes `update_state` of a task also report the progress of its job."""
    original = task.update_state
    if getattr(original, "is_followed", False):
        return

    def update_state(task_id: str | None = None, state: str | None = None, meta: Any = None, **more: Any) -> None:
        """Updates the state of the task, and the progress of its job."""
        original(task_id=task_id, state=state, meta=meta, **more)
        integration.reports(task_id or task.request.id, meta)

    update_state.is_followed = True  # type: ignore[attr-defined]
    task.update_state = update_state
