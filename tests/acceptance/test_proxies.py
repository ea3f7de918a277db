"""The configurations of nginx and Envoy in docs/clients.md: the real proxies, in front of two replicas, one dead."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import grpc
from deployment import code_block
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from redis_server import free_port
from support import PATIENCE, TARGET, Server, api, job, job_service_pb2_grpc

SECOND = Duration(seconds=1)
# A result of 1 MiB, so that the request is larger than that.
LARGEST = Struct()
LARGEST["text"] = "a" * (1024 * 1024 - 18)
assert LARGEST.ByteSize() == 1024 * 1024
# After these codes a watch is not opened again.
FINAL = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
FINAL |= {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


class Proxy:
    """Calls and streams that each proxy must let through, and its behaviour without the lines of the guide."""

    def setUp(self):
        self.server = Server("serve", "--listen", "127.0.0.1:0")
        self.addCleanup(self.server.stop)
        folder = tempfile.TemporaryDirectory(prefix="proxy-", dir=TARGET)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.port = free_port()

    def start(self, *edits):
        """Starts the proxy with the configuration of the guide, or an edited one, and returns a client of it."""
        text = code_block("docs/clients.md", self.language)
        for old, new in edits:
            self.assertIn(old, text)
            text = text.replace(old, new)
        live = self.server.address.rpartition(":")[2]
        for stated, actual in (("50050", self.port), ("50051", live), ("50052", free_port())):
            text = text.replace(stated, str(actual))
        configuration = self.folder / f"proxy.{self.language}"
        configuration.write_text(self.complete(text))
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        proxy = subprocess.Popen(self.command(configuration), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.terminate)
        return self.client()

    def client(self):
        """A client with a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)
        self.addCleanup(channel.close)
        return job_service_pb2_grpc.JobServiceStub(channel)

    def create(self, jobs, job_id="a"):
        request = api.CreateJobRequest(job_id=job_id, request_id="1", kind="test.job")
        return jobs.CreateJob(request, wait_for_ready=True, timeout=PATIENCE)

    def watch(self, jobs, **request):
        """Opens a watch, and returns it behind its first event, with the token of that."""
        events = jobs.WatchJob(api.WatchJobRequest(job_id="a", **request), timeout=PATIENCE)
        return events, next(events).resume_token

    def bookmarks(self, events, count):
        for _ in range(count):
            self.assertEqual(next(events).event, api.EVENT_BOOKMARK)

    def test_a_job_is_watched_to_its_end_with_the_largest_result(self):
        jobs = self.start()
        self.create(jobs)
        events, _ = self.watch(jobs)
        jobs.CompleteJob(api.CompleteJobRequest(job_id="a", result=LARGEST), timeout=PATIENCE)
        (last,) = events
        self.assertEqual((last.job.state, last.job.result), (job.Job.STATE_SUCCEEDED, LARGEST))

    def test_a_stream_without_news_lives_on_its_bookmarks(self):
        jobs = self.start(self.SHORT)
        self.create(jobs)
        events, _ = self.watch(jobs, bookmark_interval=SECOND)
        self.bookmarks(events, 4)

    def test_a_stream_that_the_proxy_ends_is_resumed(self):
        jobs = self.start(self.SHORT)
        self.create(jobs)
        events, token = self.watch(jobs)
        with self.assertRaises(grpc.RpcError) as ended:
            next(events)
        self.assertNotIn(ended.exception.code(), FINAL | {grpc.StatusCode.DEADLINE_EXCEEDED})
        resumed, _ = self.watch(jobs, resume_token=token)
        jobs.CompleteJob(api.CompleteJobRequest(job_id="a"), timeout=PATIENCE)
        self.assertEqual([event.job.state for event in resumed], [job.Job.STATE_SUCCEEDED])

    def watches(self, jobs, count):
        """Opens many watches of a job on one connection, and returns what a call on the same then ends with."""
        self.create(jobs)
        watches = [jobs.WatchJob(api.WatchJobRequest(job_id="a")) for _ in range(count)]
        for events in watches:
            self.addCleanup(events.cancel)
        try:
            jobs.GetJob(api.GetJobRequest(job_id="a"), timeout=2)
        except grpc.RpcError as error:
            return error.code()
        for events in watches:
            self.assertEqual(next(events).event, api.EVENT_SNAPSHOT)
        return grpc.StatusCode.OK


class Nginx(Proxy, unittest.TestCase):
    language = "nginx"
    SHORT = ("grpc_read_timeout 60s", "grpc_read_timeout 2s")

    def complete(self, text):
        """Keeps the files that nginx writes in the folder of the test."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        own = f"daemon off; pid {self.folder}/pid; error_log stderr warn;\n"
        return own + text.replace("http {", f"http {{ access_log off; {paths}")

    def command(self, configuration):
        unpacked = TARGET / "nginx" / "usr" / "sbin" / "nginx"
        nginx = os.environ.get("JOBTRACK_TEST_NGINX") or shutil.which("nginx") or unpacked
        return [nginx, "-e", "stderr", "-p", self.folder, "-c", configuration]

    def test_a_connection_carries_as_many_watches_as_the_guide_says(self):
        self.assertEqual(self.watches(self.start(), 200), grpc.StatusCode.OK)

    def test_without_that_line_calls_wait_behind_128_watches(self):
        jobs = self.start(("http2_max_concurrent_streams 1000;", ""))
        self.assertEqual(self.watches(jobs, 128), grpc.StatusCode.DEADLINE_EXCEEDED)


class Envoy(Proxy, unittest.TestCase):
    language = "yaml"
    SHORT = ("stream_idle_timeout: 60s", "stream_idle_timeout: 2s")

    def complete(self, text):
        return text

    def command(self, configuration):
        envoy = Path(sys.executable).with_name("envoy")
        return [envoy, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "-c", configuration]

    def test_a_timeout_of_the_route_ends_streams_that_are_not_silent(self):
        jobs = self.start(("timeout: 0s,", "timeout: 2s,"))
        self.create(jobs)
        events, _ = self.watch(jobs, bookmark_interval=SECOND)
        with self.assertRaises(grpc.RpcError) as ended:
            self.bookmarks(events, 4)
        self.assertNotIn(ended.exception.code(), FINAL | {grpc.StatusCode.DEADLINE_EXCEEDED})

    def test_more_watches_than_1024_are_open_at_a_time(self):
        jobs = self.start()
        self.assertEqual(self.watches(jobs, 600), grpc.StatusCode.OK)
        self.assertEqual(self.watches(self.client(), 600), grpc.StatusCode.OK)

    def test_without_that_line_further_calls_are_refused(self):
        jobs = self.start(("{ max_requests: 100000 }", "{ max_requests: 10 }"))
        self.assertEqual(self.watches(jobs, 10), grpc.StatusCode.UNAVAILABLE)

    def test_a_list_of_addresses_needs_no_name_before_a_proxy_that_rewrites_it(self):
        self.create(self.start())
        target = f"ipv4:127.0.0.1:{self.port},127.0.0.1:{free_port()}"
        with grpc.insecure_channel(target) as channel:
            jobs = job_service_pb2_grpc.JobServiceStub(channel)
            self.assertEqual(jobs.GetJob(api.GetJobRequest(job_id="a"), timeout=PATIENCE).job.id, "a")
