"""Real clients against one model, whatever it takes: with random inputs that fit the model's own metadata.

Usage: serve_clients.py HOST:PORT MODEL ONNX_FILE [BASE_PATH]

Asks with plain HTTP, tritonclient (HTTP and gRPC, binary and JSON), typed gRPC contents, the kserve client, and gRPC health and reflection.
Every answer is compared with Python's onnxruntime, which cannot be given BF16: the one model with such inputs is an identity. With BASE_PATH the
HTTP clients reach the model below a path, as behind the gateway. Prints one line per check; exits 1 at the first that fails.
"""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import numpy
import support
from support import ARRAYS, Truth, arrays, expect, get, post, tensors

ADDRESS, MODEL, ONNX = sys.argv[1:4]
BASE = f"/{sys.argv[4].strip('/')}" if len(sys.argv) > 4 else ""
INFER = f"{BASE}/v2/models/{MODEL}/infer"
RANDOM = numpy.random.default_rng(7)
WORDS = ["good wine", "bad wine", "great grapes", "\u00e9t\u00e9 \u2603", "", "x" * 300]


def random_array(spec, rows):
    """An array that fits a tensor of the metadata: `rows` along a free first axis, 2 along other free ones."""
    shape = [axis if axis >= 0 else rows if at == 0 else 2 for at, axis in enumerate(spec["shape"])]
    kind = spec["datatype"]
    if kind == "BYTES":
        return RANDOM.choice(numpy.array(WORDS, dtype=object), shape).astype(object)
    if kind == "BOOL":
        return RANDOM.integers(0, 2, shape).astype(bool)
    if kind in ("FP16", "FP32", "FP64"):
        return (RANDOM.standard_normal(shape) * 3 + 2).astype(ARRAYS[kind])
    return RANDOM.integers(-8 if kind == "BF16" else 0, 8, shape).astype(ARRAYS[kind])


class Asked:
    """Inputs, and what a model must answer to them."""

    def __init__(self, metadata, rows):
        self.inputs = {spec["name"]: random_array(spec, rows) for spec in metadata["inputs"]}
        self.kinds = {spec["datatype"] for spec in metadata["inputs"]}
        if "BF16" in self.kinds:
            self.expected = {name.replace("in_", "out_"): array for name, array in self.inputs.items()}
        else:
            self.expected = Truth(ONNX).answer(self.inputs)
        names = [spec["name"] for spec in metadata["outputs"]]
        expect(names == list(self.expected) or set(names) == set(self.expected), "the metadata names every output", names)

    def check(self, given, what):
        """Every output is the expected one; `given` gives it by name."""
        for name, array in self.expected.items():
            if not support.same(array, given(name)):
                expect(False, f"{what}: {name}", f"expected {array!r}, got {given(name)!r}")
        support.ok(what)


def check_plain_http():
    """Health, metadata, description, statistics and metrics."""
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/ready"):
        status, body = get(ADDRESS, BASE + path)
        head = urllib.request.Request(f"http://{ADDRESS}{BASE}{path}", method="HEAD")
        with urllib.request.urlopen(head, timeout=30) as answer:
            good = answer.status == 200 and answer.read() == b""
        expect(status == 200 and isinstance(json.loads(body), dict) and good, f"GET and HEAD {path}", body)
    document = json.loads(get(ADDRESS, f"{BASE}/openapi.json")[1])
    expect(document["openapi"].startswith("3.1") and f"/v2/models/{MODEL}/infer" in document["paths"], "the OpenAPI document is there")
    statistics = json.loads(get(ADDRESS, f"{BASE}/v2/models/{MODEL}/stats")[1])["model_stats"][0]
    expect(statistics["name"] == MODEL and "success" in statistics["inference_stats"], "statistics")
    expect(b"modelyard_model_requests_total" in get(ADDRESS, f"{BASE}/metrics")[1], "metrics")


def check_json(metadata):
    """The protocol's JSON, and nested lists, for every datatype: half precision included, which clients send as bytes only."""
    asked = Asked(metadata, 3)
    lists = {name: array.astype(float).tolist() if array.dtype.kind in "fV" else array.tolist() for name, array in asked.inputs.items()}
    body = {"inputs": [{"name": spec["name"], "datatype": spec["datatype"], "shape": list(asked.inputs[spec["name"]].shape), "data": lists[spec["name"]]} for spec in metadata["inputs"]]}
    status, answer = post(ADDRESS, INFER, body)
    expect(status == 200, "JSON", str(answer)[:300])
    asked.check(arrays(answer).get, "JSON")
    status, answer = post(ADDRESS, f"{BASE}/predict", {"inputs": lists})
    expect(status == 200, "the plain form", str(answer)[:300])
    outputs = {spec["name"]: numpy.array(answer["outputs"][spec["name"]], dtype=ARRAYS[spec["datatype"]]) for spec in metadata["outputs"]}
    asked.check(outputs.get, "the plain form answers with nested lists")


def status_of(path, body, headers=None, method="POST"):
    """The status of a request that is refused."""
    request = urllib.request.Request(f"http://{ADDRESS}{path}", body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code


def check_refusals(metadata):
    """Wrong requests get 4xx with an `error` that holds nothing of their data."""
    first = metadata["inputs"][0]
    good = {"name": first["name"], "datatype": first["datatype"], "shape": list(random_array(first, 1).shape)}
    rank = len(good["shape"])
    wrong = {
        "an empty body": b"",
        "a truncated body": b'{"inputs":[{"name"',
        "no inputs": {},
        "another name": {"inputs": [dict(good, name="nobody", data=[1])]},
        "another datatype": {"inputs": [dict(good, datatype="NOPE", data=[1])]},
        "another rank": {"inputs": [dict(good, shape=[1] * 9, data=[1])]},
        "a negative axis": {"inputs": [dict(good, shape=[-1] * rank, data=[1])]},
        "an overflowing shape": {"inputs": [dict(good, shape=[2**62] * rank, data=[1])]},
        "too few elements": {"inputs": [dict(good, data=[])]},
        "an object as data": {"inputs": [dict(good, data={"secret": 1})]},
        "binary data without the header": {"inputs": [dict(good, parameters={"binary_data_size": 4})]},
    }
    for what, body in wrong.items():
        status, answer = post(ADDRESS, INFER, body)
        expect(status == 400 and answer["error"] and "secret" not in answer["error"], f"{what} gets 400", f"{status} {answer}")
    expect(status_of(INFER, b"{}", {"Inference-Header-Content-Length": "999"}) == 400, "a wrong header gets 400")
    expect(status_of(f"{BASE}/v2/models/nobody/infer", b"{}") == 404, "another model gets 404")
    expect(status_of(f"{BASE}/v2/nothing", b"{}") == 404, "another path gets 404")
    expect(status_of(INFER, None, method="GET") == 405, "another method gets 405")
    expect(status_of(INFER, b"{}", {"Content-Encoding": "gzip"}) == 415, "a compressed body gets 415")


def check_triton_http(metadata, rows):
    """tritonclient over HTTP, in its default binary mode and in JSON."""
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"{ADDRESS}{BASE}")
    expect(client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL), "tritonclient http: live and ready")
    expect(client.get_model_metadata(MODEL)["inputs"] == metadata["inputs"], "tritonclient http: metadata")
    asked = Asked(metadata, rows)
    for binary in (True, False):
        if not binary and asked.kinds & {"FP16", "BF16"}:
            continue  # the client has no JSON form of half precision
        outputs = None if binary else [triton.InferRequestedOutput(spec["name"], binary_data=False) for spec in metadata["outputs"]]
        answer = client.infer(MODEL, tensors(triton.InferInput, asked.inputs, binary_data=binary), outputs=outputs, request_id="q-1")
        expect(answer.get_response()["id"] == "q-1", "tritonclient http: the id comes back")
        asked.check(answer.as_numpy, f"tritonclient http, {'binary' if binary else 'JSON'}, {rows} rows")
    try:
        client.infer(MODEL, tensors(triton.InferInput, {"nobody": numpy.zeros(1, numpy.float32)}))
        expect(False, "tritonclient http: a wrong input is refused")
    except triton.InferenceServerException as error:
        expect("nobody" in str(error), "tritonclient http: a wrong input is refused", error)
    client.close()


def check_triton_grpc(metadata, rows):
    """tritonclient over gRPC, raw bytes."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(ADDRESS)
    expect(client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL), "tritonclient grpc: live and ready")
    described = [(i.name, i.datatype, list(i.shape)) for i in client.get_model_metadata(MODEL).inputs]
    wanted = [(i["name"], i["datatype"], i["shape"]) for i in metadata["inputs"]]
    expect(described == wanted, "tritonclient grpc: metadata", described)
    asked = Asked(metadata, rows)
    answer = client.infer(MODEL, tensors(triton.InferInput, asked.inputs), request_id="g-1")
    expect(answer.get_response().id == "g-1", "tritonclient grpc: the id comes back")
    asked.check(answer.as_numpy, f"tritonclient grpc, {rows} rows")
    try:
        client.infer("nobody", tensors(triton.InferInput, asked.inputs))
        expect(False, "tritonclient grpc: another model is refused")
    except triton.InferenceServerException as error:
        expect("NOT_FOUND" in str(error.status()), "tritonclient grpc: another model is refused", error)
    client.close()


def check_typed_grpc(metadata):
    """Typed contents, which tritonclient never sends."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    fields = {"BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
              "FP64": "fp64_contents", "BYTES": "bytes_contents", "FP16": "fp32_contents", "BF16": "fp32_contents"}
    fields |= {name: "int_contents" for name in ("INT8", "INT16", "INT32")} | {name: "uint_contents" for name in ("UINT8", "UINT16", "UINT32")}
    asked = Asked(metadata, 2)
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for spec in metadata["inputs"]:
        array = asked.inputs[spec["name"]]
        tensor = request.inputs.add(name=spec["name"], datatype=spec["datatype"], shape=array.shape)
        flat = array.ravel()
        values = [text.encode() for text in flat] if spec["datatype"] == "BYTES" else flat.tolist()
        getattr(tensor.contents, fields[spec["datatype"]]).extend(values)
    with grpc.insecure_channel(ADDRESS) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    halves = any(output.datatype in ("FP16", "BF16") for output in answer.outputs)
    expect(bool(answer.raw_output_contents) == halves, "typed requests get typed answers, unless an output has no typed form")
    given = {}
    for index, output in enumerate(answer.outputs):
        kind = ARRAYS[output.datatype]
        if not halves:
            given[output.name] = numpy.array(getattr(output.contents, fields[output.datatype]), dtype=kind)
        elif output.datatype != "BYTES":
            given[output.name] = numpy.frombuffer(answer.raw_output_contents[index], dtype=kind)
        else:
            given[output.name] = from_raw(answer.raw_output_contents[index])
        given[output.name] = given[output.name].reshape(list(output.shape))
    asked.check(given.get, "gRPC with typed contents")


def from_raw(raw):
    """Texts of raw bytes: each behind its length in four bytes, little-endian."""
    texts, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : end])
        at = end
    return numpy.array(texts, dtype=object)


def check_grpc_health_and_reflection():
    """What Kubernetes and grpcurl ask. Reflection names no model, so behind a gateway with several services it is asked elsewhere."""
    import grpc
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(ADDRESS) as channel:
        expect(channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01", "grpc.health.v1 says SERVING")
        if BASE:
            return
        database = ProtoReflectionDescriptorDatabase(channel)
        expect({"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services()), "reflection lists the services")
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        expect(len(service.methods) == 6, "reflection describes six methods")


def check_kserve(metadata):
    """The kserve client over REST and gRPC. It does not know BF16. Half precision it sends as bytes; over gRPC that goes for all inputs or none."""
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

    asked, root = Asked(metadata, 2), f"http://{ADDRESS}{BASE}"

    def request(raw):
        made = [tensors(InferInput, {name: array}, binary_data=raw or array.dtype.name == "float16")[0] for name, array in asked.inputs.items()]
        return InferRequest(model_name=MODEL, infer_inputs=made, request_id="k-1")

    def check(answer, what):
        outputs = {output.name: output for output in answer.outputs}
        asked.check(lambda name: outputs[name].as_numpy(), f"kserve over {what}")

    async def run():
        async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)) as rest:
            ready = await rest.is_server_ready(root) and await rest.is_server_live(root) and await rest.is_model_ready(root, MODEL)
            expect(ready, "kserve over REST: live and ready")
            check(await rest.infer(root, request(raw=False), model_name=MODEL), "REST")
        grpc = InferenceGRPCClient(ADDRESS, timeout=30)
        expect(await grpc.is_server_ready() and await grpc.is_model_ready(MODEL), "kserve over gRPC: ready")
        check(await grpc.infer(request(raw="FP16" in asked.kinds)), "gRPC")
        await grpc.close()

    asyncio.run(run())


def main():
    status, body = get(ADDRESS, f"{BASE}/v2/models/{MODEL}")
    expect(status == 200, "metadata", body)
    metadata = json.loads(body)
    if os.environ.get("ONLY_KSERVE"):
        check_kserve(metadata)
        return
    check_plain_http()
    check_json(metadata)
    check_refusals(metadata)
    for rows in (1, 17):
        check_triton_http(metadata, rows)
        check_triton_grpc(metadata, rows)
    check_typed_grpc(metadata)
    check_grpc_health_and_reflection()
    if not any(spec["datatype"] == "BF16" for spec in metadata["inputs"]):
        # Both clients bring their own copy of the protocol's messages, which one process cannot hold.
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:]], check=False, env={**os.environ, "ONLY_KSERVE": "1"})
        sys.exit(done.returncode)


main()
