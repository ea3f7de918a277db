"""The programs and commands of docs/python.md and of the package's README."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import BINARY, PATIENCE, Case, Redis, clean_environment, until

SAMPLES = Path(os.environ["JOBTRACK_TEST_SAMPLES"])


# Worker, watcher and wait in as few lines as they take.
SHORTEST = """
import jobtrack

n, frames, encode, url = 3, "abc", str.upper, "s3://x"

with jobtrack.job("video.render", total=n, lease=30) as job:
    for frame in job.track(frames):
        encode(frame)
    job.stage("upload", 2, 3); job.message("to s3"); job.result = {"url": url}
job_id = job.id

for state in jobtrack.watch(job_id):
    print(state.percent, state.stage)
done = jobtrack.wait(job_id, timeout=600)
print(done.result["url"])
"""


class Samples(Case):
    def setUp(self):
        for job in self.tracker.list():
            self.tracker.delete(job.id, force=True)

    def sample(self, name, **environment):
        """Starts a program of the guide."""
        return self.start(SAMPLES.joinpath(name).read_text(), **environment)

    def test_worker_and_watcher(self):
        self.tracker.create("video.render", id="trailer")
        watching = self.sample("watcher.py")
        self.assertEqual(watching.stdout.readline(), "None None\n")
        self.assertEqual(self.end(self.sample("worker.py")), ("", ""))
        printed, _ = self.end(watching)
        *_, last, done = printed.splitlines()
        self.assertEqual((last, done), ("100.0 upload", "SUCCEEDED {'url': 's3://out/trailer.mp4'}"))

    def test_a_worker_that_can_be_stopped(self):
        working = self.sample("stoppable.py")
        until(lambda: [job for job in self.tracker.list() if job.state == "RUNNING"], "the start of the work")
        self.tracker.cancel("drain")
        self.assertEqual(self.end(working), ("", ""))
        self.assertEqual(self.tracker.get("drain").state, "CANCELLED")

    def test_calls(self):
        printed, _ = self.end(self.sample("calls.py"))
        self.assertEqual(printed.splitlines(), ["['Customers']", "FAILED_PRECONDITION JOB_FINISHED CANCELLED"])

    def test_asyncio(self):
        self.assertEqual(self.end(self.sample("async_worker.py")), ("SUCCEEDED 10\n", ""))

    def test_tqdm(self):
        printed, errors = self.end(self.sample("bars.py"))
        self.assertEqual((printed, "Encoding" in errors), ("a\nb\nc\n", True))
        (job,) = self.tracker.list()
        self.assertEqual((job.title, job.state, job.completed), ("Encoding", "SUCCEEDED", 3))

    def test_all_at_once(self):
        printed, _ = self.run_program(SHORTEST)
        *_, state, done = printed.splitlines()
        self.assertEqual((state, done), ("100.0 upload", "s3://x"))

    def test_readme_of_the_package(self):
        printed, _ = self.run_program(os.environ["JOBTRACK_TEST_PACKAGE_README"])
        self.assertEqual(printed.splitlines()[-1], "SUCCEEDED 100.0")

    def test_readme(self):
        given = "frames, encode = 'abc', print\n"
        self.assertEqual(self.run_program(given + os.environ["JOBTRACK_TEST_README"]), ("a\nb\nc\n", ""))
        (job,) = self.tracker.list()
        self.assertEqual((job.kind, job.state, job.completed), ("video.render", "SUCCEEDED", 3))

    def test_within_jobtrack_run(self):
        program = SAMPLES.joinpath("worker.py").read_text().replace('id="trailer", ', "")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "worker.py").write_text(program)
            command = [BINARY, "run", "--id", "nightly", "--", sys.executable, "worker.py"]
            environment = clean_environment(JOBTRACK_SERVER=self.server.url)
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        (job,) = self.tracker.list(documents=True)
        self.assertEqual((job.id, job.stage, job.state), ("nightly", "upload", "SUCCEEDED"))
        self.assertEqual(job.progress.details, {"result": {"url": "s3://out/trailer.mp4"}})


class Queues(Case):
    def setUp(self):
        self.broker = Redis()
        self.addCleanup(self.broker.stop)

    def in_samples(self, words):
        """Starts a command of the guide among its programs."""
        environment = clean_environment(JOBTRACK_SERVER=self.server.url, BROKER_URL=self.broker.url)
        log = tempfile.TemporaryFile()
        self.addCleanup(log.close)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        worker = subprocess.Popen(words, cwd=SAMPLES, env=environment, start_new_session=True, **pipes)

        def stop():
            os.killpg(worker.pid, 9)
            worker.wait()

        self.addCleanup(stop)

    def test_celery(self):
        self.in_samples([sys.executable, "-m", *"celery -A tasks worker".split(), "--concurrency", "1"])
        os.environ["BROKER_URL"] = self.broker.url
        sys.path.insert(0, str(SAMPLES))
        self.addCleanup(sys.path.remove, str(SAMPLES))
        import tasks

        job = self.ended(tasks.render.delay(10).id)
        self.assertEqual(
            (job.kind, job.state, job.result, job.total), ("tasks.render", "SUCCEEDED", {"frames": 10}, 10)
        )

    def test_rq(self):
        import redis

        import jobtrack.rq

        command = "rq worker --worker-class jobtrack.rq.Worker".split()
        self.in_samples([sys.executable, "-m", "rq.cli", *command[1:], "--url", self.broker.url])
        queue = jobtrack.rq.Queue(connection=redis.Redis.from_url(self.broker.url))
        job = self.ended(queue.enqueue("functions.render", 10).id)
        self.assertEqual((job.kind, job.state, job.result), ("functions.render", "SUCCEEDED", {"frames": 10}))
