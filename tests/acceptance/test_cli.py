"""The commands of docs/cli.md, and the first ones of README.md, with the real binary, as a shell runs them."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from deployment import code_blocks, commands
from support import BINARY, PATIENCE, ROOT, ServerCase, clean_environment

BLOCKS = code_blocks("docs/cli.md", "sh")
(RUN,) = code_blocks("README.md", "sh", "jobtrack run")
(WATCH,) = code_blocks("README.md", "sh", "jobtrack watch")


class CommandLine(ServerCase):
    def follow(self, block):
        """Runs a block of the page in an empty folder, and returns what it prints. Fails if one of its commands does."""
        folder = tempfile.TemporaryDirectory(prefix="commands-")
        self.addCleanup(folder.cleanup)
        Path(folder.name, "jobtrack").symlink_to(BINARY)
        environment = clean_environment(JOBTRACK_SERVER=f"http://{self.server.address}", HOSTNAME="worker-1")
        environment["PATH"] = f"{folder.name}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", block], cwd=folder.name, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_every_block_is_run(self):
        self.assertEqual(len(BLOCKS), 5)

    def test_the_worker(self):
        for _ in (1, 2):
            printed = self.follow(BLOCKS[0])
            for part in ("50.0%  1/2 disks  copy", "both disks", "SUCCEEDED", "Nightly backup", '{"size":"4 GB"}'):
                self.assertIn(part, printed)

    def test_the_worker_with_a_claim(self):
        for _ in (1, 2):
            self.assertRegex(self.follow(BLOCKS[1]), r"(?s)^import-3\nimport-3  FAILED.*DISK_FULL: no space left on device")

    def test_the_watch(self):
        # The page waits for a second, which may not be enough.
        watched = """until jobtrack stats -o json | grep -q '"watchers": "1"'; do sleep 0.1; done"""
        self.assertIn("sleep 1\n", BLOCKS[2])
        for _ in (1, 2):
            printed = self.follow(BLOCKS[2].replace("sleep 1\n", f"{watched}\n"))
            for part in ("demo  PENDING", "demo  RUNNING  40.0%", "demo  SUCCEEDED  100%"):
                self.assertIn(part, printed)

    def test_the_lists(self):
        made = "jobtrack create --id listed --kind k --label host=a -q\n"
        printed = self.follow(f"{made}{BLOCKS[3]}")
        self.assertIn('"id":"listed"', printed)
        self.assertIn("CANCELLED", printed)

    def test_the_pages(self):
        made = "jobtrack.bash\nman1/jobtrack-watch.1\n"
        self.assertEqual(self.follow(f"{BLOCKS[4]}ls {made.replace(chr(10), ' ')}\n"), made)

    def test_the_first_commands_of_the_readme(self):
        created = "until jobtrack get count > /dev/null 2>&1; do sleep 0.1; done"
        printed = self.follow(f"{RUN.strip()} > output &\n{created}\n{WATCH}wait $!\ncat output")
        for part in ("count  RUNNING", "count  SUCCEEDED  100%", "\n95%\n100%\n"):
            self.assertIn(part, printed)

    def test_the_page_names_every_command_and_variable(self):
        page = (ROOT / "docs" / "cli.md").read_text()
        listed = set(commands()) - {"serve", "health", "help"}
        self.assertGreater(len(listed), 15)
        for command in listed:
            with self.subTest(command):
                self.assertRegex(page, rf"`{command}\b")
        helped = subprocess.run([BINARY, "ls", "--help"], capture_output=True, text=True, check=True).stdout
        for variable in re.findall(r"\[env: (\w+)", helped):
            self.assertIn(f"`{variable}`", page)

