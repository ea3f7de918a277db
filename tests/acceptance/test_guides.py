"""README.md and docs/: every link leads somewhere, and the guide names what the real binary can be told."""

import re
import unittest

from deployment import flags
from support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


class Guides(unittest.TestCase):
    def test_every_link_leads_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
                with self.subTest(page.name, target=target):
                    if not target.startswith("http"):
                        path, _, anchor = target.partition("#")
                        linked = (page.parent / path).resolve() if path else page
                        self.assertTrue(linked.exists())
                        self.assertTrue(not anchor or anchor in anchors(linked))

    def test_the_guide_lists_every_flag_and_its_variable(self):
        listed = dict(re.findall(r"^\| `(--[a-z-]+)` \| `(\w+)`", (ROOT / "docs" / "operating.md").read_text(), re.M))
        offered = {flag: variable for flag, variable in flags().items() if flag != "--help"}
        self.assertEqual(listed, offered)

    def test_no_page_names_a_flag_that_does_not_exist(self):
        others = {"--addr", "--release", "--locked", "--bench", "--build", "--build-arg", "--wait", "--help", "--latency"}
        others |= {"--http", "--http-addr", "--tls-ca", "--protocol", "--http2-prior-knowledge", "--open"}
        for page in PAGES:
            with self.subTest(page.name):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text()))
                self.assertLessEqual(named, set(flags()) | others)
