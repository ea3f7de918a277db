"""Real workers of Celery with Redis as broker: state, attempts and failure of each job."""

import os
import subprocess
import sys
import time
from pathlib import Path

from harness import PATIENCE, BrokerCase, clean_environment, until

import jobtrack

TASKS = """
import os, signal, time
from celery import Celery
import jobtrack
import jobtrack.celery

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
# Tasks are restored soon after a worker was lost.
app.conf.broker_transport_options = {"visibility_timeout": 3}
jobtrack.celery.install(app, lease=float(os.environ["LEASE"]))

@app.task(bind=True)
def add(self, a, b):
    self.update_state(state="PROGRESS", meta={"current": 1, "total": 2, "note": "half"})
    for _ in jobtrack.current().track("ab"):
        pass
    return a + b

@app.task(bind=True)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(exc=OSError(f"try {self.request.retries}"), countdown=0, max_retries=3)
    return {"ok": True}

@app.task
def bad():
    raise ValueError("bad value")

@app.task
def sleep():
    while True:
        time.sleep(0.02)

@app.task(time_limit=1)
def limited():
    time.sleep(600)

@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7

@app.task(acks_late=True)
def hang_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        time.sleep(600)
    return 8

@app.task
def square(n):
    return n * n

@app.task
def total(numbers):
    return sum(numbers)
"""


class CeleryCase(BrokerCase):
    """Tests that share a broker, and the tasks."""

    # Seconds. A busy worker must notice the end of a process before.
    lease = "9"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        name = f"tasks_{cls.__name__.lower()}"
        cls.folder.joinpath(f"{name}.py").write_text(TASKS)
        os.environ |= {"BROKER": cls.redis.url, "LEASE": cls.lease}
        sys.path.insert(0, str(cls.folder))
        cls.addClassCleanup(sys.path.remove, str(cls.folder))
        cls.tasks = __import__(name)

    @classmethod
    def work(cls, pool):
        """Starts a worker."""
        log = open(cls.folder / f"{time.time_ns()}.log", "w+")
        cls.addClassCleanup(log.close)
        command = [sys.executable, "-m", "celery", "-A", cls.tasks.__name__, "worker", "-P", pool, "-c", "3"]
        command += ["-l", "INFO", "--without-gossip", "--without-mingle", "-n", f"{time.time_ns()}@test"]
        environment = clean_environment(JOBTRACK_SERVER=cls.server.url, BROKER=cls.redis.url, LEASE=cls.lease)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        worker = subprocess.Popen(command, cwd=cls.folder, env=environment, start_new_session=True, **pipes)
        cls.addClassCleanup(cls.stop, worker)

        def log_text():
            return Path(log.name).read_text()

        until(lambda: " ready." in log_text(), "the start of the worker")
        return worker, log_text

    @staticmethod
    def stop(worker):
        if worker.poll() is None:
            os.killpg(worker.pid, 9)
        worker.wait()

    def running(self, task_id):
        """Waits until a task runs."""
        until(lambda: self.tracker.get(task_id).state == "RUNNING", "the start of the task")

    def history(self, job):
        return [attempt.failure.message if attempt.failure else None for attempt in job.attempts]

    def succeeds(self):
        sent = self.tasks.add.delay(1, 2)
        self.assertEqual(self.tracker.get(sent.id).kind, f"{self.tasks.__name__}.add")
        job = self.ended(sent.id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"result": 3}, 1))
        self.assertEqual((job.completed, job.total, job.progress.details), (2, 2, {"note": "half"}))
        self.assertEqual(sent.get(timeout=PATIENCE), 3)

    def is_retried(self):
        job = self.ended(self.tasks.flaky.delay().id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"ok": True}, 3))
        self.assertEqual(self.history(job), ["try 0", "try 1", None])

    def fails(self):
        job = self.ended(self.tasks.bad.delay().id)
        self.assertEqual((job.state, job.failure.reason, job.failure.message), ("FAILED", "ValueError", "bad value"))
        self.assertIn("raise ValueError", job.failure.details["traceback"])

    def is_cancelled(self):
        from celery.exceptions import TaskRevokedError

        sent = self.tasks.sleep.delay()
        self.running(sent.id)
        self.tracker.cancel(sent.id, "enough", requester="me")
        job = self.ended(sent.id)
        self.assertEqual((job.state, job.cancel.reason), ("CANCELLED", "enough"))
        with self.assertRaises(TaskRevokedError):
            sent.get(timeout=PATIENCE)

    def is_cancelled_before(self):
        from celery.exceptions import TaskRevokedError

        sent = self.tasks.sleep.apply_async(countdown=1)
        self.tracker.cancel(sent.id, "never mind")
        with self.assertRaises(TaskRevokedError):
            sent.get(timeout=PATIENCE)
        self.assertEqual(self.tracker.get(sent.id).state, "CANCELLED")

    def has_chords(self):
        from celery import chord

        sent = chord(self.tasks.square.s(n) for n in range(20))(self.tasks.total.s())
        self.assertEqual(sent.get(timeout=PATIENCE), 2470)
        self.assertEqual(self.ended(sent.id).result, {"result": 2470})
        ids = [each.id for each in sent.parent.results]
        for job_id in ids:
            self.ended(job_id)
        self.assertEqual({job.state for job in self.tracker.get_many(ids).values()}, {"SUCCEEDED"})


class Prefork(CeleryCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.worker, cls.log = cls.work("prefork")

    def test_success(self):
        self.succeeds()

    def test_retry(self):
        self.is_retried()

    def test_failure(self):
        self.fails()

    def test_cancellation_of_the_job(self):
        self.is_cancelled()

    def test_cancellation_of_the_job_before_its_start(self):
        self.is_cancelled_before()

    def test_chord(self):
        self.has_chords()

    def test_revocation(self):
        sent = self.tasks.sleep.delay()
        self.running(sent.id)
        self.tasks.app.control.revoke(sent.id, terminate=True)
        job = self.ended(sent.id)
        self.assertEqual((job.state, job.cancel.requester), ("CANCELLED", "celery"))

    def test_revocation_before_the_start(self):
        sent = self.tasks.sleep.apply_async(countdown=1)
        self.tasks.app.control.revoke(sent.id)
        self.assertEqual((self.ended(sent.id).state, self.tracker.get(sent.id).attempt), ("CANCELLED", 0))

    def test_expiry(self):
        sent = self.tasks.sleep.apply_async(countdown=0.5, expires=0.1)
        self.assertEqual(self.ended(sent.id).cancel.reason, "the task has expired")

    def test_hard_time_limit(self):
        job = self.ended(self.tasks.limited.delay().id)
        self.assertEqual((job.state, job.failure.reason, job.attempt), ("FAILED", "TimeLimitExceeded", 1))

    def test_process_that_is_killed(self):
        job = self.ended(self.tasks.die.delay().id)
        self.assertEqual((job.state, job.failure.reason, job.attempt), ("FAILED", "WorkerLostError", 1))

    def test_process_that_is_killed_and_whose_task_is_delivered_again(self):
        job = self.ended(self.tasks.die_once.delay(str(self.folder / self.new_id())).id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"result": 7}, 2))


class Threads(CeleryCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.worker, cls.log = cls.work("threads")

    def test_success(self):
        self.succeeds()

    def test_retry(self):
        self.is_retried()

    def test_failure(self):
        self.fails()

    def test_cancellation_of_the_job(self):
        self.is_cancelled()
        # The thread of the pool is still there.
        self.succeeds()

    def test_cancellation_of_the_job_before_its_start(self):
        self.is_cancelled_before()

    def test_chord(self):
        self.has_chords()


class Kills(CeleryCase):
    lease = "3"

    def test_worker_that_is_killed(self):
        worker, _ = self.work("prefork")
        sent = self.tasks.sleep.delay()
        begun = self.folder / "late"
        late = self.tasks.hang_once.delay(str(begun))
        for task in (sent, late):
            self.running(task.id)
        # Its attempt begins before its function. Without the file the second attempt would hang as well.
        until(begun.exists, "the start of the function")
        self.stop(worker)
        job = self.ended(sent.id)
        self.assertEqual((job.state, job.failure.reason), ("FAILED", "WORKER_LOST"))
        until(lambda: self.tracker.get(late.id).liveness == jobtrack.Liveness.LOST, "the loss of the worker")
        self.work("prefork")
        # The broker delivers the task again after its visibility timeout.
        job = self.ended(late.id)
        self.assertEqual((job.state, job.result, job.attempt), ("SUCCEEDED", {"result": 8}, 2))

    def test_tasks_without_a_tracker(self):
        server, _ = self.serve()
        url, type(self).server.url = self.server.url, server.url
        self.addCleanup(setattr, self.server, "url", url)
        worker, log = self.work("threads")
        # It takes tasks from the broker of the other tests.
        self.addCleanup(self.stop, worker)
        server.kill()
        results = [self.tasks.square.delay(n) for n in range(30)]
        self.assertEqual([result.get(timeout=PATIENCE) for result in results], [n * n for n in range(30)])
        self.assertEqual(log().count("is unavailable, trying again"), 1)
