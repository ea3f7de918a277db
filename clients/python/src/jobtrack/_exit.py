"""The end of the process: work that has not ended fails, and its end is sent within a time limit."""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref

from jobtrack._ends import Outcome, abandoned, of_exception
from jobtrack._shared import Shared

_open: weakref.WeakSet[Shared] = weakref.WeakSet()


def add(shared: Shared) -> None:
    """Adds work that is to end with the process at the latest."""
    _open.add(shared)


@atexit.register
def end_all() -> None:
    """Ends all work. Waits at most for the longest flush timeout, not for the sum of all."""
    error = getattr(sys, "last_value", None)
    # A generator or a bar of tqdm may not have seen the exception that ends the program.
    outcome: Outcome = abandoned("the process ended before the work")
    if isinstance(error, BaseException):
        outcome = of_exception(type(error), error, error.__traceback__, None)
    left = [shared for shared in list(_open) if shared.is_own_process and not shared.has_ended]
    for shared in left:
        shared.end(outcome)
    began = time.monotonic()
    for shared in left:
        shared.wait_finished(max(began + shared.flush_timeout - time.monotonic(), 0))


def _forget() -> None:
    # The work of the parent is not that of the child.
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
