"""Common parts of the tests of pages: servers that pages of a site call, nginx, and pages that follow jobs."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from browser import Browser, Site
from redis_server import free_port
from support import PATIENCE, TARGET, Server, admin, api, job

# What `EventSource.readyState` is.
CONNECTING, CLOSED = 0, 2

# Reports all that an EventSource says. Only the server stops it, unless the page closes it.
FOLLOW = """
const follow = (address, name, closes) => {
  const events = new EventSource(address);
  events.onopen = () => report(name, "open");
  events.onmessage = (message) => {
    const { event, job, skipped } = JSON.parse(message.data);
    report(name, event, job.state, Number(job.revision), skipped);
  };
  events.addEventListener("end", () => {
    if (closes) events.close();
    report(name, "end");
  });
  events.onerror = () => report(name, "error", events.readyState);
};
"""

# What a first configuration of nginx has. Only the files that it writes are kept in the folder of the test.
UPSTREAM = "jobtrack"
NGINX = """
daemon off; pid FOLDER/pid; error_log stderr warn;
events {}
http {
    access_log off; client_body_temp_path FOLDER/client_body; proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
    upstream jobtrack { SERVERS }
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://jobtrack;
        }
    }
}
"""


def answers(port):
    """Returns whether a port is in use."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class PageCase(unittest.TestCase):
    """A browser, and a site whose pages call a server."""

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.site = Site()
        cls.addClassCleanup(cls.site.close)

    def serve(self, *arguments, origin=None, listen="127.0.0.1:0"):
        """A server that says by a line of its log when a call has ended, and that a page of the site may call."""
        origin = origin or self.site.origin
        server = Server("serve", "--listen", listen, "--log", "debug", "--cors-origin", origin, *arguments)
        self.addCleanup(server.stop)
        return server

    def page(self):
        page = self.browser.open()
        self.addCleanup(page.close)
        return page

    def follow(self, *calls):
        """A page that follows jobs by these calls of `follow`."""
        page = self.page()
        page.visit(self.site.add("/follow", f"<!doctype html><script>{FOLLOW}{';'.join(calls)}</script>"))
        return page

    def nginx(self, *servers):
        """nginx in its default configuration in front of servers, and its address."""
        folder = tempfile.TemporaryDirectory(prefix="nginx-", dir=TARGET)
        self.addCleanup(folder.cleanup)
        port = free_port()
        text = NGINX.replace("PORT", str(port)).replace("FOLDER", folder.name)
        text = text.replace("SERVERS", " ".join(f"server {server.address};" for server in servers))
        configuration = Path(folder.name, "nginx.conf")
        configuration.write_text(text)
        unpacked = TARGET / "nginx" / "usr" / "sbin" / "nginx"
        program = os.environ.get("JOBTRACK_TEST_NGINX") or shutil.which("nginx") or unpacked
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        command = [program, "-e", "stderr", "-p", folder.name, "-c", configuration]
        nginx = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            if nginx.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise AssertionError(f"nginx does not start:\n{log.read()}")
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    def watchers(self, server):
        return server.admin.GetStats(admin.GetStatsRequest()).watchers

    def watches(self, log, job_id):
        """The outcomes of the streams of a job that a server answered, from its log."""
        return re.findall(rf'method="jobtrack.v1.JobService/WatchJob" .*job_id="{job_id}".* call code=(\w+) ', log)


class Worker:
    """A worker that makes one change after the other over gRPC."""

    def __init__(self, server):
        self.jobs = server.jobs

    def create(self, job_id):
        self.jobs.CreateJob(api.CreateJobRequest(job_id=job_id, request_id="1", kind="test.job"))

    def report(self, job_id, **progress):
        request = api.UpdateProgressRequest(job_id=job_id, progress=job.Progress(**progress))
        return self.jobs.UpdateProgress(request).job.revision

    def complete(self, job_id):
        return self.jobs.CompleteJob(api.CompleteJobRequest(job_id=job_id)).job.revision
