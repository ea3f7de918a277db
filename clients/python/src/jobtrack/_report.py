"""Reports that wait to be sent, merged into one: the later value of each field counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT_MAX = {"stage": 256, "unit": 32}
"""Maximum lengths in bytes. The server would refuse the whole report because of a longer text."""

_NUMBERS = ("percent", "completed", "total")
_INTEGERS = ("completed", "total", "stage_index", "stage_count")


def cut(text: str, longest: int) -> str:
    """Returns the beginning of a text, at most that many bytes in UTF-8."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= longest else encoded[:longest].decode(errors="ignore")


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that are not None, in the types and lengths of the wire."""
    report = {name: value for name, value in fields.items() if value is not None}
    for name, value in report.items():
        if name in _INTEGERS:
            report[name] = int(value)
        elif name == "percent":
            report[name] = float(value)
        elif name != "details":
            report[name] = cut(str(value), TEXT_MAX.get(name, 1 << 20))
    return report


class Pending:
    """Reports that were not sent yet."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self._starts_stage = False

    def add(self, later: Mapping[str, Any], starts_stage: bool = False) -> None:
        """Adds a later report. `starts_stage`: it begins another stage."""
        dropped: tuple[str, ...] = ()
        if starts_stage:
            dropped = _NUMBERS
        elif "completed" in later or "total" in later:
            # The server derives the percentage from newer numbers.
            dropped = ("percent",)
        for name in dropped:
            self.fields.pop(name, None)
        self.fields.update(later)
        self._starts_stage |= starts_stage

    def add_all(self, later: Pending) -> None:
        """Adds later reports."""
        self.add(later.fields, later._starts_stage)


class Stage:
    """The stage that a worker reported last."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._index: int | None = None

    def follow(self, report: Mapping[str, Any]) -> bool:
        """Updates the stage. Returns whether the report begins another one, with which the server resets the counts."""
        name, index = report.get("stage", self._name), report.get("stage_index", self._index)
        is_other = name != self._name or index != self._index
        has_stage = bool(self._name) or self._index is not None
        self._name, self._index = name, index
        return is_other and has_stage
