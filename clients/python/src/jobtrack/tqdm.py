"""Bars of tqdm whose progress is tracked: `from jobtrack.tqdm import tqdm`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jobtrack
from jobtrack._ends import Complete, Outcome, abandoned, of_exception
from jobtrack._shared import Track
from jobtrack._work import Work, current

if TYPE_CHECKING:
    from tqdm.std import tqdm as _Bar
else:
    from tqdm.auto import tqdm as _AutoBar

    T = TypeVar("T")

    class _Bar(_AutoBar, Generic[T]):
        """The bar of tqdm for a terminal or a notebook, with the type parameter that type checkers expect."""


__all__ = ["tqdm", "trange"]

T = TypeVar("T")

DEFAULT_UNIT = "it"


class tqdm(_Bar[T]):
    """A tqdm bar that reports its progress, even if the bar is disabled (`disable`).

    Within a job it reports to that job; its description is the stage. Elsewhere it is a job of its own, whose kind is
    the name of the program and whose title is the description. That job succeeds if the bar is closed at its
    total, if its iterable ends, or if its `with` block is left without an exception. If the bar is closed earlier, the
    job fails. Of nested bars only the outermost one reports.
    """

    _work: Work | None = None
    _track: Track | None = None
    _owns_work = False
    _is_iterating = False
    _initial = 0
    _known_total: float | None = None

    if not TYPE_CHECKING:
        # The parameters are those of tqdm, with their types.
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._initial = int(named.get("initial", 0))
            work = current()
            if work is None:
                program = os.path.basename(sys.argv[0]) or "python"
                work = jobtrack.job(program, title=named.get("desc") or "")
                self._owns_work = True
                # If this raises, the work does not begin, and `_end` must not end it.
                work.__enter__()
            if work._bar is None:
                work._bar, self._work = self, work
                self._begin(work, named)

    def _begin(self, work: Work, named: dict[str, Any]) -> None:
        if named.get("desc"):
            work.stage(str(named["desc"]))
        unit = named.get("unit", DEFAULT_UNIT)
        total = getattr(self, "total", named.get("total"))
        if total is None or not math.isfinite(total):
            iterable: Any = getattr(self, "iterable", None)
            total = len(iterable) if hasattr(iterable, "__len__") else None
        self._known_total = total
        self._track = work._start_track(total, None if unit == DEFAULT_UNIT else str(unit).strip())
        self._track.completed = self._initial

    def __iter__(self) -> Iterator[T]:
        work, track = self._work, self._track
        if work is None or track is None:
            yield from super().__iter__()
            return
        self._is_iterating = True
        try:
            work._check()
            for completed, item in enumerate(super().__iter__(), self._initial + 1):
                yield item
                track.completed = completed
                if work._is_stopped:
                    work._check()
        except GeneratorExit:
            self._end(self._judge())
            raise
        except BaseException as error:
            self._end(of_exception(type(error), error, error.__traceback__, None))
            raise
        self._end(Complete())

    def update(self, n: float | None = 1) -> bool | None:
        """Counts more units."""
        # A bar that iterates calls this as well, from time to time.
        if self._track is not None and self._work is not None and not self._is_iterating:
            self._track.completed += int(n or 0)
            if self._work._is_stopped:
                self._work._check()
        return super().update(n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(Complete() if kind is None else of_exception(kind, error, trace, None))
        super().__exit__(kind, error, trace)

    def close(self) -> None:
        """Ends the bar, and its job if that is its own."""
        if not self._is_iterating:
            self._end(self._judge())
        super().close()

    def _judge(self) -> Outcome:
        """Returns the end of a bar that is closed."""
        completed = self._track.completed if self._track is not None else 0
        if self._known_total is None or completed >= self._known_total:
            return Complete()
        return abandoned(f"the bar was closed at {completed} of {self._known_total:g}")

    def _end(self, outcome: Outcome) -> None:
        work, self._work = self._work, None
        if work is None:
            return
        work._bar = None
        if self._owns_work:
            work._leave(outcome)


def trange(*arguments: int, **named: Any) -> tqdm[int]:
    """Returns a bar over a range."""
    return tqdm(range(*arguments), **named)
