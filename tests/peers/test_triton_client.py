"""Triton's client, HTTP and gRPC, in its default binary mode, against the gateway: metadata, statistics, answers, refusals."""

import numpy
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from support import GATEWAY, SERVICES, Truth, equal, expect, tensors, traffic
from tritonclient.utils import InferenceServerException


def refused(call):
    """The message of the refusal that `call` must end in."""
    try:
        call()
    except InferenceServerException as refusal:
        return str(refusal)
    return ""


def answers(label, client, module, service, **settings):
    """Held-out rows answered like Python, with an id that comes back."""
    truth = Truth(f"{service}/v1")
    for number, row in enumerate(traffic(service)[:20]):
        answer = client.infer(service, tensors(module.InferInput, row, **settings), request_id=f"row-{number}")
        if not equal(truth.answer(row), answer.as_numpy):
            expect(False, f"{label}: {service} row {number}", str(answer.get_response())[:400])
        said = answer.get_response()
        if (said["id"] if isinstance(said, dict) else said.id) != f"row-{number}":
            expect(False, f"{label}: the id of {service} row {number} comes back")
    expect(True, f"{label}: {service} answers like Python")


def refusals(label, client, module):
    """Wrong models, names, types and shapes end in an exception that says what was wrong."""
    row = traffic("wine")[0]["features"]
    wrong = {
        "an unknown model": ("no-such-model", {"features": row}),
        "an unknown input": ("wine", {"flavour": row}),
        "a wrong type": ("wine", {"features": row.astype(numpy.int64)}),
        "a wrong shape": ("wine", {"features": row[:, :5]}),
    }
    for what, (service, feeds) in wrong.items():
        message = refused(lambda: client.infer(service, tensors(module.InferInput, feeds)))
        expect(message, f"{label}: {what} is refused")
        expect(str(row[0][0]) not in message, f"{label}: {what}: the data is not echoed", message)


http = over_http.InferenceServerClient(GATEWAY, concurrency=4)
expect(http.is_server_live() and http.is_server_ready(), "HTTP: server live and ready")
expect(http.get_server_metadata()["name"], "HTTP: server metadata")
for service in SERVICES:
    metadata = http.get_model_metadata(service)
    names = [tensor["name"] for tensor in metadata["inputs"]]
    expect(metadata["name"] == service and names == list(traffic(service)[0]), f"HTTP: metadata of {service}", str(metadata))
    expect(http.is_model_ready(service), f"HTTP: {service} ready")
    answers("HTTP, binary", http, over_http, service)
    answers("HTTP, JSON inputs", http, over_http, service, binary_data=False)
outputs = [over_http.InferRequestedOutput("label", binary_data=False)]
only = http.infer("wine", tensors(over_http.InferInput, traffic("wine")[0]), outputs=outputs)
expect([output["name"] for output in only.get_response()["outputs"]] == ["label"], "HTTP: only what was asked for")
statistics = http.get_inference_statistics("wine")["model_stats"][0]
expect(statistics["name"] == "wine" and statistics["inference_count"] > 0, "HTTP: statistics", str(statistics))
waiting = [http.async_infer("wine", tensors(over_http.InferInput, row)) for row in traffic("wine")[:50]]
expect(all(answer.get_result().as_numpy("label") is not None for answer in waiting), "HTTP: fifty requests at once")
refusals("HTTP", http, over_http)
http.close()

grpc = over_grpc.InferenceServerClient(GATEWAY)
expect(grpc.is_server_live() and grpc.is_server_ready(), "gRPC: server live and ready")
expect(grpc.get_server_metadata().name, "gRPC: server metadata")
for service in SERVICES:
    metadata = grpc.get_model_metadata(service)
    names = [tensor.name for tensor in metadata.inputs]
    expect(metadata.name == service and names == list(traffic(service)[0]), f"gRPC: metadata of {service}", str(metadata))
    expect(grpc.is_model_ready(service), f"gRPC: {service} ready")
    answers("gRPC", grpc, over_grpc, service)
refusals("gRPC", grpc, over_grpc)
grpc.close()
