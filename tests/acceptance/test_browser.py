"""Pages of other sites in a real Chromium: EventSource, across the end of a replica behind nginx, and gRPC-Web."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import grpc
import trustme
from browser import REBOUND, Browser, Site
from deployment import Redis, code_block, free_port
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from support import PATIENCE, TARGET, Server, admin, api, job, job_service_pb2_grpc

ADDRESS = "http://127.0.0.1:50051"
# What `EventSource.readyState` is.
CONNECTING, CLOSED = 0, 2

# Reports all that an EventSource says. It is left to the server to stop it, unless the page closes it.
FOLLOW = """
const follow = (address, name, closes) => {
  const events = new EventSource(address);
  events.onopen = () => report(name, "open");
  events.onmessage = (message) => {
    const { event, job, skipped } = JSON.parse(message.data);
    report(name, event, job.state, Number(job.revision), skipped);
  };
  events.addEventListener("end", () => {
    if (closes) events.close();
    report(name, "end");
  });
  events.onerror = () => report(name, "error", events.readyState);
};
"""

# The same for a stream of many jobs.
FOLLOW_MANY = """
const follow = (address) => {
  const events = new EventSource(address);
  events.onmessage = (message) => {
    const { job } = JSON.parse(message.data);
    report("job", job.id, Number(job.revision));
  };
  events.addEventListener("bookmark", () => report("bookmark"));
  events.onerror = () => report("error", events.readyState);
};
"""

# Reports what a page of the guides shows or prints.
SHOWN = """
const shown = (job) => report(`${job.state} ${job.progress?.percent ?? 0} %`);
console.log = shown;
const see = () => document.getElementById("job") && report(document.getElementById("job").textContent);
new MutationObserver(see).observe(document, { childList: true, subtree: true });
"""

# What a first configuration of nginx has. Only the files that it writes are kept in the folder of the test.
UPSTREAM = "jobtrack"
NGINX = """
daemon off; pid FOLDER/pid; error_log stderr warn;
events {}
http {
    access_log off; client_body_temp_path FOLDER/client_body; proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
    upstream jobtrack { SERVERS }
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://jobtrack;
        }
    }
}
"""


def answers(port):
    """Whether somebody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Case(unittest.TestCase):
    """A browser, and a site whose pages call a server."""

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.site = Site()
        cls.addClassCleanup(cls.site.close)

    def serve(self, *arguments, origin=None, listen="127.0.0.1:0"):
        """A server that says by a line of its log when a call has ended, and that a page of the site may call."""
        origin = origin or self.site.origin
        server = Server("serve", "--listen", listen, "--log", "debug", "--cors-origin", origin, *arguments)
        self.addCleanup(server.stop)
        return server

    def page(self):
        page = self.browser.open()
        self.addCleanup(page.close)
        return page

    def follow(self, *calls):
        """A page that follows jobs by these calls of `follow`."""
        page = self.page()
        page.visit(self.site.add("/follow", f"<!doctype html><script>{FOLLOW}{';'.join(calls)}</script>"))
        return page

    def nginx(self, *servers):
        """nginx in its default configuration in front of servers, and its address."""
        folder = tempfile.TemporaryDirectory(prefix="nginx-", dir=TARGET)
        self.addCleanup(folder.cleanup)
        port = free_port()
        text = NGINX.replace("PORT", str(port)).replace("FOLDER", folder.name)
        text = text.replace("SERVERS", " ".join(f"server {server.address};" for server in servers))
        configuration = Path(folder.name, "nginx.conf")
        configuration.write_text(text)
        unpacked = TARGET / "nginx" / "usr" / "sbin" / "nginx"
        program = os.environ.get("JOBTRACK_TEST_NGINX") or shutil.which("nginx") or unpacked
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        command = [program, "-e", "stderr", "-p", folder.name, "-c", configuration]
        nginx = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            if nginx.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise AssertionError(f"nginx does not start:\n{log.read()}")
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    def watchers(self, server):
        return server.admin.GetStats(admin.GetStatsRequest()).watchers

    def watches(self, log, job_id):
        """The outcomes of the streams of a job that a server answered, from its log."""
        return re.findall(rf'method="jobtrack.v1.JobService/WatchJob" .*job_id="{job_id}".* call code=(\w+) ', log)


class Events(Case):
    def test_a_page_of_another_site_sees_each_state_to_the_end_and_does_not_connect_again(self):
        server = self.serve()
        Worker(server).create("a")
        address = f"http://{server.address}/v1/jobs/a/events"
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        for n in range(2, 5):
            Worker(server).report("a")
            self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", n, 0])
        Worker(server).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 5, 0])
        self.assertEqual(page.next(), ["a", "end"])
        # The browser asks once more, and is told to stop.
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(page.streams(), {address: [200, 204]})
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok", "Ok"])

    def test_a_page_goes_on_by_another_replica_when_its_own_is_killed(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        replicas = [self.serve("--redis-url", redis.url, "--allowed-host", UPSTREAM) for _ in range(2)]
        address = f"{self.nginx(*replicas)}/v1/jobs/a/events"
        Worker(replicas[0]).create("a")
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        (left,) = [replica for replica in replicas if self.watchers(replica) == 0]
        (killed,) = set(replicas) - {left}
        for n in (2, 3):
            Worker(left).report("a")
            self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", n, 0])

        killed.kill()
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        # Nobody watches now.
        Worker(left).report("a")
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", 4, 0])
        Worker(left).report("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", 5, 0])
        Worker(left).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 6, 0])
        self.assertEqual(page.next(), ["a", "end"])
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(page.streams(), {address: [200, 200, 204]})
        self.assertEqual(self.watches(left.stop(), "a"), ["Ok", "Ok"])

    def test_a_page_waits_for_a_server_that_starts_again(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        listen = f"127.0.0.1:{free_port()}"
        server = self.serve("--redis-url", redis.url, listen=listen)
        Worker(server).create("a")
        page = self.follow(f'follow("http://{listen}/v1/jobs/a/events", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        server.stop()
        # The stream has ended, and then nobody has answered.
        page.until("a", "error", CONNECTING)
        page.until("a", "error", CONNECTING)

        server = self.serve("--redis-url", redis.url, listen=listen)
        Worker(server).report("a")
        reports = page.until("a", "UPDATE", "RUNNING", 2, 0)
        self.assertEqual([report for report in reports if report != ["a", "error", CONNECTING]], [["a", "open"]])
        Worker(server).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 3, 0])
        self.assertEqual(page.next(), ["a", "end"])
        page.until("a", "error", CLOSED)
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok", "Ok"])

    def test_many_jobs_are_followed_by_one_stream_across_the_end_of_its_replica(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        replicas = [self.serve("--redis-url", redis.url, "--allowed-host", UPSTREAM) for _ in range(2)]
        ids = [f"job-{n}" for n in range(10)]
        for job_id in ids:
            Worker(replicas[0]).create(job_id)
        address = f"{self.nginx(*replicas)}/v1/events?kind=test.job"
        page = self.page()
        script = f'{FOLLOW_MANY} follow("{address}")'
        page.visit(self.site.add("/follow", f"<!doctype html><script>{script}</script>"))
        seen = {}

        def see(job_id, revision):
            # After an interruption a version may come once more, but none is left out, and none comes after a later one.
            while seen.get(job_id, 0) < revision:
                what, *version = page.next()
                if what == "job":
                    self.assertIn(version[1] - seen.get(version[0], 0), (0, 1))
                    seen[version[0]] = version[1]

        for job_id in ids:
            see(job_id, 1)
        page.until("bookmark")
        (left,) = [replica for replica in replicas if self.watchers(replica) == 0]
        (killed,) = set(replicas) - {left}
        for job_id in ids[:5]:
            see(job_id, Worker(left).report(job_id))
        killed.kill()
        page.until("error", CONNECTING)
        for job_id in ids:
            Worker(left).report(job_id)
        for job_id, revision in zip(ids, [3] * 5 + [2] * 5):
            see(job_id, revision)
        for job_id in ids:
            see(job_id, Worker(left).complete(job_id))
        self.assertEqual(page.streams(), {address: [200, 200]})

    def test_a_page_that_closes_at_the_end_asks_no_more(self):
        server = self.serve()
        worker = Worker(server)
        worker.create("a")
        kept, closed = (f"http://{server.address}/v1/jobs/a/events?view={view}" for view in ("BASIC", "FULL"))
        page = self.follow(f'follow("{kept}", "kept")', f'follow("{closed}", "closed", true)')
        first = sorted(page.next()[:2] for _ in range(4))
        self.assertEqual(first, [[name, what] for name in ("closed", "kept") for what in ("SNAPSHOT", "open")])
        worker.complete("a")
        # The one that is kept asks again after the time after which the other would have asked.
        rest = [what for name, *what in page.until("kept", "error", CLOSED) if name == "closed"]
        self.assertEqual(rest, [["UPDATE", "SUCCEEDED", 2, 0], ["end"]])
        self.assertEqual(page.streams(), {kept: [200, 204], closed: [200]})
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok"] * 3)

    def test_pages_of_the_guides(self):
        server = self.serve()
        for guide, language, job_id in (("docs/http.md", "html", "page"), ("README.md", "js", "web")):
            with self.subTest(guide):
                block = code_block(guide, language, "EventSource").replace(ADDRESS, f"http://{server.address}")
                if language == "js":
                    block = f"<!doctype html><script>{block}</script>"
                page = self.page()
                page.before(SHOWN)
                worker = Worker(server)
                worker.create(job_id)
                page.visit(self.site.add("/guide", block))
                page.until("PENDING 0 %")
                for completed in (1, 3):
                    worker.report(job_id, completed=completed, total=4)
                    page.until(f"RUNNING {25 * completed} %")
                worker.complete(job_id)
                page.until("SUCCEEDED 100 %")
                address = f"http://{server.address}/v1/jobs/{job_id}/events"
                self.assertEqual((page.streams(), page.errors), ({address: [200]}, []))


# The status of the answer to a page that cancels a job by its own server.
CANCEL = """
fetch("/v1/jobs/a:cancel", { method: "POST", headers: { "content-type": "application/json" }, body: "{}" })
    .then((answer) => answer.status)
"""


class Refused(Case):
    def test_a_page_of_a_site_that_is_not_allowed_sees_nothing(self):
        server = self.serve(origin="http://other.test")
        Worker(server).create("a")
        address = f"http://{server.address}/v1/jobs/a/events"
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        # The browser keeps even the status from the page.
        self.assertEqual(page.streams(), {address: [None]})
        # Nor does it change anything, even if it does not want to read the answer.
        plain = '{ method: "POST", mode: "no-cors", body: "{}" }'
        page.evaluate(f'fetch("http://{server.address}/v1/jobs/a:cancel", {plain}).then(() => null)')
        with self.assertRaisesRegex(AssertionError, "Failed to fetch"):
            page.evaluate(f'fetch("http://{server.address}/v1/jobs/a").then((answer) => answer.text())')
        self.assertEqual(server.jobs.GetJob(api.GetJobRequest(job_id="a")).job.state, job.Job.STATE_PENDING)
        self.assertEqual(self.watches(server.stop(), "a"), [])

    def test_a_page_whose_name_leads_to_this_machine_sees_nothing(self):
        server = self.serve()
        Worker(server).create("a")
        port = server.address.rpartition(":")[2]
        page = self.page()
        page.visit(f"http://{REBOUND}:{port}/")
        # To the browser all of this is the page's own server.
        self.assertEqual(page.evaluate("location.host"), f"{REBOUND}:{port}")
        for path in ("/", "/v1/jobs/a", "/v1/jobs/a/events", "/v1/openapi.json"):
            page.evaluate(f'fetch("{path}").then(async (answer) => report(answer.status, await answer.text()))')
            status, text = page.next()
            self.assertEqual(status, 421, path)
            self.assertIn("--allowed-host", text)
            self.assertNotIn("PENDING", text)
        self.assertEqual(page.evaluate(CANCEL), 421)
        page.evaluate(f'{FOLLOW} follow("/v1/jobs/a/events", "a")')
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(server.jobs.GetJob(api.GetJobRequest(job_id="a")).job.state, job.Job.STATE_PENDING)

    def test_a_page_of_the_server_itself_is_allowed(self):
        server = self.serve(origin="http://other.test")
        Worker(server).create("a")
        page = self.page()
        for host in ("127.0.0.1", "localhost"):
            page.visit(f"http://{host}:{server.address.rpartition(':')[2]}/v1/openapi.json")
            page.evaluate(f'{{ {FOLLOW} follow("/v1/jobs/a/events", "a") }}')
            self.assertEqual(page.next(), ["a", "open"])
            self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        self.assertEqual(page.evaluate(CANCEL), 200)


class GrpcWeb(Case):
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
        page.until("b", "error", CLOSED)
        self.assertEqual(page.protocols(f"https://{host}"), {"h2"})

    def test_a_page_of_a_site_that_is_not_allowed_calls_nothing(self):
        other = self.serve(origin="http://other.test")
        page = self.connected(f"http://{other.address}")
        self.assertEqual(page.next(), ["failed", "Unknown"])
        self.assertEqual(list(other.jobs.ListJobs(api.ListJobsRequest()).jobs), [])


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
    for await (const { event, job } of jobs.watchJob({ jobId: "a" })) report(kinds.value[event].localName, ...show(job));
    report("end");
  } catch (error) {
    report("failed", Code[ConnectError.from(error).code]);
  }
</script>
"""


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


class Worker:
    """A worker that makes one change after the other over gRPC."""

    def __init__(self, server):
        self.jobs = server.jobs

    def create(self, job_id):
        self.jobs.CreateJob(api.CreateJobRequest(job_id=job_id, request_id="1", kind="test.job"))

    def report(self, job_id, **progress):
        request = api.UpdateProgressRequest(job_id=job_id, progress=job.Progress(**progress))
        return self.jobs.UpdateProgress(request).job.revision

    def complete(self, job_id):
        return self.jobs.CompleteJob(api.CompleteJobRequest(job_id=job_id)).job.revision
