"""Answers equal Python's onnxruntime: every held-out row of every example, one by one and all at once, served alone and by the gateway."""

import numpy
import support
from support import EXAMPLES, GATEWAY, SERVICES, Truth, arrays, equal, expect, get, merged, post, served, to_json, traffic


def compare(address, service, folder, rows):
    """Each row in a request of its own, then all rows in one request."""
    truth, path = Truth(folder), f"/v2/models/{service}/infer"
    for number, row in enumerate(rows):
        status, answer = post(address, path, to_json(row))
        if status != 200 or not equal(truth.answer(row), arrays(answer).get):
            expect(False, f"{folder}: row {number}", f"status {status}: {str(answer)[:300]}")
    status, answer = post(address, path, to_json(merged(rows)))
    expect(status == 200 and equal(truth.answer(merged(rows)), arrays(answer).get), f"{folder}: {len(rows)} rows at once")


def plain_form(address, service, folder, row):
    """POST /predict with nested lists gives the same numbers."""
    status, answer = post(address, "/predict", {"inputs": {name: array.tolist() for name, array in row.items()}})
    expected = Truth(folder).answer(row)
    outputs = answer.get("outputs", {}) if isinstance(answer, dict) else {}
    given = {name: numpy.array(outputs[name], dtype=value.dtype) for name, value in expected.items() if name in outputs}
    expect(status == 200 and equal(expected, given.get), f"{folder}: the plain form", str(answer)[:300])


for service in SERVICES:
    compare(GATEWAY, service, f"{service}/v1", traffic(service))
    support.ok(f"{service} through the gateway: {len(traffic(service))} rows one by one")
    folders = [path.parent for path in sorted((EXAMPLES / service).glob("*/model.onnx"))]
    for folder in (f"{service}/{path.name}" for path in folders):
        with served(folder) as address:
            # The version whose model is wrong answers as that model does, and is not live.
            live = get(address, "/v2/health/live")[0]
            expect(live == (503 if folder.endswith("v3-wrong") else 200), f"{folder}: live as its samples have it", live)
            rows = traffic(service)[:20] if folder.endswith("v3-slow") else traffic(service)
            compare(address, service, folder, rows)
            plain_form(address, service, folder, rows[0])
