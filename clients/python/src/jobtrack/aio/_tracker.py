"""A tracker to call over asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, overload

from jobtrack import _calls as calls
from jobtrack import _tracker as sync
from jobtrack._begin import begin
from jobtrack._calls import Call
from jobtrack._channel import CALL_TIMEOUT
from jobtrack._convert import Seconds
from jobtrack._options import Filters, JobOptions, Options
from jobtrack._values import Job
from jobtrack.aio import _watch
from jobtrack.aio._connection import Connection
from jobtrack.aio._work import Work

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
T = TypeVar("T")


class Method(Generic[P, T]):
    """A method of `Tracker` with the parameters of a call."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__
        self.__wrapped__ = make

    @overload
    def __get__(self, tracker: None, owner: type[Tracker]) -> Method[P, T]: ...

    @overload
    def __get__(self, tracker: Tracker, owner: type[Tracker]) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, tracker: Tracker | None, owner: type[Tracker]) -> Method[P, T] | Callable[P, Awaitable[T]]:
        if tracker is None:
            return self

        async def method(*arguments: P.args, **named: P.kwargs) -> T:
            return await tracker._connection.call(self._make(*arguments, **named))

        method.__doc__ = self.__doc__
        return method


class Tracker:
    """A jobtrack server, or several replicas of it; see `jobtrack.Tracker`. Event loops may share a tracker."""

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        self._sync = sync.Tracker(
            url,
            token=token,
            token_file=token_file,
            ca_file=ca_file,
            client_cert=client_cert,
            client_key=client_key,
            timeout=timeout,
        )
        self._connection = Connection(self._sync._connection.settings)

    create = Method(calls.create)
    get = Method(calls.get)
    get_many = Method(calls.get_many)
    page = Method(calls.page)
    start = Method(calls.start)
    update = Method(calls.update)
    complete = Method(calls.complete)
    fail = Method(calls.fail)
    cancel = Method(calls.cancel)
    confirm_cancel = Method(calls.confirm_cancel)
    delete = Method(calls.delete)
    watch_token = Method(calls.watch_token)

    async def list(self, **filters: Unpack[Filters]) -> AsyncIterator[Job]:
        """Yields all jobs that match, page by page; the filters are those of `page`."""
        filters.setdefault("page_size", 1000)
        token = ""
        while True:
            page = await self._connection.call(calls.page(page_token=token, **filters))
            for job in page.jobs:
                yield job
            token = page.next_page_token
            if not token:
                return

    def watch(
        self, id: str, *, min_interval: Seconds | None = None, documents: bool = True, timeout: Seconds | None = None
    ) -> AsyncIterator[Job]:
        """Yields the versions of a job as they come, to its end; see `jobtrack.Tracker.watch`."""
        return _watch.watch(self._connection, id, min_interval, documents, timeout)

    async def wait(self, id: str, *, timeout: Seconds | None = None) -> Job:
        """Waits for the end of a job, and returns the job if it has succeeded; see `jobtrack.Tracker.wait`."""
        return await _watch.wait(self._connection, id, timeout)

    def job(self, kind: str, **options: Unpack[JobOptions]) -> Work:
        """Works on a job in an `async with` block; see `jobtrack.job`."""
        chosen = Options(**options)
        job_id, how = begin(kind, chosen)
        return Work(self._sync._connection, how, job_id, chosen)

    async def close(self) -> None:
        """Closes the connection of this event loop. Work that is under way goes on with another one."""
        self._sync.close()
        await self._connection.close()

    async def __aenter__(self) -> Tracker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<jobtrack.aio.Tracker {self._connection.settings.server}>"
