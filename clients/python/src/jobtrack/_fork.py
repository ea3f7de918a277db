"""Forks. gRPC in the child works only if no other thread was in gRPC at the moment of the fork: without this module
more than half of the children that are forked while other threads call the tracker fail with grpcio 1.66, and some
crash with 1.85. So a fork waits for the calls that are under way, and calls wait for a fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

CALLS_TIMEOUT = 0.2
"""Maximum time in seconds that a fork waits for calls. Those that wait for a server may take longer."""

THREADS_TIMEOUT = 0.05
"""Maximum time in seconds that a fork waits for threads of gRPC after that. An open stream keeps its thread in gRPC."""


class _Gate:
    """Calls that are under way. A fork closes the gate for new ones."""

    def __init__(self) -> None:
        # Reentrant: a handler of a signal may fork in the middle of a call.
        self._changed = threading.Condition(threading.RLock())
        self._under_way = 0
        self._threads: set[threading.Thread] = set()
        """Threads of gRPC that have ended a call. They leave gRPC soon after the last one."""
        self._is_closed = False

    def start(self, begin: Callable[[], Any]) -> Any:
        """Starts a call, and returns its grpc.Future."""
        starter = threading.current_thread()

        def ended(_: Any) -> None:
            thread = threading.current_thread()
            with self._changed:
                self._under_way -= 1
                # A call that has ended by now says so at once, in the thread that started it.
                if thread is not starter:
                    self._threads = {other for other in self._threads if other.is_alive()} | {thread}
                self._changed.notify_all()

        with self._changed:
            future = begin()
            self._under_way += 1
        future.add_done_callback(ended)
        return future

    def close(self) -> None:
        """Waits for the calls that are under way, and holds up new ones."""
        self._is_closed = self._changed.acquire(timeout=CALLS_TIMEOUT)
        if not self._is_closed:
            return
        self._changed.wait_for(lambda: self._under_way == 0, CALLS_TIMEOUT)
        deadline = time.monotonic() + THREADS_TIMEOUT
        for thread in self._threads - {threading.current_thread()}:
            thread.join(max(deadline - time.monotonic(), 0))

    def open(self) -> None:
        """Lets calls begin again."""
        if self._is_closed:
            self._is_closed = False
            self._changed.release()


_gate = _Gate()


def start(begin: Callable[[], Any]) -> Any:
    """Starts a call, and returns its grpc.Future. Waits for a fork that is under way."""
    return _gate.start(begin)


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
