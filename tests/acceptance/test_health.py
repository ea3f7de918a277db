"""The health protocol, the container's probe, and how the server shuts down."""

import subprocess
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis_server import free_port
from support import BINARY, PATIENCE, Server, ServerCase, api, clean_environment

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICES = ("", "jobtrack.v1.JobService")


def probe(*arguments, **environment):
    """The exit code of `jobtrack health`."""
    command = [BINARY, "health", *arguments]
    environment = clean_environment(**environment)
    return subprocess.run(command, capture_output=True, env=environment, timeout=PATIENCE).returncode


class Health(ServerCase):
    def setUp(self):
        self.health = health_pb2_grpc.HealthStub(self.server.channel)

    def test_check(self):
        for service in SERVICES:
            with self.subTest(service=service):
                answer = self.health.Check(health_pb2.HealthCheckRequest(service=service))
                self.assertEqual(answer.status, SERVING)

    def test_without_redis_its_service_is_unknown(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.health.Check(health_pb2.HealthCheckRequest(service="redis"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

        stream = self.health.Watch(health_pb2.HealthCheckRequest(service="redis"))
        self.assertEqual(next(stream).status, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        stream.cancel()

    def test_list(self):
        statuses = self.health.List(health_pb2.HealthListRequest()).statuses
        for service in SERVICES:
            self.assertEqual(statuses[service].status, SERVING)

    def test_probe(self):
        self.assertEqual(probe("--addr", self.server.address), 0)
        # As in the container: the address to listen on is the one to ask.
        port = self.server.address.rpartition(":")[2]
        self.assertEqual(probe(JOBTRACK_LISTEN=f"0.0.0.0:{port}"), 0)

    def test_probe_over_http(self):
        address = f"127.0.0.1:{free_port()}"
        server = Server("serve", "--listen", "127.0.0.1:0", "--http-listen", address)
        self.addCleanup(server.stop)
        # The first call is answered once it is ready.
        server.jobs.ListJobs(api.ListJobsRequest())
        self.assertEqual(probe("--http", "--http-addr", address), 0)
        self.assertEqual(probe("--http", JOBTRACK_HTTP_LISTEN=address), 0)
        server.stop()
        self.assertEqual(probe("--http", "--http-addr", address), 1)


class Shutdown(ServerCase):
    @classmethod
    def setUpClass(cls):
        # `serve` is the default, and its settings may come from the environment.
        cls.server = Server(JOBTRACK_LISTEN="127.0.0.1:0")
        cls.addClassCleanup(cls.server.stop)
        cls.jobs = cls.server.jobs

    def test_drain(self):
        health = health_pb2_grpc.HealthStub(self.server.channel).Watch(health_pb2.HealthCheckRequest())
        self.assertEqual(next(health).status, SERVING)
        job_id = self.create().id
        one = self.jobs.WatchJob(api.WatchJobRequest(job_id=job_id))
        many = self.jobs.WatchJobs(api.WatchJobsRequest())
        self.assertEqual(next(one).event, api.EVENT_SNAPSHOT)
        self.assertEqual(next(many).event, api.EVENT_SNAPSHOT)
        self.assertEqual(next(many).event, api.EVENT_BOOKMARK)

        self.server.process.terminate()

        self.assertEqual(next(health).status, health_pb2.HealthCheckResponse.NOT_SERVING)
        for stream in (one, many):
            self.refused(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", partial(next, stream))
        self.server.stop()
        self.assertEqual(probe("--addr", self.server.address), 1)
