"""What the tests of the image, the manifests and the guides share."""

import os
import re
import shutil
import socket
import subprocess

import yaml
from support import BINARY, PATIENCE, ROOT, TARGET

DEPLOY = ROOT / "deploy"


def documents(path):
    """The YAML documents of a file under deploy/."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def document(path):
    """The only YAML document of a file under deploy/."""
    (only,) = documents(path)
    return only


def flags():
    """What `jobtrack serve --help` lists: the environment variable of each flag."""
    listed = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)\b(.*?)(?=^\s+(?:-\w, )?--[a-z-]+|\Z)", listed, re.M | re.S)
    return {flag: match[1] if (match := re.search(r"\[env: (\w+)", text)) else None for flag, text in found}


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def promtool(*arguments, given=None):
    """Runs promtool in the folder of the rules and returns what it says; an error is one of the test."""
    unpacked = TARGET / "promtool" / "usr" / "bin" / "promtool"
    command = os.environ.get("JOBTRACK_TEST_PROMTOOL") or shutil.which("promtool") or unpacked
    folder = DEPLOY / "prometheus"
    command = [command, *arguments]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
