"""The connection to a tracker: settings, channel, calls."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import grpc

from jobtrack import _calls as calls
from jobtrack import _fork
from jobtrack._calls import Call
from jobtrack._errors import Error, from_rpc
from jobtrack._proto import job_service_pb2
from jobtrack._retry import Budget, Retry

T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:50051"
"""Server that is called if nothing else is configured."""

PORTS = {"http": 80, "https": 443}
"""Default ports by URL scheme. gRPC's own default is port 443 for both."""

CALL_TIMEOUT = 10.0
"""Default time for a call with its repetitions, in seconds."""

PROBE = calls.get("")
"""Call that fails with the cause if no server can be reached. With wait-for-ready it would fail after its deadline."""

PROBE_TIMEOUT = 0.2
"""Maximum time of the probe in seconds, which a silent server uses up. Without a server the probe fails at once."""

ANSWER_MAX = 8 << 20
"""Maximum size of an answer in bytes: more than the 4 MiB that the server sends at most."""

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "jobtrack.v1.JobService"},
    "methodConfig": [{"name": [{"service": "jobtrack.v1.JobService"}], "waitForReady": True}],
}
"""The settings of deploy/client/service-config.json, except retries, which this package does itself."""

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # The defaults, 1 s to 2 minutes, keep clients away for long after an outage.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Despite its name, this is the maximum time to establish a connection.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", ANSWER_MAX),
    # Without this option, the child of a fork would share the sockets of its parent.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Settings:
    """The settings of a connection. What is not given is taken from the environment."""

    server: str
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    timeout: float = CALL_TIMEOUT

    def metadata(self) -> list[tuple[str, str]]:
        """Returns the credentials of a call. A file is read for each call: tokens are replaced while a worker runs."""
        token = self.token
        if self.token_file:
            try:
                token = Path(self.token_file).read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise Error("UNAVAILABLE", "TOKEN_FILE", f"token file {self.token_file}: {error}") from None
        return [("authorization", f"Bearer {token}")] if token else []

    def address(self) -> tuple[str, list[tuple[str, Any]], grpc.ChannelCredentials | None]:
        """Returns the target of a channel, its options and its credentials, which are None without TLS."""
        urls = [_url(url.strip()) for url in self.server.split(",")]
        first, options = urls[0], list(OPTIONS)
        if len(urls) == 1:
            target = f"dns:///{first.netloc}"
        else:
            target = _targets(urls)
            # C-core would send the whole list as the name of the server.
            options.append(("grpc.default_authority", first.netloc))
        return target, options, self._credentials() if first.scheme == "https" else None

    def _credentials(self) -> grpc.ChannelCredentials:
        def read(path: str) -> bytes | None:
            try:
                return Path(path).read_bytes() if path else None
            except OSError as error:
                raise Error("UNAVAILABLE", "CERTIFICATE_FILE", f"{path}: {error}") from None

        return grpc.ssl_channel_credentials(read(self.ca_file), read(self.client_key), read(self.client_cert))


def settings_of(given: dict[str, str | None], timeout: float) -> Settings:
    """Returns the settings: those that are given, else those of the environment."""
    environment = os.environ
    server = given.get("server") or environment.get("JOBTRACK_SERVER") or DEFAULT_SERVER
    for url in server.split(","):
        _url(url.strip())
    token, token_file = given.get("token") or "", given.get("token_file") or ""
    if not token and not token_file:
        token = environment.get("JOBTRACK_TOKEN", "")
    names = ("ca_file", "client_cert", "client_key")
    files = {name: given.get(name) or environment.get(f"JOBTRACK_{name.upper()}", "") for name in names}
    if bool(files["client_cert"]) != bool(files["client_key"]):
        raise ValueError("client_cert and client_key: one is given without the other")
    return Settings(server, token, token_file, timeout=timeout, **files)


def _url(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"server {url!r}: it must be a URL such as {DEFAULT_SERVER}, or https://…")
    # Raises a ValueError if the port is no number.
    if parts.port is not None:
        return parts
    return parts._replace(netloc=f"{parts.netloc.removesuffix(':')}:{PORTS[parts.scheme]}")


def _targets(urls: Sequence[SplitResult]) -> str:
    """Returns the target for several replicas, whose names are resolved once."""
    addresses = []
    for url in urls:
        try:
            found = socket.getaddrinfo(url.hostname, url.port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise Error("UNAVAILABLE", "", f"{url.netloc}: {error}") from None
        addresses += [f"{found_at[4][0]!s}:{url.port}" for found_at in found]
    return f"ipv4:{','.join(dict.fromkeys(addresses))}"


def is_unanswered(error: Error) -> bool:
    """Returns whether a call ended because its deadline passed in this client. An error of the server has a reason."""
    return error.code == "DEADLINE_EXCEEDED" and not error.reason


def unreachable(error: Error) -> Error | None:
    """Returns the error of a probe if it says that no server can be reached."""
    return error if error.code == "UNAVAILABLE" and not error.reason and not is_of_parent(error) else None


def is_of_parent(error: Error) -> bool:
    """Returns whether the first connection of a forked process began with bytes for a connection of its parent.

    grpcio 1.66 writes them once in some hundred forks. To the server they are no HTTP/2, so it answers with HTTP/1.1.
    """
    return bool(_inherited) and error.code == "UNAVAILABLE" and "http1.x server" in error.message


def method_path(method: str) -> str:
    """Returns the path of a method."""
    return f"/jobtrack.v1.JobService/{method}"


def codec(method: str) -> dict[str, Any]:
    """Returns the functions that write a request and read an answer."""
    stubs: Any = job_service_pb2
    request, response = getattr(stubs, f"{method}Request"), getattr(stubs, f"{method}Response")
    return {"request_serializer": request.SerializeToString, "response_deserializer": response.FromString}


# Channels of the parent, in the child of a fork. They must not be closed there: their threads do not exist.
_inherited: list[Any] = []
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


logger = logging.getLogger("jobtrack")


class Trouble:
    """Availability of the tracker, whose changes are logged once for all jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_known = False

    def begin(self, error: Error, server: str) -> None:
        """Records a temporary error."""
        with self._lock:
            is_new, self.is_known = not self.is_known, True
        if is_new:
            logger.warning("the tracker at %s is unavailable, trying again: %s", server, error)

    def end(self) -> None:
        """Notes a call that was answered."""
        if self.is_known:
            with self._lock:
                is_over, self.is_known = self.is_known, False
            if is_over:
                logger.info("the tracker is available again")


class Connection:
    """The channel to a tracker. Each process opens its own when it first needs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.budget = Budget()
        self.trouble = Trouble()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Any] = {}
        _connections.add(self)

    def call(self, call: Call[T]) -> T:
        """Makes a call, waits for its answer, and repeats it where that is safe."""
        retry = Retry(call.method, self.settings.timeout, self.budget)
        while True:
            try:
                answer = self.start(call, retry.remaining()).result()
            except grpc.RpcError as failed:
                error = from_rpc(failed)
                if is_unanswered(error):
                    error = self._cause() or error
            else:
                self.budget.give()
                return call.convert(answer)
            time.sleep(retry.pause_after(error))

    def start(self, call: Call[Any], timeout: float, wait_for_ready: bool | None = None) -> Any:
        """Starts a call, and returns its grpc.Future."""
        method, metadata = self._method(call.method), self.settings.metadata()
        return _fork.start(
            lambda: method.future(call.request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        )

    def stream(self, method: str, request: Any, wait_for_ready: bool) -> Any:
        """Opens a stream."""
        opened, metadata = self._method(method), self.settings.metadata()
        return _fork.start(lambda: opened(request, metadata=metadata, wait_for_ready=wait_for_ready), is_stream=True)

    def close(self) -> None:
        """Closes the channel. A later call makes another one."""
        with self._lock:
            channel, self._channel, self._methods = self._channel, None, {}
        if channel is not None:
            channel.close()

    def _cause(self) -> Error | None:
        """Returns why no server can be reached, after a call that waited for one until its deadline."""
        try:
            self.start(PROBE, PROBE_TIMEOUT, wait_for_ready=False).result()
        except grpc.RpcError as failed:
            return unreachable(from_rpc(failed))
        return None

    def _method(self, method: str) -> Any:
        with self._lock:
            if self._channel is None:
                self._channel = self._open()
            if method not in self._methods:
                make = self._channel.unary_stream if method.startswith("Watch") else self._channel.unary_unary
                self._methods[method] = make(method_path(method), **codec(method))
            return self._methods[method]

    def _open(self) -> grpc.Channel:
        target, options, credentials = self.settings.address()
        if credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, credentials, options)

    def _forget(self) -> None:
        """Leaves the channel to the parent, in the child of a fork."""
        self._lock, self.budget, self.trouble = threading.Lock(), Budget(), Trouble()
        _inherited.append((self._channel, self._methods))
        self._channel, self._methods = None, {}


def _after_fork() -> None:
    for connection in list(_connections):
        connection._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
