"""deploy/prometheus and deploy/grafana: the rules fire when they should, and the dashboard is whole."""

import json
import re
import tempfile
import unittest

import yaml
from deployment import DEPLOY, document, promtool
from support import ROOT

ALERTS = [rule for group in document("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "jobtrack.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    """Each query of the dashboard and of the alerts, with what it is for; Grafana's variables are filled in."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], query.replace("$job", ".*").replace("$instance", ".*")
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


def selectors(query):
    """Each metric that a query names, with its label matchers as (label, operator, value)."""
    for name, matchers in re.findall(r"\b([a-z_:]+)\{(.*?)\}", query):
        yield name, re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)


class Rules(unittest.TestCase):
    def test_they_are_valid_and_fire_when_they_should(self):
        promtool("check", "rules", "alerts.yaml")
        promtool("check", "config", "prometheus.yml")
        promtool("test", "rules", "alerts.test.yaml")

    def test_each_alert_is_tested_both_ways(self):
        fires, quiet = set(), set()
        for test in document("prometheus/alerts.test.yaml")["tests"]:
            for expected in test["alert_rule_test"]:
                (fires if expected["exp_alerts"] else quiet).add(expected["alertname"])
        names = {rule["alert"] for rule in ALERTS}
        self.assertEqual((fires, quiet), (names, names))

    def test_each_alert_says_how_bad_it_is_and_what_to_do(self):
        for rule in ALERTS:
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertEqual(rule["annotations"].keys(), {"summary", "description", "runbook_url"})
                page, anchor = rule["annotations"]["runbook_url"].split("#")
                self.assertEqual(anchor, rule["alert"].lower())
                self.assertIn(f"\n### {rule['alert']}\n", (ROOT / page).read_text())


class Dashboard(unittest.TestCase):
    def test_every_query_is_promql(self):
        rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(queries())]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, file)
            file.flush()
            self.assertIn(f"{len(rules)} rules found", promtool("check", "rules", file.name))

    def test_every_panel_is_complete_and_has_its_place(self):
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in DASHBOARD["panels"]:
            with self.subTest(panel["title"]):
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
                self.assertFalse(cells & taken)
                taken |= cells
        for panel in PANELS:
            with self.subTest(panel["title"]):
                self.assertTrue(panel["description"])
                for target in panel["targets"]:
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    for _, matchers in selectors(target["expr"]):
                        self.assertLessEqual({("job", "=~", "$job"), ("instance", "=~", "$instance")}, set(matchers))

    def test_every_variable_is_declared(self):
        declared = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
        self.assertEqual(used, declared)
