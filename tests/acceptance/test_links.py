"""Links with a watch token, in a real Chromium: a page without credentials of its own follows the jobs of the link."""

import hashlib
import json
import tempfile
import unittest
from pathlib import Path

from pages import CLOSED, CONNECTING, PageCase
from redis_server import Redis
from support import TARGET, api

MAKER = "d2c1a0"


class Links(PageCase):
    """Two replicas with authentication behind nginx."""

    def setUp(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        folder = tempfile.TemporaryDirectory(prefix="links-", dir=TARGET)
        self.addCleanup(folder.cleanup)
        identities = Path(folder.name, "identities.json")
        digest = hashlib.sha256(MAKER.encode()).hexdigest()
        maker = {"name": "maker", "sha256": digest, "role": "reporter", "owners": "*"}
        identities.write_text(json.dumps({"identities": [maker]}))
        arguments = ("--redis-url", redis.url, "--auth-tokens", str(identities))
        self.replicas = [self.serve(*arguments) for _ in range(2)]
        self.address = self.nginx(*self.replicas)
        self.jobs = self.replicas[0].jobs
        for job_id in ("a", "b"):
            self.call("CreateJob", job_id=job_id, request_id="1", kind="test.job")

    def call(self, method, **fields):
        """Calls as the maker of tokens."""
        request = getattr(api, f"{method}Request")(**fields)
        return getattr(self.jobs, method)(request, metadata=[("authorization", f"Bearer {MAKER}")])

    def link(self, *job_ids):
        """The URL for jobs, and the token in it."""
        made = self.call("CreateWatchToken", job_ids=job_ids)
        separator = "&" if "?" in made.path else "?"
        return f"{self.address}{made.path}{separator}access_token={made.token}", made.token

    def test_a_page_follows_its_job_across_the_end_of_a_replica(self):
        link, _ = self.link("a")
        page = self.follow(f'follow("{link}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        self.call("UpdateProgress", job_id="a")
        self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", 2, 0])
        # nginx begins with the first.
        killed, left = self.replicas
        self.jobs = left.jobs
        killed.kill()
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        self.call("CompleteJob", job_id="a")
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 3, 0])
        self.assertEqual(page.next(), ["a", "end"])
        page.until(("a", "error", CLOSED))
        self.assertEqual(page.streams(), {link: [200, 200, 204]})

    def test_a_page_sees_nothing_else_by_its_link(self):
        _, token = self.link("a")
        refused = {
            f"{self.address}/v1/jobs/b/events?access_token={token}": [403],
            f"{self.address}/v1/events?id=a&id=b&access_token={token}": [403],
            f"{self.address}/v1/jobs/a/events?access_token={token[:-1]}": [401],
            f"{self.address}/v1/jobs/a/events?access_token={MAKER}": [401],
            f"{self.address}/v1/jobs/a/events": [401],
        }
        page = self.follow(*(f'follow("{url}", "refused")' for url in refused))
        for _ in refused:
            self.assertEqual(page.next(), ["refused", "error", CLOSED])
        self.assertEqual(page.streams(), refused)

    def test_a_link_without_ids_is_for_those_of_its_token(self):
        _, token = self.link("a")
        page = self.follow(f'follow("{self.address}/v1/events?access_token={token}", "all")')
        self.assertEqual(page.next(), ["all", "open"])
        self.assertEqual(page.next(), ["all", "SNAPSHOT", "PENDING", 1, 0])
        self.call("CompleteJob", job_id="b")
        self.call("UpdateProgress", job_id="a")
        self.assertEqual(page.next(), ["all", "UPDATE", "RUNNING", 2, 0])

    def test_a_link_ends_with_its_job(self):
        link, _ = self.link("a")
        page = self.follow(f'follow("{link}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        self.call("DeleteJob", job_id="a", force=True)
        page.until(("a", "end"))
        page.until(("a", "error", CLOSED))
        # The id is that of another job now.
        self.call("CreateJob", job_id="a", request_id="2", kind="test.job")
        page.evaluate(f'follow("{link}", "again")')
        self.assertEqual(page.next(), ["again", "error", CLOSED])


if __name__ == "__main__":
    unittest.main()
