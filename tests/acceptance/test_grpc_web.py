"""gRPC-Web in a real Chromium: pages of another site with connect-web."""

import json
import tempfile
import unittest
from pathlib import Path

import grpc
import trustme
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from pages import CLOSED, FOLLOW, UPSTREAM, PageCase, Worker
from support import TARGET, api, job_service_pb2_grpc

# Shows what it creates, an error with its detail, and each event of a watch.
CONNECT = """
<script type="module">
  import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
  import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
  import { Code, ConnectError, createClient } from "@connectrpc/connect";
  import { createGrpcWebTransport } from "@connectrpc/connect-web";

  const protos = new Uint8Array(await (await fetch("/protos")).arrayBuffer());
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, protos));
  const transport = createGrpcWebTransport({ baseUrl: "ADDRESS" });
  const jobs = createClient(registry.getService("jobtrack.v1.JobService"), transport);
  const states = registry.getEnum("jobtrack.v1.Job.State");
  const kinds = registry.getEnum("jobtrack.v1.Event");
  const show = (job) => [states.value[job.state].localName, String(job.revision)];
  try {
    report("created", ...show((await jobs.createJob({ jobId: "a", requestId: "1", kind: "test.job" })).job));
    await jobs.getJob({ jobId: "nothing" }).catch((error) => {
      const [info] = error.findDetails(registry.getMessage("google.rpc.ErrorInfo"));
      report("refused", Code[error.code], info.reason, info.metadata.job_id);
    });
    for await (const { event, job } of jobs.watchJob({ jobId: "a" })) {
      report(kinds.value[event].localName, ...show(job));
    }
    report("end");
  } catch (error) {
    report("failed", Code[ConnectError.from(error).code]);
  }
</script>
"""


class Connect(PageCase):
    """connect-web without a bundler: an import map leads to its modules. The schema is that of the protos."""

    def setUp(self):
        self.server = self.serve("--allowed-host", UPSTREAM)

    def connected(self, address):
        """A page that calls the server at an address."""
        self.site.add("/protos", descriptors(), "application/octet-stream")
        imports = json.dumps({"imports": dict(self.modules())})
        script = CONNECT.replace("ADDRESS", address)
        page = self.page()
        page.visit(self.site.add("/connect", f'<script type="importmap">{imports}</script>{script}'))
        return page

    def modules(self):
        """The addresses of what the packages export."""
        for name in ("@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"):
            package = self.site.packages / name / "package.json"
            self.assertTrue(package.exists(), f"{name} is missing; tests/run.sh installs it")
            for path, file in json.loads(package.read_text())["exports"].items():
                yield name + path.removeprefix("."), f"/{name}/{file['import'].removeprefix('./')}"

    def calls_and_watches(self, address):
        page = self.connected(address)
        self.assertEqual(page.next(), ["created", "PENDING", "1"])
        self.assertEqual(page.next(), ["refused", "NotFound", "JOB_NOT_FOUND", "nothing"])
        self.assertEqual(page.next(), ["SNAPSHOT", "PENDING", "1"])
        worker = Worker(self.server)
        for n in range(2, 5):
            # Each arrives before there is another.
            worker.report("a")
            self.assertEqual(page.next(), ["UPDATE", "RUNNING", str(n)])
        worker.complete("a")
        self.assertEqual(page.next(), ["UPDATE", "SUCCEEDED", "5"])
        self.assertEqual(page.next(), ["end"])
        self.assertEqual(page.errors, [])
        return page

    def test_a_page_of_another_site_calls_and_watches(self):
        self.calls_and_watches(f"http://{self.server.address}")

    def test_a_page_of_another_site_calls_and_watches_through_nginx(self):
        self.calls_and_watches(self.nginx(self.server))

    def test_a_page_calls_and_watches_over_http2_with_tls(self):
        folder = tempfile.TemporaryDirectory(prefix="tls-", dir=TARGET)
        self.addCleanup(folder.cleanup)
        cert, key = (str(Path(folder.name, name)) for name in ("cert.pem", "key.pem"))
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        self.server = self.serve("--tls-cert", cert, "--tls-key", key)
        host = f"localhost:{self.server.address.rpartition(':')[2]}"
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        channel = grpc.secure_channel(host, credentials)
        self.addCleanup(channel.close)
        self.server.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        page = self.calls_and_watches(f"https://{host}")

        Worker(self.server).create("b")
        page.evaluate(f'{FOLLOW} follow("https://{host}/v1/jobs/b/events", "b")')
        self.assertEqual(page.next(), ["b", "open"])
        self.assertEqual(page.next(), ["b", "SNAPSHOT", "PENDING", 1, 0])
        Worker(self.server).complete("b")
        self.assertEqual(page.next(), ["b", "UPDATE", "SUCCEEDED", 2, 0])
        self.assertEqual(page.next(), ["b", "end"])
        page.until(("b", "error", CLOSED))
        self.assertEqual(page.protocols(f"https://{host}"), {"h2"})

    def test_a_page_of_a_site_that_is_not_allowed_calls_nothing(self):
        other = self.serve(origin="http://other.test")
        page = self.connected(f"http://{other.address}")
        self.assertEqual(page.next(), ["failed", "Unknown"])
        self.assertEqual(list(other.jobs.ListJobs(api.ListJobsRequest()).jobs), [])


def descriptors():
    """The protos of the calls and of the details of errors, with what they import, as a FileDescriptorSet."""
    files = {}

    def add(file):
        if file.name not in files:
            for imported in file.dependencies:
                add(imported)
            file.CopyToProto(files.setdefault(file.name, descriptor_pb2.FileDescriptorProto()))

    add(api.DESCRIPTOR)
    add(error_details_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()


if __name__ == "__main__":
    unittest.main()
