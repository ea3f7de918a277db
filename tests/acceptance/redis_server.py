"""A real Redis for a test, and free ports. The tests of the Python client have no packages of this folder, so this
module imports only the standard library.
"""

import itertools
import os
import random
import socket
import subprocess
import tempfile
import time

# Seconds until a start counts as hung.
START_TIMEOUT = 60

# Ports below those that the kernel gives to connections (from 32768), so that none of them takes a port before its
# server does. Several processes of tests run side by side: each begins at a random port, and takes few of the 12,000.
_PORTS = range(20_000, 32_000)
_numbers = itertools.count(random.randrange(len(_PORTS)))


def free_port():
    """Returns a port on which nobody listens. Each call returns another one."""
    for number in itertools.islice(_numbers, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            # The servers set it too: a port whose last connections are closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Redis:
    """A real Redis with the arguments of a manifest, on a port of its own and with a folder that `stop` deletes."""

    def __init__(self, *arguments):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        server = os.environ.get("JOBTRACK_TEST_REDIS", "redis-server")
        command = [server, *arguments, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"it does not start: {' '.join(command)}")
            time.sleep(0.01)

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self):
        """Kills it and deletes what it kept."""
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()
