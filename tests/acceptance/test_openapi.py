"""A client that a generator made of the OpenAPI description, and a job's life with it."""

import importlib
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from support import PATIENCE, TARGET, ServerCase

GENERATOR = Path(sys.executable).with_name("openapi-python-client")
PACKAGE = "jobtrack_by_http"


class Generated(ServerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory(prefix="openapi-", dir=TARGET)
        cls.addClassCleanup(folder.cleanup)
        cls.generate(Path(folder.name))
        sys.path.insert(0, folder.name)
        cls.addClassCleanup(sys.path.remove, folder.name)
        cls.models = importlib.import_module(f"{PACKAGE}.models")
        generated = importlib.import_module(PACKAGE)
        cls.client = generated.Client(base_url=f"http://{cls.server.address}", timeout=PATIENCE)

    @classmethod
    def generate(cls, folder):
        config = folder / "config.yml"
        config.write_text("post_hooks: []\n")  # nobody reads the code
        url = f"http://{cls.server.address}/v1/openapi.json"
        command = [GENERATOR, "generate", "--url", url, "--config", config, "--fail-on-warning"]
        command += ["--meta", "none", "--output-path", folder / PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode}:\n{done.stdout}{done.stderr}")

    def send(self, method, *arguments, service="job_service", **fields):
        """Makes a call. Returns the status, and the answer or the error."""
        module = importlib.import_module(f"{PACKAGE}.api.{service}.{method}")
        response = module.sync_detailed(*arguments, client=self.client, **fields)
        return response.status_code, response.parsed

    def ask(self, method, *arguments, **fields):
        """Makes a call that succeeds."""
        status, answer = self.send(method, *arguments, **fields)
        self.assertEqual(status, 200, answer)
        return answer

    def refused(self, status, reason, method, *arguments, **fields):
        """Makes a call that fails."""
        received, answer = self.send(method, *arguments, **fields)
        self.assertIsInstance(answer, self.models.Error)
        info = answer.error.details[0]
        self.assertEqual((received, answer.error.code, info.reason, info.domain), (status, status, reason, "jobtrack"))
        return info

    def test_story(self):
        models = self.models
        labels = models.CreateJobRequestLabels.from_dict({"team": "media"})
        request = models.CreateJobRequest(job_id="a:b", kind="video.render", labels=labels, lease_timeout="90s")
        created = self.ask("create_job", body=request)
        self.assertEqual((created.created, created.job.state), (True, models.JobState.PENDING))

        started = self.ask("start_attempt", "a:b", body=models.StartAttemptRequest(worker="me"))
        self.assertEqual((started.job.state, started.job.attempt), (models.JobState.RUNNING, 1))
        claim = started.claim
        progress = models.Progress(completed="1", total="4", stage="rendering")
        report = models.UpdateProgressRequest(worker="me", claim=claim, progress=progress)
        job = self.ask("update_progress", "a:b", body=report).job
        self.assertEqual((job.progress.percent, job.progress.total, job.lease_timeout), (25.0, "4", "90s"))
        self.assertEqual(job, self.ask("get_job", "a:b", min_revision=job.revision, view=models.View.FULL).job)

        self.assert_found(job.create_time - timedelta(seconds=1), ["a:b"])
        self.assert_found(job.create_time + timedelta(seconds=1), [])
        stats = self.ask("get_stats", service="admin_service")
        self.assertEqual(stats.storage_mode, models.StorageMode.MEMORY)

        info = self.refused(400, "STALE_ATTEMPT", "complete_job", "a:b", body=models.CompleteJobRequest(claim="another"))
        self.assertEqual(info.metadata["job_id"], "a:b")
        result = models.CompleteJobRequestResult.from_dict({"frames": 4})
        done = self.ask("complete_job", "a:b", body=models.CompleteJobRequest(claim=claim, result=result)).job
        self.assertEqual((done.state, done.result["frames"]), (models.JobState.SUCCEEDED, 4))
        # The stream of a job that has ended is as long as its text.
        events = self.ask("watch_job", "a:b")
        self.assertIn('"state":"SUCCEEDED"', events)
        self.assertTrue(events.endswith("event: end\ndata: {}\n\n"), events)
        self.ask("delete_job", "a:b")
        info = self.refused(404, "JOB_NOT_FOUND", "get_job", "a:b")
        self.assertEqual(info.metadata["job_id"], "a:b")

    def assert_found(self, after, wanted):
        """Expects these jobs in a list with all kinds of parameters."""
        running = self.models.JobState.RUNNING
        labels = self.models.ListJobsLabels.from_dict({"label.team": "media"})
        found = self.ask("list_jobs", state=[running], labels=labels, created_after=after, page_size=10)
        self.assertEqual([job.id for job in found.jobs or []], wanted)
