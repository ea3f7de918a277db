"""TLS: authorities, client certificates, tokens, and the variables of the environment that name them."""

import asyncio
import hashlib
import json
import os
import tempfile
from pathlib import Path

from harness import PATIENCE, Case, work

import jobtrack
import jobtrack.aio

CERTIFICATES = Path(os.environ["JOBTRACK_TEST_CERTIFICATES"])
CA, OTHER_CA = str(CERTIFICATES / "ca.pem"), str(CERTIFICATES / "other-ca.pem")
TLS = ("--tls-cert", str(CERTIFICATES / "server.pem"), "--tls-key", str(CERTIFICATES / "server.key"))
WORKER, STRANGER = (
    {"client_cert": str(CERTIFICATES / f"{name}.pem"), "client_key": str(CERTIFICATES / f"{name}.key")}
    for name in ("worker", "stranger")
)

# Works and watches with what the environment names.
PROGRAM = """
import jobtrack

with jobtrack.job("k", owner="media", strict=True) as job:
    job.result = {"a": 1}
print(jobtrack.wait(job.id, timeout=60).result)
"""


def identity(**by):
    """An identities file with one caller, whose owner is `media`. Returns the file, which is deleted when closed."""
    file = tempfile.NamedTemporaryFile("w", suffix=".json")
    json.dump({"identities": [{"name": "encoder", "role": "reporter", "owners": ["media"]} | by]}, file)
    file.flush()
    return file


class TlsCase(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.serve_class(*TLS, *cls.arguments)
        # `localhost` may have a second address, whose error would hide that of the first.
        cls.url = f"https://127.0.0.1:{cls.server.port}"
        cls.tracker = jobtrack.Tracker(cls.url, ca_file=CA)

    def refused(self, tracker, words, **options):
        """Expects one warning and one error, each with these words."""
        warning, error = self.is_done_with_one_warning(tracker, **options)
        self.assertIn(words, warning)
        self.assertIn(words, str(error))
        return error


class Connections(TlsCase):
    def test_work_watches_and_calls(self):
        job = work(self.tracker, 3, strict=True)
        self.assertEqual(self.tracker.wait(job.id, timeout=PATIENCE).completed, 3)
        self.assertEqual([version.state for version in self.tracker.watch(job.id)], ["SUCCEEDED"])
        self.assertEqual(self.tracker.get(job.id).attempt, 1)

    def test_a_name_instead_of_an_address(self):
        with jobtrack.Tracker(f"https://localhost:{self.server.port}", ca_file=CA) as tracker:
            self.assertEqual(work(tracker, 3, strict=True).state.state, "SUCCEEDED")

    def test_asyncio(self):
        async def main():
            async with jobtrack.aio.Tracker(self.url, ca_file=CA) as tracker:
                async with tracker.job("k", strict=True) as job:
                    pass
                return (await tracker.wait(job.id, timeout=PATIENCE)).state

        self.assertEqual(asyncio.run(main()), "SUCCEEDED")

    def test_several_replicas(self):
        second = self.serve(*TLS)[0]
        second.kill()
        both = jobtrack.Tracker(f"https://127.0.0.1:{second.port},https://127.0.0.1:{self.server.port}", ca_file=CA)
        self.assertEqual(work(both, 3, strict=True).state.state, "SUCCEEDED")

    def test_an_authority_that_is_not_known(self):
        for ca_file in (OTHER_CA, None):
            with self.subTest(ca_file):
                tracker = jobtrack.Tracker(self.url, ca_file=ca_file, timeout=2)
                error = self.refused(tracker, "CERTIFICATE_VERIFY_FAILED")
                self.assertEqual(error.code, "UNAVAILABLE")
                self.raises("CERTIFICATE_VERIFY_FAILED", lambda t=tracker: t.create("k"))

    def test_a_name_that_is_not_on_the_certificate(self):
        with jobtrack.Tracker(f"https://127.0.0.2:{self.server.port}", ca_file=CA, timeout=2) as tracker:
            self.refused(tracker, "127.0.0.2")

    def test_errors_over_asyncio_name_the_cause(self):
        async def main():
            async with jobtrack.aio.Tracker(self.url, ca_file=OTHER_CA, timeout=2) as tracker:
                await tracker.create("k")

        self.raises("CERTIFICATE_VERIFY_FAILED", lambda: asyncio.run(main()))

    def test_files_that_can_not_be_read(self):
        missing = str(CERTIFICATES / "missing.pem")
        for files in ({"ca_file": missing}, {"ca_file": CA, "client_cert": missing, "client_key": missing}):
            error = self.refused(jobtrack.Tracker(self.url, **files), "missing.pem: [Errno 2]")
            self.assertEqual(error.reason, "CERTIFICATE_FILE")

    def test_a_server_without_tls_and_a_client_without_tls(self):
        plain, _ = self.serve()
        for url in (f"https://localhost:{plain.port}", f"http://localhost:{self.server.port}"):
            with self.subTest(url):
                error = self.is_done_with_one_warning(jobtrack.Tracker(url, ca_file=CA, timeout=2))[1]
                self.assertEqual(error.code, "UNAVAILABLE")

    def raises(self, words, called):
        with self.assertRaises(jobtrack.Error) as caught:
            called()
        self.assertEqual(caught.exception.code, "UNAVAILABLE")
        self.assertIn(words, str(caught.exception))


class Token(TlsCase):
    @classmethod
    def setUpClass(cls):
        file = identity(sha256=hashlib.sha256(b"right").hexdigest())
        cls.addClassCleanup(file.close)
        cls.arguments = ("--auth-tokens", file.name)
        super().setUpClass()

    def test_a_token_is_sent(self):
        tracker = jobtrack.Tracker(self.url, ca_file=CA, token="right")
        self.assertEqual(work(tracker, 3, strict=True, owner="media").state.state, "SUCCEEDED")
        with self.assertRaises(jobtrack.Error) as caught:
            tracker.create("k", owner="other")
        self.assertEqual(caught.exception.code, "PERMISSION_DENIED")

    def test_no_token_and_a_wrong_one(self):
        for token in (None, "wrong"):
            _, error = self.is_done_with_one_warning(jobtrack.Tracker(self.url, ca_file=CA, token=token))
            self.assertEqual(error.code, "UNAUTHENTICATED")

    def test_the_environment_names_the_authority_and_the_token(self):
        environment = {"JOBTRACK_SERVER": self.url, "JOBTRACK_CA_FILE": CA, "JOBTRACK_TOKEN": "right"}
        self.assertEqual(self.run_program(PROGRAM, **environment), ("{'a': 1}\n", ""))
        _, errors = self.run_program(PROGRAM, code=1, **environment | {"JOBTRACK_CA_FILE": OTHER_CA})
        self.assertIn("jobtrack._errors.Error: ", errors)
        self.assertIn("CERTIFICATE_VERIFY_FAILED", errors)


class ClientCertificate(TlsCase):
    @classmethod
    def setUpClass(cls):
        file = identity(certificate="worker.example")
        cls.addClassCleanup(file.close)
        cls.arguments = ("--auth-tokens", file.name, "--tls-client-ca", CA)
        super().setUpClass()

    def test_the_caller_is_who_the_certificate_names(self):
        tracker = jobtrack.Tracker(self.url, ca_file=CA, **WORKER)
        self.assertEqual(work(tracker, 3, strict=True, owner="media").state.state, "SUCCEEDED")
        with self.assertRaises(jobtrack.Error) as caught:
            tracker.create("k", owner="other")
        self.assertEqual(caught.exception.code, "PERMISSION_DENIED")

    def test_no_certificate_and_one_of_another_authority(self):
        for certificate in ({}, STRANGER):
            with self.subTest(certificate):
                tracker = jobtrack.Tracker(self.url, ca_file=CA, timeout=2, **certificate)
                self.assertEqual(self.is_done_with_one_warning(tracker)[1].code, "UNAVAILABLE")

    def test_the_environment_names_the_certificate_and_its_key(self):
        environment = {"JOBTRACK_SERVER": self.url, "JOBTRACK_CA_FILE": CA}
        environment |= {f"JOBTRACK_{name.upper()}": path for name, path in WORKER.items()}
        self.assertEqual(self.run_program(PROGRAM, **environment), ("{'a': 1}\n", ""))

    def test_a_certificate_without_its_key_is_refused(self):
        for given in WORKER:
            with self.assertRaises(ValueError):
                jobtrack.Tracker(self.url, ca_file=CA, **{given: WORKER[given]})
