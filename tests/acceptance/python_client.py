"""The wheel of clients/python, and virtual environments into which it is installed."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import trustme
from deployment import code_block
from support import BINARY, PATIENCE, ROOT, TARGET, clean_environment

CLIENT = ROOT / "clients" / "python"
GUIDE = ROOT / "docs" / "python.md"
TESTS = ROOT / "tests" / "acceptance" / "python"
REQUIRED = TARGET / "python-venv"

# Seconds for what fetches packages, and for a module of tests.
LONG = 20 * PATIENCE
FULL = "JOBTRACK_TEST_PYTHON_FULL"


def run(*command, **options):
    """Runs a command and returns what it printed; an error is one of the test."""
    options = {"timeout": LONG, "cwd": "/"} | options
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


@functools.cache
def scratch():
    """A folder that is deleted at the end."""
    folder = tempfile.mkdtemp(prefix="python-", dir=TARGET)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def wheel():
    """Builds the wheel from a copy of the package."""
    source = scratch() / "source"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [REQUIRED / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", scratch(), source)
    (built,) = scratch().glob("jobtrack-*.whl")
    return built


@functools.cache
def python():
    """The interpreter of a fresh virtual environment with the wheel, which sees the packages of the requirements."""
    folder = scratch() / "venv"
    run(REQUIRED / "bin" / "python", "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (required,) = REQUIRED.glob("lib/python3*/site-packages")
    packages.joinpath("required.pth").write_text(f"{required}\n")
    pip = [REQUIRED / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel())
    return folder / "bin" / "python"


@functools.cache
def samples():
    """A folder with the programs of the guide."""
    folder = scratch() / "samples"
    folder.mkdir()
    for name, program in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", GUIDE.read_text(), re.M | re.S):
        folder.joinpath(name).write_text(program)
    return folder


@functools.cache
def certificates():
    """A folder with an authority, certificates of a server and a worker that it has signed, and another authority."""
    folder = scratch() / "certificates"
    folder.mkdir()
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    issued = {
        "server": authority.issue_cert("localhost", "127.0.0.1"),
        "worker": authority.issue_cert("worker.example"),
    }
    issued["stranger"] = other.issue_cert("worker.example")
    for name, certificate in issued.items():
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


def interpreters():
    """The CPythons of this machine from 3.10 on, by their versions."""
    found = {}
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *Path.home().glob(".pyenv/versions/*/bin")]
    for folder in folders:
        for path in Path(folder).glob("python3.*"):
            match = re.fullmatch(r"python3\.(\d+)", path.name)
            version = (3, int(match[1])) if match else (0, 0)
            # A shim of pyenv may be for a version that is not selected.
            if version >= (3, 10) and version not in found and _works(path):
                found[version] = path
    return found


def _works(interpreter):
    checked = subprocess.run([interpreter, "-c", "import ensurepip, ssl, venv"], capture_output=True)
    return checked.returncode == 0


def environment(**extra):
    """The environment of the tests of the client."""
    kept = {name: os.environ[name] for name in (FULL, "JOBTRACK_TEST_REDIS") if name in os.environ}
    kept |= {"JOBTRACK_TEST_SAMPLES": str(samples()), "JOBTRACK_TEST_README": code_block("README.md", "python")}
    kept["JOBTRACK_TEST_PACKAGE_README"] = code_block("clients/python/README.md", "python")
    kept["JOBTRACK_TEST_CERTIFICATES"] = str(certificates())
    return clean_environment(JOBTRACK_TEST_BINARY=str(BINARY), PYTHONDONTWRITEBYTECODE="1", **kept, **extra)


def run_module(module, interpreter=None):
    """Runs a module of tests in the environment with the wheel."""
    command = [interpreter or python(), "-m", "unittest", "-v", module]
    timeout = LONG * 2
    return subprocess.run(command, cwd=TESTS, env=environment(), capture_output=True, text=True, timeout=timeout)


class ModuleCase(unittest.TestCase):
    """Judges modules of tests that were run."""

    def passed(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"Ran [1-9]\d* tests?")
        self.assertNotIn("skipped", done.stderr)
        # What the tests have measured.
        print(done.stdout, end="")
