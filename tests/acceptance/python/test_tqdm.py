"""Bars of tqdm."""

from harness import Case

PROGRAM = "import os, sys\nimport jobtrack\nfrom jobtrack.tqdm import tqdm, trange\n"

# Program, exit code, state, reason, units done, units to do, stage.
BARS = {
    "a loop": ("for _ in tqdm(range(30), desc='Encoding'): pass", 0, "SUCCEEDED", "", 30, 30, "Encoding"),
    "a bar that is not shown": ("for _ in tqdm('abc', disable=True): pass", 0, "SUCCEEDED", "", 3, 3, None),
    "an iterable without a length": ("for _ in tqdm(iter('abc')): pass", 0, "SUCCEEDED", "", 3, None, None),
    "a loop that is left": ("for n in trange(9):\n  if n == 4: break\n", 0, "FAILED", "ABANDONED", 4, 9, None),
    "an exception in a loop": ("for n in trange(9):\n  if n == 4: 1 / 0\n", 1, "FAILED", "ABANDONED", 4, 9, None),
    "a block": (
        "with tqdm(total=10, unit='rows') as bar:\n  for _ in range(5): bar.update(2)",
        0,
        "SUCCEEDED",
        "",
        10,
        10,
        None,
    ),
    "an exception in a block": (
        "with tqdm(total=10) as bar:\n  bar.update(4)\n  raise ValueError",
        1,
        "FAILED",
        "ValueError",
        4,
        10,
        None,
    ),
    "nested bars": ("for _ in trange(3):\n  for _ in trange(5, leave=False): pass", 0, "SUCCEEDED", "", 3, 3, None),
    "an iterable that raises": (
        "def f():\n  yield 1\n  raise OSError\nfor _ in tqdm(f(), total=4): pass",
        1,
        "FAILED",
        "OSError",
        1,
        4,
        None,
    ),
    "bars within a job": (
        "with jobtrack.job('k'):\n  for _ in trange(3, desc='A'): pass\n  for _ in trange(4, desc='B'): pass",
        0,
        "SUCCEEDED",
        "",
        4,
        4,
        "B",
    ),
}


class Bars(Case):
    def test_each_bar_of_the_table(self):
        before = {job.id for job in self.tracker.list()}
        for name, (program, code, *expected) in BARS.items():
            with self.subTest(name):
                _, errors = self.run_program(PROGRAM + program, code=code)
                (job,) = [job for job in self.tracker.list() if job.id not in before]
                before.add(job.id)
                reason = job.failure.reason if job.failure else ""
                found = [str(job.state), reason, job.completed, job.total, job.stage]
                self.assertEqual(found, expected, errors)
                self.assertEqual(job.attempt, 1)
                if name == "a bar that is not shown":
                    self.assertEqual(errors, "")
                if name == "a loop":
                    self.assertIn("30/30", errors)
                    self.assertEqual((job.kind, job.title), ("program.py", "Encoding"))
