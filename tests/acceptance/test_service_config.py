"""deploy/client/service-config.json, as a real client takes it."""

import json
import unittest

import grpc
from deployment import DEPLOY
from google.protobuf.descriptor_pool import Default
from redis_server import free_port
from support import Server, api, job_service_pb2_grpc, patience

TEXT = (DEPLOY / "client" / "service-config.json").read_text()
CONFIG = json.loads(TEXT)


class ServiceConfig(unittest.TestCase):
    def serve(self, *arguments):
        server = Server("serve", "--listen", "127.0.0.1:0", *arguments)
        self.addCleanup(server.stop)
        return server

    def stub(self, *addresses):
        """Calls all of `addresses`, with the configuration."""
        # A list of addresses is no name of a server.
        options = [("grpc.service_config", TEXT), ("grpc.default_authority", "jobtrack")]
        channel = grpc.insecure_channel(f"ipv4:{','.join(addresses)}", options)
        self.addCleanup(channel.close)
        return job_service_pb2_grpc.JobServiceStub(channel)

    def test_it_speaks_of_every_method_once(self):
        named = [f"{name['service']}/{name['method']}" for methods in CONFIG["methodConfig"] for name in methods["name"]]
        services = [Default().FindServiceByName(f"jobtrack.v1.{name}") for name in ("JobService", "AdminService")]
        offered = [f"{service.full_name}/{method.name}" for service in services for method in service.methods]
        self.assertCountEqual(named, offered)
        self.assertIn(CONFIG["healthCheckConfig"]["serviceName"], [service.full_name for service in services])

    def test_only_calls_that_are_safe_to_repeat_are_repeated(self):
        away = ["--redis-url", f"redis://127.0.0.1:{free_port()}", "--fallback", "reject"]
        server = self.serve(*away, "--log", "debug", "--log-format", "json")
        jobs = self.stub(server.address)
        repeated = CONFIG["methodConfig"][0]["retryPolicy"]["maxAttempts"]
        calls = {
            "GetJob": (api.GetJobRequest(job_id="a"), repeated),
            "CreateJob": (api.CreateJobRequest(kind="a"), 1),
        }
        for method, (request, _) in calls.items():
            with self.assertRaises(grpc.RpcError) as caught:
                getattr(jobs, method)(request)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        # Lines are written in the background: all are there when the server has stopped.
        lines = [json.loads(line) for line in server.stop().splitlines()]
        seen = [line["span"]["method"] for line in lines if line.get("message") == "call"]
        for method, (_, attempts) in calls.items():
            with self.subTest(method):
                self.assertEqual(seen.count(f"jobtrack.v1.JobService/{method}"), attempts)

    def test_calls_are_spread_and_none_fails_while_a_replica_goes(self):
        stays, goes = self.serve(), self.serve()
        goes.jobs.CreateJob(api.CreateJobRequest(kind="only here"))
        jobs = self.stub(stays.address, goes.address)
        answers = set()
        with patience(goes.process):
            while answers != {0, 1}:
                answers.add(len(jobs.ListJobs(api.ListJobsRequest()).jobs))

        goes.process.terminate()
        while goes.process.poll() is None:
            jobs.ListJobs(api.ListJobsRequest())
        self.assertEqual(len(jobs.ListJobs(api.ListJobsRequest()).jobs), 0)

    def test_a_call_waits_for_a_server_that_starts(self):
        port = free_port()
        waiting = self.stub(f"127.0.0.1:{port}").ListJobs.future(api.ListJobsRequest())
        server = Server("serve", "--listen", f"127.0.0.1:{port}")
        self.addCleanup(server.stop)
        self.assertEqual(list(waiting.result().jobs), [])
