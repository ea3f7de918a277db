"""deploy/kubernetes: valid, hardened, consistent, and what it says is understood by the real servers."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import grpc
import kubernetes_validate
import yaml
from deployment import DEPLOY, DRAIN, document, documents, flags, mebibytes
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis_server import Redis
from support import PATIENCE, ROOT, Server, admin

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = document("kubernetes/kustomization.yaml")
# The Secrets with what secrets.sh prints to standard error: the token of an administrator.
PRINTED = subprocess.run([FOLDER / "secrets.sh"], capture_output=True, text=True, check=True, timeout=PATIENCE)
TOKEN = PRINTED.stderr.strip().rpartition(" ")[2]
SECRETS = {secret["metadata"]["name"]: secret["stringData"] for secret in yaml.safe_load_all(PRINTED.stdout)}
RESOURCES = [resource for name in KUSTOMIZATION["resources"] for resource in documents(f"kubernetes/{name}")]
RESOURCES += list(yaml.safe_load_all(PRINTED.stdout))
# The first release in which preStop can sleep without a feature gate.
OLDEST = (1, 30)


def resource(kind, name):
    """The one of this kind and name."""
    (found,) = (r for r in RESOURCES if (r["kind"], r["metadata"]["name"]) == (kind, name))
    return found


DEPLOYMENT = resource("Deployment", "jobtrack")
POD = DEPLOYMENT["spec"]["template"]
(JOBTRACK,) = POD["spec"]["containers"]
STATEFUL_SET = resource("StatefulSet", "redis")
(REDIS,) = STATEFUL_SET["spec"]["template"]["spec"]["containers"]
WORKLOADS = [(DEPLOYMENT, JOBTRACK), (STATEFUL_SET, REDIS)]


class Kubernetes(unittest.TestCase):
    def test_they_are_valid_in_every_release(self):
        releases = [tuple(map(int, version.split(".")[:2])) for version in kubernetes_validate.utils.all_versions()]
        for release in (release for release in releases if release >= OLDEST):
            for described in RESOURCES:
                with self.subTest(release=release, kind=described["kind"], name=described["metadata"]["name"]):
                    kubernetes_validate.validate(described, "%d.%d" % release, strict=True)

    def test_every_file_is_applied_to_one_namespace(self):
        files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
        self.assertEqual(set(KUSTOMIZATION["resources"]), files)
        for described in RESOURCES:
            if described["kind"] != "Namespace":
                self.assertEqual(described["metadata"]["namespace"], KUSTOMIZATION["namespace"])
        self.assertEqual(JOBTRACK["image"], KUSTOMIZATION["images"][0]["name"])
        self.assertRegex(REDIS["image"], r":\d+\.\d+\.\d+-alpine@sha256:[0-9a-f]{64}$")

    def test_every_pod_is_restricted(self):
        for workload, container in WORKLOADS:
            with self.subTest(workload["kind"]):
                pod = workload["spec"]["template"]["spec"]
                self.assertFalse(pod["automountServiceAccountToken"])
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"])
                self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
                self.assertEqual(container["resources"]["limits"].keys(), {"cpu", "memory"})
                self.assertLess(
                    mebibytes(container["resources"]["requests"]["memory"]),
                    mebibytes(container["resources"]["limits"]["memory"]),
                )

    def test_every_selector_finds_its_pods(self):
        labels = {workload["metadata"]["name"]: workload["spec"]["template"]["metadata"]["labels"] for workload, _ in WORKLOADS}
        for described in RESOURCES:
            spec, name = described.get("spec", {}), described["metadata"]["name"]
            selector = spec.get("podSelector") or spec.get("selector")
            if selector is not None:
                with self.subTest(described["kind"], name=name):
                    self.assertLessEqual(selector.get("matchLabels", selector).items(), labels[name].items())

    def test_every_port_is_open(self):
        open_ports = {port["containerPort"]: port["name"] for port in JOBTRACK["ports"]}
        self.assertEqual(POD["metadata"]["annotations"]["prometheus.io/port"], "8080")
        self.assertEqual(open_ports, {50051: "grpc", 8080: "http"})
        for port in resource("Service", "jobtrack")["spec"]["ports"]:
            self.assertEqual(open_ports[port["port"]], port["targetPort"])
        rules = resource("NetworkPolicy", "jobtrack")["spec"]
        self.assertEqual({port["port"] for rule in rules["ingress"] for port in rule["ports"]}, set(open_ports))
        (redis,) = REDIS["ports"]
        self.assertIn(redis["containerPort"], {port["port"] for rule in rules["egress"] for port in rule["ports"]})

    def test_a_node_can_be_drained_and_calls_can_end(self):
        budget = resource("PodDisruptionBudget", "jobtrack")["spec"]["maxUnavailable"]
        self.assertLess(budget, DEPLOYMENT["spec"]["replicas"])
        pause = JOBTRACK["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.assertGreater(POD["spec"]["terminationGracePeriodSeconds"], pause + DRAIN)

    def test_callers_are_chosen_by_namespace(self):
        everybody = resource("NetworkPolicy", "default-deny")["spec"]
        self.assertEqual(everybody, {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
        for policy in (r["spec"] for r in RESOURCES if r["kind"] == "NetworkPolicy"):
            for rule in policy.get("ingress", []):
                for peer in rule["from"]:
                    namespace = peer.get("namespaceSelector")
                    self.assertTrue(namespace is None or namespace["matchLabels"])

    def test_the_secrets_are_where_they_are_looked_for(self):
        environment = {variable["name"]: variable["value"] for variable in JOBTRACK["env"]}
        files = {}
        for workload, container in WORKLOADS:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            for volume in workload["spec"]["template"]["spec"]["volumes"]:
                for key in SECRETS[volume["secret"]["secretName"]]:
                    files[f"{mounts[volume['name']]}/{key}"] = key
        self.assertIn(environment["JOBTRACK_REDIS_URL_FILE"], files)
        self.assertIn(environment["JOBTRACK_AUTH_TOKENS"], files)
        self.assertIn(REDIS["args"][REDIS["args"].index("--aclfile") + 1], files)
        self.assertIn("JOBTRACK_INSECURE", environment)

    def test_secrets_are_new_each_time(self):
        again = subprocess.run([FOLDER / "secrets.sh"], capture_output=True, text=True, check=True, timeout=PATIENCE)
        self.assertFalse(set(re.findall(r"[0-9a-f]{64}", again.stdout)) & set(re.findall(r"[0-9a-f]{64}", PRINTED.stdout)))
        self.assertNotIn(TOKEN, PRINTED.stdout)
        own = subprocess.run(
            [FOLDER / "secrets.sh"], capture_output=True, text=True, env=os.environ | {"REDIS_URL": "rediss://own:6379"}
        )
        self.assertIn("  url: rediss://own:6379\n", own.stdout)

    def test_its_user_has_the_rights_of_the_guide(self):
        (guide,) = re.findall(r"^ACL SETUSER jobtrack on >PASSWORD (.*)$", (ROOT / "docs/redis.md").read_text(), re.M)
        self.assertTrue(SECRETS["redis-users"]["users.acl"].strip().endswith(guide))

    def test_the_replicas_start_with_its_redis_and_answer_the_probes(self):
        program, *arguments = REDIS["args"]
        self.assertEqual(program, "redis-server")
        memory = arguments[arguments.index("--maxmemory") + 1]
        self.assertLess(mebibytes(memory), mebibytes(REDIS["resources"]["limits"]["memory"]))

        folder = tempfile.TemporaryDirectory(prefix="kubernetes-")
        self.addCleanup(folder.cleanup)
        files = {}
        for name, content in {key: text for data in SECRETS.values() for key, text in data.items()}.items():
            files[name] = Path(folder.name) / name
            files[name].write_text(content)
        arguments[arguments.index("--aclfile") + 1] = str(files["users.acl"])
        redis = Redis(*arguments)
        self.addCleanup(redis.stop)
        url = files["url"].read_text().replace("@redis:6379", f"@127.0.0.1:{redis.port}")
        self.assertNotEqual(url, files["url"].read_text())
        files["url"].write_text(url)

        environment = {variable["name"]: variable["value"] for variable in JOBTRACK["env"]}
        self.assertLessEqual(environment.keys(), set(flags().values()))
        environment |= {"JOBTRACK_REDIS_URL_FILE": str(files["url"]), "JOBTRACK_LISTEN": "127.0.0.1:0"}
        environment |= {"JOBTRACK_AUTH_TOKENS": str(files["identities.json"])}
        server = Server("serve", **environment)
        self.addCleanup(server.stop)
        credentials = [("authorization", f"Bearer {TOKEN}")]
        stats = server.admin.GetStats(admin.GetStatsRequest(), metadata=credentials)
        self.assertEqual(stats.storage_mode, admin.STORAGE_MODE_REDIS)
        self.assertNotIn('"WARN"', server.log())
        with self.assertRaises(grpc.RpcError) as refused:
            server.admin.GetStats(admin.GetStatsRequest())
        self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
        # Who has no password can do no more than the probe.
        command = [*REDIS["readinessProbe"]["exec"]["command"][:1], "-p", str(redis.port)]
        ask = lambda *words: subprocess.run([*command, *words], capture_output=True, text=True).stdout  # noqa: E731
        self.assertEqual(ask("ping"), "PONG\n")
        self.assertIn("NOPERM", ask("get", "jobtrack:epoch"))

        health = health_pb2_grpc.HealthStub(server.channel)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            with self.subTest(probe):
                asked = JOBTRACK[probe]["grpc"]
                self.assertEqual(asked["port"], 50051)
                answer = health.Check(health_pb2.HealthCheckRequest(service=asked.get("service", "")))
                self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_comments_name_variables_that_exist(self):
        known = set(flags().values())
        for path in [*DEPLOY.rglob("*.yaml"), DEPLOY.parent / "Dockerfile"]:
            self.assertLessEqual(set(re.findall(r"JOBTRACK_[A-Z_]+", path.read_text())), known, path.name)
