"""`jobtrack run` with real programs: whoever watches sees their progress."""

import http.server
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from deployment import code_block
from support import BINARY, ServerCase, api, clean_environment, job, patience

# Size of what is downloaded, in bytes, and the number of parts that it comes in.
SIZE = 3_000_000
PARTS = 30

TQDM = """
import time
from tqdm import tqdm
for _ in tqdm(range(30), desc="Encoding", mininterval=0):
    time.sleep(0.1)
"""

PRINTS = """
import time
for n in range(1, 6):
    print(f"row {n}/5")
    time.sleep(0.4)
"""


class Slow(http.server.BaseHTTPRequestHandler):
    """Serves zeros, and a package for pip, within about three seconds."""

    protocol_version = "HTTP/1.1"
    package = b""

    def do_GET(self):
        if self.path.startswith("/simple/"):
            data, parts = b'<a href="/slow-1.0-py3-none-any.whl">slow-1.0-py3-none-any.whl</a>', 1
        else:
            data, parts = self.package if self.path.endswith(".whl") else bytes(SIZE), PARTS
        self.send_response(200)
        self.send_header("content-type", "text/html" if parts == 1 else "application/octet-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        step = len(data) // parts
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            if parts > 1:
                time.sleep(0.1)

    def log_message(self, *_):
        pass


def wheel(folder):
    """A package of random bytes."""
    path = folder / "slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("slow/__init__.py", os.urandom(SIZE))
        package.writestr("slow-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
        package.writestr(
            "slow-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        package.writestr("slow-1.0.dist-info/RECORD", "")
    return path.read_bytes()


class Programs(ServerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        handler = type("Handler", (Slow,), {"package": wheel(cls.folder)})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        cls.url = f"http://127.0.0.1:{server.server_port}"
        for n in range(5):
            (cls.folder / "photos").mkdir(exist_ok=True)
            (cls.folder / "photos" / f"{n}.raw").write_bytes(os.urandom(400_000))

    def watched(self, *words):
        """Runs words with `jobtrack run`, and returns the progress that a watcher sees, and the job at its end."""
        job_id = self.id().rsplit(".", 1)[1]
        environment = clean_environment(JOBTRACK_SERVER=f"http://{self.server.address}")
        command = [BINARY, "run", "--id", job_id, *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running = subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, start_new_session=True, **pipes
        )
        self.addCleanup(running.kill)
        seen = []
        for event in self.jobs.WatchJobs(api.WatchJobsRequest(job_ids=[job_id])):
            if event.job.progress.HasField("percent"):
                seen.append(event.job.progress.percent)
            if event.job.state in (job.Job.STATE_SUCCEEDED, job.Job.STATE_FAILED):
                break
        with patience(running):
            printed, _ = running.communicate()
        self.assertEqual((running.returncode, event.job.state), (0, job.Job.STATE_SUCCEEDED), printed)
        self.assertNotIn("jobtrack:", printed)
        return seen, event.job

    def follows(self, *words):
        """The same, and expects several values that rise."""
        seen, ended = self.watched(*words)
        between = [percent for percent in seen if 0 < percent < 100]
        self.assertGreaterEqual(len(set(between)), 2, seen)
        self.assertEqual(seen, sorted(seen))
        return ended

    def test_tqdm(self):
        ended = self.follows("--", sys.executable, "-c", TQDM)
        self.assertEqual((ended.progress.stage, ended.progress.completed), ("Encoding", 30))

    def test_prints_of_python(self):
        self.follows("--", sys.executable, "-c", PRINTS)

    def test_curl(self):
        self.follows("--", "curl", "-o", "curl.out", f"{self.url}/file")

    def test_wget(self):
        self.follows("--", "wget", "-O", "wget.out", f"{self.url}/file")

    def test_rsync(self):
        self.follows("--", "rsync", "-r", "--bwlimit=800", "--info=progress2", "photos", "copy")

    def test_ffmpeg(self):
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=duration=3:size=64x64:rate=10", "a.avi"],
            cwd=self.folder,
            check=True,
        )
        self.follows("--", "ffmpeg", "-nostdin", "-re", "-i", "a.avi", "b.avi")
        self.folder.joinpath("b.avi").unlink()

    def test_pip(self):
        download = [sys.executable, "-m", "pip", "download", "--isolated", "--no-cache-dir", "--no-deps", "--no-input"]
        self.follows("--pty", "--", *download, "--index-url", f"{self.url}/simple", "--dest", "packages", "slow")

    def test_the_command_of_the_guide(self):
        command = code_block("docs/run.md", "sh").split()
        self.assertEqual(command[:3], ["jobtrack", "run", "--"])
        _, ended = self.watched(*command[2:])
        self.assertEqual((ended.kind, ended.title), ("rsync", " ".join(command[3:])))
        self.assertTrue((self.folder / "backup" / "photos" / "0.raw").exists())
