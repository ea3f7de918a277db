"""Common parts of the tests: stubs made from the protos, the real server, buf, and the details of errors."""

import atexit
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
BINARY = TARGET / "debug" / "jobtrack"
BUF = Path(sys.executable).with_name("buf")

# Seconds until a wait counts as hung. No test waits for time to pass.
PATIENCE = 20


def _compile(out):
    protos = [str(path) for path in (ROOT / "proto" / "jobtrack").rglob("*.proto")]
    includes = [f"-I{ROOT / 'proto'}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *protos]) != 0:
        raise RuntimeError("protoc refused the protos")


TARGET.mkdir(exist_ok=True)
_stubs = tempfile.TemporaryDirectory(prefix="acceptance-", dir=TARGET)
atexit.register(_stubs.cleanup)
_compile(_stubs.name)
STUBS = _stubs.name
sys.path.insert(0, STUBS)

from jobtrack.v1 import admin_service_pb2 as admin  # noqa: E402
from jobtrack.v1 import admin_service_pb2_grpc  # noqa: E402
from jobtrack.v1 import job_pb2 as job  # noqa: E402
from jobtrack.v1 import job_service_pb2 as api  # noqa: E402
from jobtrack.v1 import job_service_pb2_grpc  # noqa: E402

__all__ = ["admin", "api", "job"]

# Every call gets a deadline, streams too, so that a server that hangs fails a test instead of hanging it.
_DEADLINES = json.dumps({"methodConfig": [{"name": [{}], "timeout": f"{PATIENCE}s"}]})


@contextmanager
def patience(process):
    """Kills a process that keeps the block waiting for too long."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def clean_environment(**extra):
    """This process's environment without any configuration of jobtrack, and without its HTTP port."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("JOBTRACK_") and k != "REDIS_URL"}
    return own | {"JOBTRACK_HTTP_LISTEN": "off"} | extra


class Server:
    """The real binary on a free port. Environment variables are given by name."""

    def __init__(self, *arguments, **environment):
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [BINARY, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=clean_environment(**environment),
        )
        with patience(self.process):
            self.banner = self.process.stdout.readline()
        match = re.fullmatch(r"jobtrack \S+ listening on (\S+:[1-9]\d*), storage: .+\n", self.banner)
        if match is None:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"banner {self.banner!r}, log:\n{self.log()}")
        self.address = match[1]
        self.channel = grpc.insecure_channel(self.address, [("grpc.service_config", _DEADLINES)])
        self.jobs = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def log(self):
        """Returns the standard error of the server so far."""
        self._log.seek(0)
        return self._log.read()

    def kill(self):
        """Ends it as `kill -9` does."""
        self.process.kill()
        self.process.communicate()
        self.channel.close()
        self._log.close()

    def stop(self):
        """Sends SIGTERM, unless that was done, and expects a clean end. Returns the log. Does nothing the second time."""
        if self._log.closed:
            return ""
        self.process.terminate()
        with patience(self.process):
            self.process.communicate()
        self.channel.close()
        log = self.log()
        self._log.close()
        if self.process.returncode != 0 or "panicked" in log:
            raise AssertionError(f"exit code {self.process.returncode}, log:\n{log}")
        return log


class ServerCase(unittest.TestCase):
    """Tests that share one server."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("serve", "--listen", "127.0.0.1:0")
        cls.addClassCleanup(cls.server.stop)
        cls.jobs = cls.server.jobs

    def create(self, **fields):
        """Creates a job that belongs to this test and returns it."""
        fields = {"kind": "test.job", "owner": self.id()} | fields
        return self.jobs.CreateJob(api.CreateJobRequest(**fields)).job

    def report(self, job_id, **progress):
        """Reports progress and returns the job as stored."""
        request = api.UpdateProgressRequest(job_id=job_id, progress=job.Progress(**progress))
        return self.jobs.UpdateProgress(request).job

    def refused(self, code, reason, call):
        """Expects an error with its details, and returns them: ErrorInfo's metadata and all by type name."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return self.details(caught.exception, code, reason)

    def details(self, error, code, reason):
        """The same for an error that was caught."""
        self.assertEqual(error.code(), code, error.details())
        status = rpc_status.from_call(error)
        self.assertIsNotNone(status, "no grpc-status-details-bin trailer")
        details = {}
        for packed in status.details:
            message = getattr(error_details_pb2, packed.TypeName().removeprefix("google.rpc."))()
            packed.Unpack(message)
            self.assertNotIn(packed.TypeName(), details, "the same detail twice")
            details[packed.TypeName()] = message
        info = details["google.rpc.ErrorInfo"]
        self.assertEqual((info.domain, info.reason), ("jobtrack", reason))
        return info.metadata, details


def buf(*arguments):
    """Runs buf and returns what it printed: stdout and stderr."""
    done = subprocess.run([BUF, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"buf {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout, done.stderr


def messages(lines):
    """The messages in buf's output, which prints each over several lines."""
    text = ""
    for line in lines:
        text += line
        if line.rstrip() in ("}", "{}"):
            yield json.loads(text)
            text = ""
