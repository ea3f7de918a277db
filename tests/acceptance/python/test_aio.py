"""Jobs, watches and calls over asyncio."""

import asyncio
import sys
import time

from harness import PATIENCE, Case, until

import jobtrack
import jobtrack.aio


async def numbers(count):
    for n in range(count):
        await asyncio.sleep(0)
        yield n


class Aio(Case):
    def run_async(self, coroutine):
        return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))

    def test_a_worker_and_a_watcher(self):
        async def watch(job_id, seen):
            async for version in jobtrack.aio.watch(job_id):
                seen.append(version)

        async def main():
            seen = []
            async with jobtrack.aio.job("k", total=10) as job:
                watching = asyncio.create_task(watch(job.id, seen))
                async for _ in job.track(range(10)):
                    await asyncio.sleep(0.01)
                job.stage("second")
                async for _ in job.track(numbers(5), total=5):
                    self.assertIs(jobtrack.aio.current(), job)
                for _ in job.track("ab"):
                    pass
                job.result = {"a": 1}
            await watching
            return seen, await jobtrack.aio.wait(job.id)

        seen, ended = self.run_async(main())
        revisions = [version.revision for version in seen]
        self.assertEqual(revisions, sorted(set(revisions)))
        self.assertEqual((seen[-1].state, seen[-1].result), ("SUCCEEDED", {"a": 1}))
        self.assertEqual((ended.stage, ended.completed, ended.total), ("second", 2, 2))

    def test_calls(self):
        async def main():
            async with jobtrack.aio.Tracker(self.server.url) as tracker:
                created = [await tracker.create("aio.list") for _ in range(3)]
                listed = [job.id async for job in tracker.list(kind="aio.list", page_size=2)]
                self.assertEqual(set(listed), {job.id for job in created})
                await tracker.cancel(listed[0], "enough")
                with self.assertRaises(jobtrack.JobCancelled):
                    await tracker.wait(listed[0])
                with self.assertRaises(jobtrack.Error) as caught:
                    await tracker.get("missing")
                self.assertEqual(caught.exception.reason, "JOB_NOT_FOUND")
                with self.assertRaises(TimeoutError):
                    await tracker.wait(listed[1], timeout=0.2)

        self.run_async(main())

    def test_a_cancellation_ends_an_await(self):
        async def main():
            with self.assertRaises(jobtrack.JobCancelled) as caught:
                async with jobtrack.aio.job("k", lease=0.6) as job:
                    await asyncio.to_thread(self.tracker.cancel, job.id, "enough")
                    await asyncio.sleep(PATIENCE)
            if sys.version_info >= (3, 11):
                self.assertEqual(asyncio.current_task().cancelling(), 0)
            await asyncio.sleep(0.01)
            return caught.exception, job.id

        raised, job_id = self.run_async(main())
        self.assertEqual(raised.reason, "enough")
        self.assertEqual(self.tracker.get(job_id).state, "CANCELLED")

    def test_a_cancellation_ends_a_loop_that_blocks_the_event_loop(self):
        async def main():
            with self.assertRaises(jobtrack.JobCancelled):
                async with jobtrack.aio.job("k", lease=0.6) as job:
                    self.tracker.cancel(job.id)
                    for _ in job.track(iter(int, 1)):
                        time.sleep(0.01)
            await asyncio.sleep(0.01)

        self.run_async(main())

    def test_heartbeats_go_on_while_the_event_loop_is_blocked(self):
        async def main():
            async with jobtrack.aio.job("k", lease=0.6) as job:
                first = until(lambda: self.tracker.get(job.id).lease_expire_time)
                until(lambda: self.tracker.get(job.id).lease_expire_time > first)

        self.run_async(main())

    def test_a_task_that_is_cancelled_cancels_its_job(self):
        ids = []

        async def work():
            async with jobtrack.aio.job("k") as job:
                ids.append(job.id)
                await asyncio.sleep(PATIENCE)

        async def main():
            task = asyncio.create_task(work())
            while not ids:
                await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        self.run_async(main())
        self.assertEqual(self.tracker.get(ids[0]).cancel.reason, "CancelledError")

    def test_an_exception_fails_the_job(self):
        ids = []

        async def main():
            async with jobtrack.aio.job("k") as job:
                ids.append(job.id)
                raise ValueError("bad")

        with self.assertRaises(ValueError):
            self.run_async(main())
        self.assertEqual(self.tracker.get(ids[0]).failure.reason, "ValueError")

    def test_many_jobs_and_watches_at_once(self):
        async def work(tracker):
            async with tracker.job("k", total=3) as job:
                async for _ in job.track(range(3)):
                    await asyncio.sleep(0.001)
            return (await tracker.wait(job.id)).state

        async def main():
            async with jobtrack.aio.Tracker(self.server.url) as tracker:
                return await asyncio.gather(*(work(tracker) for _ in range(50)))

        self.assertEqual(set(self.run_async(main())), {"SUCCEEDED"})

    def test_a_silent_server_does_not_block_the_event_loop(self):
        server, _ = self.serve()
        server.pause()

        async def main():
            longest, running = 0.0, True

            async def beat():
                nonlocal longest
                while running:
                    began = time.monotonic()
                    await asyncio.sleep(0.01)
                    longest = max(longest, time.monotonic() - began)

            beating = asyncio.create_task(beat())
            async with jobtrack.aio.Tracker(server.url).job("k", flush_timeout=1):
                await asyncio.sleep(0.1)
            running = False
            await beating
            return longest

        with self.assertLogs("jobtrack"):
            self.assertLess(self.run_async(main()), 0.9)

    def test_a_watch_goes_on_after_a_restart(self):
        server, tracker = self.serve("--redis-url", self.redis().url)
        job_id = tracker.create("k").id

        async def main():
            revisions = []
            async for version in jobtrack.aio.Tracker(server.url).watch(job_id):
                revisions.append(version.revision)
                if len(revisions) == 1:
                    server.kill()
                    server.start()
                    await asyncio.to_thread(tracker.complete, job_id)
            return revisions

        with self.assertLogs("jobtrack"):
            self.assertEqual(self.run_async(main()), [1, 2])
