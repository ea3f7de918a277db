"""A client that knows nothing but the address: reflection, through buf and through grpcio, and gRPC-Web."""

import json
import re

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support import ROOT, ServerCase, buf, messages

SERVICES = {
    "grpc.health.v1.Health",
    "jobtrack.v1.AdminService",
    "jobtrack.v1.JobService",
}
METHODS = {
    "grpc.health.v1.Health/Check",
    "jobtrack.v1.AdminService/GetStats",
    "jobtrack.v1.JobService/CreateJob",
    "jobtrack.v1.JobService/WatchJobs",
}


class Buf(ServerCase):
    def curl(self, *arguments, protocol="grpc", path=""):
        flags = ("--http2-prior-knowledge", "--protocol", protocol)
        return buf("curl", *flags, *arguments, f"http://{self.server.address}{path}")

    def call(self, method, protocol="grpc", **request):
        """Calls JobService and returns the messages that came back."""
        path = f"/jobtrack.v1.JobService/{method}"
        printed, _ = self.curl("--data", json.dumps(request), protocol=protocol, path=path)
        return list(messages(printed.splitlines()))

    def test_lists(self):
        for version in ("v1", "v1alpha"):
            with self.subTest(version):
                protocol = f"grpc-{version}"
                printed, _ = self.curl("--reflect-protocol", protocol, "--list-services")
                services = SERVICES | {f"grpc.reflection.{version}.ServerReflection"}
                self.assertLessEqual(services, set(printed.split()))
                printed, _ = self.curl("--reflect-protocol", protocol, "--list-methods")
                self.assertLessEqual(METHODS, set(printed.split()))

    def test_calls(self):
        for protocol in ("grpc", "grpcweb"):
            with self.subTest(protocol):
                [created] = self.call("CreateJob", protocol, kind="test.job")
                job_id = created["job"]["id"]
                [found] = self.call("GetJob", protocol, jobId=job_id)
                self.assertEqual(found["job"], created["job"])

                [done] = self.call("CompleteJob", protocol, jobId=job_id)
                [event] = self.call("WatchJob", protocol, jobId=job_id)
                self.assertEqual((event["event"], event["job"]), ("EVENT_SNAPSHOT", done["job"]))

    def test_grpc_web_over_http_1(self):
        # As a browser calls it. Reflection needs HTTP/2, so the protos are given.
        created, _ = buf(
            *("curl", "--schema", str(ROOT), "--protocol", "grpcweb", "--data", '{"kind": "test.job"}'),
            f"http://{self.server.address}/jobtrack.v1.JobService/CreateJob",
        )
        self.assertTrue(json.loads(created)["created"])

    def test_long_answers_are_compressed(self):
        text = "a line of a long log\n" * 500
        data = json.dumps({"kind": "test.job", "metadata": {"log": text}})
        path = "/jobtrack.v1.JobService/CreateJob"
        printed, trace = self.curl("--verbose", "--data", data, path=path)
        self.assertEqual(json.loads(printed)["job"]["metadata"]["log"], text)

        answer = trace.partition("Invoking RPC")[2]
        self.assertRegex(answer, "(?i)< .*grpc-encoding: gzip")
        received = sum(map(int, re.findall(r"\{ \(#\d+\) \[(\d+) bytes data\]", answer)))
        self.assertIn(received, range(1, len(text) // 10))


class PythonReflection(ServerCase):
    def setUp(self):
        self.database = ProtoReflectionDescriptorDatabase(self.server.channel)

    def test_services_and_messages(self):
        self.assertLessEqual(SERVICES, set(self.database.get_services()))
        message = DescriptorPool(self.database).FindMessageTypeByName("jobtrack.v1.Job")
        self.assertIn("revision", message.fields_by_name)

    def test_every_call_comes_with_its_comment(self):
        for name in ("JobService", "AdminService"):
            file = FileDescriptorProto()
            file.CopyFrom(self.database.FindFileContainingSymbol(f"jobtrack.v1.{name}"))
            [service] = file.service
            comments = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
            for index, method in enumerate(service.method):
                # The path of a method in a descriptor: service (6) number 0, method (2) number `index`.
                self.assertTrue(comments.get((6, 0, 2, index), "").strip(), f"{name}.{method.name} has no comment")
