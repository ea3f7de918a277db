"""A tracker to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, overload

from jobtrack import _calls as calls
from jobtrack import _watch
from jobtrack._begin import begin
from jobtrack._calls import Call
from jobtrack._channel import CALL_TIMEOUT, Connection, Settings, settings_of
from jobtrack._convert import Seconds
from jobtrack._options import Filters, JobOptions, Options
from jobtrack._values import Job
from jobtrack._work import Work

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
    def __get__(self, tracker: Tracker, owner: type[Tracker]) -> Callable[P, T]: ...

    def __get__(self, tracker: Tracker | None, owner: type[Tracker]) -> Method[P, T] | Callable[P, T]:
        if tracker is None:
            return self

        def method(*arguments: P.args, **named: P.kwargs) -> T:
            return tracker._connection.call(self._make(*arguments, **named))

        method.__doc__ = self.__doc__
        return method


class Tracker:
    """A jobtrack server, or several replicas of it: `http://a:50051,http://b:50051`.

    What is not given is taken from the environment: `JOBTRACK_SERVER` (by default http://127.0.0.1:50051),
    `JOBTRACK_TOKEN`, `JOBTRACK_CA_FILE`, `JOBTRACK_CLIENT_CERT` and `JOBTRACK_CLIENT_KEY`. Nothing is sent before the
    first call. `timeout` is the maximum time of a call with its repetitions, in seconds. Threads may share a tracker,
    and the child of a fork may use it, too. Its methods raise `Error`.
    """

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
        given = {"server": url, "token": token, "token_file": token_file, "ca_file": ca_file}
        given |= {"client_cert": client_cert, "client_key": client_key}
        self._connection = Connection(settings_of(given, timeout))

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

    def list(self, **filters: Unpack[Filters]) -> Iterator[Job]:
        """Yields all jobs that match, page by page; the filters are those of `page`."""
        filters.setdefault("page_size", 1000)
        token = ""
        while True:
            page = self._connection.call(calls.page(page_token=token, **filters))
            yield from page.jobs
            token = page.next_page_token
            if not token:
                return

    def watch(
        self, id: str, *, min_interval: Seconds | None = None, documents: bool = True, timeout: Seconds | None = None
    ) -> Iterator[Job]:
        """Yields the versions of a job as they come, to its end, each at most once.

        A stream that breaks is opened again at the version after the last one. Without `timeout` it has no time limit,
        and goes on while the tracker is unavailable. `min_interval` is the minimum time between two versions; changes
        of the state, cancellations and the end are sent at once. Raises an `Error` if the job does not exist or is not
        visible to the caller (reason `JOB_NOT_FOUND`), or is deleted meanwhile (`JOB_REMOVED`), and `TimeoutError`.
        """
        return _watch.watch(self._connection, id, min_interval, documents, timeout)

    def wait(self, id: str, *, timeout: Seconds | None = None) -> Job:
        """Waits for the end of a job, and returns the job if it has succeeded.

        Raises `JobFailed`, `JobCancelled` or `TimeoutError`, and an `Error` as `watch` does.
        """
        return _watch.wait(self._connection, id, timeout)

    def job(self, kind: str, **options: Unpack[JobOptions]) -> Work:
        """Works on a job in a `with` block; see `jobtrack.job`."""
        chosen = Options(**options)
        job_id, how = begin(kind, chosen)
        return Work(self._connection, how, job_id, chosen)

    def close(self) -> None:
        """Closes the connection. Work that is under way goes on with another one."""
        self._connection.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<jobtrack.Tracker {self._connection.settings.server}>"


_defaults: dict[Settings, Tracker] = {}


def default() -> Tracker:
    """Returns the tracker that the environment names."""
    settings = settings_of({}, CALL_TIMEOUT)
    # No lock is used: the child of a fork could inherit it locked.
    tracker = _defaults.get(settings)
    return tracker if tracker is not None else _defaults.setdefault(settings, Tracker())
