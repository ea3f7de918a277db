"""Tasks of a queue as jobs: what the integrations of Celery and RQ share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc

from jobtrack import _calls as calls
from jobtrack._begin import begin
from jobtrack._calls import Call
from jobtrack._channel import Connection
from jobtrack._convert import Seconds
from jobtrack._ends import Outcome
from jobtrack._errors import Error, JobCancelled, from_rpc
from jobtrack._options import Options
from jobtrack._work import CLAIM_TIMEOUT, Work

END_WAIT = 1.0
"""Maximum time in seconds that a task waits for its end to be stored. After that it is sent in the background."""

SEND_WAIT = 0.5
"""Maximum time in seconds that the sender of a task waits for the creation of its job."""

RETRY_TIMEOUT = 2.0
"""Maximum time in seconds that a retry waits for the previous attempt to end, so that its failure is kept."""

BACKGROUND_TIMEOUT = 10.0
"""Maximum time in seconds for what is sent in the background."""

RESULT_MAX = 1 << 20
"""Maximum size of a result in bytes."""

_FIELDS = {"current": "completed", "completed": "completed", "total": "total", "percent": "percent"}
_FIELDS |= {"stage": "stage", "message": "message", "status": "message", "unit": "unit"}

logger = logging.getLogger("jobtrack")


def start_task(
    connection: Connection, task_id: str, kind: str, worker: str, lease: Seconds, may_return: bool, is_retry: bool
) -> Work:
    """Begins the next attempt of the job of a task.

    `may_return`: the queue delivers a task again if it is lost. `is_retry`: the attempt before this one failed, which
    may not be stored yet.
    """
    options = Options(
        id=task_id,
        worker=worker,
        lease=lease,
        fail_when_lost=not may_return,
        # The queue decides who runs a task. An attempt that seems to run is that of a worker that was lost.
        takeover=True,
        raise_on_cancel=False,
        join=False,
        flush_timeout=BACKGROUND_TIMEOUT,
    )
    job_id, how = begin(kind, options)
    if is_retry:
        how = replace(how, takeover_delay=RETRY_TIMEOUT)
    work = Work(connection, how, job_id, options)
    work._start()
    work._shared.wait_settled(CLAIM_TIMEOUT)
    work._enter_context()
    return work


def is_cancelled(work: Work) -> bool:
    """Returns whether a task is to stop, or was cancelled before it began."""
    shared = work._shared
    if isinstance(shared.stop, Error) and shared.stop.metadata.get("state") == "CANCELLED":
        shared.stop = JobCancelled("the job was cancelled before its task began")
    return isinstance(shared.stop, JobCancelled)


def end_task(work: Work, outcome: Outcome) -> None:
    """Ends the attempt of a task. While the tracker is unavailable the queue does not wait for it."""
    shared = work._shared
    work._exit_context()
    work._end(outcome)
    if shared.trouble is None:
        shared.wait_finished(END_WAIT)


def report_meta(work: Work, meta: object) -> None:
    """Reports the state that a task has given to its queue. Names that are not known become the details."""
    if not isinstance(meta, Mapping):
        return
    fields: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for name, value in meta.items():
        if name in _FIELDS and value is not None:
            fields[_FIELDS[name]] = value
        else:
            details[str(name)] = value
    if details and _fits(details):
        fields["details"] = details
    work._report(fields)


def result_of(value: object) -> Mapping[str, Any] | None:
    """Returns the result of a job whose task returned this: a dict as it is, any other JSON value under `result`."""
    if value is None:
        return None
    document = value if isinstance(value, Mapping) else {"result": value}
    return document if _fits(document) else None


def _fits(document: Mapping[str, Any]) -> bool:
    try:
        return bool(calls.complete("", result=document).request.result.ByteSize() <= RESULT_MAX)
    except (Error, ValueError, TypeError):
        return False


def send(connection: Connection, call: Call[Any]) -> None:
    """Sends a call once, without retries. Waits briefly, so that the caller sees its effect. An error is logged."""
    was_available = not connection.trouble.is_known
    try:
        future = connection.start(call, BACKGROUND_TIMEOUT, wait_for_ready=False)
    except Error as error:
        connection.trouble.begin(error, connection.settings.server)
        return

    def answered(done: Any) -> None:
        try:
            done.result()
        except grpc.RpcError as failed:
            error = from_rpc(failed)
            # The worker may have created or ended the job meanwhile.
            if not error.is_final:
                connection.trouble.begin(error, connection.settings.server)
        except grpc.FutureCancelledError:
            return
        else:
            connection.trouble.end()

    future.add_done_callback(answered)
    if was_available:
        try:
            future.exception(timeout=SEND_WAIT)
        except grpc.FutureTimeoutError:
            silent = Error("DEADLINE_EXCEEDED", message=f"no answer within {SEND_WAIT:g} s")
            connection.trouble.begin(silent, connection.settings.server)


def call_in_background(connection: Connection, *several: Call[Any]) -> None:
    """Makes calls in a thread, one after the other, and repeats them where that is safe."""

    def run() -> None:
        for call in several:
            try:
                connection.call(call)
            except Error as error:
                if not error.is_final:
                    connection.trouble.begin(error, connection.settings.server)

    threading.Thread(target=run, name="jobtrack-call", daemon=True).start()
