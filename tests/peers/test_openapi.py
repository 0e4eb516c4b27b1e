"""Each model's OpenAPI document, from the model server itself and through the gateway: valid, true to the signature, and enough to ask by.

A caller who knows nothing but the document's address resolves its server, builds a request from its schemas, and gets an answer that fits them.
"""

import json
from urllib.parse import urljoin, urlsplit

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from support import GATEWAY, SERVICES, expect, get, post, resolved, served

JSON = "application/json"


def smallest(schema, text="a"):
    """A value that fits a schema of the plain form: lists of one element where their length is free."""
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        return {name: smallest(schema["properties"][name], text) for name in schema["required"]}
    if kind == "array":
        return [smallest(schema["items"], text)] * schema.get("minItems", 1)
    return {"string": text, "boolean": True}.get(kind, 1)


def known_text(document, service):
    """A text of the document's own example: a schema does not say which ones a model was trained on."""
    content = document["paths"][f"/v2/models/{service}/infer"]["post"]["requestBody"]["content"][JSON]
    texts = [tensor["data"][0] for tensor in content["example"]["inputs"] if tensor["datatype"] == "BYTES"]
    return texts[0] if texts else "a"


def protocol_form(schema, plain):
    """The same values as tensors, built from the protocol's schema."""
    tensors = []
    for tensor in schema["properties"]["inputs"]["items"]["oneOf"]:
        name, datatype = (tensor["properties"][key]["const"] for key in ("name", "datatype"))
        shape, flat = [], plain["inputs"][name]
        for _ in range(tensor["properties"]["shape"]["minItems"]):
            shape.append(len(flat))
            flat = flat[0] if len(shape) < tensor["properties"]["shape"]["minItems"] else flat
        data = plain["inputs"][name]
        for _ in shape[1:]:
            data = [one for row in data for one in row]
        tensors.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
    return {"inputs": tensors}


def fits(document, value, schema, what):
    """The value fits the schema."""
    whole = {**schema, "components": document["components"]}
    errors = [error.message for error in Draft202012Validator(whole).iter_errors(value)]
    expect(not errors, what, errors[:3])


def signature_is_told(document, address, base, service, what):
    """Names, datatypes and ranks of the document are those of the metadata."""
    metadata = json.loads(get(address, f"{base}/v2/models/{service}")[1])
    schemas = document["components"]["schemas"]
    for side, schema in (("inputs", "InferenceRequest"), ("outputs", "InferenceResponse")):
        told = [
            (t["properties"]["name"]["const"], t["properties"]["datatype"]["const"], t["properties"]["shape"]["minItems"])
            for t in schemas[schema]["properties"][side]["items"]["oneOf"]
        ]
        expect(told == [(t["name"], t["datatype"], len(t["shape"])) for t in metadata[side]], f"{what}: {side} are the signature's", told)


def asked_by_the_document_alone(address, path, service):
    """Everything that a caller does who was only given the document's URL."""
    what, url = f"{service} at {path}", f"http://{address}{path}"
    status, text = get(address, path)
    expect(status == 200, f"{what}: the document is there", text[:200])
    document = json.loads(text)
    OpenAPIV31SpecValidator(document).validate()
    (server,) = document["servers"]
    base = urlsplit(urljoin(url, server["url"])).path.rstrip("/")
    signature_is_told(document, address, base, service, what)
    plain = None
    for below, item in sorted(document["paths"].items(), key=lambda entry: entry[0] != "/predict"):
        if "get" in item:
            status, body = get(address, base + below)
            expect(status == 200, f"{what}: GET {below}", f"{status} {body[:200]}")
            continue
        content = item["post"]["requestBody"]["content"][JSON]
        schema = resolved(document, content["schema"])
        if below == "/predict":
            request = plain = {"inputs": smallest(schema["properties"]["inputs"], known_text(document, service))}
        else:
            request = protocol_form(schema, plain)
        fits(document, request, schema, f"{what}: a request for {below} fits its schema")
        for request in [request, *([content["example"]] if "example" in content else [])]:
            status, answer = post(address, base + below, request)
            expect(status == 200, f"{what}: POST {below}", str(answer)[:300])
            answer_schema = resolved(document, item["post"]["responses"]["200"]["content"][JSON]["schema"])
            fits(document, answer, answer_schema, f"{what}: the answer of {below} fits its schema")
        status, refusal = post(address, base + below, {"inputs": {"nobody": []}})
        expect(status == 400, f"{what}: a wrong request to {below} gets 400", refusal)
        fits(document, refusal, resolved(document, item["post"]["responses"]["400"]["content"][JSON]["schema"]), f"{what}: and the error fits its schema")


for service in SERVICES:
    asked_by_the_document_alone(GATEWAY, f"/{service}/v1/openapi.json", service)
    asked_by_the_document_alone(GATEWAY, f"/{service}/r1/openapi.json", service)
    with served(f"{service}/v1") as address:
        asked_by_the_document_alone(address, "/openapi.json", service)
