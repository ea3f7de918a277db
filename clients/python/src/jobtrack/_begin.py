"""The beginning of an attempt: the job to create, the attempt to claim, or the job of a surrounding `jobtrack run`."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass

from jobtrack import _calls as calls
from jobtrack._options import Options
from jobtrack._report import cut
from jobtrack._reporter import Begin

NAME_MAX = 128
TITLE_MAX = 256


@dataclass(frozen=True)
class Joined:
    """The job of a surrounding `jobtrack run`."""

    job_id: str
    attempt: int | None


def joined() -> Joined | None:
    """Returns the job of the environment, if there is one."""
    job_id = os.environ.get("JOBTRACK_JOB_ID")
    if not job_id:
        return None
    attempt = os.environ.get("JOBTRACK_ATTEMPT", "")
    return Joined(job_id, int(attempt) if attempt.isdigit() else None)


def worker_name() -> str:
    """Returns the name of this worker: host and process."""
    return f"{cut(socket.gethostname(), NAME_MAX - 16)}:{os.getpid()}"


def begin(kind: str, options: Options) -> tuple[str, Begin]:
    """Returns the id of the job to work on, and how its attempt begins."""
    worker = worker_name() if options.worker is None else options.worker
    surrounding = joined() if options.join and options.id is None else None
    if surrounding is not None:
        return surrounding.job_id, Begin(worker, attempt=surrounding.attempt)
    job_id, request_id = options.id or str(uuid.uuid4()), options.request_id or str(uuid.uuid4())
    create = calls.create(
        cut(kind, NAME_MAX),
        id=job_id,
        title=cut(options.title, TITLE_MAX),
        owner=options.owner,
        labels=options.labels,
        metadata=options.metadata,
        lease=options.lease,
        fail_when_lost=options.fail_when_lost,
        retention=options.retention,
    )
    start = calls.start(job_id, worker=worker, request_id=request_id, lease=options.lease, takeover=options.takeover)
    return job_id, Begin(worker, create, start)
