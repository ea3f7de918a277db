"""EventSource in a real Chromium: pages of another site follow jobs, across the end of a replica behind nginx."""

import unittest

from deployment import code_block
from pages import CLOSED, CONNECTING, UPSTREAM, PageCase, Worker
from redis_server import Redis, free_port

ADDRESS = "http://127.0.0.1:50051"

# Reports what a stream of many jobs says.
FOLLOW_MANY = """
const follow = (address) => {
  const events = new EventSource(address);
  events.onmessage = (message) => {
    const { job } = JSON.parse(message.data);
    report("job", job.id, Number(job.revision));
  };
  events.addEventListener("bookmark", () => report("bookmark"));
  events.onerror = () => report("error", events.readyState);
};
"""

# Reports what a page of the guides shows or prints.
SHOWN = """
const shown = (job) => report(`${job.state} ${job.progress?.percent ?? 0} %`);
console.log = shown;
const see = () => document.getElementById("job") && report(document.getElementById("job").textContent);
new MutationObserver(see).observe(document, { childList: true, subtree: true });
"""


class Events(PageCase):
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

    def test_a_page_goes_on_by_another_replica_when_its_own_is_killed(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        replicas = [self.serve("--redis-url", redis.url, "--allowed-host", UPSTREAM) for _ in range(2)]
        address = f"{self.nginx(*replicas)}/v1/jobs/a/events"
        Worker(replicas[0]).create("a")
        page = self.follow(f'follow("{address}", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        (left,) = [replica for replica in replicas if self.watchers(replica) == 0]
        (killed,) = set(replicas) - {left}
        for n in (2, 3):
            Worker(left).report("a")
            self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", n, 0])

        killed.kill()
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        # Nobody watches now.
        Worker(left).report("a")
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", 4, 0])
        Worker(left).report("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "RUNNING", 5, 0])
        Worker(left).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 6, 0])
        self.assertEqual(page.next(), ["a", "end"])
        self.assertEqual(page.next(), ["a", "error", CONNECTING])
        self.assertEqual(page.next(), ["a", "error", CLOSED])
        self.assertEqual(page.streams(), {address: [200, 200, 204]})
        self.assertEqual(self.watches(left.stop(), "a"), ["Ok", "Ok"])

    def test_a_page_waits_for_a_server_that_starts_again(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        listen = f"127.0.0.1:{free_port()}"
        server = self.serve("--redis-url", redis.url, listen=listen)
        Worker(server).create("a")
        page = self.follow(f'follow("http://{listen}/v1/jobs/a/events", "a")')
        self.assertEqual(page.next(), ["a", "open"])
        self.assertEqual(page.next(), ["a", "SNAPSHOT", "PENDING", 1, 0])
        server.stop()
        # The stream has ended, and then nobody has answered.
        page.until(("a", "error", CONNECTING))
        page.until(("a", "error", CONNECTING))

        server = self.serve("--redis-url", redis.url, listen=listen)
        Worker(server).report("a")
        reports = page.until(("a", "UPDATE", "RUNNING", 2, 0))[:-1]
        self.assertEqual([report for report in reports if report != ["a", "error", CONNECTING]], [["a", "open"]])
        Worker(server).complete("a")
        self.assertEqual(page.next(), ["a", "UPDATE", "SUCCEEDED", 3, 0])
        self.assertEqual(page.next(), ["a", "end"])
        page.until(("a", "error", CLOSED))
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok", "Ok"])

    def test_many_jobs_are_followed_by_one_stream_across_the_end_of_its_replica(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        replicas = [self.serve("--redis-url", redis.url, "--allowed-host", UPSTREAM) for _ in range(2)]
        ids = [f"job-{n}" for n in range(10)]
        for job_id in ids:
            Worker(replicas[0]).create(job_id)
        address = f"{self.nginx(*replicas)}/v1/events?kind=test.job"
        page = self.page()
        script = f'{FOLLOW_MANY} follow("{address}")'
        page.visit(self.site.add("/follow", f"<!doctype html><script>{script}</script>"))
        seen = {}

        def see(job_id, revision):
            # After an interruption a version may come once more, but none is left out or comes behind a later one.
            while seen.get(job_id, 0) < revision:
                what, *version = page.next()
                if what == "job":
                    self.assertIn(version[1] - seen.get(version[0], 0), (0, 1))
                    seen[version[0]] = version[1]

        for job_id in ids:
            see(job_id, 1)
        page.until(("bookmark",))
        (left,) = [replica for replica in replicas if self.watchers(replica) == 0]
        (killed,) = set(replicas) - {left}
        for job_id in ids[:5]:
            see(job_id, Worker(left).report(job_id))
        killed.kill()
        page.until(("error", CONNECTING))
        for job_id in ids:
            Worker(left).report(job_id)
        for job_id, revision in zip(ids, [3] * 5 + [2] * 5, strict=True):
            see(job_id, revision)
        for job_id in ids:
            see(job_id, Worker(left).complete(job_id))
        self.assertEqual(page.streams(), {address: [200, 200]})

    def test_a_page_that_closes_at_the_end_asks_no_more(self):
        server = self.serve()
        worker = Worker(server)
        worker.create("a")
        kept, closed = (f"http://{server.address}/v1/jobs/a/events?view={view}" for view in ("BASIC", "FULL"))
        page = self.follow(f'follow("{kept}", "kept")', f'follow("{closed}", "closed", true)')
        first = sorted(page.next()[:2] for _ in range(4))
        self.assertEqual(first, [[name, what] for name in ("closed", "kept") for what in ("SNAPSHOT", "open")])
        worker.complete("a")
        # The one that is kept asks again after the time after which the other would have asked.
        reports = page.until(("closed", "end"), ("kept", "error", CLOSED))
        rest = [what for name, *what in reports if name == "closed"]
        self.assertEqual(rest, [["UPDATE", "SUCCEEDED", 2, 0], ["end"]])
        self.assertEqual(page.streams(), {kept: [200, 204], closed: [200]})
        self.assertEqual(self.watches(server.stop(), "a"), ["Ok"] * 3)

    def test_pages_of_the_guides(self):
        server = self.serve()
        for guide, language, job_id in (("docs/http.md", "html", "page"), ("README.md", "js", "web")):
            with self.subTest(guide):
                block = code_block(guide, language, "EventSource").replace(ADDRESS, f"http://{server.address}")
                if language == "js":
                    block = f"<!doctype html><script>{block}</script>"
                page = self.page()
                page.before(SHOWN)
                worker = Worker(server)
                worker.create(job_id)
                page.visit(self.site.add("/guide", block))
                page.until(("PENDING 0 %",))
                for completed in (1, 3):
                    worker.report(job_id, completed=completed, total=4)
                    page.until((f"RUNNING {25 * completed} %",))
                worker.complete(job_id)
                page.until(("SUCCEEDED 100 %",))
                address = f"http://{server.address}/v1/jobs/{job_id}/events"
                self.assertEqual((page.streams(), page.errors), ({address: [200]}, []))


if __name__ == "__main__":
    unittest.main()
