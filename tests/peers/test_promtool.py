"""Prometheus' own checker finds nothing to say about the metrics of the gateway, the control plane and a model server."""

import os
import shutil
import subprocess
import sys

from support import GATEWAY, expect, get, post, served, to_json, traffic

if shutil.which("promtool") is None:
    sys.exit("FAILED: promtool is not installed (Debian: prometheus)")


def check(what, address):
    """`promtool check metrics` must be silent: it also complains in words about names and units."""
    status, text = get(address, "/metrics")
    expect(status == 200 and b"modelyard_" in text, f"{what}: /metrics answers", text[:200].decode())
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    words = (said.stdout + said.stderr).decode()
    expect(said.returncode == 0 and not words.strip(), f"{what}: promtool is content", words)


post(GATEWAY, "/v2/models/wine/infer", to_json(traffic("wine")[0]))
post(GATEWAY, "/v2/models/no-such-model/infer", {})
check("gateway", GATEWAY)
check("control plane", os.environ["MODELYARD_CONTROL"])
with served("wine/v1") as address:
    post(address, "/v2/models/wine/infer", to_json(traffic("wine")[0]))
    post(address, "/v2/models/wine/infer", {"inputs": []})
    check("model server", address)
