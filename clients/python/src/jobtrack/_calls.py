"""Calls: builds requests from plain values, and converts answers to plain values."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from jobtrack import _convert as convert
from jobtrack._convert import Seconds
from jobtrack._errors import invalid
from jobtrack._proto import job_service_pb2 as api
from jobtrack._values import Document, Failure, Job, Liveness, State, WatchToken

T = TypeVar("T")

# Enum values as numbers. They are typed as `Any`, because the stubs accept no integers.
VIEW_BASIC: Any = 1
VIEW_FULL: Any = 2
ORDER_NEWEST: Any = 1
ORDER_OLDEST: Any = 2


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call to make."""

    method: str
    request: Any
    convert: Callable[[Any], T]


@dataclass(frozen=True)
class Claim:
    """The attempt that a worker has claimed."""

    job: Job
    claim: str
    """Names the attempt in the calls of its worker."""


@dataclass(frozen=True)
class Page:
    """A page of a list."""

    jobs: tuple[Job, ...]
    next_page_token: str
    """Empty on the last page."""
    total: int | None
    """Number of all jobs that match, where it is known exactly."""
    partial: bool
    """Jobs may be missing or outdated, because Redis is unavailable."""


def _job(answer: Any) -> Job:
    return convert.job(answer.job)


def create(
    kind: str,
    *,
    id: str = "",
    request_id: str = "",
    title: str = "",
    owner: str = "",
    labels: Mapping[str, str] | None = None,
    metadata: Document | None = None,
    lease: Seconds | None = None,
    fail_when_lost: bool = False,
    retention: Seconds | None = None,
    start_timeout: Seconds | None = None,
) -> Call[Job]:
    """Creates a job, PENDING, and returns it.

    `kind` is the kind of work, such as `video.render`. `id` is up to 128 characters of `A-Za-z0-9._:-`; by default the
    server makes an id. A call with the `request_id` of an earlier call returns the job that the earlier call created.
    `lease` is the time without a report after which the worker counts as lost; with `fail_when_lost` the job fails
    then. `retention` is the time to keep the job after its end, `start_timeout` the time that it may wait for a worker.
    """
    request = api.CreateJobRequest(job_id=id, request_id=request_id or str(uuid.uuid4()), kind=kind, owner=owner)
    request.title, request.fail_when_lost = title, fail_when_lost
    request.labels.update(labels or {})
    convert.put_document(request, "metadata", metadata)
    convert.put_duration(request, "lease_timeout", lease)
    convert.put_duration(request, "retention", retention)
    convert.put_duration(request, "start_timeout", start_timeout)
    return Call("CreateJob", request, _job)


def get(id: str, *, min_revision: int | None = None, documents: bool = True) -> Call[Job]:
    """Returns a job as it is now; with `min_revision` at that revision or a later one."""
    view = VIEW_FULL if documents else VIEW_BASIC
    return Call("GetJob", api.GetJobRequest(job_id=id, min_revision=min_revision, view=view), _job)


def get_many(ids: Iterable[str], *, documents: bool = True) -> Call[dict[str, Job]]:
    """Returns up to 100 jobs by their ids. The result leaves out jobs that do not exist."""
    request = api.BatchGetJobsRequest(job_ids=ids, view=VIEW_FULL if documents else VIEW_BASIC)
    return Call("BatchGetJobs", request, lambda answer: {job.id: convert.job(job) for job in answer.jobs})


def page(
    *,
    states: Iterable[State | str] = (),
    kind: str = "",
    owner: str = "",
    labels: Mapping[str, str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    updated_after: datetime | None = None,
    liveness: Iterable[Liveness | str] = (),
    worker: str = "",
    id_prefix: str = "",
    oldest_first: bool = False,
    documents: bool = False,
    page_size: int = 0,
    page_token: str = "",
) -> Call[Page]:
    """Returns a page of the jobs that match all that is given, the newest first; by default 50, at most 1000."""
    request = api.ListJobsRequest(page_size=page_size, page_token=page_token)
    request.view = VIEW_FULL if documents else VIEW_BASIC
    request.order = ORDER_OLDEST if oldest_first else ORDER_NEWEST
    chosen = request.filter
    chosen.states.extend(convert.numbers(State, states, "states"))
    chosen.liveness.extend(convert.numbers(Liveness, liveness, "liveness"))
    chosen.kind, chosen.owner, chosen.worker, chosen.id_prefix = kind, owner, worker, id_prefix
    chosen.labels.update(labels or {})
    convert.put_time(chosen, "created_after", created_after)
    convert.put_time(chosen, "created_before", created_before)
    convert.put_time(chosen, "updated_after", updated_after)
    return Call("ListJobs", request, _page)


def _page(answer: Any) -> Page:
    total = answer.total_size if answer.HasField("total_size") else None
    return Page(tuple(map(convert.job, answer.jobs)), answer.next_page_token, total, answer.partial)


def start(
    id: str, *, worker: str = "", request_id: str = "", lease: Seconds | None = None, takeover: bool = False
) -> Call[Claim]:
    """Claims the next attempt of a job. `takeover` ends an attempt that is running, whoever runs it."""
    request = api.StartAttemptRequest(job_id=id, worker=worker, request_id=request_id or str(uuid.uuid4()))
    request.takeover = takeover
    convert.put_duration(request, "lease_timeout", lease)
    return Call("StartAttempt", request, lambda answer: Claim(convert.job(answer.job), answer.claim))


def update(
    id: str,
    *,
    percent: float | None = None,
    completed: int | None = None,
    total: int | None = None,
    unit: str | None = None,
    stage: str | None = None,
    stage_index: int | None = None,
    stage_count: int | None = None,
    message: str | None = None,
    details: Document | None = None,
    worker: str = "",
    sequence: int | None = None,
    attempt: int | None = None,
    claim: str = "",
) -> Call[Job]:
    """Reports progress, and returns the job with `cancel` set if the worker is to stop.

    Fields that are not given keep their values. Without any value the report is a heartbeat. A report whose `sequence`
    is not higher than the last one is ignored.
    """
    given: dict[str, object] = {
        "percent": percent,
        "completed": completed,
        "total": total,
        "unit": unit,
        "stage": stage,
        "stage_index": stage_index,
        "stage_count": stage_count,
        "message": message,
        "details": details,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    return report(id, fields, worker, sequence, attempt, claim)


def report(
    id: str, fields: Mapping[str, Any], worker: str, sequence: int | None, attempt: int | None, claim: str
) -> Call[Job]:
    """Reports these fields of the progress."""
    request = api.UpdateProgressRequest(job_id=id, worker=worker, sequence=sequence, attempt=attempt, claim=claim)
    request.progress.CopyFrom(convert.progress(fields))
    return Call("UpdateProgress", request, _job)


def complete(id: str, *, result: Document | None = None, attempt: int | None = None, claim: str = "") -> Call[Job]:
    """Ends a job as SUCCEEDED, with a result of at most 1 MiB."""
    request = api.CompleteJobRequest(job_id=id, attempt=attempt, claim=claim)
    convert.put_document(request, "result", result)
    return Call("CompleteJob", request, _job)


def fail(
    id: str,
    reason: str,
    message: str = "",
    *,
    details: Document | None = None,
    code: int | None = None,
    retry: bool = False,
    attempt: int | None = None,
    claim: str = "",
) -> Call[Job]:
    """Ends a job as FAILED; with `retry` only its attempt, which must be named by `attempt` or `claim`."""
    if retry and not claim and attempt is None:
        # Such a call can't be repeated: it might end the attempt after this one.
        raise invalid("attempt", "must be given with `retry`, unless `claim` is given")
    request = api.FailJobRequest(job_id=id, attempt=attempt, claim=claim, retry=retry)
    request.failure.reason, request.failure.message = reason, message
    if code is not None:
        request.failure.code = code
    convert.put_document(request.failure, "details", details)
    return Call("FailJob", request, _job)


def fail_with(id: str, failure: Failure, retry: bool, attempt: int | None, claim: str) -> Call[Job]:
    """Ends a job or its attempt with a failure."""
    details, code = failure.details or None, failure.code
    named = {"attempt": attempt, "claim": claim, "retry": retry and bool(claim or attempt is not None)}
    return fail(id, failure.reason, failure.message, details=details, code=code, **named)  # type: ignore[arg-type]


def cancel(
    id: str, reason: str = "", *, requester: str = "", force: bool = False, grace: Seconds | None = None
) -> Call[Job]:
    """Requests the cancellation of a job.

    A PENDING job is CANCELLED at once; with `force`, so is a RUNNING job. Otherwise its worker has `grace` to end
    it, by default without a limit.
    """
    request = api.CancelJobRequest(job_id=id, reason=reason, requester=requester, force=force)
    convert.put_duration(request, "grace", grace)
    return Call("CancelJob", request, _job)


def confirm_cancel(id: str, *, message: str | None = None, attempt: int | None = None, claim: str = "") -> Call[Job]:
    """Confirms that the worker has stopped after a cancellation was requested."""
    request = api.ConfirmCancelRequest(job_id=id, attempt=attempt, message=message, claim=claim)
    return Call("ConfirmCancel", request, _job)


def delete(id: str, *, force: bool = False) -> Call[None]:
    """Deletes a job for good. One that has not ended needs `force`."""
    return Call("DeleteJob", api.DeleteJobRequest(job_id=id, force=force), lambda answer: None)


def watch_token(ids: Iterable[str], *, ttl: Seconds | None = None, documents: bool = False) -> Call[WatchToken]:
    """Makes a token with which somebody else can follow up to 100 jobs, and do nothing else; for an hour by default."""
    request = api.CreateWatchTokenRequest(job_ids=ids, view=VIEW_FULL if documents else VIEW_BASIC)
    convert.put_duration(request, "ttl", ttl)

    def made(answer: Any) -> WatchToken:
        return WatchToken(answer.token, answer.path, convert.time(answer, "expire_time"))

    return Call("CreateWatchToken", request, made)
