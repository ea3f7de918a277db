"""The examples of clients/rust against the real server."""

import shlex
import subprocess

from deployment import code_blocks
from support import PATIENCE, TARGET, ServerCase, api, job

(COMMANDS,) = code_blocks("clients/rust/README.md", "sh")


class Rust(ServerCase):
    def test_the_worker_and_the_watcher_of_the_readme(self):
        printed = []
        for command in COMMANDS.splitlines():
            # The examples were built together with the tests.
            *cargo, example, dashes, argument = shlex.split(command)
            self.assertEqual((cargo, dashes), (["cargo", "run", "--package", "jobtrack-client", "--example"], "--"))
            done = subprocess.run(
                [TARGET / "debug" / "examples" / example, argument],
                env={"JOBTRACK_SERVER": f"http://{self.server.address}"},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            printed.append(done.stdout)
        self.assertEqual(printed, ["count-1\n", "SUCCEEDED 100.0\n"])
        stored = self.jobs.GetJob(api.GetJobRequest(job_id="count-1")).job
        self.assertEqual((stored.state, dict(stored.result)), (job.Job.STATE_SUCCEEDED, {"counted": 100}))
