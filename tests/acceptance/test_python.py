"""clients/python: the package as its users get it. The tests themselves are in the folder `python`."""

import os
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

from deployment import code_blocks
from python_client import CLIENT, GUIDE, REQUIRED, ModuleCase, interpreters, python, run, samples, scratch, wheel
from support import PATIENCE, ROOT, STUBS, ServerCase, api, job

BY_HAND = "by_hand.py"


class Package(unittest.TestCase):
    def test_the_stubs_are_those_of_the_protos(self):
        with tempfile.TemporaryDirectory() as folder:
            run(sys.executable, CLIENT / "generate.py", folder)
            made = {path.name: path.read_text() for path in Path(folder).iterdir()}
        committed = {path.name: path.read_text() for path in (CLIENT / "src" / "jobtrack" / "_proto").glob("*_pb2.py*")}
        self.assertEqual(made, committed)

    def test_the_wheel_has_the_package_and_nothing_else(self):
        names = zipfile.ZipFile(wheel()).namelist()
        self.assertIn("jobtrack/py.typed", names)
        self.assertIn("jobtrack/_proto/job_pb2.pyi", names)
        self.assertEqual({name.split("/")[0].split("-")[0] for name in names}, {"jobtrack"})

    def test_the_package_and_its_samples_are_typed(self):
        # The installed package: types that are missing in the wheel are missing for users.
        tools = REQUIRED / "bin"
        package = [tools / "mypy", "--config-file", CLIENT / "pyproject.toml", "--cache-dir", scratch() / "mypy"]
        run(*package, "--python-executable", python(), CLIENT / "src" / "jobtrack")
        # The program without the package has no types.
        programs = [sample for sample in sorted(samples().glob("*.py")) if sample.name != BY_HAND]
        self.assertGreater(len(programs), 5)
        strict = [tools / "mypy", "--strict", "--config-file=", "--cache-dir", scratch() / "mypy-samples"]
        run(*strict, "--python-executable", python(), *programs, cwd=samples())
        run(tools / "pyright", "--pythonpath", python(), *programs, cwd=samples())

    def test_the_code_is_formatted(self):
        for command in (["check"], ["format", "--check"]):
            run(sys.executable, "-m", "ruff", *command, "--no-cache", CLIENT, cwd=ROOT)


class Guide(ServerCase):
    def test_the_worker_by_hand_does_what_the_table_says(self):
        program = samples().joinpath(BY_HAND).read_text()
        lines = {name: len(_lines(samples() / name)) for name in (BY_HAND, "worker.py")}
        self.assertIn(
            f"| lines of code | {lines[BY_HAND]} | {lines['worker.py']}, of which 6 track |", GUIDE.read_text()
        )
        program = program.replace("127.0.0.1:50051", self.server.address)
        environment = os.environ | {"PYTHONPATH": STUBS}
        run(sys.executable, "-c", program, cwd=ROOT, env=environment, timeout=PATIENCE)
        ended = self.jobs.GetJob(api.GetJobRequest(job_id="trailer")).job
        self.assertEqual((ended.state, dict(ended.result)), (job.Job.STATE_SUCCEEDED, {"url": "s3://out/trailer.mp4"}))

    def test_each_block_of_the_guide_is_a_program_or_a_command_that_is_tested(self):
        named = code_blocks("docs/python.md", "python", "# ")
        self.assertEqual(len(named), len(list(samples().glob("*.py"))))
        self.assertEqual(len(code_blocks("docs/python.md", "sh")), 4)


def _lines(path):
    return [line for line in path.read_text().splitlines() if line.strip()]


class Interpreters(ModuleCase):
    def test_the_oldest_and_the_newest_python(self):
        found = interpreters()
        for version in sorted({min(found), max(found)}):
            with self.subTest(version):
                # Everything is fetched, as by a user: the newest versions that fit, and the oldest that are allowed.
                folder = scratch() / "venv-{}.{}".format(*version)
                run(found[version], "-m", "venv", folder)
                pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
                if version == max(found):
                    # As the guide says it.
                    self.assertEqual(code_blocks("docs/python.md", "sh")[0], "pip install ./clients/python\n")
                    run(*pip, "./clients/python", "tqdm", cwd=ROOT)
                else:
                    run(*pip, "--only-binary", ":all:", wheel(), "grpcio==1.66.0", "protobuf==4.25.0", "tqdm")
                for module in ("test_work", "test_samples.Samples", "test_aio"):
                    self.passes(module, folder / "bin" / "python")


class Modules(ModuleCase):
    def test_work(self):
        self.passes("test_work")

    def test_ends(self):
        self.passes("test_ends")

    def test_outages(self):
        self.passes("test_outages")

    def test_limits(self):
        self.passes("test_limits")

    def test_aio(self):
        self.passes("test_aio")

    def test_tqdm(self):
        self.passes("test_tqdm")

    def test_run(self):
        self.passes("test_run")

    def test_celery(self):
        self.passes("test_celery")

    def test_rq(self):
        self.passes("test_rq")

    def test_samples(self):
        self.passes("test_samples")
