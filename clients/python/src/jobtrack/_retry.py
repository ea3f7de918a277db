"""Pauses, and the rules for retries: those of deploy/client/service-config.json, and CreateJob and StartAttempt."""

from __future__ import annotations

import random
import threading
import time

from jobtrack._errors import Error

ATTEMPTS_MAX = 5
"""Maximum number of times that a call is sent."""

TOKENS_MAX = 100.0
TOKEN_RATIO = 0.1

REPEATED = frozenset(
    {"GetJob", "BatchGetJobs", "ListJobs", "UpdateProgress", "CompleteJob", "FailJob", "CancelJob", "ConfirmCancel"}
    # CreateJob and StartAttempt carry a request id, by which a retry finds the result of the first call. A second watch
    # token does no harm.
    | {"CreateWatchToken", "CreateJob", "StartAttempt"}
)
"""Methods for which a second execution does no harm."""


class Pause:
    """Growing pauses in seconds. Each is random, so that clients that lost one server do not come back together."""

    def __init__(self, first: float = 0.2, longest: float = 2.0) -> None:
        self._first, self._next, self._longest = first, first, longest

    def next(self) -> float:
        """Returns the next pause: between half of its nominal length and the whole."""
        nominal, self._next = self._next, min(self._next * 2, self._longest)
        return nominal * random.uniform(0.5, 1)

    def reset(self) -> None:
        """Starts with the shortest pause again, after a success."""
        self._next = self._first


class Budget:
    """Limits repetitions of all calls, which must not keep an overloaded server from recovering.

    A failed call takes a token, and an answered one gives back a tenth. Nothing is repeated while half are missing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = TOKENS_MAX

    def take(self) -> bool:
        """Takes a token. Returns whether calls may be repeated."""
        with self._lock:
            self._left = max(self._left - 1, 0)
            return self._left > TOKENS_MAX / 2

    def give(self) -> None:
        """Gives back a part after an answer."""
        with self._lock:
            self._left = min(self._left + TOKEN_RATIO, TOKENS_MAX)


class Retry:
    """The tries of one call."""

    def __init__(self, method: str, timeout: float, budget: Budget) -> None:
        self._method, self._budget, self._tries = method, budget, 0
        self._deadline = time.monotonic() + timeout
        self._pause = Pause(0.1)

    def remaining(self) -> float:
        """Returns the rest of the time of the call in seconds."""
        return max(self._deadline - time.monotonic(), 0.001)

    def pause_after(self, error: Error) -> float:
        """Returns the pause in seconds before the call is sent again. Raises the error if the call is not retried."""
        self._tries += 1
        is_repeated = error.code == "UNAVAILABLE" and self._budget.take() and self._method in REPEATED
        if not is_repeated or self._tries >= ATTEMPTS_MAX:
            raise error
        pause = error.retry_after.total_seconds() if error.retry_after else self._pause.next()
        if pause >= self._deadline - time.monotonic():
            raise error
        return pause
