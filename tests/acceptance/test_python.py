"""clients/python: the package as its users get it. The tests themselves are in the folder `python`."""

import os
import sys
import tempfile
import unittest
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployment import code_blocks
from python_client import (
    CLIENT,
    GUIDE,
    REQUIRED,
    TESTS,
    ModuleCase,
    certificates,
    interpreters,
    python,
    run,
    run_module,
    samples,
    scratch,
    wheel,
)
from support import PATIENCE, ROOT, STUBS, ServerCase, api, job

BY_HAND = "by_hand.py"

# The longest first.
MODULES = ("celery", "outages", "rq", "ends", "tls", "samples", "limits", "tqdm", "aio", "retries", "work", "run")
SIDE_BY_SIDE = 3


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
            f"| lines of code | {lines[BY_HAND]} | {lines['worker.py']}, of which 6 are for jobtrack |", GUIDE.read_text()
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
        samples()
        certificates()
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
                # Most of them wait most of the time.
                modules = ("test_ends", "test_samples.Samples", "test_work", "test_aio")
                with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
                    interpreter = folder / "bin" / "python"
                    for done in threads.map(lambda module, i=interpreter: run_module(module, i), modules):
                        self.passed(done)


class Modules(ModuleCase):
    """The tests in the folder `python`. Most of them wait most of the time, so several modules run side by side."""

    @classmethod
    def setUpClass(cls):
        threads = ThreadPoolExecutor(SIDE_BY_SIDE)
        cls.addClassCleanup(threads.shutdown)
        # Made once, before several threads ask for them.
        python()
        samples()
        certificates()
        cls.done = {module: threads.submit(run_module, f"test_{module}") for module in MODULES}

    def test_modules(self):
        self.assertEqual(set(MODULES), {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")})

    def test_work(self):
        self.passed(self.done["work"].result())

    def test_ends(self):
        self.passed(self.done["ends"].result())

    def test_outages(self):
        self.passed(self.done["outages"].result())

    def test_limits(self):
        self.passed(self.done["limits"].result())

    def test_tls(self):
        self.passed(self.done["tls"].result())

    def test_retries(self):
        self.passed(self.done["retries"].result())

    def test_aio(self):
        self.passed(self.done["aio"].result())

    def test_tqdm(self):
        self.passed(self.done["tqdm"].result())

    def test_run(self):
        self.passed(self.done["run"].result())

    def test_celery(self):
        self.passed(self.done["celery"].result())

    def test_rq(self):
        self.passed(self.done["rq"].result())

    def test_samples(self):
        self.passed(self.done["samples"].result())
