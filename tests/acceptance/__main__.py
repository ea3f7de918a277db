"""Runs the acceptance suite: `python tests/acceptance [NAME...]`, a NAME as unittest takes it (test_story)."""

import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True


class Result(unittest.TextTestResult):
    """Counts the tests that passed, for the closing line."""

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


loader = unittest.defaultTestLoader
names = sys.argv[1:]
suite = loader.loadTestsFromNames(names) if names else loader.discover(str(Path(__file__).parent))
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Result).run(suite)
# A test that did not run has not passed.
failed = len(result.failures) + len(result.errors) + len(result.skipped) + len(result.unexpectedSuccesses)
print(f"{result.passed} passed, {failed} failed")
sys.exit(failed > 0 or result.passed == 0)
