"""Forks.

gRPC works in the child only if no other thread was in gRPC at the moment of the fork. Without this module more than
half of the children that were forked while other threads called the tracker failed with grpcio 1.66, some crashed with
1.85, and with an open stream and grpcio 1.76 the parent crashed. Therefore a fork waits for the calls that are under
way, calls wait for a fork, and watches open their streams again after it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

FORK_TIMEOUT = 0.25
"""Maximum time in seconds that a fork waits. A call takes longer while the tracker is silent or unavailable."""


class _Gate:
    """Calls in progress. A fork blocks new calls until it is done."""

    def __init__(self) -> None:
        # Reentrant: a handler of a signal may fork in the middle of a call.
        self._changed = threading.Condition(threading.RLock())
        self._under_way = 0
        self._streams: set[Any] = set()
        self._threads: set[threading.Thread] = set()
        """Threads of gRPC that have ended a call. Each returns from the code of gRPC soon after that."""
        self._forking: threading.Thread | None = None
        """The thread that forks."""

    def start(self, begin: Callable[[], Any], is_stream: bool) -> Any:
        """Starts a call or a stream, and returns its grpc.Future."""
        starter = threading.current_thread()

        def ended(_: Any) -> None:
            thread = threading.current_thread()
            with self._changed:
                self._under_way -= 1
                self._streams.discard(future)
                # If the call has already ended, this function is called at once, in the thread that started the call.
                if thread is not starter:
                    self._threads = {other for other in self._threads if other.is_alive()} | {thread}
                self._changed.notify_all()

        with self._changed:
            self._changed.wait_for(lambda: self._forking in (None, starter))
            future = begin()
            self._under_way += 1
            if is_stream:
                self._streams.add(future)
        future.add_done_callback(ended)
        return future

    def close(self) -> None:
        """Cancels streams, waits for the calls that are under way, and holds up new ones."""
        deadline, me = time.monotonic() + FORK_TIMEOUT, threading.current_thread()

        def left() -> float:
            return max(deadline - time.monotonic(), 0)

        if not self._changed.acquire(timeout=left()):
            return
        if not self._changed.wait_for(lambda: self._forking is None, left()):
            self._changed.release()
            return
        # Waiting releases the lock; meanwhile this field keeps new calls from starting.
        self._forking = me
        for stream in list(self._streams):
            stream.is_interrupted = True
            stream.cancel()
        self._changed.wait_for(lambda: self._under_way == 0, left())
        for thread in self._threads - {me}:
            thread.join(left())

    def open(self) -> None:
        """Lets calls begin again."""
        if self._forking is threading.current_thread():
            self._forking = None
            self._changed.notify_all()
            self._changed.release()


_gate = _Gate()


def start(begin: Callable[[], Any], is_stream: bool = False) -> Any:
    """Starts a call, and returns its grpc.Future. Waits for a fork that is under way. A fork cancels streams."""
    return _gate.start(begin, is_stream)


def is_interrupted(stream: Any) -> bool:
    """Returns whether a fork has cancelled a stream."""
    return bool(getattr(stream, "is_interrupted", False))


def _before() -> None:
    _gate.close()


def _after_in_parent() -> None:
    _gate.open()


def _after_in_child() -> None:
    # Calls and threads are those of the parent.
    global _gate
    _gate = _Gate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
