"""KServe's Python client, REST and gRPC, against the gateway: health, and the examples' answers."""

import asyncio

from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from support import GATEWAY, SERVICES, Truth, equal, expect, tensors, traffic


def ask(service, row, binary):
    """A request of the client's own making."""
    return InferRequest(model_name=service, infer_inputs=tensors(InferInput, row, binary_data=binary))


def given(answer):
    """Outputs of the client's answer by name."""
    outputs = {output.name: output for output in answer.outputs}
    return lambda name: outputs[name].as_numpy() if name in outputs else None


async def rest():
    """REST, JSON and binary tensors."""
    base = f"http://{GATEWAY}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=30)) as client:
        expect(await client.is_server_live(base) and await client.is_server_ready(base), "REST: server live and ready")
        for service in SERVICES:
            expect(await client.is_model_ready(base, service), f"REST: {service} ready")
            truth = Truth(f"{service}/v1")
            for form, binary in (("JSON", False), ("binary", True)):
                rows = traffic(service)[:20]
                answers = [await client.infer(base, ask(service, row, binary), model_name=service) for row in rows]
                right = all(equal(truth.answer(row), given(answer)) for row, answer in zip(rows, answers))
                expect(right, f"REST, {form}: {service} answers like Python", str(answers[0])[:300])


async def grpc():
    """gRPC, typed contents and raw bytes."""
    client = InferenceGRPCClient(GATEWAY, retries=0, timeout=30)
    expect(await client.is_server_live() and await client.is_server_ready(), "gRPC: server live and ready")
    for service in SERVICES:
        expect(await client.is_model_ready(service), f"gRPC: {service} ready")
        truth = Truth(f"{service}/v1")
        for form, binary in (("typed", False), ("raw", True)):
            rows = traffic(service)[:20]
            answers = [await client.infer(ask(service, row, binary)) for row in rows]
            right = all(equal(truth.answer(row), given(answer)) for row, answer in zip(rows, answers))
            expect(right, f"gRPC, {form}: {service} answers like Python", str(answers[0])[:300])
    await client.close()


asyncio.run(rest())
asyncio.run(grpc())
