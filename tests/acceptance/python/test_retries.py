"""The rules by which calls are repeated: those of deploy/client/service-config.json, and where they differ from it."""

import asyncio
import collections
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import TestCase

import grpc

import jobtrack
import jobtrack.aio
from jobtrack import _channel as channel
from jobtrack import _retry as retry

CONFIG = json.loads(Path(__file__).resolve().parents[3].joinpath("deploy/client/service-config.json").read_text())
POLICIES = {
    name["method"]: rules
    for rules in CONFIG["methodConfig"]
    for name in rules["name"]
    if name["service"] == "jobtrack.v1.JobService"
}
REPEATED = {method for method, rules in POLICIES.items() if "retryPolicy" in rules}
(POLICY,) = (rules["retryPolicy"] for rules in CONFIG["methodConfig"] if "retryPolicy" in rules)

# The file is for clients that may call them without a request id. This one always sends it.
WITH_REQUEST_ID = {"CreateJob", "StartAttempt"}


def seconds(duration):
    """The seconds of a duration in JSON."""
    return float(duration.removesuffix("s"))


def pauses(method="GetJob", code="UNAVAILABLE"):
    """The pauses before each repetition of a call that always fails."""
    tried, found = retry.Retry(method, 1000, retry.Budget()), []
    try:
        while True:
            found.append(tried.pause_after(jobtrack.Error(code)))
    except jobtrack.Error:
        return found


class Rules(TestCase):
    def test_the_same_methods_are_repeated(self):
        self.assertEqual(retry.REPEATED - WITH_REQUEST_ID, REPEATED)
        self.assertLessEqual(WITH_REQUEST_ID, retry.REPEATED)
        for method in POLICIES:
            with self.subTest(method):
                times = POLICY["maxAttempts"] - 1 if method in REPEATED | WITH_REQUEST_ID else 0
                self.assertEqual(len(pauses(method)), times)

    def test_after_the_same_codes(self):
        repeated = [code.name for code in grpc.StatusCode if pauses(code=code.name)]
        self.assertEqual(repeated, POLICY["retryableStatusCodes"])

    def test_with_the_same_pauses(self):
        longest, factor = seconds(POLICY["maxBackoff"]), POLICY["backoffMultiplier"]
        nominal = seconds(POLICY["initialBackoff"])
        # A call ends before its pauses reach the maximum.
        later = retry.Pause(nominal)
        for found in (pauses(), [later.next() for _ in range(10)]):
            expected = nominal
            for pause in found:
                self.assertLessEqual(expected / 2, pause)
                self.assertLessEqual(pause, expected)
                expected = min(expected * factor, longest)
        self.assertEqual(expected, longest)

    def test_with_the_same_budget(self):
        throttling = CONFIG["retryThrottling"]
        self.assertEqual((retry.TOKENS_MAX, retry.TOKEN_RATIO), (throttling["maxTokens"], throttling["tokenRatio"]))
        budget = retry.Budget()
        failures = 1
        while budget.take():
            failures += 1
        # gRPC repeats nothing while half of the tokens or more are missing.
        self.assertEqual(failures, throttling["maxTokens"] / 2)
        # One token and a half.
        for _ in range(round(1.5 / throttling["tokenRatio"])):
            budget.give()
        self.assertTrue(budget.take())
        self.assertFalse(budget.take())

    def test_within_the_same_time(self):
        for method, rules in POLICIES.items():
            with self.subTest(method):
                # Streams have no time limit.
                is_stream = method.startswith("Watch")
                self.assertEqual(rules.get("timeout"), None if is_stream else f"{channel.CALL_TIMEOUT:g}s")

    def test_the_channel_has_the_same_rules(self):
        for name in ("loadBalancingConfig", "healthCheckConfig"):
            self.assertEqual(channel.SERVICE_CONFIG[name], CONFIG[name])
        (rules,) = channel.SERVICE_CONFIG["methodConfig"]
        self.assertEqual({config["waitForReady"] for config in CONFIG["methodConfig"]}, {rules["waitForReady"]})
        self.assertEqual(rules["name"], [{"service": "jobtrack.v1.JobService"}])
        # Channel and client together would send a call 25 times.
        self.assertNotIn("retryPolicy", rules)


class Unavailable(grpc.GenericRpcHandler):
    """Answers each call with an error, and counts the calls of each method."""

    def __init__(self):
        self.calls = collections.Counter()

    def service(self, details):
        service, method = details.method.removeprefix("/").split("/")
        if service != "jobtrack.v1.JobService":
            return None

        def answer(request, context):
            self.calls[method] += 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")

        return grpc.unary_unary_rpc_method_handler(answer)


class Calls(TestCase):
    def setUp(self):
        self.service = Unavailable()
        server = grpc.server(ThreadPoolExecutor(4), handlers=[self.service])
        self.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())

    def counted(self):
        expected = {"GetJob": POLICY["maxAttempts"], "CreateJob": POLICY["maxAttempts"], "DeleteJob": 1}
        self.assertEqual(dict(self.service.calls), expected)

    def test_a_call_is_sent_as_often_as_that(self):
        with jobtrack.Tracker(self.url) as tracker:
            for call in (lambda: tracker.get("a"), lambda: tracker.create("k"), lambda: tracker.delete("a")):
                with self.assertRaises(jobtrack.Error) as caught:
                    call()
                self.assertEqual((caught.exception.code, caught.exception.message), ("UNAVAILABLE", "away"))
        self.counted()

    def test_likewise_over_asyncio(self):
        async def main():
            async with jobtrack.aio.Tracker(self.url) as tracker:
                for call in (tracker.get("a"), tracker.create("k"), tracker.delete("a")):
                    with self.assertRaises(jobtrack.Error) as caught:
                        await call
                    self.assertEqual(caught.exception.code, "UNAVAILABLE")

        asyncio.run(main())
        self.counted()
