"""The Dockerfile, as far as it can be followed without a Docker engine: its context, its build, and how it is run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import trustme
from deployment import flags
from redis_server import free_port
from support import PATIENCE, ROOT, TARGET, clean_environment, patience

BUILD_PATIENCE = 900


def instructions():
    """Each instruction of the Dockerfile, as its name and the rest."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for instruction in re.split(r"(?<!\\)\n", "\n".join(lines)):
        if instruction.strip():
            name, rest = instruction.split(maxsplit=1)
            yield name, re.sub(r"\\\n\s*", "", rest)


def of(name):
    """Returns the arguments of the instructions of this name."""
    return [rest for found, rest in instructions() if found == name]


ENVIRONMENT = dict(variable.split("=", 1) for rest in of("ENV") for variable in shlex.split(rest))
ENTRYPOINT = json.loads(of("ENTRYPOINT")[0])
PROBE = json.loads(of("HEALTHCHECK")[0].split(" CMD ")[1])


def let_through():
    """Returns the files of the context that .dockerignore leaves: it excludes everything, and then names exceptions."""
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*" and all(re.fullmatch(r"![\w.]+", line) for line in rest), "not as simple as this test takes it"
    return [line[1:] for line in rest]


class Image(unittest.TestCase):
    def test_it_says_what_it_is(self):
        labels = dict(label.split("=", 1) for label in shlex.split(of("LABEL")[0]))
        manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        arguments = dict(rest.split("=", 1) for rest in of("ARG"))
        self.assertEqual(arguments["VERSION"], manifest["version"])
        prefix = "org.opencontainers.image."
        for label, value in {
            "title": manifest["name"],
            "description": manifest["description"],
            "licenses": manifest["license"],
            "version": "$VERSION",
            "revision": "$REVISION",
            "source": "$SOURCE",
        }.items():
            self.assertEqual(labels[prefix + label], value)

    def test_it_runs_as_nobody_and_can_be_stopped(self):
        self.assertRegex(of("USER")[0], r"^[1-9]\d*:[1-9]\d*$")
        self.assertEqual(of("STOPSIGNAL"), ["SIGTERM"])
        self.assertEqual(PROBE, [*ENTRYPOINT, "health", "--http"])

    def test_it_exposes_what_it_listens_on_and_decides_nothing_else(self):
        self.assertLessEqual(ENVIRONMENT.keys(), set(flags().values()))
        ports = [address.rpartition(":")[2] for address in ENVIRONMENT.values()]
        self.assertEqual(of("EXPOSE"), [" ".join(ports)])


class Build(unittest.TestCase):
    """Follows the Dockerfile: copies, builds, and runs what came of it, as its user where this one may."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="image-", dir=TARGET)
        cls.addClassCleanup(folder.cleanup)
        context = Path(folder.name) / "context"
        context.mkdir()
        for name in let_through():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, context / name)

        # Dependencies are taken as they were built for the tests, which is why it is not built for release.
        built = Path(folder.name) / "target"
        own = shutil.ignore_patterns("*jobtrack*")
        for part in (".fingerprint", "build", "deps"):
            shutil.copytree(TARGET / "debug" / part, built / "debug" / part, ignore=own, copy_function=os.link)
        run = re.sub(r"--mount=\S+", "", of("RUN")[0])
        command, copied = map(str.strip, run.split("&&"))
        assert copied == "cp target/release/jobtrack /jobtrack"
        command = [word for word in shlex.split(command) if word != "--release"]
        subprocess.run(
            [*command, "--offline"],
            cwd=context,
            env=os.environ | {"CARGO_TARGET_DIR": str(built)},
            check=True,
            timeout=BUILD_PATIENCE,
        )

        # Out of folders that only this user may enter.
        image = tempfile.TemporaryDirectory(prefix="image-")
        cls.addClassCleanup(image.cleanup)
        os.chmod(image.name, 0o755)
        cls.binary = shutil.copy(built / "debug" / "jobtrack", image.name)
        user, group = map(int, of("USER")[0].split(":"))
        cls.identity = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}

    def environment(self, **extra):
        """The image's, with other ports: those may be taken here."""
        hosts = {name: address.rpartition(":")[0] for name, address in ENVIRONMENT.items()}
        return clean_environment(**{name: f"{host}:{free_port()}" for name, host in hosts.items()}, **extra)

    def probe(self, environment):
        """The exit code of the probe, as the engine sees it."""
        probe = self.start(PROBE[1:], environment)
        probe.communicate(timeout=PATIENCE)
        return probe.returncode

    def start(self, command, environment):
        return subprocess.Popen(
            [self.binary, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            **self.identity,
        )

    def test_it_serves_is_healthy_and_writes_no_file(self):
        environment = self.environment(JOBTRACK_INSECURE="true")
        server = self.start(ENTRYPOINT[1:], environment)
        self.becomes_healthy(server, environment)
        for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
            self.assertRegex(os.readlink(descriptor), r"^(socket|pipe|anon_inode):|^/dev/null$")
        self.stops(server)
        self.assertEqual(self.probe(environment), 1)

    def test_it_is_healthy_with_tls_too(self):
        with tempfile.TemporaryDirectory(prefix="image-") as folder:
            os.chmod(folder, 0o755)
            certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
            issued = trustme.CA().issue_cert("a.example")
            issued.cert_chain_pems[0].write_to_path(certificate)
            issued.private_key_pem.write_to_path(key)
            os.chmod(key, 0o644)
            environment = self.environment(JOBTRACK_TLS_CERT=certificate, JOBTRACK_TLS_KEY=key)
            server = self.start(ENTRYPOINT[1:], environment)
            self.becomes_healthy(server, environment)
            self.stops(server)

    def test_it_does_not_start_without_a_word_on_tls(self):
        server = self.start(ENTRYPOINT[1:], self.environment())
        with patience(server):
            _, errors = server.communicate()
        self.assertEqual(server.returncode, 1)
        for word in ("--tls-cert", "--insecure"):
            self.assertIn(word, errors)

    def becomes_healthy(self, server, environment):
        with patience(server):
            self.assertIn("listening on 0.0.0.0:", server.stdout.readline())
            while self.probe(environment) != 0:
                self.assertIsNone(server.poll())

    def stops(self, server):
        server.terminate()
        with patience(server):
            _, errors = server.communicate()
        self.assertEqual(server.returncode, 0, errors)
