"""The connection to a tracker over asyncio."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, TypeVar

import grpc
import grpc.aio

from jobtrack._calls import Call
from jobtrack._channel import Settings, Trouble, codec, method_path
from jobtrack._errors import from_rpc
from jobtrack._retry import Budget, Retry

T = TypeVar("T")


class Connection:
    """The channels to a tracker, one for each event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trouble = Trouble()
        self._budget = Budget()
        self._channels: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    async def call(self, call: Call[T]) -> T:
        """Makes a call, and repeats it where that is safe."""
        retry = Retry(call.method, self.settings.timeout, self._budget)
        send = self._channel().unary_unary(method_path(call.method), **codec(call.method))
        while True:
            try:
                answer = await send(call.request, timeout=retry.remaining(), metadata=self.settings.metadata())
            except grpc.aio.AioRpcError as failed:
                error = from_rpc(failed)
            else:
                self._budget.give()
                return call.convert(answer)
            await asyncio.sleep(retry.pause_after(error))

    def stream(self, method: str, request: Any, wait_for_ready: bool) -> Any:
        """Opens a stream."""
        open_stream = self._channel().unary_stream(method_path(method), **codec(method))
        return open_stream(request, metadata=self.settings.metadata(), wait_for_ready=wait_for_ready)

    async def close(self) -> None:
        """Closes the channel of this event loop."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.close()

    def _channel(self) -> Any:
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            target, options, credentials = self.settings.address()
            if credentials is None:
                channel = grpc.aio.insecure_channel(target, options)
            else:
                channel = grpc.aio.secure_channel(target, credentials, options)
            self._channels[loop] = channel
        return channel
