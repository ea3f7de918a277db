"""WatchJob and WatchJobs: what arrives, in which order, and how a broken stream goes on."""

import grpc
from google.protobuf.duration_pb2 import Duration
from support import Server, ServerCase, api, job

SNAPSHOT, UPDATE, BOOKMARK, REMOVED = (
    api.EVENT_SNAPSHOT,
    api.EVENT_UPDATE,
    api.EVENT_BOOKMARK,
    api.EVENT_REMOVED,
)
SUCCEEDED = job.Job.STATE_SUCCEEDED


class WatchJob(ServerCase):
    def watch(self, job_id, **fields):
        return self.jobs.WatchJob(api.WatchJobRequest(job_id=job_id, **fields))

    def complete(self, job_id):
        return self.jobs.CompleteJob(api.CompleteJobRequest(job_id=job_id)).job

    def assert_rising(self, events, revision):
        """Checks that updates go on from a revision, and that `skipped` accounts for every gap."""
        for event in events:
            self.assertEqual(event.event, UPDATE)
            self.assertGreater(event.job.revision, revision)
            self.assertEqual(event.skipped, event.job.revision - revision - 1)
            revision = event.job.revision

    def assert_ended(self, stream):
        self.assertIsNone(next(stream, None), "an event after the end")
        self.assertEqual(stream.code(), grpc.StatusCode.OK)

    def test_every_update_reaches_a_watcher_that_keeps_up(self):
        job_id = self.create().id
        stream = self.watch(job_id)
        first = next(stream)
        self.assertEqual((first.event, first.skipped, first.reset), (SNAPSHOT, 0, False))
        self.assertEqual((first.job.id, first.job.revision), (job_id, 1))

        events = []
        for n in range(1, 51):
            stored = self.report(job_id, completed=n, total=50)
            events.append(next(stream))
            self.assertEqual(events[-1].job, stored)
        done = self.complete(job_id)
        events.append(next(stream))
        self.assertEqual(events[-1].job, done)
        self.assert_ended(stream)
        self.assert_rising(events, revision=1)

    def test_a_burst_may_be_conflated_but_the_end_arrives(self):
        job_id = self.create().id
        stream = self.watch(job_id)
        self.assertEqual(next(stream).event, SNAPSHOT)

        for n in range(1, 51):
            self.report(job_id, completed=n, total=50)
        done = self.complete(job_id)

        events = list(stream)
        self.assert_rising(events, revision=1)
        self.assertEqual(events[-1].job, done)
        self.assert_ended(stream)

    def test_a_finished_job(self):
        done = self.complete(self.create().id)
        stream = self.watch(done.id)
        event = next(stream)
        self.assertEqual((event.event, event.job), (SNAPSHOT, done))
        self.assert_ended(stream)

    def test_resume_after_a_broken_stream(self):
        job_id = self.create().id
        stream = self.watch(job_id)
        next(stream)
        self.report(job_id, percent=10)
        seen = next(stream)
        stream.cancel()

        for percent in (20, 30, 40):
            self.report(job_id, percent=percent)
        stream = self.watch(job_id, resume_token=seen.resume_token)
        bookmark = next(stream)
        self.assertEqual((bookmark.event, bookmark.reset, bookmark.HasField("job")), (BOOKMARK, False, False))
        missed = next(stream)
        self.assertEqual((missed.job.progress.percent, missed.skipped), (40, 2))

        done = self.complete(job_id)
        events = [missed, *stream]
        self.assert_rising(events, revision=seen.job.revision)
        self.assertEqual(events[-1].job, done)
        self.assert_ended(stream)

    def test_resume_behind_the_end(self):
        job_id = self.complete(self.create().id).id
        token = next(self.watch(job_id)).resume_token
        stream = self.watch(job_id, resume_token=token)
        self.assertEqual(next(stream).event, BOOKMARK)
        self.assert_ended(stream)

    def test_a_token_that_cannot_be_honoured(self):
        one, other = self.create(job_id="one").id, self.create(job_id="other").id
        token = next(self.watch(one)).resume_token

        elsewhere = Server("serve", "--listen", "127.0.0.1:0")
        self.addCleanup(elsewhere.stop)
        elsewhere.jobs.CreateJob(api.CreateJobRequest(job_id=one, kind="test.job"))

        cases = {
            "unreadable": (self.jobs, one, "no token"),
            "another job's": (self.jobs, other, token),
            "another epoch's": (elsewhere.jobs, one, token),
        }
        for name, (jobs, job_id, bad) in cases.items():
            with self.subTest(name):
                event = next(jobs.WatchJob(api.WatchJobRequest(job_id=job_id, resume_token=bad)))
                self.assertEqual((event.event, event.reset, event.job.id), (SNAPSHOT, True, job_id))

    def test_cancellation_and_the_end_are_never_held_back(self):
        job_id = self.create().id
        stream = self.watch(job_id, min_interval=Duration(seconds=3600))
        next(stream)
        self.report(job_id, percent=10)
        self.assertEqual(next(stream).job.state, job.Job.STATE_RUNNING)

        for percent in (20, 30, 40):
            self.report(job_id, percent=percent)
        asked = self.jobs.CancelJob(api.CancelJobRequest(job_id=job_id)).job
        events = []
        while not events or not events[-1].job.HasField("cancel"):
            events.append(next(stream))
        self.assertEqual(events[-1].job, asked)

        done = self.complete(job_id)
        events += stream
        self.assertEqual(events[-1].job, done)
        self.assert_rising(events, revision=2)
        self.assertLess(len(events), 5, "no update was held back")

    def test_a_deleted_job(self):
        created = self.create()
        stream = self.watch(created.id)
        token = next(stream).resume_token
        self.jobs.DeleteJob(api.DeleteJobRequest(job_id=created.id, force=True))

        resumed = self.watch(created.id, resume_token=token)
        for watcher in (stream, resumed):
            event = next(watcher)
            if event.event == BOOKMARK:
                event = next(watcher)
            self.assertEqual((event.event, event.removal), (REMOVED, api.REMOVAL_DELETED))
            self.assertEqual((event.job.id, event.job.kind), (created.id, created.kind))
            self.assert_ended(watcher)

    def test_a_missing_job(self):
        self.refused(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", lambda: next(self.watch("missing")))


class WatchJobs(ServerCase):
    def test_snapshots_then_a_bookmark_then_changes(self):
        request = api.WatchJobsRequest(
            filter=api.JobFilter(owner=self.id(), states=[job.Job.STATE_PENDING, job.Job.STATE_RUNNING])
        )
        one, other = self.create().id, self.create().id
        stream = self.jobs.WatchJobs(request)

        snapshots = [next(stream), next(stream)]
        self.assertEqual({event.event for event in snapshots}, {SNAPSHOT})
        self.assertEqual({event.job.id for event in snapshots}, {one, other})
        bookmark = next(stream)
        self.assertEqual((bookmark.event, bookmark.HasField("job")), (BOOKMARK, False))

        new = self.create()
        event = next(stream)
        self.assertEqual((event.event, event.skipped, event.job), (UPDATE, 0, new))

        # One that stops matching is told of once more, then no longer.
        done = self.jobs.CompleteJob(api.CompleteJobRequest(job_id=one)).job
        event = next(stream)
        self.assertEqual((event.event, event.job), (UPDATE, done))
        token = event.resume_token
        stream.cancel()

        stored = self.report(other, percent=50)
        request.resume_token = token
        stream = self.jobs.WatchJobs(request)
        bookmark = next(stream)
        self.assertEqual((bookmark.event, bookmark.reset), (BOOKMARK, False))
        # Some of what was seen may come again; what was missed must.
        while (event := next(stream)).job.revision != stored.revision or event.job.id != other:
            self.assertEqual(event.event, UPDATE)
        self.assertEqual(event.job, stored)
        stream.cancel()

    def test_missing_ids_are_waited_for(self):
        stream = self.jobs.WatchJobs(api.WatchJobsRequest(job_ids=["awaited"]))
        self.assertEqual(next(stream).event, BOOKMARK)
        created = self.create(job_id="awaited")
        event = next(stream)
        self.assertEqual((event.event, event.job), (UPDATE, created))
        stream.cancel()
