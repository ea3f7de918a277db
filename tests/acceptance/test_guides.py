"""README.md and docs/: every link leads somewhere, the guide names what the real binary can be told, its programs run."""

import os
import re
import subprocess
import sys
import unittest
from subprocess import PIPE

from deployment import flags
from support import PATIENCE, ROOT, STUBS, ServerCase, api, job, patience

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def samples(page):
    """The Python programs of a page that call the server."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return [block for block in blocks if "insecure_channel" in block]


class Samples(ServerCase):
    def start(self, program):
        """Starts a program of the guide against the server."""
        environment = os.environ | {"PYTHONPATH": STUBS}
        program = program.replace("127.0.0.1:50051", self.server.address)
        started = subprocess.Popen([sys.executable, "-c", program], stdout=PIPE, stderr=PIPE, text=True, env=environment)
        self.addCleanup(started.kill)
        return started

    def end(self, program):
        """Waits for a program, and returns the lines that it printed."""
        printed, errors = program.communicate(timeout=PATIENCE)
        self.assertEqual((program.returncode, errors), (0, ""))
        return printed.splitlines()

    def test_the_worker_and_the_watcher_of_the_guide(self):
        worker, watcher, _ = samples(ROOT / "docs" / "clients.md")
        self.assertLessEqual(len(worker.strip().splitlines()), 16)
        self.jobs.CreateJob(api.CreateJobRequest(job_id="encode-7", request_id="7", kind="video.encode"))
        watching = self.start(watcher)
        with patience(watching):
            self.assertEqual(watching.stdout.readline(), "STATE_PENDING 0\n")
        self.assertEqual(self.end(self.start(worker)), [])
        lines = self.end(watching)
        self.assertEqual(lines[-1], "STATE_SUCCEEDED 100")
        # Whoever comes late sees the end, and ends, too.
        self.assertEqual(self.end(self.start(watcher)), ["STATE_SUCCEEDED 100"])

    def test_the_worker_of_the_guide_stops_when_it_is_asked_to(self):
        worker, _, _ = samples(ROOT / "docs" / "clients.md")
        worker = worker.replace("encode-7", "encode-8")
        asked = {"job_id": "encode-8", "request_id": "7"}
        self.jobs.CreateJob(api.CreateJobRequest(kind="video.encode", **asked))
        self.jobs.UpdateProgress(api.UpdateProgressRequest(job_id="encode-8"))
        self.jobs.CancelJob(api.CancelJobRequest(job_id="encode-8"))
        self.assertEqual(self.end(self.start(worker)), [])
        stopped = self.jobs.GetJob(api.GetJobRequest(job_id="encode-8")).job
        self.assertEqual((stopped.state, stopped.progress.completed), (job.Job.STATE_CANCELLED, 1))

    def test_the_attempts_of_the_guide(self):
        *_, retried = samples(ROOT / "docs" / "clients.md")
        for _ in range(2):
            self.assertEqual(self.end(self.start(retried)), ["2 no space left on device"])
            self.jobs.DeleteJob(api.DeleteJobRequest(job_id="import-3"))


class Guides(unittest.TestCase):
    def test_every_link_leads_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
                with self.subTest(page.name, target=target):
                    if not target.startswith("http"):
                        path, _, anchor = target.partition("#")
                        linked = (page.parent / path).resolve() if path else page
                        self.assertTrue(linked.exists())
                        self.assertTrue(not anchor or anchor in anchors(linked))

    def test_the_guide_lists_every_flag_and_its_variable(self):
        listed = dict(re.findall(r"^\| `(--[a-z-]+)` \| `(\w+)`", (ROOT / "docs" / "operating.md").read_text(), re.M))
        offered = {flag: variable for flag, variable in flags().items() if flag != "--help"}
        self.assertEqual(listed, offered)

    def test_no_page_names_a_flag_that_does_not_exist(self):
        others = {"--addr", "--release", "--locked", "--bench", "--build", "--build-arg", "--wait", "--help", "--latency"}
        others |= {"--http", "--http-addr", "--python", "--grpc", "--tls-ca", "--protocol", "--http2-prior-knowledge", "--open"}
        for page in PAGES:
            with self.subTest(page.name):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text()))
                self.assertLessEqual(named, set(flags()) | others)
