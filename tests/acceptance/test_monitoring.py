"""deploy/prometheus and deploy/grafana: the rules work, and they ask for what the real server says of itself."""

import json
import math
import re
import tempfile
import unittest
import urllib.request

import trustme
import yaml
from deployment import DEPLOY, document, mebibytes, promtool
from prometheus_client.parser import text_string_to_metric_families
from redis_server import Redis, free_port
from support import ROOT, Server, api, job

ALERTS = [rule for group in document("prometheus/alerts.yaml")["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "jobtrack.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus adds to everything that it scrapes.
SCRAPED = {"job", "instance"}
# The codes as go-grpc-prometheus writes them.
CODES = {
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
    "DataLoss", "Unauthenticated",
}  # fmt: skip


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

    def test_the_memory_alert_comes_before_the_limit_of_the_manifests(self):
        (query,) = (rule["expr"] for rule in ALERTS if rule["alert"] == "JobtrackMemoryHigh")
        threshold = math.prod(float(factor) for factor in query.split(">")[1].split("*"))
        (container,) = document("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"]
        for limit in (container["resources"]["limits"]["memory"], document("compose.yaml")["x-jobtrack"]["mem_limit"]):
            self.assertAlmostEqual(threshold / (mebibytes(limit) * 1024 * 1024), 0.8)


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


class Exposition(unittest.TestCase):
    """Metrics of the real server, in memory and with Redis, after calls of every kind."""

    @classmethod
    def setUpClass(cls):
        redis = Redis()
        cls.addClassCleanup(redis.stop)
        cls.samples = {}
        for arguments in ((), ("--redis-url", redis.url)):
            http = f"127.0.0.1:{free_port()}"
            server = Server("serve", "--listen", "127.0.0.1:0", "--http-listen", http, *arguments)
            cls.addClassCleanup(server.stop)
            created = server.jobs.CreateJob(api.CreateJobRequest(kind="a")).job
            watch = server.jobs.WatchJob(api.WatchJobRequest(job_id=created.id))
            next(watch)
            server.jobs.UpdateProgress(api.UpdateProgressRequest(job_id=created.id, progress=job.Progress(percent=50)))
            server.jobs.CompleteJob(api.CompleteJobRequest(job_id=created.id))
            list(watch)
            cls.read(http)
        # Some metrics are there with TLS only.
        issued, http = trustme.CA().issue_cert("a.example"), f"127.0.0.1:{free_port()}"
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
            issued.cert_chain_pems[0].write_to_path(certificate)
            issued.private_key_pem.write_to_path(key)
            tls = ("--tls-cert", certificate, "--tls-key", key)
            cls.addClassCleanup(Server("serve", "--listen", "127.0.0.1:0", "--http-listen", http, *tls).stop)
        cls.read(http)

    @classmethod
    def read(cls, http):
        """Adds what a server says at this address."""
        with urllib.request.urlopen(f"http://{http}/metrics") as response:
            text = response.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for label, value in {"": "", **sample.labels}.items():
                    cls.samples.setdefault(sample.name, {}).setdefault(label, set()).add(value)

    def test_every_query_names_what_exists(self):
        for title, query in queries():
            asked = dict(selectors(query))
            self.assertTrue(asked)
            for name, matchers in selectors(query):
                if name == "up":
                    continue
                with self.subTest(title, metric=name):
                    self.assertTrue(name in self.samples, "there is no such metric")
                    for label, operator, value in matchers:
                        if label not in SCRAPED:
                            self.assertIn(label, self.samples[name])
                            known = CODES if label == "grpc_code" else self.samples[name][label]
                            self.assertLessEqual(set(value.split("|")), known)
            labels = set().union(SCRAPED, *(self.samples.get(name, {}) for name in asked))
            for grouping in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", query):
                with self.subTest(title, grouping=grouping):
                    self.assertLessEqual(set(grouping.split(", ")), labels)

    def test_codes_are_written_as_stock_dashboards_expect(self):
        self.assertLessEqual(self.samples["grpc_server_handled_total"]["grpc_code"], CODES)
