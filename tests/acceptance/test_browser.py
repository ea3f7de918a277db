"""Pages of other sites in a real Chromium: EventSource, across the end of a replica behind nginx, and gRPC-Web."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from browser import REBOUND, Browser, Site
from deployment import Redis, code_block, free_port
from support import PATIENCE, TARGET, Server, admin, api, job

ADDRESS = "http://127.0.0.1:50051"
# What `EventSource.readyState` is.
CONNECTING, CLOSED = 0, 2

# Reports all that an EventSource says. It is left to the server to stop it, unless the page closes it.
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


class Case(unittest.TestCase):
    """A browser, and a site whose pages call a server."""

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        cls.site = Site()
        cls.addClassCleanup(cls.site.close)

    def serve(self, *arguments, origin=None):
        """A server that says by a line of its log when a call has ended, and that a page of the site may call."""
        origin = origin or self.site.origin
        listen = ("--listen", "127.0.0.1:0")
        server = Server("serve", *listen, "--log", "debug", "--cors-origin", origin, *arguments)
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

    def watches(self, log, job_id):
        """The outcomes of the streams of a job that a server answered, from its log."""
        return re.findall(rf'method="jobtrack.v1.JobService/WatchJob" .*job_id="{job_id}".* call code=(\w+) ', log)


class Events(Case):
    def test_a_page_of_another_site_sees_each_state_to_the_end_and_does_not_connect_again(self):
        server = self.serve()
        Worker(server).create("a")
        address = f"http://{server.address}/v1/jobs/a/events"
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        for n in range(2, 5):
            Worker(server).report("a")
            self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", n, 0])
        Worker(server).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 5, 0])
        self.assertEqual(page.next(), ["a", "end"])
        # The browser asks once more, and is told to stop.
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(page.streams(), {address: [200, 204]})
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok", "Ok"])


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
