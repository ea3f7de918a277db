"""Workers, watchers and calls against a server."""

import datetime
import logging
import threading
import time
import unittest

from harness import PATIENCE, Case, until

import jobtrack


class Work(Case):
    def test_a_loop_reports_its_stages_messages_and_result(self):
        with jobtrack.job("video.render", total=3, lease=30, title="Trailer", labels={"a": "b"}) as job:
            for _ in job.track("abc"):
                pass
            until(lambda: self.tracker.get(job.id).completed == 3)
            job.stage("upload", 2, 3)
            job.message("to s3")
            job.result = {"url": "s3://x", "sizes": [720, 1.5, None], "nested": {"ok": True}}
        ended = self.tracker.get(job.id)
        self.assertEqual((ended.state, ended.percent), (jobtrack.State.SUCCEEDED, 100))
        self.assertEqual(str(ended.state), "SUCCEEDED")
        self.assertEqual((ended.stage, ended.progress.stage_index, ended.progress.stage_count), ("upload", 2, 3))
        self.assertEqual((ended.message, ended.kind, ended.title), ("to s3", "video.render", "Trailer"))
        self.assertEqual(ended.result, {"url": "s3://x", "sizes": [720, 1.5, None], "nested": {"ok": True}})
        self.assertEqual((ended.attempt, ended.labels), (1, {"a": "b"}))
        self.assertEqual(ended.lease, datetime.timedelta(seconds=30))
        self.assertEqual(ended.end_time.tzinfo, datetime.timezone.utc)

    def test_reports_are_conflated_to_the_newest_values(self):
        with jobtrack.job("k", report_interval=0.2) as job:
            for n in range(2000):
                job.update(completed=n, total=2000, unit="rows", details={"n": n})
            began = time.monotonic()
            stored = until(lambda: (now := self.tracker.get(job.id)).completed == 1999 and now)
            self.assertEqual((stored.progress.unit, stored.progress.details), ("rows", {"n": 1999}))
            self.assertLess(stored.revision, 20 + (time.monotonic() - began) * 10)

    def test_heartbeats_keep_the_lease_while_the_work_reports_nothing(self):
        with jobtrack.job("k", lease=0.6) as job:
            first = until(lambda: self.tracker.get(job.id).lease_expire_time)
            later = until(lambda: (now := self.tracker.get(job.id)).lease_expire_time > first and now)
            until(lambda: self.tracker.get(job.id).lease_expire_time > later.lease_expire_time)
            self.assertEqual(later.liveness, "LIVE")
        self.assertEqual(self.ended(job.id).state, "SUCCEEDED")

    def test_track_raises_when_somebody_asks_for_the_cancellation(self):
        with self.assertRaises(jobtrack.JobCancelled) as caught, jobtrack.job("k", lease=0.6) as job:
            for n in job.track(iter(int, 1)):
                if n == 0 and job.state and not job.state.cancel:
                    self.tracker.cancel(job.id, "enough", requester="me")
                time.sleep(0.01)
        self.assertEqual((caught.exception.reason, caught.exception.requester), ("enough", "me"))
        self.assertEqual(self.tracker.get(job.id).state, "CANCELLED")

    def test_a_cancellation_that_the_work_has_seen_is_confirmed(self):
        with jobtrack.job("k", lease=0.6) as job:
            self.tracker.cancel(job.id)
            until(lambda: job.cancelled)
        self.assertEqual(self.tracker.get(job.id).state, "CANCELLED")

    def test_work_that_ends_well_all_the_same_has_succeeded(self):
        with jobtrack.job("k", lease=0.6) as job:
            self.tracker.cancel(job.id)
            until(lambda: job.cancelled)
            job.complete({"ok": True})
        self.assertEqual(self.tracker.get(job.id).result, {"ok": True})

    def test_a_forced_cancellation_stops_the_loop(self):
        with self.assertRaises(jobtrack.JobCancelled), jobtrack.job("k", lease=0.6) as job:
            self.tracker.cancel(job.id, force=True)
            for _ in job.track(iter(int, 1)):
                time.sleep(0.01)

    def test_of_two_workers_one_gets_the_job(self):
        job_id = self.new_id()
        with jobtrack.job("k", id=job_id) as job:
            with self.assertRaises(jobtrack.Error) as caught, jobtrack.job("k", id=job_id):
                self.fail("the work has begun")
            self.assertEqual(caught.exception.reason, "ATTEMPT_RUNNING")
            self.assertEqual(job.attempt, 1)
        with self.assertRaises(jobtrack.Error) as caught, jobtrack.job("k", id=job_id):
            self.fail("the work has begun")
        self.assertEqual(caught.exception.reason, "JOB_FINISHED")

    def test_a_lost_attempt_is_a_warning_and_with_strict_an_error(self):
        for strict in (False, True):
            job_id = self.new_id()
            with self.assertLogs("jobtrack", logging.WARNING) as logged:
                try:
                    with jobtrack.job("k", id=job_id, lease=0.6, strict=strict) as job:
                        self.tracker.start(job_id, takeover=True)
                        until(lambda: job._shared.has_ended)
                        for _ in job.track(range(10)):
                            pass
                    self.assertFalse(strict)
                except jobtrack.Error as error:
                    self.assertTrue(strict)
                    self.assertEqual(error.reason, "STALE_ATTEMPT")
            self.assertEqual(len(logged.records), 1)
            self.assertEqual(self.tracker.get(job_id).state, "RUNNING")

    def test_an_existing_job_is_claimed_and_retried(self):
        job_id = self.tracker.create("k", id=self.new_id()).id
        with self.assertRaises(OSError), jobtrack.job("k", id=job_id, retry=True):
            raise OSError("disk full")
        pending = self.tracker.get(job_id)
        self.assertEqual((pending.state, pending.last_failure.message), ("PENDING", "disk full"))
        with jobtrack.job("k", id=job_id, retry=True) as job:
            self.assertEqual(job.attempt, 2)
        ended = self.tracker.get(job_id)
        self.assertEqual([attempt.failure and attempt.failure.reason for attempt in ended.attempts], ["OSError", None])

    def test_the_block_can_decide_to_fail(self):
        with jobtrack.job("k") as job:
            job.fail("NO_INPUT", "nothing to do", details={"looked": ["a"]})
        with self.assertRaises(jobtrack.JobFailed) as caught:
            jobtrack.wait(job.id)
        failed = caught.exception
        self.assertEqual(
            (failed.reason, failed.message, failed.details), ("NO_INPUT", "nothing to do", {"looked": ["a"]})
        )

    def test_a_failure_has_the_traceback(self):
        with self.assertRaises(ZeroDivisionError), jobtrack.job("k") as job:
            _ = 1 / 0
        failure = self.tracker.get(job.id).failure
        self.assertEqual((failure.reason, failure.message), ("ZeroDivisionError", "division by zero"))
        self.assertIn("1 / 0", failure.details["traceback"])

    def test_a_result_that_is_no_document_is_left_out_with_a_warning(self):
        with self.assertLogs("jobtrack", logging.WARNING) as logged, jobtrack.job("k") as job:
            job.result = {"when": datetime.datetime.now()}
        self.assertIn("result.when: must be a JSON value", logged.output[0])
        self.assertEqual(self.tracker.get(job.id).state, "SUCCEEDED")
        with self.assertRaises(jobtrack.Error), jobtrack.job("k", strict=True) as job:
            job.result = {"n": float("nan")}

    def test_reports_that_are_invalid_do_not_disturb_the_work_nor_later_reports(self):
        with self.assertLogs("jobtrack", logging.WARNING), jobtrack.job("k", report_interval=0.01) as job:
            job.update(percent=120)
            until(lambda: job._shared.problem)
            job.update(completed="many")
            job.update(stage="x" * 1000, percent=50)
            until(lambda: self.tracker.get(job.id).percent == 50)
        self.assertEqual(self.tracker.get(job.id).state, "SUCCEEDED")

    def test_threads_have_jobs_of_their_own(self):
        ids = [self.new_id() for _ in range(20)]

        def work(job_id):
            with jobtrack.job("k", id=job_id) as job:
                for _ in job.track(range(5)):
                    assert jobtrack.current() is job

        threads = [threading.Thread(target=work, args=(job_id,)) for job_id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({job.state for job in self.tracker.get_many(ids).values()}, {"SUCCEEDED"})
        self.assertIsNone(jobtrack.current())


class Watch(Case):
    def test_a_watcher_sees_each_revision_once_and_the_end(self):
        with jobtrack.job("k", report_interval=0.01) as job:
            seen = []
            watching = self.soon(lambda: seen.extend(jobtrack.watch(job.id)))
            for n in job.track(range(20)):
                until(lambda n=n: n == 0 or (job.state and job.state.completed == n))
        watching.join(PATIENCE)
        revisions = [version.revision for version in seen]
        self.assertEqual(revisions, sorted(set(revisions)))
        self.assertEqual((seen[-1].state, seen[-1].completed), ("SUCCEEDED", 20))
        self.assertEqual([version.state for version in jobtrack.watch(job.id)], ["SUCCEEDED"])

    def test_wait_returns_or_raises_the_end(self):
        job_id = self.tracker.create("k").id
        with self.assertRaises(TimeoutError):
            jobtrack.wait(job_id, timeout=0.2)
        self.soon(lambda: self.tracker.complete(job_id, result={"a": 1}), 0.1)
        self.assertEqual(jobtrack.wait(job_id, timeout=PATIENCE).result, {"a": 1})
        cancelled = self.tracker.create("k").id
        self.tracker.cancel(cancelled, "enough", requester="me")
        with self.assertRaises(jobtrack.JobCancelled) as caught:
            jobtrack.wait(cancelled)
        self.assertEqual((caught.exception.reason, caught.exception.job.state), ("enough", "CANCELLED"))

    def test_a_job_that_is_deleted_or_missing_ends_the_watch(self):
        job_id = self.tracker.create("k").id
        watch = jobtrack.watch(job_id)
        self.assertEqual(next(watch).state, "PENDING")
        self.tracker.delete(job_id, force=True)
        with self.assertRaises(jobtrack.Error) as caught:
            list(watch)
        self.assertEqual(caught.exception.reason, "JOB_REMOVED")
        with self.assertRaises(jobtrack.Error) as caught:
            list(jobtrack.watch("missing"))
        self.assertEqual((caught.exception.code, caught.exception.reason), ("NOT_FOUND", "JOB_NOT_FOUND"))

    def test_a_watch_that_is_left_early_closes_its_stream(self):
        job_id = self.tracker.create("k").id
        before = threading.active_count()
        for _ in range(20):
            for _ in jobtrack.watch(job_id):
                break
        until(lambda: threading.active_count() <= before + 2, "the end of the threads")


class Calls(Case):
    def test_errors_say_what_is_wrong(self):
        with self.assertRaises(jobtrack.Error) as caught:
            self.tracker.create("", labels={"": "x"})
        error = caught.exception
        self.assertEqual((error.code, error.reason), ("INVALID_ARGUMENT", "INVALID_FIELD"))
        self.assertEqual(len(error.violations), 2)
        self.assertIn("kind", {violation.field for violation in error.violations})
        job_id = self.tracker.create("k").id
        self.tracker.complete(job_id)
        with self.assertRaises(jobtrack.Error) as caught:
            self.tracker.fail(job_id, "X")
        self.assertEqual((caught.exception.reason, caught.exception.metadata["state"]), ("JOB_FINISHED", "SUCCEEDED"))
        server, tracker = self.serve("--max-memory-jobs", "1")
        tracker.create("k")
        with self.assertRaises(jobtrack.Error) as caught:
            tracker.create("k")
        self.assertEqual(caught.exception.reason, "MEMORY_FULL")
        self.assertGreater(caught.exception.retry_after, datetime.timedelta())

    def test_jobs_are_listed_page_by_page(self):
        ids = {self.tracker.create("listed", labels={"n": str(n % 2)}).id for n in range(7)}
        self.assertEqual({job.id for job in self.tracker.list(kind="listed", page_size=2)}, ids)
        odd = list(self.tracker.list(kind="listed", labels={"n": "1"}, states=["PENDING"]))
        self.assertEqual(len(odd), 3)
        self.assertEqual(self.tracker.page(kind="listed", page_size=2).total, 7)
        with self.assertRaises(jobtrack.Error):
            self.tracker.page(states=["LATE"])

    def test_a_worker_by_hand(self):
        job_id = self.tracker.create("k", metadata={"n": 2**53, "x": 0.5}, lease=30).id
        claim = self.tracker.start(job_id, worker="me")
        job = self.tracker.update(job_id, completed=1, total=4, claim=claim.claim, sequence=1)
        self.assertEqual((job.percent, job.worker, job.metadata), (25, "me", {"n": 2**53, "x": 0.5}))
        self.tracker.cancel(job_id, grace=60)
        self.assertIsNotNone(self.tracker.get(job_id).cancel.force_time)
        self.assertEqual(self.tracker.confirm_cancel(job_id, claim=claim.claim).state, "CANCELLED")

    def test_a_watch_token_follows_its_jobs_alone(self):
        job_id = self.tracker.create("k").id
        made = self.tracker.watch_token([job_id], ttl=60)
        holder = jobtrack.Tracker(self.server.url, token=made.token)
        self.assertEqual(holder.get(job_id).id, job_id)
        with self.assertRaises(jobtrack.Error) as caught:
            holder.create("k")
        self.assertEqual(caught.exception.code, "PERMISSION_DENIED")

    def test_several_replicas(self):
        second, other = self.serve()
        both = jobtrack.Tracker(f"http://127.0.0.1:1,{second.url}")
        self.assertEqual(both.create("k").state, "PENDING")
        self.assertEqual(len(list(other.list())), 1)

    def test_a_server_that_is_no_url_is_refused(self):
        for url in ("127.0.0.1:50051", "http://", "http://:50051", "http://localhost:port"):
            with self.subTest(url), self.assertRaises(ValueError):
                jobtrack.Tracker(url)

    def test_a_url_without_a_port_names_that_of_its_scheme(self):
        targets = {
            "http://localhost": "dns:///localhost:80",
            "https://localhost": "dns:///localhost:443",
            "http://127.0.0.1, http://127.0.0.2:50051": "ipv4:127.0.0.1:80,127.0.0.2:50051",
        }
        for url, target in targets.items():
            with self.subTest(url):
                self.assertEqual(jobtrack.Tracker(url)._connection.settings.address()[0], target)


if __name__ == "__main__":
    unittest.main()
