"""Which arm a session has, asked by OpenFeature's own SDK while a test and a canary run: the gateway must answer it from that very arm.

Nobody is told one thing and given another, and nobody changes arm while a share grows.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from support import EXAMPLES, GATEWAY, expect, modelyard

CONTROL = os.environ["MODELYARD_CONTROL"]
NAME = "split-alarm"
SERVICE = f"http://{CONTROL}/api/services/{NAME}"
PACKAGE = EXAMPLES.parent / "tests" / "fixtures" / "threshold"
SESSIONS = [f"visitor-{number}" for number in range(200)]
READINGS = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.6] * 4}]}).encode()

RULES = f"""
name = "{NAME}"
package = {json.dumps(str(PACKAGE))}

[analysis]
min-requests = 10
window = "2s"

[routing.affinity]
by = "header"
name = "x-user"
"""
AB = """
[strategy]
kind = "ab"
unit = "session"
metric = "accuracy"
effect = 0.15
longest = "10m"

[[metrics]]
name = "accuracy"
kind = "accuracy"
from = "feedback"
value = "/outputs/0/data/0"
"""
CANARY = """
[strategy]
kind = "canary"
steps = ["5%", "20%", "60%", "100%"]
manual = true
bake = "200ms"
"""


def weights():
    """The split that the gateway applies."""
    return json.loads(modelyard("status", NAME, "--output", "json"))["weights"]


def until_shared(candidate, share):
    """Waits until the candidate has this share, in basis points."""
    deadline = time.monotonic() + 60
    while (seen := weights()).get(candidate, 0) != share:
        if time.monotonic() > deadline:
            sys.exit(f"FAILED: revision {candidate} has not got {share} within 60 s, but {seen}")
        time.sleep(0.02)


def answered(session):
    """Revision and label of the gateway's answer to a session."""
    request = urllib.request.Request(
        f"http://{GATEWAY}/v2/models/{NAME}/infer", READINGS, {"Content-Type": "application/json", "x-user": session}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = {output["name"]: output["data"][0] for output in json.loads(answer.read())["outputs"]}
        return int(answer.headers["modelyard-revision"]), outputs["label"]


def arms(client, stable, candidate, label):
    """The arm of every session as the SDK is told it; ends the script unless the gateway answers each from there, with that arm's `label`."""
    told = {}
    for session in SESSIONS:
        context = EvaluationContext(session)
        arm = client.get_string_details("modelyard.arm", "none", context)
        revision = client.get_integer_value("modelyard.revision", 0, context)
        answer = answered(session)
        expected = {"stable": stable, "candidate": candidate}.get(arm.value)
        if answer != (expected, label[arm.value]) or revision != expected or str(arm.reason) != "SPLIT":
            sys.exit(f"FAILED: {session} is told {arm}, revision {revision}, and the gateway gives (revision, label) {answer}")
        told[session] = arm.value
    return told


def deploy(folder, strategy, *arguments):
    """Deploys by these rules."""
    path = Path(folder) / "service.toml"
    path.write_text(RULES + strategy, encoding="utf-8")
    modelyard("deploy", path, *arguments)


def main():
    with tempfile.TemporaryDirectory() as folder:
        deploy(folder, AB, "--wait")
        api.set_provider_and_wait(OFREPProvider(SERVICE), NAME)
        client = api.get_client(NAME)

        # 0.6 is an alarm above 0.5, and none above 0.7: the answer itself says which arm gave it.
        deploy(folder, AB, "--flag", "threshold=0.7")
        until_shared("2", 5_000)
        told = arms(client, 1, 2, {"stable": 1, "candidate": 0})
        share = sum(arm == "candidate" for arm in told.values())
        expect(65 <= share <= 135, "200 sessions of a test are answered by the arm that the SDK is told, half each", share)
        expect(arms(client, 1, 2, {"stable": 1, "candidate": 0}) == told, "and again by the same")
        modelyard("abort", NAME)
        until_shared("1", 10_000)

        deploy(folder, CANARY, "--flag", "threshold=0.7")
        before = None
        for step, share in enumerate([500, 2_000, 6_000]):
            if step:
                modelyard("promote", NAME)
            until_shared("3", share)
            now = arms(client, 1, 3, {"stable": 1, "candidate": 0})
            if before:
                left = [session for session in SESSIONS if before[session] == "candidate" != now[session]]
                expect(not left, f"at {share / 100:.0f} % everybody who had the candidate keeps it", left)
            before = now
        count = sum(arm == "candidate" for arm in before.values())
        expect(85 <= count <= 155, "200 sessions of a canary are answered by the arm that the SDK is told, at each share", count)
        modelyard("abort", NAME)
        until_shared("1", 10_000)
        api.shutdown()


main()
