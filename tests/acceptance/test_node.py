"""The programs in Node of docs/clients.md, with the real grpc-js."""

import os
import shutil
import subprocess
import unittest
from subprocess import PIPE

from deployment import code_block, code_blocks
from google.protobuf.json_format import MessageToDict
from redis_server import free_port
from support import PATIENCE, ROOT, TARGET, Server, ServerCase, api, job, patience

SETUP = code_block("docs/clients.md", "js", "loadSync")
WORKER = code_block("docs/clients.md", "js", "UpdateProgress")
WATCHER = code_block("docs/clients.md", "js", "WatchJob")


def start(test, program, address, setup=SETUP):
    """Starts a program of the guide against a server."""
    node = shutil.which("node")
    test.assertIsNotNone(node, "node is missing, so THE PROGRAMS IN NODE ARE NOT TESTED; tests/run.sh installs it")
    program = (setup + program).replace("127.0.0.1:50051", address)
    environment = os.environ | {"NODE_PATH": str(TARGET / "node" / "node_modules")}
    command = [node, "--eval", program]
    started = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment, cwd=ROOT)
    test.addCleanup(started.kill)
    return started


def end(test, program):
    """Waits for a program, and returns the lines that it printed."""
    printed, errors = program.communicate(timeout=PATIENCE)
    test.assertEqual((program.returncode, errors), (0, ""))
    return printed.splitlines()


class Node(ServerCase):
    def test_each_program_of_the_guide_is_run_here(self):
        self.assertEqual(code_blocks("docs/clients.md", "js"), [SETUP, WORKER, WATCHER])

    def test_the_worker_and_the_watcher(self):
        asked = {"job_id": "encode-9", "request_id": "9"}
        self.jobs.CreateJob(api.CreateJobRequest(kind="video.encode", **asked))
        watching = start(self, WATCHER, self.server.address)
        with patience(watching):
            self.assertEqual(watching.stdout.readline(), "STATE_PENDING 0\n")
        worker = start(self, WORKER, self.server.address)
        self.assertEqual(end(self, worker), ["STATE_SUCCEEDED result"])
        self.assertEqual(end(self, watching)[-1], "STATE_SUCCEEDED 100")
        stored = self.jobs.GetJob(api.GetJobRequest(job_id="encode-9")).job
        self.assertEqual(MessageToDict(stored.result), {"url": "s3://out/9.mp4", "sizes": [720, 1080]})

    def test_every_value_of_json_reaches_the_result(self):
        result = '{ a: null, b: true, c: "text", d: [1.5, {}], e: { f: [] } }'
        program = WORKER.replace('{ url: "s3://out/9.mp4", sizes: [720, 1080] }', result)
        program = program.replace("encode-9", "encode-10")
        self.assertIn(result, program)
        end(self, start(self, program, self.server.address))
        stored = self.jobs.GetJob(api.GetJobRequest(job_id="encode-10")).job
        expected = {"a": None, "b": True, "c": "text", "d": [1.5, {}], "e": {"f": []}}
        self.assertEqual(MessageToDict(stored.result), expected)

    def test_the_worker_stops_when_it_is_asked_to(self):
        self.jobs.CreateJob(api.CreateJobRequest(job_id="encode-11", request_id="9", kind="video.encode"))
        self.jobs.UpdateProgress(api.UpdateProgressRequest(job_id="encode-11"))
        self.jobs.CancelJob(api.CancelJobRequest(job_id="encode-11"))
        worker = start(self, WORKER.replace("encode-9", "encode-11"), self.server.address)
        self.assertEqual(end(self, worker), ["STATE_CANCELLED undefined"])


class Away(unittest.TestCase):
    """The server is started after the worker."""

    # Prints when a connection was refused for the first time.
    REFUSED = """
    const channel = jobs.getChannel();
    const seen = (state) => {
      if (state === grpc.connectivityState.TRANSIENT_FAILURE) return console.log("refused");
      channel.watchConnectivityState(state, Infinity, () => seen(channel.getConnectivityState(true)));
    };
    seen(channel.getConnectivityState(true));
    """

    def test_a_call_that_waits_is_answered_when_the_server_has_started(self):
        port = free_port()
        worker = start(self, self.REFUSED + WORKER, f"127.0.0.1:{port}")
        with patience(worker):
            self.assertEqual(worker.stdout.readline(), "refused\n")
        server = Server("serve", "--listen", f"127.0.0.1:{port}")
        self.addCleanup(server.stop)
        self.assertEqual(end(self, worker), ["STATE_SUCCEEDED result"])
        self.assertEqual(server.jobs.GetJob(api.GetJobRequest(job_id="encode-9")).job.state, job.Job.STATE_SUCCEEDED)

    def test_a_call_that_does_not_wait_fails_whatever_the_service_config_says(self):
        config = '"grpc.service_config": require("fs").readFileSync("deploy/client/service-config.json", "utf8"),'
        setup = SETUP.replace("{ waitForReady: true }", "{}").replace('"grpc.initial_', f'{config} "grpc.initial_')
        self.assertIn(config, setup)
        self.assertNotIn("waitForReady", setup)
        calling = start(self, WORKER, f"127.0.0.1:{free_port()}", setup)
        _, errors = calling.communicate(timeout=PATIENCE)
        self.assertEqual(calling.returncode, 1)
        self.assertIn("14 UNAVAILABLE", errors)
