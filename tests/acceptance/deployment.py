"""What the tests of what is deployed and of the guides share."""

import re
import socket
import subprocess

from support import BINARY, ROOT

DEPLOY = ROOT / "deploy"


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
