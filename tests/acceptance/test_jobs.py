"""JobService and AdminService, called from another language."""

import math
import uuid

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from support import ServerCase, admin, api, job

Code = grpc.StatusCode


def struct(**fields):
    return ParseDict(fields, Struct())


class Lifecycle(ServerCase):
    def test_fifty_reports_and_completion(self):
        created = self.create(metadata=struct(source="s3://bucket/key"))
        self.assertEqual((created.state, created.attempt, created.revision), (job.Job.STATE_PENDING, 0, 1))

        for n in range(1, 51):
            stored = self.report(created.id, completed=n, total=50, unit="frames")
            self.assertEqual((stored.state, stored.attempt, stored.revision), (job.Job.STATE_RUNNING, 1, n + 1))
            self.assertAlmostEqual(stored.progress.percent, n * 2)

        request = api.CompleteJobRequest(job_id=created.id, result=struct(url="s3://bucket/out"))
        done = self.jobs.CompleteJob(request).job
        self.assertEqual(done.state, job.Job.STATE_SUCCEEDED)
        self.assertEqual(done.progress.percent, 100)
        self.assertEqual(done.result["url"], "s3://bucket/out")
        self.assertTrue(done.HasField("end_time"))
        self.assertEqual(self.jobs.CompleteJob(request).job, done, "completing again changed the job")

        answer = self.jobs.GetJob(api.GetJobRequest(job_id=created.id))
        self.assertEqual(answer.job, done)
        self.assertEqual(answer.source, api.SOURCE_MEMORY)
        self.assertEqual(answer.job.metadata["source"], "s3://bucket/key")
        self.assertEqual(answer.job.durability, job.DURABILITY_VOLATILE)

    def test_create_is_safe_to_retry(self):
        request = api.CreateJobRequest(kind="test.job", owner=self.id(), request_id="once")
        first = self.jobs.CreateJob(request)
        self.assertTrue(first.created)
        self.assertEqual(uuid.UUID(first.job.id).version, 5)
        self.jobs.CompleteJob(api.CompleteJobRequest(job_id=first.job.id))

        again = self.jobs.CreateJob(request)
        self.assertFalse(again.created)
        self.assertEqual((again.job.id, again.job.state), (first.job.id, job.Job.STATE_SUCCEEDED))

        self.assertEqual(uuid.UUID(self.create().id).version, 7)

    def test_reports_that_come_late_are_ignored(self):
        job_id = self.create().id

        def report(sequence, percent):
            progress = job.Progress(percent=percent)
            return self.jobs.UpdateProgress(
                api.UpdateProgressRequest(job_id=job_id, sequence=sequence, progress=progress)
            )

        self.assertTrue(report(2, 40).applied)
        late = report(1, 20)
        self.assertFalse(late.applied)
        self.assertEqual((late.job.progress.percent, late.job.revision), (40, 2))
        self.assertTrue(report(3, 30).applied, "a newer report may lower the percentage")

    def test_cancel_handshake(self):
        job_id = self.create().id
        self.report(job_id, percent=10)

        asked = self.jobs.CancelJob(api.CancelJobRequest(job_id=job_id, reason="too late", requester="ops")).job
        self.assertEqual(asked.state, job.Job.STATE_RUNNING)
        self.assertEqual((asked.cancel.reason, asked.cancel.requester), ("too late", "ops"))

        seen = self.report(job_id, percent=11)
        self.assertTrue(seen.HasField("cancel"), "the worker's report does not show the cancellation")

        request = api.ConfirmCancelRequest(job_id=job_id, message="stopped at frame 11")
        done = self.jobs.ConfirmCancel(request).job
        self.assertEqual(done.state, job.Job.STATE_CANCELLED)
        self.assertEqual(done.progress.message, "stopped at frame 11")

    def test_a_pending_job_is_cancelled_at_once(self):
        done = self.jobs.CancelJob(api.CancelJobRequest(job_id=self.create().id)).job
        self.assertEqual(done.state, job.Job.STATE_CANCELLED)

    def test_fail(self):
        failure = job.Failure(reason="OUT_OF_DISK", message="no room for frame 12")
        request = api.FailJobRequest(job_id=self.create().id, failure=failure)
        done = self.jobs.FailJob(request).job
        self.assertEqual(done.state, job.Job.STATE_FAILED)
        self.assertEqual((done.failure.code, done.failure.reason), (2, "OUT_OF_DISK"))

    def test_list_pages_newest_first(self):
        ids = [self.create(metadata=struct(n=n)).id for n in range(5)]
        listed, token = [], ""
        while True:
            request = api.ListJobsRequest(filter=api.JobFilter(owner=self.id()), page_size=2, page_token=token)
            page = self.jobs.ListJobs(request)
            self.assertLessEqual(len(page.jobs), 2)
            listed += page.jobs
            token = page.next_page_token
            if not token:
                break
        self.assertEqual([each.id for each in listed], ids[::-1])
        self.assertFalse(any(each.HasField("metadata") for each in listed), "VIEW_BASIC holds metadata")

    def test_batch_get(self):
        job_id = self.create().id
        answer = self.jobs.BatchGetJobs(api.BatchGetJobsRequest(job_ids=[job_id, "missing", job_id]))
        self.assertEqual([each.id for each in answer.jobs], [job_id])
        self.assertEqual(answer.missing_ids, ["missing"])

    def test_a_deleted_id_goes_on_counting(self):
        job_id = self.create(job_id="deleted-and-made-again").id
        self.jobs.DeleteJob(api.DeleteJobRequest(job_id=job_id, force=True))
        self.assertGreater(self.create(job_id=job_id).revision, 1)

    def test_compressed_request_and_answer(self):
        text = "a line of a long log\n" * 500
        request = api.CreateJobRequest(kind="test.job", metadata=struct(log=text))
        created = self.jobs.CreateJob(request, compression=grpc.Compression.Gzip).job
        self.assertEqual(created.metadata["log"], text)

    def test_stats_and_purge(self):
        job_id = self.create().id
        stats = self.server.admin.GetStats(admin.GetStatsRequest())
        self.assertEqual(stats.storage_mode, admin.STORAGE_MODE_MEMORY)
        self.assertGreaterEqual(stats.jobs_in_memory, 1)
        self.assertFalse(stats.HasField("redis"))

        purge = admin.PurgeJobsRequest(owner=self.id())
        self.assertEqual(self.server.admin.PurgeJobs(purge).purged_count, 0, "an active job was purged")
        self.jobs.CompleteJob(api.CompleteJobRequest(job_id=job_id))
        self.assertEqual(self.server.admin.PurgeJobs(purge).purged_count, 1)
        self.refused(Code.NOT_FOUND, "JOB_NOT_FOUND", lambda: self.jobs.GetJob(api.GetJobRequest(job_id=job_id)))


class Errors(ServerCase):
    def test_missing_job(self):
        metadata, _ = self.refused(
            Code.NOT_FOUND, "JOB_NOT_FOUND", lambda: self.jobs.GetJob(api.GetJobRequest(job_id="missing"))
        )
        self.assertEqual(metadata["job_id"], "missing")

    def test_invalid_fields_are_all_named(self):
        progress = job.Progress(percent=math.nan, stage="s" * 257)
        calls = {
            ("kind",): lambda: self.jobs.CreateJob(api.CreateJobRequest()),
            ("progress.percent", "progress.stage"): lambda: self.jobs.UpdateProgress(
                api.UpdateProgressRequest(job_id="any", progress=progress)
            ),
            ("job_ids[1]",): lambda: self.jobs.BatchGetJobs(api.BatchGetJobsRequest(job_ids=["fine", "not fine"])),
            ("page_size",): lambda: self.jobs.ListJobs(api.ListJobsRequest(page_size=-1)),
            ("filter.states",): lambda: self.jobs.ListJobs(api.ListJobsRequest(filter=api.JobFilter(states=[0]))),
            ("failure",): lambda: self.jobs.FailJob(api.FailJobRequest(job_id="any")),
            # A request that is no protobuf at all.
            ("request",): lambda: self.server.channel.unary_unary("/jobtrack.v1.JobService/GetJob")(b"\xff\xff\xff"),
        }
        for fields, call in calls.items():
            with self.subTest(fields=fields):
                _, details = self.refused(Code.INVALID_ARGUMENT, "INVALID_FIELD", call)
                violations = details["google.rpc.BadRequest"].field_violations
                self.assertEqual(sorted(each.field for each in violations), sorted(fields))

    def test_refused_changes(self):
        done = self.create().id
        self.jobs.CompleteJob(api.CompleteJobRequest(job_id=done))
        active = self.create(job_id="active").id
        self.jobs.UpdateProgress(api.UpdateProgressRequest(job_id=active, attempt=2))

        cases = [
            (Code.ALREADY_EXISTS, "JOB_EXISTS", lambda: self.create(job_id=active), {}),
            (Code.FAILED_PRECONDITION, "JOB_FINISHED", lambda: self.report(done, percent=1), {"state": "SUCCEEDED"}),
            (
                Code.FAILED_PRECONDITION,
                "STALE_ATTEMPT",
                lambda: self.jobs.UpdateProgress(api.UpdateProgressRequest(job_id=active, attempt=1)),
                {"attempt": "2"},
            ),
            (
                Code.FAILED_PRECONDITION,
                "CANCEL_NOT_REQUESTED",
                lambda: self.jobs.ConfirmCancel(api.ConfirmCancelRequest(job_id=active)),
                {},
            ),
            (
                Code.FAILED_PRECONDITION,
                "JOB_ACTIVE",
                lambda: self.jobs.DeleteJob(api.DeleteJobRequest(job_id=active)),
                {"state": "RUNNING"},
            ),
            (
                Code.ABORTED,
                "REVISION_MISMATCH",
                lambda: self.jobs.CompleteJob(api.CompleteJobRequest(job_id=active, expected_revision=1)),
                {"revision": "2"},
            ),
        ]
        for code, reason, call, expected in cases:
            with self.subTest(reason=reason):
                metadata, _ = self.refused(code, reason, call)
                self.assertEqual(metadata["job_id"], done if reason == "JOB_FINISHED" else active)
                self.assertLessEqual(expected.items(), dict(metadata).items())

    def test_a_revision_that_does_not_come(self):
        request = api.GetJobRequest(job_id=self.create().id, min_revision=2)
        _, details = self.refused(
            Code.UNAVAILABLE, "REVISION_NOT_REACHED", lambda: self.jobs.GetJob(request, timeout=10)
        )
        self.assertIn("google.rpc.RetryInfo", details)

    def test_a_message_too_large(self):
        request = api.CreateJobRequest(kind="test.job", metadata=struct(log="x" * (2 * 1024 * 1024)))
        _, details = self.refused(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", lambda: self.jobs.CreateJob(request))
        self.assertNotIn("google.rpc.RetryInfo", details)
