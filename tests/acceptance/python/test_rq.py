"""Real workers of RQ."""

import os
import subprocess
import sys
import time
from pathlib import Path

import redis
import rq
from harness import BrokerCase, clean_environment, until
from rq.command import send_stop_job_command

import jobtrack.rq

FUNCTIONS = """
import os, signal, time
import jobtrack

def add(a, b):
    for _ in jobtrack.current().track(range(5)):
        pass
    return a + b

def bad():
    raise ValueError("bad value")

def flaky(path):
    count = os.path.getsize(path) if os.path.exists(path) else 0
    with open(path, "a") as file:
        file.write("x")
    if count < 2:
        raise OSError(f"try {count}")
    return {"count": count}

def returns_retry(path):
    import rq
    if not os.path.exists(path):
        open(path, "w").close()
        return rq.Retry(max=2)
    return 5

def sleep():
    while True:
        time.sleep(0.02)

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""

WORKER = """
import jobtrack.rq

class Worker(jobtrack.rq.Worker):
    lease = 6
"""


class Rq(BrokerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder.joinpath("functions.py").write_text(FUNCTIONS)
        cls.folder.joinpath("worker.py").write_text(WORKER)
        cls.connection = redis.Redis.from_url(cls.redis.url)
        cls.addClassCleanup(cls.connection.close)
        cls.queue = jobtrack.rq.Queue(connection=cls.connection)
        for name in ("first", "second"):
            cls.work(name)

    @classmethod
    def work(cls, name):
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", cls.redis.url, "--name", name]
        command += ["--worker-class", "worker.Worker"]
        environment = clean_environment(JOBTRACK_SERVER=cls.server.url, PYTHONPATH=str(cls.folder))
        log = open(cls.folder / f"{name}.log", "w+")
        cls.addClassCleanup(log.close)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        worker = subprocess.Popen(command, cwd=cls.folder, env=environment, start_new_session=True, **pipes)

        def stop():
            os.killpg(worker.pid, 9)
            worker.wait()

        cls.addClassCleanup(stop)
        until(lambda: "Listening on" in Path(log.name).read_text(), "the start of the worker")

    def enqueue(self, function, *arguments, **options):
        return self.queue.enqueue(f"functions.{function}", *arguments, **options)

    def running(self, enqueued):
        until(lambda: self.tracker.get(enqueued.id).state == "RUNNING", "the start of the job")
        until(lambda: enqueued.get_status(refresh=True) == "started", "the start of the job")

    def history(self, job):
        return [attempt.failure.message if attempt.failure else None for attempt in job.attempts]

    def test_success(self):
        enqueued = self.enqueue("add", 1, 2)
        self.assertEqual(self.tracker.get(enqueued.id).kind, "functions.add")
        job = self.ended(enqueued.id)
        self.assertEqual((job.state, job.result, job.completed), ("SUCCEEDED", {"result": 3}, 5))

    def test_failure(self):
        job = self.ended(self.enqueue("bad").id)
        self.assertEqual((job.state, job.failure.reason, job.failure.message), ("FAILED", "ValueError", "bad value"))

    def test_retry(self):
        job = self.ended(self.enqueue("flaky", str(self.folder / "flaky"), retry=rq.Retry(max=3)).id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"count": 2}, 3))
        self.assertEqual(self.history(job), ["try 0", "try 1", None])

    def test_retry_that_is_returned(self):
        job = self.ended(self.enqueue("returns_retry", str(self.folder / "returns")).id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"result": 5}, 2))
        self.assertEqual(job.last_failure.reason, "Retry")

    def test_time_limit(self):
        job = self.ended(self.enqueue("sleep", job_timeout=1).id)
        self.assertEqual((job.state, job.failure.reason), ("FAILED", "JobTimeoutException"))

    def test_work_horse_that_is_killed(self):
        job = self.ended(self.enqueue("die").id)
        self.assertEqual((job.state, job.failure.reason, job.attempt), ("FAILED", "WorkHorseTerminated", 1))

    def test_job_that_is_stopped(self):
        enqueued = self.enqueue("sleep")
        self.running(enqueued)
        send_stop_job_command(self.connection, enqueued.id)
        job = self.ended(enqueued.id)
        self.assertEqual((job.state, job.cancel.requester), ("CANCELLED", "rq"))

    def test_cancellation_of_the_job(self):
        enqueued = self.enqueue("sleep")
        self.running(enqueued)
        self.tracker.cancel(enqueued.id, "enough", requester="me")
        job = self.ended(enqueued.id)
        self.assertEqual((job.state, job.cancel.reason), ("CANCELLED", "enough"))
        until(lambda: enqueued.get_status(refresh=True) == "stopped", "the stop of the job")

    def test_cancellation_of_the_job_before_its_start(self):
        blocking = [self.enqueue("sleep") for _ in range(2)]
        for each in blocking:
            self.running(each)
        waiting = self.enqueue("add", 1, 2)
        self.tracker.cancel(waiting.id)
        for each in blocking:
            self.tracker.cancel(each.id)
        until(lambda: waiting.get_status(refresh=True) == "stopped", "the stop of the job")
        self.assertEqual((self.tracker.get(waiting.id).state, self.tracker.get(waiting.id).attempt), ("CANCELLED", 0))

    def test_jobs_without_a_tracker(self):
        began = time.monotonic()
        server, tracker = self.serve()
        queue = jobtrack.rq.Queue(connection=self.connection)
        queue.tracker = tracker
        server.kill()
        with self.assertLogs("jobtrack"):
            enqueued = [queue.enqueue("functions.add", n, 0) for n in range(10)]
        for n, each in enumerate(enqueued):
            until(lambda each=each: each.get_status(refresh=True) == "finished", "the end of the job")
            self.assertEqual(each.return_value(), n)
        self.assertLess(time.monotonic() - began, 60)
