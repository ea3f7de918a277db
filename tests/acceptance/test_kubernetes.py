"""deploy/kubernetes: valid, hardened, consistent, and what it says is understood by the real servers."""

import re
import unittest

import kubernetes_validate
from deployment import DEPLOY, DRAIN, document, documents, flags, mebibytes, started
from grpc_health.v1 import health_pb2, health_pb2_grpc

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = document("kubernetes/kustomization.yaml")
RESOURCES = [resource for name in KUSTOMIZATION["resources"] for resource in documents(f"kubernetes/{name}")]
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
        self.assertRegex(REDIS["image"], r":\d+\.\d+\.\d+")

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

    def test_the_secret_is_where_it_is_looked_for(self):
        environment = {variable["name"]: variable["value"] for variable in JOBTRACK["env"]}
        (mount,) = JOBTRACK["volumeMounts"]
        (volume,) = POD["spec"]["volumes"]
        self.assertEqual(mount["name"], volume["name"])
        secret = resource("Secret", volume["secret"]["secretName"])
        (key,) = secret["stringData"]
        self.assertEqual(environment["JOBTRACK_REDIS_URL_FILE"], f"{mount['mountPath']}/{key}")
        self.assertEqual(secret["stringData"][key], f"redis://{resource('Service', 'redis')['metadata']['name']}:6379")

    def test_the_replicas_start_with_its_redis_and_answer_the_probes(self):
        program, *arguments = REDIS["args"]
        self.assertEqual(program, "redis-server")
        memory = arguments[arguments.index("--maxmemory") + 1]
        self.assertLess(mebibytes(memory), mebibytes(REDIS["resources"]["limits"]["memory"]))

        environment = {variable["name"]: variable["value"] for variable in JOBTRACK["env"]}
        del environment["JOBTRACK_REDIS_URL_FILE"]
        self.assertLessEqual(environment.keys(), set(flags().values()))
        server = started(self, arguments, environment)

        health = health_pb2_grpc.HealthStub(server.channel)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            with self.subTest(probe):
                asked = JOBTRACK[probe]["grpc"]
                self.assertEqual(asked["port"], 50051)
                answer = health.Check(health_pb2.HealthCheckRequest(service=asked.get("service", "")))
                self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)

    def test_comments_name_variables_that_exist(self):
        known = set(flags().values()) | {"JOBTRACK_REDIS_URL_FILE"}
        for path in [*DEPLOY.rglob("*.yaml"), DEPLOY.parent / "Dockerfile"]:
            self.assertLessEqual(set(re.findall(r"JOBTRACK_[A-Z_]+", path.read_text())), known, path.name)
