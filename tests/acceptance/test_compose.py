"""deploy/compose.yaml: valid, hardened, and what it says is understood by the real servers."""

import json
import re
import shlex
import unittest

import compose_spec
from deployment import DEPLOY, DRAIN, document, flags, mebibytes, seconds, started

COMPOSE = document("compose.yaml")
SERVICES = COMPOSE["services"]
REPLICAS = [service for name, service in SERVICES.items() if name.startswith("jobtrack")]


class Compose(unittest.TestCase):
    def test_it_is_valid(self):
        compose_spec.PyCompose.from_json(json.dumps(COMPOSE)).validate()

    def test_images_are_pinned(self):
        for name, service in SERVICES.items():
            with self.subTest(name):
                # The digest of what is built here is not known before.
                pinned = r":\d+\.\d+\.\d+$" if service in REPLICAS else r"@sha256:[0-9a-f]{64}$"
                self.assertRegex(service["image"], pinned)

    def test_what_is_mounted_is_there(self):
        for name, service in SERVICES.items():
            for volume in service.get("volumes", []):
                with self.subTest(name, volume=volume):
                    source = volume.split(":")[0]
                    known = (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
                    self.assertTrue(known)

    def test_nothing_is_published_to_the_network(self):
        for name, service in SERVICES.items():
            for port in service.get("ports", []):
                with self.subTest(name, port=port):
                    self.assertTrue(port.startswith("127.0.0.1:"))

    def test_every_service_is_confined(self):
        for name, service in SERVICES.items():
            with self.subTest(name):
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertIn("no-new-privileges:true", service["security_opt"])
                # Grafana unpacks its plugins at its start.
                self.assertTrue(service.get("read_only") or name == "grafana")

    def test_two_replicas_have_time_to_drain(self):
        self.assertEqual(len(REPLICAS), 2)
        for replica in REPLICAS:
            self.assertGreater(seconds(replica["stop_grace_period"]), DRAIN)
            self.assertEqual(replica["networks"]["default"]["aliases"], ["jobtrack"])

    def test_grafana_finds_its_dashboard_and_its_data(self):
        grafana = SERVICES["grafana"]
        mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
        (provider,) = document("grafana/provisioning/dashboards/jobtrack.yaml")["providers"]
        home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertIn(home, mounted)
        self.assertTrue(home.startswith(provider["options"]["path"] + "/"))
        (source,) = document("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
        host = re.fullmatch(r"http://(\w+):9090", source["url"])[1]
        self.assertIn(host, SERVICES)

    def test_the_replicas_start_with_its_redis(self):
        redis = SERVICES["redis"]
        memory = re.search(r"--maxmemory (\S+)", redis["command"])[1]
        self.assertLess(mebibytes(memory), mebibytes(redis["mem_limit"]))
        program, *arguments = shlex.split(redis["command"])
        self.assertEqual(program, "redis-server")
        environment = REPLICAS[0]["environment"]
        self.assertLessEqual(environment.keys(), set(flags().values()))
        self.assertEqual(environment["JOBTRACK_REDIS_URL"], "redis://redis:6379")
        started(self, arguments, environment)
