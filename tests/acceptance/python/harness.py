"""Common parts of the tests of the Python client: real servers, and programs that are processes of their own.

They run in a virtual environment into which the wheel was installed; see test_python.py.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import jobtrack

sys.path.append(str(Path(__file__).resolve().parents[1]))

from redis_server import Redis, free_port

BINARY = os.environ["JOBTRACK_TEST_BINARY"]

# The sizes of the issue that some tests are for, instead of smaller ones.
IS_FULL = bool(os.environ.get("JOBTRACK_TEST_PYTHON_FULL"))

# Seconds until a wait counts as hung.
PATIENCE = 60

# Seconds that an item of `work` takes.
ITEM = 0.02


def clean_environment(**extra):
    """This process's environment without any configuration of jobtrack."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("JOBTRACK_") and k != "REDIS_URL"}
    return own | {"JOBTRACK_HTTP_LISTEN": "off", "PYTHONUNBUFFERED": "1"} | extra


def until(is_reached, what="it"):
    """Waits for a condition, and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = is_reached()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} does not happen")


class Server:
    """The real binary, which can be killed, started again on the same port, and stopped in its tracks."""

    def __init__(self, *arguments):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self.process = None
        self.start()

    def start(self):
        command = [BINARY, "serve", "--listen", f"127.0.0.1:{self.port}", *self._arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, env=clean_environment(), **pipes)
        line = self.process.stdout.readline()
        if "listening" not in line:
            raise AssertionError(f"the server does not start: {line!r}")

    def kill(self):
        """Ends it as `kill -9` does. Does nothing the second time."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def pause(self):
        """Stops it in its tracks: each of its threads."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: set(self._states()) == {"T"}, "the stop of the server")

    def _states(self):
        for stat in Path("/proc", str(self.process.pid), "task").glob("*/stat"):
            with contextlib.suppress(OSError):
                yield stat.read_text().rpartition(")")[2].split()[0]

    def resume(self):
        self.process.send_signal(signal.SIGCONT)


def work(tracker, items, **options):
    """Works for a while, and returns the job."""
    options = {"flush_timeout": 0.5} | options
    with tracker.job("k", **options) as job:
        for _ in job.track(range(items)):
            time.sleep(ITEM)
    return job


class Case(unittest.TestCase):
    """Tests that share one server, which the environment names."""

    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.server = cls.serve_class(*cls.arguments)
        cls.tracker = jobtrack.Tracker(cls.server.url)
        os.environ["JOBTRACK_SERVER"] = cls.server.url

    @classmethod
    def serve_class(cls, *arguments):
        server = Server(*arguments)
        cls.addClassCleanup(server.kill)
        return server

    def serve(self, *arguments):
        """Starts a server for one test."""
        server = Server(*arguments)
        self.addCleanup(server.kill)
        return server, jobtrack.Tracker(server.url)

    def redis(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        return redis

    def new_id(self):
        return f"{self.id().rpartition('.')[2]}-{time.time_ns()}"

    def start(self, program, *arguments, **environment):
        """Starts a program as a process of its own."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "program.py")
        path.write_text(program)
        environment = clean_environment(**{"JOBTRACK_SERVER": self.server.url} | environment)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, str(path), *map(str, arguments)]
        started = subprocess.Popen(command, text=True, env=environment, **pipes)

        def stop():
            started.kill()
            started.wait()
            for pipe in (started.stdin, started.stdout, started.stderr):
                pipe.close()

        self.addCleanup(stop)
        return started

    def end(self, started, code=0):
        """Waits for a program, and returns what it printed: standard output and error."""
        printed, errors = started.communicate(timeout=PATIENCE)
        self.assertEqual(started.returncode, code, errors)
        return printed, errors

    def run_program(self, program, *arguments, code=0, **environment):
        """Runs a program to its end."""
        return self.end(self.start(program, *arguments, **environment), code)

    def ended(self, job_id, tracker=None):
        """The job at its end, whatever that is."""
        try:
            return (tracker or self.tracker).wait(job_id, timeout=PATIENCE)
        except (jobtrack.JobFailed, jobtrack.JobCancelled) as ended:
            return ended.job

    def is_done_with_one_warning(self, tracker, **options):
        """Works untracked, which is one warning, and with strict an error. Returns both."""
        with self.assertLogs("jobtrack", logging.WARNING) as logged:
            work(tracker, 10, **options)
        self.assertEqual(len(logged.records), 1, logged.output)
        with self.assertRaises(jobtrack.Error) as caught:
            work(tracker, 10, strict=True, **options)
        return logged.records[0].getMessage(), caught.exception

    def soon(self, called, delay=0.0):
        """Calls a function in a thread."""
        timer = threading.Timer(delay, called)
        timer.start()
        self.addCleanup(timer.join)
        return timer


class BrokerCase(Case):
    """Tests that share a Redis, which is the broker of a queue, and a folder for the code of its workers."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.redis = Redis()
        cls.addClassCleanup(cls.redis.stop)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
