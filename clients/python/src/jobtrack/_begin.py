"""How an attempt begins: the job to create, the attempt to claim, or the job of a surrounding `jobtrack run`."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobtrack import _calls as calls
from jobtrack._convert import Seconds
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


def of_new_job(
    kind: str, job_id: str, fields: Mapping[str, Any], worker: str, request_id: str, lease: Seconds, takeover: bool
) -> Begin:
    """Creates a job and claims its first attempt; claims the next one of a job that exists."""
    fields = {**fields, "title": cut(fields.get("title") or "", TITLE_MAX), "lease": lease}
    create = calls.create(cut(kind, NAME_MAX), id=job_id, **fields)
    request_id = request_id or str(uuid.uuid4())
    start = calls.start(job_id, worker=worker, request_id=request_id, lease=lease, takeover=takeover)
    return Begin(worker, create, start)
