"""The same program alone and within `jobtrack run`: one job, not two."""

import subprocess
import sys
import tempfile
from pathlib import Path

from harness import BINARY, PATIENCE, Case, clean_environment, until

PROGRAM = """
import sys
import jobtrack

with jobtrack.job("inner.kind", total=20) as job:
    print("job", job.id)
    for n in job.track(range(20)):
        if sys.argv[1:] == ["fail"] and n == 10:
            raise ValueError("bad")
    job.stage("upload", 2, 2)
    job.result = {"url": "s3://x"}
with jobtrack.job("second") as job:
    job.message("more")
"""

FOREVER = """
import time
import jobtrack

with jobtrack.job("inner.kind") as job:
    for n in job.track(iter(int, 1)):
        time.sleep(0.01)
"""


class Run(Case):
    def wrapped(self, program, *arguments, **environment):
        """Starts a program within `jobtrack run`."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "program.py")
        path.write_text(program)
        job_id = self.new_id()
        command = [BINARY, "run", "--id", job_id, "--lease", "1s", "--", sys.executable, str(path), *arguments]
        environment = clean_environment(JOBTRACK_SERVER=self.server.url, **environment)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        started = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.addCleanup(started.kill)
        return started, job_id

    def test_a_program_reports_to_the_job_of_its_wrapper(self):
        count = self.tracker.page().total
        started, job_id = self.wrapped(PROGRAM)
        printed, _ = started.communicate(timeout=PATIENCE)
        self.assertEqual((started.returncode, printed), (0, f"job {job_id}\n"))
        job = self.tracker.get(job_id)
        self.assertEqual((job.state, job.attempt, job.stage, job.message), ("SUCCEEDED", 1, "upload", "more"))
        self.assertEqual(job.progress.details, {"result": {"url": "s3://x"}})
        self.assertEqual(self.tracker.page().total, count + 1)

    def test_the_wrapper_reports_the_exit_of_the_program(self):
        started, job_id = self.wrapped(PROGRAM, "fail")
        printed, _ = started.communicate(timeout=PATIENCE)
        self.assertEqual(started.returncode, 1, printed)
        job = self.tracker.get(job_id)
        self.assertEqual((job.state, job.failure.reason, job.completed, job.total), ("FAILED", "EXIT_1", 10, 20))
        self.assertIn("ValueError: bad", job.failure.message)

    def test_the_wrapper_stops_the_program_when_the_job_is_cancelled(self):
        started, job_id = self.wrapped(FOREVER)
        for version in self.watched(job_id):
            if version.completed:
                self.tracker.cancel(job_id)
                break
        started.communicate(timeout=PATIENCE)
        self.assertEqual((started.returncode, self.ended(job_id).state), (143, "CANCELLED"))

    def watched(self, job_id):
        """The versions of a job that does not exist yet."""
        until(lambda: [job for job in self.tracker.list() if job.id == job_id], "the job")
        return self.tracker.watch(job_id, timeout=PATIENCE)

    def test_the_same_program_alone_has_jobs_of_its_own(self):
        printed, _ = self.run_program(PROGRAM)
        job = self.tracker.get(printed.split()[1])
        self.assertEqual((job.kind, job.state, job.result), ("inner.kind", "SUCCEEDED", {"url": "s3://x"}))
