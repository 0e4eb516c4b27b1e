"""Real clients against a running model server.

Usage: serve_clients.py HOST:PORT MODEL [ONNX_FILE] [BASE_PATH]

Asks the server with curl-like HTTP, tritonclient (HTTP and gRPC, default binary mode and JSON), the kserve client and gRPC
health and reflection, all with random inputs that fit the model's own metadata. With ONNX_FILE every answer is also compared
with Python's onnxruntime. Prints one line per check; exits 1 at the first that fails.
"""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np

ADDRESS, MODEL = sys.argv[1], sys.argv[2]
ONNX = sys.argv[3] if len(sys.argv) > 3 and sys.argv[3] else None
BASE = sys.argv[4].strip("/") if len(sys.argv) > 4 else ""
ROOT = f"http://{ADDRESS}/{BASE}".rstrip("/")
RNG = np.random.default_rng(7)
WORDS = ["good wine", "bad wine", "great grapes", "\u00e9t\u00e9 \u2603", "", "x" * 300]


def say(text):
    print(f"ok  {text}", flush=True)


def call(path, body=None, headers=None, method=None):
    """Status, headers and body of one HTTP call."""
    request = urllib.request.Request(ROOT + path, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def random_array(spec, rows):
    """An array that fits a tensor of the metadata."""
    shape = [rows if axis < 0 and i == 0 else (axis if axis >= 0 else 2) for i, axis in enumerate(spec["shape"])]
    kind = spec["datatype"]
    if kind == "BYTES":
        return RNG.choice(np.array(WORDS, dtype=object), shape).astype(object)
    if kind == "BOOL":
        return RNG.integers(0, 2, shape).astype(bool)
    if kind in ("FP16", "FP32", "FP64"):
        return (RNG.standard_normal(shape) * 3 + 2).astype({"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[kind])
    if kind == "BF16":
        import ml_dtypes

        return RNG.integers(-8, 8, shape).astype(ml_dtypes.bfloat16)
    return RNG.integers(0, 5, shape).astype(getattr(np, kind.lower()))


def expected(arrays):
    """What Python's onnxruntime answers, in the server's form; None without an ONNX file."""
    if ONNX is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ONNX, options, providers=["CPUExecutionProvider"])
    found = {}
    outputs = [output.name for output in session.get_outputs()]
    for name, value in zip(outputs, session.run(None, arrays)):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found[name] = np.array([list(row.values()) for row in value])
            found[f"{name}_labels"] = np.array(list(value[0].keys()))
        else:
            found[name] = np.asarray(value)
    return found


def as_text(array):
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(array).reshape(-1)], dtype=object)


def same(want, name, got, what):
    """Asserts that an answer is the expected one."""
    assert got is not None, f"{what}: output {name} is missing"
    if want is None:
        return
    assert tuple(np.shape(got)) == tuple(want[name].shape), f"{what}: {name} has shape {np.shape(got)}, not {want[name].shape}"
    if want[name].dtype.kind in "OSU":
        assert list(as_text(got)) == list(as_text(want[name])), f"{what}: {name} differs"
    else:
        np.testing.assert_allclose(np.asarray(got, dtype=np.float64), want[name].astype(np.float64), rtol=1e-4, atol=1e-5, err_msg=what)


def check_plain_http(metadata):
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/ready"):
        status, _, body = call(path)
        assert status == 200, f"{path}: {status} {body!r}"
        json.loads(body)
        if not BASE:
            assert call(path, method="HEAD")[0] == 200, f"HEAD {path}"
    say("server, model and health answer over HTTP")
    if BASE:
        return
    document = json.loads(call("/openapi.json")[2])
    assert document["openapi"].startswith("3.1") and f"/v2/models/{MODEL}/infer" in document["paths"]
    stats = json.loads(call(f"/v2/models/{MODEL}/stats")[2])["model_stats"][0]
    assert stats["name"] == MODEL and "success" in stats["inference_stats"]
    assert b"modelyard_model_requests_total" in call("/metrics")[2]
    say("OpenAPI document, statistics and metrics are there")


def check_plain_form(metadata):
    arrays = {spec["name"]: random_array(spec, 3) for spec in metadata["inputs"]}
    want = expected(arrays) if not any(spec["datatype"] == "BF16" for spec in metadata["inputs"]) else None
    body = json.dumps({"inputs": {name: array.tolist() for name, array in arrays.items()}}).encode()
    status, _, answer = call("/predict", body)
    assert status == 200, answer
    outputs = json.loads(answer)["outputs"]
    for spec in metadata["outputs"]:
        got = np.array(outputs[spec["name"]], dtype=object if spec["datatype"] == "BYTES" else None)
        same(want, spec["name"], got, "plain form")
    say("the plain form answers with nested lists")


def check_refusals(metadata):
    path = f"/v2/models/{MODEL}/infer"
    first = metadata["inputs"][0]
    good = {"name": first["name"], "datatype": first["datatype"], "shape": list(random_array(first, 1).shape)}
    wrong = {
        "an empty body": b"",
        "a truncated body": b'{"inputs":[{"name"',
        "no inputs": b"{}",
        "another name": json.dumps({"inputs": [dict(good, name="nobody", data=[1])]}).encode(),
        "another datatype": json.dumps({"inputs": [dict(good, datatype="NOPE", data=[1])]}).encode(),
        "another rank": json.dumps({"inputs": [dict(good, shape=[1] * 9, data=[1])]}).encode(),
        "a negative axis": json.dumps({"inputs": [dict(good, shape=[-1] * len(good["shape"]), data=[1])]}).encode(),
        "an overflowing shape": json.dumps({"inputs": [dict(good, shape=[2**62] * len(good["shape"]), data=[1])]}).encode(),
        "too few elements": json.dumps({"inputs": [dict(good, data=[])]}).encode(),
        "an object as data": json.dumps({"inputs": [dict(good, data={"secret": 1})]}).encode(),
        "binary data without the header": json.dumps({"inputs": [dict(good, parameters={"binary_data_size": 4})]}).encode(),
    }
    for what, body in wrong.items():
        status, headers, answer = call(path, body)
        assert status == 400, f"{what}: {status} {answer!r}"
        error = json.loads(answer)["error"]
        assert error and "secret" not in error, f"{what}: {error}"
    status, _, answer = call(path, b"{}", {"Inference-Header-Content-Length": "999"})
    assert status == 400, f"a wrong header: {status} {answer!r}"
    assert call("/v2/models/nobody/infer", b"{}")[0] == 404
    assert call("/v2/nothing")[0] == 404
    if not BASE:
        assert call(path, method="GET")[0] == 405
        assert call(path, b"{}", {"Content-Encoding": "gzip"})[0] == 415
    say(f"{len(wrong) + 5} wrong requests get 4xx with an `error`")


def check_triton_http(metadata, rows):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"{ADDRESS}/{BASE}".rstrip("/"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    client.get_server_metadata(), client.get_model_metadata(MODEL)
    specs = [spec for spec in metadata["inputs"]]
    arrays = {spec["name"]: random_array(spec, rows) for spec in specs}
    bf16 = any(spec["datatype"] == "BF16" for spec in specs)
    want = None if bf16 else expected(arrays)
    for binary in (True, False):
        if not binary and any(spec["datatype"] in ("FP16", "BF16") for spec in specs):
            continue  # the client has no JSON form of half precision
        inputs = []
        for spec in specs:
            tensor = triton.InferInput(spec["name"], list(arrays[spec["name"]].shape), spec["datatype"])
            tensor.set_data_from_numpy(arrays[spec["name"]], binary_data=binary)
            inputs.append(tensor)
        asked = None if binary else [triton.InferRequestedOutput(s["name"], binary_data=False) for s in metadata["outputs"]]
        answer = client.infer(MODEL, inputs, outputs=asked, request_id="q-1")
        assert answer.get_response()["id"] == "q-1"
        for spec in metadata["outputs"]:
            same(want, spec["name"], answer.as_numpy(spec["name"]), f"tritonclient http, binary={binary}")
        say(f"tritonclient over HTTP, {'binary' if binary else 'JSON'}, {rows} rows")
    try:
        client.infer(MODEL, [triton.InferInput("nobody", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))])
        raise AssertionError("a wrong input was taken")
    except triton.InferenceServerException as error:
        assert "nobody" in str(error), error
    client.close()


def check_triton_grpc(metadata, rows):
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(ADDRESS)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    described = client.get_model_metadata(MODEL)
    assert [i.name for i in described.inputs] == [i["name"] for i in metadata["inputs"]]
    specs = metadata["inputs"]
    arrays = {spec["name"]: random_array(spec, rows) for spec in specs}
    want = None if any(spec["datatype"] == "BF16" for spec in specs) else expected(arrays)
    inputs = []
    for spec in specs:
        tensor = triton.InferInput(spec["name"], list(arrays[spec["name"]].shape), spec["datatype"])
        tensor.set_data_from_numpy(arrays[spec["name"]])
        inputs.append(tensor)
    answer = client.infer(MODEL, inputs, request_id="g-1")
    assert answer.get_response().id == "g-1"
    for spec in metadata["outputs"]:
        same(want, spec["name"], answer.as_numpy(spec["name"]), "tritonclient grpc")
    say(f"tritonclient over gRPC, {rows} rows")
    try:
        client.infer("nobody", inputs)
        raise AssertionError("a wrong model was taken")
    except triton.InferenceServerException as error:
        assert "NOT_FOUND" in str(error.status()), error
    client.close()


def check_typed_grpc(metadata):
    """Typed contents, which tritonclient never sends."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    fields = {"BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
              "FP64": "fp64_contents", "BYTES": "bytes_contents", "FP16": "fp32_contents", "BF16": "fp32_contents"}
    fields |= {name: "int_contents" for name in ("INT8", "INT16", "INT32")}
    fields |= {name: "uint_contents" for name in ("UINT8", "UINT16", "UINT32")}
    arrays = {spec["name"]: random_array(spec, 2) for spec in metadata["inputs"]}
    want = None if any(spec["datatype"] == "BF16" for spec in metadata["inputs"]) else expected(arrays)
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for spec in metadata["inputs"]:
        array = arrays[spec["name"]]
        tensor = request.inputs.add(name=spec["name"], datatype=spec["datatype"], shape=array.shape)
        values = [v.encode() for v in array.reshape(-1)] if spec["datatype"] == "BYTES" else array.reshape(-1).tolist()
        getattr(tensor.contents, fields[spec["datatype"]]).extend(values)
    with grpc.insecure_channel(ADDRESS) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    halves = any(o.datatype in ("FP16", "BF16") for o in answer.outputs)
    assert bool(answer.raw_output_contents) == halves, "typed requests get typed answers, unless an output has no typed form"
    if not halves:
        for output in answer.outputs:
            got = np.array(getattr(output.contents, fields[output.datatype]), dtype=object if output.datatype == "BYTES" else None)
            same(want, output.name, got.reshape(list(output.shape)), "typed gRPC")
    say("gRPC with typed contents")


def check_grpc_health_and_reflection():
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(ADDRESS) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01", "not SERVING"
        say("grpc.health.v1 says SERVING")
        if BASE:
            return
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        assert len(service.methods) == 6
        say("reflection lists the service with its six methods")


def check_kserve(metadata):
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

    arrays = {spec["name"]: random_array(spec, 2) for spec in metadata["inputs"]}
    want = expected(arrays)

    def request():
        inputs = []
        for spec in metadata["inputs"]:
            array = arrays[spec["name"]]
            tensor = InferInput(name=spec["name"], shape=list(array.shape), datatype=spec["datatype"])
            tensor.set_data_from_numpy(array, binary_data=spec["datatype"] in ("FP16",))
            inputs.append(tensor)
        return InferRequest(model_name=MODEL, infer_inputs=inputs, request_id="k-1")

    async def ask():
        rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        assert await rest.is_server_ready(ROOT) and await rest.is_server_live(ROOT)
        assert await rest.is_model_ready(ROOT, MODEL)
        yield "REST", await rest.infer(ROOT, request(), model_name=MODEL)
        grpc = InferenceGRPCClient(ADDRESS, timeout=30)
        assert await grpc.is_server_ready() and await grpc.is_model_ready(MODEL)
        yield "gRPC", await grpc.infer(request())

    async def run():
        async for how, answer in ask():
            outputs = {output.name: output for output in answer.outputs}
            for spec in metadata["outputs"]:
                same(want, spec["name"], outputs[spec["name"]].as_numpy(), f"kserve {how}")
            say(f"kserve client over {how}")

    asyncio.run(run())


def main():
    status, _, body = call(f"/v2/models/{MODEL}")
    assert status == 200, body
    metadata = json.loads(body)
    if os.environ.get("ONLY_KSERVE"):
        check_kserve(metadata)
        return
    check_plain_http(metadata)
    if not BASE:
        check_plain_form(metadata)
    check_refusals(metadata)
    for rows in (1, 17):
        check_triton_http(metadata, rows)
        check_triton_grpc(metadata, rows)
    check_typed_grpc(metadata)
    check_grpc_health_and_reflection()
    if not any(spec["datatype"] == "BF16" for spec in metadata["inputs"]):
        # Both clients bring their own copy of the protocol's messages, which one process cannot hold.
        subprocess.run([sys.executable, __file__, *sys.argv[1:]], check=True, env={**os.environ, "ONLY_KSERVE": "1"})
    print("all checks passed")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
