"""Costs of tracking: time in loops, reports, memory, threads."""

import gc
import os
import threading
import time

from harness import IS_FULL, Case, until

import jobtrack

ITEMS = 1_000_000 if IS_FULL else 200_000
JOBS = 10_000 if IS_FULL else 300

# Seconds that a call of `track` may cost beside the loop.
COST = 1e-6
REPORT_INTERVAL = 0.1


def loop(iterable):
    """The processor time of this thread for a loop."""
    began = time.thread_time()
    for _ in iterable:
        pass
    return time.thread_time() - began


class Limits(Case):
    def tracked(self, iterable, tracker=None, **options):
        """Returns the cost of an item of a loop beside the loop, and the number of reports per second."""
        alone = min(loop(range(ITEMS)) for _ in range(3))
        with (tracker or self.tracker).job("k", report_interval=REPORT_INTERVAL, flush_timeout=1, **options) as job:
            began = time.monotonic()
            took = loop(job.track(iterable))
            lasted = time.monotonic() - began
        cost = (took - alone) / ITEMS
        print(f"{self.id()}: {ITEMS} items, {cost * 1e9:.0f} ns each")
        self.assertLess(cost, COST)
        return job, lasted

    def test_a_loop_of_known_length(self):
        job, lasted = self.tracked(range(ITEMS))
        ended = self.tracker.get(job.id)
        self.assertEqual(ended.completed, ITEMS)
        # Creation, claim, end and the first and the last report come on top.
        self.assertLessEqual(ended.revision, lasted / REPORT_INTERVAL + 6)

    def test_a_loop_of_unknown_length(self):
        job, _ = self.tracked(iter(range(ITEMS)), raise_on_cancel=False)
        self.assertEqual(self.tracker.get(job.id).completed, ITEMS)

    def test_a_loop_without_a_server(self):
        server, tracker = self.serve()
        server.kill()
        with self.assertLogs("jobtrack"):
            self.tracked(range(ITEMS), tracker)

    def test_a_loop_with_a_silent_server(self):
        server, tracker = self.serve()
        server.pause()
        with self.assertLogs("jobtrack"):
            self.tracked(range(ITEMS), tracker)

    def test_reports_by_hand_keep_to_the_rate(self):
        with self.tracker.job("k", report_interval=REPORT_INTERVAL) as job:
            began = time.monotonic()
            for n in range(ITEMS // 10):
                job.update(completed=n)
            lasted = time.monotonic() - began
        self.assertLessEqual(self.tracker.get(job.id).revision, lasted / REPORT_INTERVAL + 6)

    def test_many_jobs_in_one_process_leave_nothing(self):
        def work(count):
            for _ in range(count):
                with self.tracker.job("leak", lease=30) as job:
                    for _ in job.track(range(3)):
                        pass
                self.tracker.delete(job.id)

        def held():
            gc.collect()
            with open("/proc/self/statm") as file:
                resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
            objects = sum(isinstance(each, jobtrack.Work) for each in gc.get_objects())
            return resident, len(os.listdir("/proc/self/fd")), objects

        work(JOBS // 10)
        threads = threading.active_count()
        before = held()
        began = time.monotonic()
        work(JOBS)
        until(lambda: threading.active_count() <= threads, "the end of the threads")
        after = held()
        print(f"{JOBS} jobs in {time.monotonic() - began:.1f} s: {(after[0] - before[0]) >> 10} KiB more")
        self.assertLess(after[0] - before[0], 8 << 20)
        self.assertLessEqual(after[1], before[1])
        self.assertLessEqual(after[2], 1)
