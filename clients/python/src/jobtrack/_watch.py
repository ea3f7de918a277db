"""Watches of a job: a stream that reconnects and resumes by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc

from jobtrack import _convert as convert
from jobtrack import _fork
from jobtrack._calls import VIEW_BASIC, VIEW_FULL
from jobtrack._channel import Connection
from jobtrack._convert import Seconds
from jobtrack._errors import Error, JobCancelled, JobFailed, from_rpc
from jobtrack._proto import job_service_pb2 as api
from jobtrack._retry import Pause
from jobtrack._values import Job, State

BOOKMARK_INTERVAL = 20.0
"""Seconds without news after which the server sends a bookmark."""

SILENCE_MAX = 50.0
"""Seconds without a message after which a stream counts as broken."""

STREAM_LIFE_MIN = 5.0
"""Minimum life of a stream in seconds after which the pauses start with the shortest one again."""

FINAL_CODES = frozenset(
    {"NOT_FOUND", "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED", "FAILED_PRECONDITION"}
)
"""Codes of final errors: a new connection would fail again."""

EVENT_REMOVED = 4


class Position:
    """The position in a stream: the last version that was received, and the request that resumes the stream."""

    def __init__(self, job_id: str, min_interval: Seconds | None, documents: bool) -> None:
        self.request = api.WatchJobRequest(job_id=job_id, view=VIEW_FULL if documents else VIEW_BASIC)
        convert.put_duration(self.request, "min_interval", min_interval)
        convert.put_duration(self.request, "bookmark_interval", BOOKMARK_INTERVAL)
        self.has_ended = False
        self.wait_for_ready = False
        self._last: tuple[int, Any] = (0, None)
        self._pause = Pause()
        self._opened = 0.0
        self._has_read = False

    def open(self) -> None:
        """Notes that a stream is opened."""
        self._opened, self._has_read = time.monotonic(), False

    def take(self, message: Any) -> Job | None:
        """Processes a message. Returns the job if it is a version that was not seen yet."""
        self._has_read, self.wait_for_ready = True, False
        self.request.resume_token = message.resume_token
        if not message.HasField("job"):
            return None
        job = convert.job(message.job)
        if message.event == EVENT_REMOVED:
            raise Error("NOT_FOUND", "JOB_REMOVED", f"job {job.id} was deleted or has expired", {"job_id": job.id})
        # The end of the stream follows, but may be lost with the connection.
        self.has_ended = job.ended
        version, last = (job.revision, job.update_time), self._last
        # After the store has lost data, the same revisions may be used again for other versions.
        if version == last or (not message.reset and job.revision <= last[0]):
            return None
        self._last = version
        return job

    def pause_after(self, error: Error) -> float:
        """Returns the pause in seconds before the stream is opened again. Raises the error if that is of no use."""
        # The credentials of a stream that was open may have been replaced, and there may be new ones by now.
        is_expired = error.code == "UNAUTHENTICATED" and self._has_read
        if error.code in FINAL_CODES and not is_expired:
            raise error
        self.wait_for_ready = True
        if time.monotonic() - self._opened >= STREAM_LIFE_MIN:
            self._pause.reset()
        pause = self._pause.next()
        return max(pause, error.retry_after.total_seconds()) if error.retry_after else pause


class _Watchdog:
    """Cancels a stream on which the reader waits for too long, or beyond a deadline."""

    def __init__(self, call: Any, deadline: float) -> None:
        self._call, self._deadline = call, deadline
        self._changed = threading.Condition()
        self._silent_from: float | None = None
        self._is_closed = False

    def __enter__(self) -> _Watchdog:
        threading.Thread(target=self._run, name="jobtrack-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._call.cancel()

    def read(self) -> Iterator[Any]:
        """Yields the messages of the stream."""
        while True:
            self._silent_from = time.monotonic()
            message = next(self._call, None)
            self._silent_from = None
            if message is None:
                return
            yield message

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                now, since = time.monotonic(), self._silent_from
                end = min(self._deadline, SILENCE_MAX + (now if since is None else since))
                if now >= end:
                    self._call.cancel()
                    return
                self._changed.wait(end - now)


def watch(
    connection: Connection, job_id: str, min_interval: Seconds | None, documents: bool, timeout: Seconds | None
) -> Iterator[Job]:
    """Yields the versions of a job to its end."""
    deadline = float("inf") if timeout is None else time.monotonic() + convert.seconds(timeout)
    position = Position(job_id, min_interval, documents)
    while not position.has_ended:
        call: Any = None
        try:
            position.open()
            call = connection.stream("WatchJob", position.request, position.wait_for_ready)
            with _Watchdog(call, deadline) as stream:
                for message in stream.read():
                    connection.trouble.end()
                    job = position.take(message)
                    if job is not None:
                        yield job
                    if position.has_ended:
                        return
            # The server ends a stream only after the end of the job.
            return
        except grpc.RpcError as failed:
            if _fork.is_interrupted(call):
                continue
            error = from_rpc(failed)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"job {job_id} has not ended within {timeout} s")
        pause = position.pause_after(error)
        connection.trouble.begin(error, connection.settings.server)
        time.sleep(max(min(pause, deadline - time.monotonic()), 0))


def outcome(job: Job | None) -> Job:
    """Returns a job that has succeeded. Raises `JobFailed` or `JobCancelled` for another end."""
    if job is None:
        raise Error("INTERNAL", message="the stream ended without an event")
    if job.state is State.FAILED:
        failure = job.failure
        assert failure is not None
        raise JobFailed(failure.reason, failure.message, failure.details, job)
    if job.state is State.CANCELLED:
        cancel = job.cancel
        raise JobCancelled(cancel.reason if cancel else "", cancel.requester if cancel else "", job)
    return job


def wait(connection: Connection, job_id: str, timeout: Seconds | None) -> Job:
    """Waits for the end of a job."""
    last = None
    for job in watch(connection, job_id, None, True, timeout):
        last = job
    return outcome(last)
