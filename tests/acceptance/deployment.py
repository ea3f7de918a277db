"""Common parts of the tests of the image, the manifests and the guides."""

import os
import re
import shutil
import subprocess

import yaml
from redis_server import Redis
from support import BINARY, PATIENCE, ROOT, TARGET, Server, admin

DEPLOY = ROOT / "deploy"

# Seconds that streams and calls have to end after SIGTERM.
(DRAIN,) = {
    int(found)
    for path in (ROOT / "src").rglob("*.rs")
    for found in re.findall(r"DRAIN_LIMIT: Duration = Duration::from_secs\((\d+)\)", path.read_text())
}


def documents(path):
    """The YAML documents of a file under deploy/."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def document(path):
    """The only YAML document of a file under deploy/."""
    (only,) = documents(path)
    return only


def flags():
    """Returns what `jobtrack serve --help` lists: the environment variable of each flag."""
    listed = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)\b(.*?)(?=^\s+(?:-\w, )?--[a-z-]+|\Z)", listed, re.M | re.S)
    return {flag: match[1] if (match := re.search(r"\[env: (\w+)", text)) else None for flag, text in found}


def commands():
    """The commands that `jobtrack --help` lists."""
    listed = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+) ", listed.split("Commands:")[1].split("Options:")[0], re.M)


def flags_of_commands():
    """The flags of all commands but `serve`."""
    helped = [[BINARY, command, "--help"] for command in commands() if command not in ("serve", "help")]
    pages = [subprocess.run(page, capture_output=True, text=True, check=True).stdout for page in helped]
    return {flag for page in pages for flag in re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)\b", page, re.M)}


def code_blocks(page, language, *words):
    """The blocks of a language in README.md or under docs/ that have all these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    return [block for block in blocks if all(word in block for word in words)]


def code_block(page, language, *words):
    """The only such block."""
    (only,) = code_blocks(page, language, *words)
    return only


def seconds(text):
    """A duration as Compose writes it."""
    return int(re.fullmatch(r"(\d+)s", text)[1])


def mebibytes(text):
    """A size as Compose or Kubernetes writes it."""
    number, unit = re.fullmatch(r"(\d+)(g|Gi|m|Mi|mb)", text).groups()
    return int(number) * (1024 if unit in ("g", "Gi") else 1)


def started(test, arguments, environment):
    """The real server with the environment that a manifest gives it, over a Redis with the arguments that it gives."""
    redis = Redis(*arguments)
    test.addCleanup(redis.stop)
    server = Server("serve", **environment | {"JOBTRACK_REDIS_URL": redis.url, "JOBTRACK_LISTEN": "127.0.0.1:0"})
    test.addCleanup(server.stop)
    stats = server.admin.GetStats(admin.GetStatsRequest())
    test.assertEqual(stats.storage_mode, admin.STORAGE_MODE_REDIS)
    # The start warns of a Redis that may lose jobs.
    test.assertNotIn("WARN", server.log())
    return server


def promtool(*arguments):
    """Runs promtool in the folder of the rules and returns what it says; an error is one of the test."""
    unpacked = TARGET / "promtool" / "usr" / "bin" / "promtool"
    command = os.environ.get("JOBTRACK_TEST_PROMTOOL") or shutil.which("promtool") or unpacked
    folder = DEPLOY / "prometheus"
    command = [command, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
