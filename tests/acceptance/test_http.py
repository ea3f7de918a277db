"""README.md and docs/http.md with the real curl, and the OpenAPI description with a validator."""

import json
import re
import subprocess
import unittest
import urllib.request

from deployment import code_block, code_blocks
from openapi_spec_validator import validate
from support import PATIENCE, ServerCase

ADDRESS = "127.0.0.1:50051"


class Guides(ServerCase):
    """The commands of the guides, each page twice: they leave nothing behind."""

    def run_block(self, block):
        script = block.replace(ADDRESS, self.server.address)
        done = subprocess.run(["bash", "-ec", script], text=True, capture_output=True, timeout=PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def events(self, printed):
        return [json.loads(data) for data in re.findall(r"^data: (.*)$", printed, re.M)]

    def test_first_jobs(self):
        for page, job in (("README.md", "web"), ("docs/http.md", "page")):
            block = code_block(page, "sh", "/events")
            for _ in (1, 2):
                printed = self.run_block(block)
                self.assertNotIn('"error"', printed)
                snapshot, *_, last, end = self.events(printed)
                self.assertEqual((snapshot["event"], snapshot["job"]["id"]), ("SNAPSHOT", job))
                self.assertEqual((last["event"], last["job"]["state"], end), ("UPDATE", "SUCCEEDED", {}))

    def test_an_error(self):
        printed = json.loads(self.run_block(code_block("docs/http.md", "sh", "nothing")))
        self.assertEqual(printed, json.loads(code_block("docs/http.md", "json", "nothing")))

    def test_paths_of_the_guide_are_those_of_the_description(self):
        description = self.description()
        served = {f"{verb.upper()} {path}" for path, verbs in description["paths"].items() for verb in verbs}
        (table,) = re.findall(r"^\| request \| call \|$(.*?)\n\n", _page(), re.M | re.S)
        listed = {f"{verb} {path}" for verb, path in re.findall(r"`(GET|POST|DELETE) (/[^?`]*)", table)}
        self.assertEqual(listed - {"GET /v1/openapi.json"}, served)

    def description(self):
        with urllib.request.urlopen(f"http://{self.server.address}/v1/openapi.json", timeout=PATIENCE) as answer:
            return json.load(answer)

    def test_the_description_is_valid(self):
        validate(self.description())

    def test_the_page_is_a_whole_client(self):
        for page, language in (("README.md", "js"), ("docs/http.md", "html")):
            (block,) = code_blocks(page, language, "EventSource")
            self.assertRegex(block, r'new EventSource\("http://127\.0\.0\.1:50051/v1/jobs/\w+/events"\)')


def _page():
    from support import ROOT

    return (ROOT / "docs/http.md").read_text()


if __name__ == "__main__":
    unittest.main()
