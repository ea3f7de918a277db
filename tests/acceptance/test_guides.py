"""README.md, docs/ and the pages for contributors: links lead somewhere, flags exist, programs and commands run."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
from subprocess import PIPE

from deployment import code_block, code_blocks, flags, flags_of_commands
from redis_server import free_port
from support import PATIENCE, ROOT, STUBS, Server, ServerCase, api, job, patience

PIPES = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
WORKER = code_block("docs/clients.md", "python", "UpdateProgress")
WATCHER = code_block("docs/clients.md", "python", "WatchJob")
SEVERAL = code_block("docs/clients.md", "python", "grpc.default_authority")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


# Seconds that a far away server takes to hear what is sent to it, and its client what it answers.
DISTANCE = 0.15


def far_away(test, address):
    """An address from which everything is passed on to another and back, late."""
    listener = socket.create_server(("127.0.0.1", 0))
    test.addCleanup(listener.close)

    def carry(source, target):
        with source, target:
            while data := source.recv(65536):
                time.sleep(DISTANCE)
                target.sendall(data)

    def quietly(*arguments):
        try:
            carry(*arguments)
        except OSError:
            pass

    def accept():
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(address.split(":"))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=quietly, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def anchors(page):
    """Returns the names by which the headings of a page can be linked."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def without_service_config(options):
    """The program that calls several replicas, with these options and those for connecting, so that calls do not wait."""
    stated = '[("grpc.service_config", file.read()), ("grpc.default_authority", "jobtrack")]'
    assert stated in SEVERAL
    return SEVERAL.replace(stated, options).replace("127.0.0.1:50052", f"127.0.0.1:{free_port()}")


class Samples(ServerCase):
    def start(self, program):
        """Starts a program of the guide against the server."""
        environment = os.environ | {"PYTHONPATH": STUBS}
        program = program.replace("127.0.0.1:50051", self.server.address)
        command = [sys.executable, "-c", program]
        started = subprocess.Popen(command, text=True, env=environment, cwd=ROOT, **PIPES)
        self.addCleanup(started.kill)
        return started

    def end(self, program):
        """Waits for a program, and returns the lines that it printed."""
        printed, errors = program.communicate(timeout=PATIENCE)
        self.assertEqual((program.returncode, errors), (0, ""))
        return printed.splitlines()

    def test_the_worker_and_the_watcher_of_the_guide(self):
        self.assertLessEqual(len(WORKER.strip().splitlines()), 16)
        self.jobs.CreateJob(api.CreateJobRequest(job_id="encode-7", request_id="7", kind="video.encode"))
        watching = self.start(WATCHER)
        with patience(watching):
            self.assertEqual(watching.stdout.readline(), "STATE_PENDING 0\n")
        self.assertEqual(self.end(self.start(WORKER)), [])
        lines = self.end(watching)
        self.assertEqual(lines[-1], "STATE_SUCCEEDED 100")
        # Whoever comes late sees the end, and ends, too.
        self.assertEqual(self.end(self.start(WATCHER)), ["STATE_SUCCEEDED 100"])

    def test_the_worker_of_the_guide_stops_when_it_is_asked_to(self):
        worker = WORKER.replace("encode-7", "encode-8")
        asked = {"job_id": "encode-8", "request_id": "7"}
        self.jobs.CreateJob(api.CreateJobRequest(kind="video.encode", **asked))
        self.jobs.UpdateProgress(api.UpdateProgressRequest(job_id="encode-8"))
        self.jobs.CancelJob(api.CancelJobRequest(job_id="encode-8"))
        self.assertEqual(self.end(self.start(worker)), [])
        stopped = self.jobs.GetJob(api.GetJobRequest(job_id="encode-8")).job
        self.assertEqual((stopped.state, stopped.progress.completed), (job.Job.STATE_CANCELLED, 1))

    def test_the_attempts_of_the_guide(self):
        retried = code_block("docs/clients.md", "python", "StartAttempt")
        for _ in range(2):
            self.assertEqual(self.end(self.start(retried)), ["2 no space left on device"])
            self.jobs.DeleteJob(api.DeleteJobRequest(job_id="import-3"))

    def test_a_list_of_addresses_with_a_name_for_them_fails_over(self):
        other = free_port()
        program = SEVERAL.replace("127.0.0.1:50052", f"127.0.0.1:{other}")
        listed = "print(len(jobs.ListJobs(api.ListJobsRequest()).jobs))"
        self.assertIn(listed, program)
        first = Server("serve", "--listen", "127.0.0.1:0")
        self.addCleanup(first.stop)
        calling = self.start(program.replace("127.0.0.1:50051", first.address) + f"input()\n{listed}\n")
        with patience(calling):
            self.assertEqual(calling.stdout.readline(), "0\n")
        first.stop()
        second = Server("serve", "--listen", f"127.0.0.1:{other}")
        self.addCleanup(second.stop)
        second.jobs.CreateJob(api.CreateJobRequest(kind="only here"))
        calling.stdin.write("\n")
        calling.stdin.flush()
        self.assertEqual(self.end(calling), ["1"])

    def test_a_list_of_addresses_without_a_name_for_them_is_reset(self):
        calling = self.start(without_service_config("[]"))
        _, errors = calling.communicate(timeout=PATIENCE)
        self.assertEqual(calling.returncode, 1)
        for part in ("StatusCode.INTERNAL", "RST_STREAM"):
            self.assertIn(part, errors)

    def test_a_server_that_is_far_away_is_reached_at_the_first_try(self):
        program = without_service_config('[("grpc.default_authority", "jobtrack")]')
        program = program.replace("127.0.0.1:50051", far_away(self, self.server.address))
        self.assertRegex(self.end(self.start(program))[0], r"^\d+$")
        hasty = program.replace('("grpc.min_reconnect_backoff_ms", 5000)', '("grpc.min_reconnect_backoff_ms", 200)')
        self.assertNotEqual(hasty, program)
        _, errors = self.start(hasty).communicate(timeout=PATIENCE)
        self.assertIn("StatusCode.UNAVAILABLE", errors)


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
        others |= {"--lib", "--test", "--package", "--path", "--soak", "--ignored", "--nocapture"}
        others |= {"--info", "--worker-class"}
        others |= {"--http", "--http-addr", "--python", "--grpc", "--tls-ca", "--protocol", "--http2-prior-knowledge", "--open"}
        known = set(flags()) | flags_of_commands() | others
        for page in PAGES:
            with self.subTest(page.name):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text()))
                self.assertLessEqual(named, known)

    def test_the_commands_for_contributors_name_tests_and_scripts_that_exist(self):
        (tests, one) = code_blocks("CONTRIBUTING.md", "sh")
        for command in (tests + one).splitlines():
            with self.subTest(command):
                words = command.split()
                if words[0] != "cargo":
                    script = words[1] if words[0] == "target/venv/bin/python" else words[0]
                    self.assertTrue((ROOT / script).exists())
                    continue
                listed = subprocess.run(
                    [*words, "--", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
                ).stdout
                self.assertRegex(listed, r"(?m): test$")
