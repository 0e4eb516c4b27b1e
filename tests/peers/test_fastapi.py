"""The FastAPI example behind the gateway: every held-out wine is answered as onnxruntime answers it; the application's own refusals come through."""

import numpy
from support import GATEWAY, Truth, expect, merged, post, same, to_json, traffic

PREDICT = "/wine-fastapi/v1/predict"


def ask(features):
    """Status and answer; label and probabilities as arrays when there are some."""
    status, answer = post(GATEWAY, PREDICT, {"features": features.tolist()})
    kinds = {"label": numpy.int64, "probabilities": numpy.float32}
    return status, {name: numpy.array(answer[name], dtype=kind) for name, kind in kinds.items() if name in answer} or answer


truth, rows = Truth("fastapi/v1"), traffic("wine")
for number, row in enumerate([*rows, merged(rows)]):
    status, answer = ask(row["features"])
    expected = truth.answer(row)
    right = status == 200 and all(same(expected[name], answer.get(name)) for name in ("label", "probabilities"))
    if not right:
        expect(False, f"fastapi: row {number}", f"status {status}: {str(answer)[:300]}")
expect(True, f"fastapi: {len(rows)} rows one by one and at once, as onnxruntime answers them")
status, answer = post(GATEWAY, "/v2/models/wine/infer", to_json(merged(rows)))
labels = {output["name"]: output["data"] for output in answer["outputs"]}["label"]
agree = (numpy.array(labels) == truth.answer(merged(rows))["label"]).mean()
expect(status == 200 and agree > 0.9, "fastapi: version 2's model mostly agrees with version 1's, behind the native server", agree)
for what, body in {"twelve numbers": [[1.0] * 12], "no wine": [], "texts": [["a"] * 13]}.items():
    status, answer = post(GATEWAY, PREDICT, {"features": body})
    expect(status == 422 and "detail" in answer, f"fastapi: {what} gets the application's own 422", str(answer)[:200])
