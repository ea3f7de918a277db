"""Pages that may not call a server, in a real Chromium: those of other sites, and those whose name leads to it."""

import unittest

from browser import REBOUND
from pages import CLOSED, FOLLOW, PageCase, Worker
from support import api, job

# The status of the answer to a page that cancels a job by its own server.
CANCEL = """
fetch("/v1/jobs/a:cancel", { method: "POST", headers: { "content-type": "application/json" }, body: "{}" })
    .then((answer) => answer.status)
"""


class Refused(PageCase):
    def test_a_page_of_a_site_that_is_not_allowed_sees_nothing(self):
        server = self.serve(origin="http://other.test")
        Worker(server).create("a")
        address = f"http://{server.address}/v1/jobs/a/events"
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        # The browser keeps even the status from the page.
        self.assertEqual(page.streams(), {address: [None]})
        # Nor does it change anything, even if it does not want to read the answer.
        plain = '{ method: "POST", mode: "no-cors", body: "{}" }'
        page.evaluate(f'fetch("http://{server.address}/v1/jobs/a:cancel", {plain}).then(() => null)')
        with self.assertRaisesRegex(AssertionError, "Failed to fetch"):
            page.evaluate(f'fetch("http://{server.address}/v1/jobs/a").then((answer) => answer.text())')
        self.assertEqual(server.jobs.GetJob(api.GetJobRequest(job_id="a")).job.state, job.Job.STATE_PENDING)
        self.assertEqual(self.watches(server.stop(), "a"), [])

    def test_a_page_whose_name_leads_to_this_machine_sees_nothing(self):
        server = self.serve()
        Worker(server).create("a")
        port = server.address.rpartition(":")[2]
        page = self.page()
        page.visit(f"http://{REBOUND}:{port}/")
        # To the browser all of this is the page's own server.
        self.assertEqual(page.evaluate("location.host"), f"{REBOUND}:{port}")
        for path in ("/", "/v1/jobs/a", "/v1/jobs/a/events", "/v1/openapi.json"):
            page.evaluate(f'fetch("{path}").then(async (answer) => report(answer.status, await answer.text()))')
            status, text = page.next()
            self.assertEqual(status, 421, path)
            self.assertIn("--allowed-host", text)
            self.assertNotIn("PENDING", text)
        self.assertEqual(page.evaluate(CANCEL), 421)
        page.evaluate(f'{FOLLOW} follow("/v1/jobs/a/events", "a")')
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(server.jobs.GetJob(api.GetJobRequest(job_id="a")).job.state, job.Job.STATE_PENDING)

    def test_a_page_of_the_server_itself_is_allowed(self):
        server = self.serve(origin="http://other.test")
        Worker(server).create("a")
        page = self.page()
        for host in ("127.0.0.1", "localhost"):
            page.visit(f"http://{host}:{server.address.rpartition(':')[2]}/v1/openapi.json")
            page.evaluate(f'{{ {FOLLOW} follow("/v1/jobs/a/events", "a") }}')
            self.assertEqual(page.next(), ["a", "open"])
            self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        self.assertEqual(page.evaluate(CANCEL), 200)


if __name__ == "__main__":
    unittest.main()
