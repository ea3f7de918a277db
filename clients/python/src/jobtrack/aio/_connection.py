"""The connection to a tracker over asyncio."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from jobtrack._calls import Call
from jobtrack._channel import (
    PROBE,
    PROBE_TIMEOUT,
    Settings,
    Trouble,
    codec,
    is_unanswered,
    method_path,
    unreachable,
)
from jobtrack._errors import Error, from_rpc
from jobtrack._retry import Budget, Retry

T = TypeVar("T")


class Connection:
    """The channels to a tracker, one for each event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trouble = Trouble()
        self._budget = Budget()
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OpenChannel] = weakref.WeakKeyDictionary()

    async def call(self, call: Call[T]) -> T:
        """Makes a call, and repeats it where that is safe."""
        retry = Retry(call.method, self.settings.timeout, self._budget)
        send = (await self._channel()).unary_unary(method_path(call.method), **codec(call.method))
        while True:
            try:
                answer = await send(call.request, timeout=retry.remaining(), metadata=self.settings.metadata())
            except grpc.aio.AioRpcError as failed:
                error = from_rpc(failed)
                if is_unanswered(error):
                    error = await self._cause() or error
            else:
                self._budget.give()
                return call.convert(answer)
            await asyncio.sleep(retry.pause_after(error))

    async def _cause(self) -> Error | None:
        """Returns why no server can be reached, after a call that waited for one until its deadline."""
        send = (await self._channel()).unary_unary(method_path(PROBE.method), **codec(PROBE.method))
        try:
            await send(PROBE.request, timeout=PROBE_TIMEOUT, metadata=self.settings.metadata(), wait_for_ready=False)
        except grpc.aio.AioRpcError as failed:
            return unreachable(from_rpc(failed))
        return None

    async def stream(self, method: str, request: Any, wait_for_ready: bool) -> Any:
        """Opens a stream."""
        open_stream = (await self._channel()).unary_stream(method_path(method), **codec(method))
        return open_stream(request, metadata=self.settings.metadata(), wait_for_ready=wait_for_ready)

    async def close(self) -> None:
        """Closes the channel of this event loop."""
        opened = self._channels.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.keeper.aclose()

    async def _channel(self) -> Any:
        loop = asyncio.get_running_loop()
        opened = self._channels.get(loop)
        if opened is None:
            target, options, credentials = self.settings.address()
            if credentials is None:
                channel: Any = grpc.aio.insecure_channel(target, options)
            else:
                channel = grpc.aio.secure_channel(target, credentials, options)
            opened = self._channels[loop] = _OpenChannel(channel, _keep(channel))
            await opened.keeper.__anext__()
        return opened.channel


@dataclass(frozen=True)
class _OpenChannel:
    """A channel, and the generator that closes it."""

    channel: Any
    keeper: AsyncGenerator[None, None]


async def _keep(channel: Any) -> AsyncGenerator[None, None]:
    """Closes a channel together with its event loop, which closes the generators that are left."""
    try:
        yield
    finally:
        await channel.close()
