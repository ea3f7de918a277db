"""Options of work and filters of lists, with their types and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from jobtrack._convert import Seconds
from jobtrack._values import Document, Liveness, State


class JobOptions(TypedDict, total=False):
    """Options of `jobtrack.job`, which describes them."""

    id: str | None
    total: int | None
    unit: str | None
    title: str
    owner: str
    labels: Mapping[str, str] | None
    metadata: Document | None
    lease: Seconds
    fail_when_lost: bool
    retention: Seconds | None
    worker: str | None
    request_id: str
    takeover: bool
    retry: bool
    raise_on_cancel: bool
    strict: bool
    report_interval: Seconds
    flush_timeout: Seconds
    join: bool


@dataclass(frozen=True)
class Options:
    """The options of `JobOptions`, with their defaults."""

    id: str | None = None
    total: int | None = None
    unit: str | None = None
    title: str = ""
    owner: str = ""
    labels: Mapping[str, str] | None = None
    metadata: Document | None = None
    lease: Seconds = 30
    fail_when_lost: bool = True
    retention: Seconds | None = None
    worker: str | None = None
    request_id: str = ""
    takeover: bool = False
    retry: bool = False
    raise_on_cancel: bool = True
    strict: bool = False
    report_interval: Seconds = 0.5
    flush_timeout: Seconds = 5
    join: bool = True


class Filters(TypedDict, total=False):
    """Conditions on listed jobs. A job must meet all of them."""

    states: Iterable[State | str]
    kind: str
    owner: str
    labels: Mapping[str, str] | None
    created_after: datetime | None
    created_before: datetime | None
    updated_after: datetime | None
    liveness: Iterable[Liveness | str]
    worker: str
    id_prefix: str
    oldest_first: bool
    documents: bool
    page_size: int
