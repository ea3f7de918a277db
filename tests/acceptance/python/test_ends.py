"""Each way in which a process, a block or a loop can end, and what becomes of its job."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Case

IMPORTS = "import multiprocessing, os, signal, sys, threading, time\nimport jobtrack\nID = sys.argv[1]\n"

# Program, exit code, state, reason of the failure or the cancellation, units done.
ENDS = {
    "the end of the block": (
        "with jobtrack.job('k', id=ID) as j:\n  for _ in j.track('abc'): pass",
        0,
        "SUCCEEDED",
        "",
        3,
    ),
    "an exception": (
        "with jobtrack.job('k', id=ID) as j:\n  for n in j.track('abc'):\n    if n == 'c': raise ValueError",
        1,
        "FAILED",
        "ValueError",
        2,
    ),
    "a loop left by break": (
        "with jobtrack.job('k', id=ID) as j:\n  for _ in j.track('abc'): break",
        0,
        "SUCCEEDED",
        "",
        0,
    ),
    "KeyboardInterrupt": (
        "with jobtrack.job('k', id=ID):\n  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(60)",
        -signal.SIGINT,
        "CANCELLED",
        "KeyboardInterrupt",
        None,
    ),
    "exit code 0": ("with jobtrack.job('k', id=ID):\n  sys.exit()", 0, "SUCCEEDED", "", None),
    "exit code 3": ("with jobtrack.job('k', id=ID):\n  sys.exit(3)", 3, "FAILED", "EXIT_3", None),
    "an exit with a text": ("with jobtrack.job('k', id=ID):\n  sys.exit('no disk')", 1, "FAILED", "EXIT_1", None),
    "SIGTERM that is an exit": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nwith jobtrack.job('k', id=ID):\n"
        "  os.kill(os.getpid(), signal.SIGTERM)\n  time.sleep(60)",
        143,
        "FAILED",
        "EXIT_143",
        None,
    ),
    "an abandoned generator": (
        "def g():\n  with jobtrack.job('k', id=ID) as j:\n    yield from j.track('abc')\nfor _ in g(): break",
        0,
        "FAILED",
        "ABANDONED",
        0,
    ),
    "a generator that is kept": (
        "def g():\n  with jobtrack.job('k', id=ID) as j:\n    yield from j.track('abc')\nkept = g()\nnext(kept)",
        0,
        "FAILED",
        "ABANDONED",
        0,
    ),
    "a generator that is kept by an exception": (
        "def g():\n  with jobtrack.job('k', id=ID) as j:\n    yield from j.track('abc')\nkept = g()\nnext(kept)\n1 / 0",
        1,
        "FAILED",
        "ZeroDivisionError",
        0,
    ),
    "a thread": (
        "def f():\n  with jobtrack.job('k', id=ID) as j:\n    for _ in j.track('abc'): time.sleep(0.01)\n"
        "threading.Thread(target=f).start()",
        0,
        "SUCCEEDED",
        "",
        3,
    ),
    "an exit in a thread": (
        "def f():\n  with jobtrack.job('k', id=ID): sys.exit(4)\nt = threading.Thread(target=f)\nt.start()\nt.join()",
        0,
        "FAILED",
        "EXIT_4",
        None,
    ),
    "a daemon thread": (
        "begun = threading.Event()\ndef f():\n  with jobtrack.job('k', id=ID):\n    begun.set()\n    time.sleep(60)\n"
        "threading.Thread(target=f, daemon=True).start()\nbegun.wait()",
        0,
        "FAILED",
        "ABANDONED",
        None,
    ),
    "os._exit": ("with jobtrack.job('k', id=ID, lease=0.5):\n  os._exit(1)", 1, "FAILED", "WORKER_LOST", None),
    "SIGKILL": (
        "with jobtrack.job('k', id=ID, lease=0.5):\n  os.kill(os.getpid(), signal.SIGKILL)",
        -signal.SIGKILL,
        "FAILED",
        "WORKER_LOST",
        None,
    ),
    "SIGTERM": (
        "with jobtrack.job('k', id=ID, lease=0.5):\n  os.kill(os.getpid(), signal.SIGTERM)",
        -signal.SIGTERM,
        "FAILED",
        "WORKER_LOST",
        None,
    ),
    "children of a fork that exit, raise and go on": (
        "with jobtrack.job('k', id=ID) as j:\n"
        "  for n in j.track('abc'):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "      if n == 'a': sys.exit(7)\n"
        "      if n == 'b': raise ValueError\n"
        "      j.message('from the child')\n"
        "      continue\n"
        "    os.waitpid(pid, 0)\n",
        0,
        "SUCCEEDED",
        "",
        3,
    ),
    "a child of a fork with a job of its own": (
        "with jobtrack.job('k', id=ID) as j:\n"
        "  pid = os.fork()\n"
        "  if pid == 0:\n"
        "    with jobtrack.job('k', id=ID + '-child') as own: own.result = {'parent': j.id}\n"
        "    os._exit(0 if jobtrack.current() is None else 9)\n"
        "  assert os.waitpid(pid, 0)[1] == 0\n"
        "  assert jobtrack.wait(ID + '-child', timeout=60).result == {'parent': ID}\n",
        0,
        "SUCCEEDED",
        "",
        None,
    ),
}

PROCESSES = """
import multiprocessing, sys
import jobtrack

def work(job_id):
    with jobtrack.job("k", id=job_id) as job:
        for _ in job.track(range(3)):
            pass
    return jobtrack.Tracker().get(job_id).state

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with jobtrack.job("k", id=sys.argv[2]) as job, context.Pool(3) as pool:
        for state in job.track(pool.imap(work, [f"{job.id}-{n}" for n in range(9)]), total=9):
            assert state == "SUCCEEDED"
"""


FORKS = """
import os, sys, threading, traceback
import jobtrack

tracker, job_id = jobtrack.Tracker(), sys.argv[1]
tracker.create("k", id=job_id)
done, revisions = threading.Event(), []

def call():
    while not done.is_set():
        tracker.get(job_id)

def watch():
    revisions.extend(version.revision for version in jobtrack.watch(job_id))

threads = [threading.Thread(target=target) for target in (call, call, watch)]
for thread in threads:
    thread.start()
codes = []
for n in range(20):
    tracker.update(job_id, completed=n)
    pid = os.fork()
    if pid == 0:
        try:
            with jobtrack.job("k", strict=True) as job:
                for _ in job.track("abc"):
                    pass
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
last = tracker.complete(job_id).revision
for thread in threads:
    thread.join()
print(codes.count(0), revisions == sorted(set(revisions)), revisions[-1] == last)
"""


class Ends(Case):
    def test_each_end_of_the_table(self):
        def end(name):
            job_id = f"end-{list(ENDS).index(name)}"
            started = self.start(IMPORTS + ENDS[name][0], job_id)
            _, errors = started.communicate(timeout=60)
            return started.returncode, errors, self.ended(job_id)

        with ThreadPoolExecutor(4) as threads:
            for (name, expected), (code, errors, job) in zip(ENDS.items(), threads.map(end, ENDS), strict=True):
                with self.subTest(name):
                    reason = job.failure.reason if job.failure else job.cancel.reason if job.cancel else ""
                    self.assertEqual((code, str(job.state), reason, job.completed), expected[1:], errors)
                    self.assertEqual(job.attempt, 1)
                    self.assertNotIn("jobtrack", errors.replace("import jobtrack", "").replace("jobtrack.job", ""))

    def test_pools_of_processes(self):
        for method in ("fork", "spawn"):
            with self.subTest(method):
                job_id = self.new_id()
                self.run_program(PROCESSES, method, job_id)
                self.assertEqual(self.tracker.get(job_id).completed, 9)

    def test_forks_in_the_middle_of_calls_and_of_a_watch(self):
        printed, _ = self.run_program(FORKS, self.new_id())
        self.assertEqual(printed, "20 True True\n")

    def test_a_fork_connects_again_if_its_first_connection_was_answered_with_http_1(self):
        # grpcio 1.66 sometimes begins it with bytes for a connection of the parent, to which the server answers so.
        server, _ = self.serve()
        server.kill()
        program = (
            "import os, jobtrack\ntracker = jobtrack.Tracker()\npid = os.fork()\n"
            "if pid == 0:\n  with jobtrack.job('k', id='a', strict=True): pass\n"
            "else: print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
        )
        with socket.create_server(("127.0.0.1", server.port)) as listener:
            forking = self.start(program, JOBTRACK_SERVER=server.url)
            connection, _ = listener.accept()
            with connection:
                connection.recv(24)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        server.start()
        printed, errors = self.end(forking)
        self.assertEqual(printed, "0\n", errors)
        self.assertIn("http1.x server", errors)

    def test_a_silent_server_delays_a_fork_by_a_bound(self):
        server, _ = self.serve()
        program = (
            "import os, threading, time, jobtrack\n"
            "tracker = jobtrack.Tracker(timeout=30)\ntracker.create('k', id='a')\nprint(flush=True)\ninput()\n"
            "threading.Thread(target=lambda: tracker.get('a'), daemon=True).start()\n"
            "time.sleep(0.1)\nbegan = time.monotonic()\n"
            "if os.fork() == 0: os._exit(0)\nprint(time.monotonic() - began, flush=True)\nos._exit(0)"
        )
        forking = self.start(program, JOBTRACK_SERVER=server.url)
        forking.stdout.readline()
        server.pause()
        printed, _ = forking.communicate("\n", timeout=60)
        # The bound, and the time for a fork on a busy machine.
        self.assertLess(float(printed), 0.25 + 3)

    def test_a_silent_server_delays_an_exit_by_the_time_to_flush_at_most(self):
        server, _ = self.serve()
        program = "import sys, jobtrack\nwith jobtrack.job('k', flush_timeout=1.5) as j:\n  print(j.id)\n  input()"
        working = self.start(program, JOBTRACK_SERVER=server.url)
        working.stdout.readline()
        server.pause()
        began = time.monotonic()
        _, errors = working.communicate("\n", timeout=60)
        self.assertEqual(working.returncode, 0, errors)
        # The bound, and the time for a process to end on a busy machine.
        self.assertLess(time.monotonic() - began, 1.5 + 3)
        self.assertIn("could not be sent within 1.5 s", errors)

    def test_many_threads_flush_within_one_bound(self):
        server, _ = self.serve()
        program = (
            "import threading, time, jobtrack\n"
            "def f():\n  with jobtrack.job('k', flush_timeout=2):\n    begun.release()\n    time.sleep(600)\n"
            "begun = threading.Semaphore(0)\n"
            "for _ in range(5): threading.Thread(target=f, daemon=True).start()\n"
            "for _ in range(5): begun.acquire()\n"
            "print()\ninput()"
        )
        working = self.start(program, JOBTRACK_SERVER=server.url)
        working.stdout.readline()
        server.pause()
        began = time.monotonic()
        working.communicate("\n", timeout=60)
        self.assertEqual(working.returncode, 0)
        self.assertLess(time.monotonic() - began, 2 + 3)

    def test_a_second_interrupt_does_not_wait_for_the_tracker(self):
        server, _ = self.serve()
        program = (
            "import jobtrack\nwith jobtrack.job('k', flush_timeout=600) as j:\n"
            "  try:\n    print(flush=True)\n    input()\n  finally: print(flush=True)"
        )
        working = self.start(program, JOBTRACK_SERVER=server.url)
        working.stdout.readline()
        server.pause()
        working.send_signal(signal.SIGINT)
        working.stdout.readline()
        # Sent until it is not taken for the first one.
        while working.poll() is None:
            time.sleep(0.1)
            working.send_signal(signal.SIGINT)
        self.assertNotEqual(working.returncode, 0)
