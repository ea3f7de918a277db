"""Ends of an attempt, and the ends that exceptions stand for."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from types import TracebackType

from jobtrack._errors import Error, JobCancelled
from jobtrack._values import Document, Failure

TRACEBACK_MAX = 8 << 10
"""Maximum length of a traceback in bytes: the details of a failure may have 16 KiB."""

REASON_MAX = 63


@dataclass(frozen=True)
class Complete:
    """The work is done."""

    result: Document | None = None


@dataclass(frozen=True)
class Fail:
    """The work failed; with `retry` another attempt follows."""

    failure: Failure
    retry: bool = False


@dataclass(frozen=True)
class Cancel:
    """The work was stopped: on request, or for a reason of its own."""

    reason: str = ""
    message: str | None = None


Outcome = Complete | Fail | Cancel


def abandoned(message: str) -> Fail:
    """Returns the failure of work that stopped before it was completed, failed or cancelled."""
    return Fail(Failure("ABANDONED", message))


def of_exception(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, result: Document | None
) -> Outcome:
    """Returns the outcome for an exception that the work has raised."""
    if isinstance(error, JobCancelled):
        return Cancel(str(error.reason))
    # asyncio's CancelledError, which is no Exception, in contrast to that of concurrent.futures.
    is_cancelled = kind.__name__ == "CancelledError" and not issubclass(kind, Exception)
    if is_cancelled or issubclass(kind, KeyboardInterrupt):
        return Cancel(kind.__name__)
    if issubclass(kind, GeneratorExit):
        return abandoned("the generator was closed before the end of the work")
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return Complete(result)
        return Fail(_of_exit(error.code))
    return Fail(failure(kind, error, trace))


def _of_exit(code: object) -> Failure:
    if isinstance(code, int):
        return Failure(f"EXIT_{code}", f"exit code {code}")
    # Python prints any other value, and exits with 1.
    return Failure("EXIT_1", str(code))


def failure(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> Failure:
    """Returns the failure that an exception stands for: its name, its text and its traceback."""
    message = str(error) if error is not None else ""
    text = "".join(traceback.format_exception(kind, error, trace)) if error is not None else ""
    details = {"traceback": text.encode(errors="replace")[-TRACEBACK_MAX:].decode(errors="ignore")} if text else {}
    return Failure(kind.__name__[:REASON_MAX], message, details=details)


def lesser(outcome: Outcome, error: Error) -> Outcome | None:
    """Returns the end to send instead of one that the server refused because of its documents."""
    if error.code != "INVALID_ARGUMENT":
        return None
    if isinstance(outcome, Complete) and outcome.result is not None:
        return Complete()
    if isinstance(outcome, Fail) and outcome.failure.details:
        return Fail(replace(outcome.failure, details={}), outcome.retry)
    return None
