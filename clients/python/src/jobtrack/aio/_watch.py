"""Watching a job over asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from jobtrack import _convert as convert
from jobtrack._convert import Seconds
from jobtrack._errors import Error, from_rpc
from jobtrack._values import Job
from jobtrack._watch import SILENCE_MAX, Position, outcome
from jobtrack.aio._connection import Connection

END_OF_STREAM: Any = grpc.aio.EOF  # type: ignore[attr-defined]


async def _messages(call: Any, deadline: float) -> AsyncIterator[Any]:
    """Yields the messages of a stream."""
    while True:
        left = deadline - time.monotonic()
        try:
            message = await asyncio.wait_for(call.read(), min(SILENCE_MAX, max(left, 0)))
        except asyncio.TimeoutError:
            raise Error("DEADLINE_EXCEEDED", message="the tracker is silent") from None
        if message is END_OF_STREAM:
            return
        yield message


async def watch(
    connection: Connection, job_id: str, min_interval: Seconds | None, documents: bool, timeout: Seconds | None
) -> AsyncIterator[Job]:
    """Yields the versions of a job to its end."""
    deadline = float("inf") if timeout is None else time.monotonic() + convert.seconds(timeout)
    position = Position(job_id, min_interval, documents)
    while True:
        position.open()
        call = await connection.stream("WatchJob", position.request, position.wait_for_ready)
        try:
            async for message in _messages(call, deadline):
                connection.trouble.end()
                job = position.take(message)
                if job is not None:
                    yield job
                if position.has_ended:
                    return
            # The server ends a stream only after the job.
            return
        except grpc.aio.AioRpcError as failed:
            error = from_rpc(failed)
        except Error as raised:
            error = raised
        finally:
            call.cancel()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"job {job_id} has not ended within {timeout} s")
        pause = position.pause_after(error)
        connection.trouble.begin(error, connection.settings.server)
        await asyncio.sleep(max(min(pause, deadline - time.monotonic()), 0))


async def wait(connection: Connection, job_id: str, timeout: Seconds | None) -> Job:
    """Waits for the end of a job."""
    last = None
    async for job in watch(connection, job_id, None, True, timeout):
        last = job
    return outcome(last)
