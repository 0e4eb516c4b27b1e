"""gRPC reflection and health, as grpcurl uses them: list the services, describe one, call it with nothing but what was described."""

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support import GATEWAY, expect, served, to_json, traffic

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"


def call(channel, pool, service, method, request):
    """Calls a method that only reflection told of; JSON in, JSON out."""
    described = pool.FindServiceByName(service).FindMethodByName(method)
    message = json_format.ParseDict(request, GetMessageClass(described.input_type)())
    answer = GetMessageClass(described.output_type)
    unary = channel.unary_unary(
        f"/{service}/{method}", request_serializer=type(message).SerializeToString, response_deserializer=answer.FromString
    )
    return json_format.MessageToDict(unary(message, timeout=30), preserving_proto_field_name=True)


def wine(row):
    """The request as the protocol's messages write it."""
    tensors = []
    for tensor in to_json(row)["inputs"]:
        data = tensor.pop("data")
        tensors.append(tensor | {"contents": {"fp32_contents": data}})
    return {"model_name": "wine", "inputs": tensors}


with served("wine/v2") as address, grpc.insecure_channel(address) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    expect({INFERENCE, HEALTH} <= services, "reflection lists the services", str(services))
    pool = DescriptorPool(database)
    methods = {method.name for method in pool.FindServiceByName(INFERENCE).methods}
    wanted = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
    expect(wanted <= methods, "reflection describes the inference service", str(methods))
    expect(call(channel, pool, HEALTH, "Check", {}) == {"status": "SERVING"}, "the health service says SERVING")
    expect(call(channel, pool, INFERENCE, "ServerLive", {}) == {"live": True}, "ServerLive")
    said = call(channel, pool, INFERENCE, "ModelMetadata", {"name": "wine"})
    expect([tensor["name"] for tensor in said["inputs"]] == ["features"], "ModelMetadata", str(said))
    row = traffic("wine")[0]
    said = call(channel, pool, INFERENCE, "ModelInfer", wine(row))
    expect(said["model_name"] == "wine" and len(said["outputs"]) == 2, "ModelInfer by reflection alone", str(said))
    with grpc.insecure_channel(GATEWAY) as gateway:
        expect(call(gateway, pool, HEALTH, "Check", {}) == {"status": "SERVING"}, "the gateway's health says SERVING")
        said = call(gateway, pool, INFERENCE, "ModelInfer", wine(row))
        expect(said["model_name"] == "wine" and len(said["outputs"]) == 2, "ModelInfer through the gateway", str(said))
