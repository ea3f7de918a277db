"""The tracker is away, silent, full or refuses the caller: the work is done, and nothing is raised because of it."""

import hashlib
import json
import logging
import os
import tempfile
import threading
import time

from harness import IS_FULL, ITEM, PATIENCE, Case, until, work

import jobtrack

# Seconds that the tracker is away.
ABSENCE = 60 if IS_FULL else 3


def plain(items):
    """The same loop without a tracker."""
    began = time.perf_counter()
    for _ in range(items):
        time.sleep(ITEM)
    return time.perf_counter() - began


class Outages(Case):
    def test_no_server(self):
        server, tracker = self.serve()
        server.kill()
        self.assertEqual(self.is_done_with_one_warning(tracker)[1].code, "UNAVAILABLE")

    def test_a_silent_server(self):
        server, tracker = self.serve()
        tracker.create("k")
        server.pause()
        self.assertEqual(self.is_done_with_one_warning(tracker)[1].code, "DEADLINE_EXCEEDED")

    def test_a_full_server(self):
        _, tracker = self.serve("--max-memory-jobs", "1")
        tracker.create("k")
        self.assertEqual(self.is_done_with_one_warning(tracker)[1].reason, "MEMORY_FULL")

    def test_a_wrong_token(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            right = {"name": "a", "sha256": hashlib.sha256(b"right").hexdigest(), "role": "reporter", "owners": "*"}
            json.dump({"identities": [right]}, file)
            file.flush()
            server, _ = self.serve("--auth-tokens", file.name)
            wrong = jobtrack.Tracker(server.url, token="wrong")
            self.assertEqual(self.is_done_with_one_warning(wrong)[1].code, "UNAUTHENTICATED")
            with tempfile.NamedTemporaryFile("w") as token:
                token.write("wrong")
                token.flush()
                # The token is read for each call.
                tracker = jobtrack.Tracker(server.url, token_file=token.name)
                with self.assertRaises(jobtrack.Error):
                    tracker.create("k")
                os.truncate(token.name, 0)
                token.seek(0)
                token.write("right")
                token.flush()
                self.assertEqual(work(tracker, 3).state.state, "SUCCEEDED")

    def test_a_server_that_is_silent_for_a_while(self):
        server, tracker = self.serve()
        resumed = self.soon(server.resume, 4)
        self.soon(server.pause, 0.2)
        with self.assertLogs("jobtrack", logging.INFO) as logged:
            job = work(tracker, round(5 / ITEM), flush_timeout=PATIENCE)
        resumed.join()
        self.assertEqual([record.levelname for record in logged.records], ["WARNING", "INFO"])
        ended = tracker.get(job.id)
        self.assertEqual((ended.state, ended.attempt, ended.completed), ("SUCCEEDED", 1, round(5 / ITEM)))

    def test_a_server_that_comes_back_without_its_jobs(self):
        server, tracker = self.serve()
        with self.assertLogs("jobtrack", logging.WARNING) as logged, tracker.job("k", flush_timeout=1) as job:
            watch = jobtrack.Tracker(server.url).watch(job.id)
            self.assertEqual(next(watch).id, job.id)
            server.kill()
            server.start()
            with self.assertRaises(jobtrack.Error) as caught:
                list(watch)
            self.assertEqual(caught.exception.reason, "JOB_NOT_FOUND")
            job.message("after")
            until(lambda: job._shared.has_ended)
            for _ in job.track(range(10)):
                pass
        self.assertEqual(sum("is not tracked any more" in line for line in logged.output), 1)

    def test_a_kill_and_a_restart_in_the_middle_of_work_and_of_a_watch(self):
        server, tracker = self.serve("--redis-url", self.redis().url)
        seen = []
        with self.assertLogs("jobtrack", logging.INFO), tracker.job("k", flush_timeout=PATIENCE) as job:
            watching = self.soon(lambda: seen.extend(jobtrack.Tracker(server.url).watch(job.id)))
            for n in job.track(range(200)):
                time.sleep(ITEM)
                if n in (50, 120):
                    server.kill()
                    server.start()
        watching.join(PATIENCE)
        revisions = [version.revision for version in seen]
        self.assertEqual(revisions, sorted(set(revisions)))
        self.assertEqual((seen[-1].state, seen[-1].completed), ("SUCCEEDED", 200))
        self.assertEqual(tracker.get(job.id).attempt, 1)

    def test_an_absence_costs_the_work_nothing(self):
        redis = self.redis()
        server, tracker = self.serve("--redis-url", redis.url)
        items, returned = round((ABSENCE + 3) / ITEM), []
        alone = plain(100) / 100 * items

        def back():
            server.start()
            returned.append(time.monotonic())
            until(lambda: seen_after(tracker, job_ids[0], at_kill[0]), "the first report after the return")
            returned.append(time.monotonic())

        job_ids, at_kill = [], []
        with self.assertLogs("jobtrack", logging.WARNING) as logged:
            with tracker.job("k", lease=ABSENCE * 2 + 30, flush_timeout=PATIENCE) as job:
                job_ids.append(job.id)
                until(lambda: tracker.get(job.id).state == "RUNNING")
                at_kill.append(tracker.get(job.id).revision)
                server.kill()
                absent = threading.Timer(ABSENCE, back)
                absent.start()
                began = time.perf_counter()
                for _ in job.track(range(items)):
                    time.sleep(ITEM)
                took = time.perf_counter() - began
        absent.join(PATIENCE)
        self.assertEqual(len(logged.records), 1, logged.output)
        back_after = returned[1] - returned[0]
        print(f"absence of {ABSENCE} s: work {took:.2f} s, alone {alone:.2f} s, back after {back_after:.2f} s")
        # Less than half a second is noise of the machine.
        self.assertLess(took - alone, max(0.01 * alone, 0.5))
        self.assertLess(back_after, 3 if IS_FULL else 10)
        self.assertEqual(tracker.get(job.id).completed, items)


def seen_after(tracker, job_id, revision):
    """Returns whether the job has changed, as seen by a connection of its own."""
    try:
        return jobtrack.Tracker(tracker._connection.settings.server, timeout=1).get(job_id).revision > revision
    except jobtrack.Error:
        return False
