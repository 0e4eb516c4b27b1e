"""Two API versions of one service in one OpenAPI document: valid, and enough to ask each of them by.

The second one is a model of another signature; callers of the first are told by the headers of RFC 9745, RFC 8594 and RFC 5829.
"""

import email.utils
import json
import os
import urllib.request
from urllib.parse import urljoin

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from support import EXAMPLES, GATEWAY, expect, modelyard, resolved

CONTROL = os.environ["MODELYARD_CONTROL"]
URL = f"http://{GATEWAY}/wine/openapi.json"


def deploy():
    """Deploys a model of another signature as version 2 of `wine`."""
    words = ["deploy", EXAMPLES / "iris" / "v1", "--service", "wine-v2", "--wait", "--timeout", "3m"]
    words += ["--set", "api.of=wine", "--set", "api.version=2", "--set", "api.sunset=2099-03-01"]
    modelyard(*words)


def main():
    deploy()
    with urllib.request.urlopen(URL, timeout=30) as answer:
        document = json.loads(answer.read())
    OpenAPIV31SpecValidator(document).validate()
    expect(True, "the document of both versions is valid")
    (server,) = document["servers"]
    for version, example, deprecated in [(1, "wine/v1", True), (2, "iris/v1", False)]:
        below = f"/v{version}/predict"
        operation = document["paths"][below]["post"]
        expect(operation.get("deprecated", False) is deprecated, f"v{version} says whether it is deprecated")
        sample = json.loads((EXAMPLES / example / "samples.json").read_text(encoding="utf-8"))[0]["request"]
        asked = {"inputs": {tensor["name"]: [tensor["data"]] for tensor in sample["inputs"]}}
        schema = resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
        whole = {**schema, "components": document["components"]}
        expect(not list(Draft202012Validator(whole).iter_errors(asked)), f"a request of v{version} fits its own schema")
        url = urljoin(URL, server["url"]).rstrip("/") + below
        request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            body, headers = json.loads(answer.read()), answer.headers
        schema = resolved(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
        whole = {**schema, "components": document["components"]}
        expect(not list(Draft202012Validator(whole).iter_errors(body)), f"and so does its answer, from {url}")
        told = [headers["Deprecation"], headers["Sunset"], headers["Link"]]
        if not deprecated:
            expect(told == [None, None, None], "callers of the newest are told nothing", told)
            continue
        since, sunset = int(told[0].removeprefix("@")), email.utils.parsedate_to_datetime(told[1])
        expect(since < sunset.timestamp() and sunset.year == 2099, "callers of the old one are told since and until when", told)
        expect(told[2] == '</wine/v2>; rel="successor-version"', "and where to go", told)
    removal = urllib.request.Request(f"http://{CONTROL}/api/services/wine-v2", method="DELETE")
    urllib.request.urlopen(removal, timeout=30).close()


main()
