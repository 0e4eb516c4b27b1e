"""Flags, asked by OpenFeature's own SDK: over OFREP, and by flagd's provider from the definition that we hand out.

Both must give the same value, variant and reason for everybody; fractions, rules and targeting keys included. The provider's core is of
before 2.0 and makes buckets of plain text, which the definition has to say; what flagd decided on since (deterministic CBOR), and what we do
unasked, is held against the same hash made here.
"""

import json
import logging
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import cbor2
import mmh3
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from support import EXAMPLES, expect, modelyard

CONTROL = os.environ["MODELYARD_CONTROL"]
SERVICE = f"http://{CONTROL}/api/services/alarm"
PACKAGE = EXAMPLES.parent / "tests" / "fixtures" / "threshold"

DEFINITION = {
    "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
    "flags": {
        "banner": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "targeting": {"if": [{"$ref": "staff"}, "on"]},
        },
        "colour": {
            "state": "ENABLED",
            "variants": {"red": "#f00", "green": "#0f0", "blue": "#00f"},
            "defaultVariant": "red",
            "targeting": {"fractional": [["red", 20], ["green", 30], ["blue", 50]]},
        },
        "by-mail": {
            "state": "ENABLED",
            "variants": {"a": 1, "b": 2},
            "defaultVariant": "a",
            "targeting": {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, ["a", 1], ["b", 3]]},
        },
        "limits": {
            "state": "ENABLED",
            "variants": {"old": {"top": 3}, "new": {"top": 5}},
            "defaultVariant": "old",
            "targeting": {"if": [{"sem_ver": [{"var": "version"}, ">=", "2.1.0"]}, "new", "old"]},
        },
        "ratio": {"state": "ENABLED", "variants": {"half": 0.5}, "defaultVariant": "half"},
        "away": {"state": "DISABLED", "variants": {"yes": True}, "defaultVariant": "yes"},
    },
}


def bulk(context, tag=None):
    """Status, tag and flags of a bulk evaluation."""
    request = urllib.request.Request(f"{SERVICE}/ofrep/v1/evaluate/flags", json.dumps({"context": context}).encode(), {"Content-Type": "application/json"})
    if tag:
        request.add_header("If-None-Match", tag)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            flags = {flag["key"]: flag for flag in json.loads(answer.read())["flags"]}
            return answer.status, answer.headers["ETag"], flags
    except urllib.error.HTTPError as unchanged:
        return unchanged.code, unchanged.headers["ETag"], {}


def asked(client, key, context):
    """What a client says of a flag: value, variant, reason, error."""
    ask = {
        "banner": (client.get_boolean_details, False),
        "colour": (client.get_string_details, "none"),
        "by-mail": (client.get_integer_details, 0),
        "limits": (client.get_object_details, {}),
        "ratio": (client.get_float_details, 0.0),
        "away": (client.get_boolean_details, False),
    }[key]
    details = ask[0](key, ask[1], context)
    return details.value, details.variant, str(details.reason), details.error_code


def by_cbor(flag, key):
    """The variant of a fraction without a key of its own. Source: flagd's custom operations, "harden hashing consistency"."""
    fractions = DEFINITION["flags"][flag]["targeting"]["fractional"]
    hashed = mmh3.hash(cbor2.dumps([flag, key], canonical=True), signed=False)
    bucket = hashed * sum(weight for _, weight in fractions) >> 32
    for variant, weight in fractions:
        if bucket < weight:
            return variant
        bucket -= weight


def main():
    logging.disable(logging.CRITICAL)  # errors that are asked for on purpose
    modelyard("deploy", PACKAGE, "--wait", "--flag", "threshold=0.4")
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.json"
        given.write_text(json.dumps(DEFINITION), encoding="utf-8")
        modelyard("flags", "alarm", "--set", given)
        api.set_provider_and_wait(OFREPProvider(SERVICE), "remote")
        remote = api.get_client("remote")
        for number in range(500):
            key = f"person-{number}"
            expected = by_cbor("colour", key)
            given_to = asked(remote, "colour", EvaluationContext(key))[1]
            if given_to != expected:
                sys.exit(f"FAILED: {key} gets {given_to}, and CBOR says {expected}")
        expect(True, "500 people get the variant that MurmurHash3 of deterministic CBOR gives")

        given.write_text(json.dumps(DEFINITION | {"metadata": {"modelyard.bucketing": "text"}}), encoding="utf-8")
        modelyard("flags", "alarm", "--set", given)
        with urllib.request.urlopen(f"{SERVICE}/flags/definition", timeout=30) as answer:
            handed = Path(folder) / "handed.json"
            handed.write_bytes(answer.read())
        local = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(handed))
        api.set_provider_and_wait(local, "local")
        local = api.get_client("local")

        # The flags of the revision, and which arm it is.
        expect(remote.get_float_value("threshold", 0.0) == 0.4, "a revision's number is asked over OFREP")
        expect(remote.get_string_value("size", "") == "small", "and its text")
        arm = remote.get_string_details("modelyard.arm", "")
        expect((arm.value, arm.variant) == ("stable", "r1"), "the arm of a session is a flag", arm)
        missing = remote.get_boolean_details("no-such-flag", True)
        expect(missing.value is True and missing.error_code == "FLAG_NOT_FOUND", "an unknown flag is the default, and says so", missing)
        wrong = remote.get_boolean_details("size", True)
        expect(wrong.value is True and wrong.error_code == "TYPE_MISMATCH", "so is one of another type", wrong)

        # flagd's own evaluation of the same document says the same of 500 people.
        split = {"red": 0, "green": 0, "blue": 0}
        for number in range(500):
            mail = f"user{number}@{'example.com' if number % 7 == 0 else 'elsewhere.org'}"
            context = EvaluationContext(f"person-{number}", {"email": mail, "version": f"{number % 4}.{number % 3}.0", "n": number})
            for key in ["banner", "colour", "by-mail", "limits", "ratio"]:
                ours, theirs = asked(remote, key, context), asked(local, key, context)
                if ours != theirs:
                    sys.exit(f"FAILED: {key} for {context}: {ours}, and flagd says {theirs}")
            split[asked(remote, "colour", context)[1]] += 1
        expect(True, "500 people get the same value, variant and reason from flagd's provider")
        shares = [split[name] / 500 for name in ("red", "green", "blue")]
        expect(all(abs(share - wanted) < 0.08 for share, wanted in zip(shares, (0.2, 0.3, 0.5))), "fractions are kept", split)
        away = asked(remote, "away", EvaluationContext("ada"))
        expect(away[0] is False, "a flag that is turned off is the caller's default", away)

        # In bulk, and unchanged.
        context = {"targetingKey": "person-7", "email": "user7@example.com"}
        status, tag, flags = bulk(context)
        expect(status == 200 and flags["banner"]["value"] is True and flags["threshold"]["value"] == 0.4, "all flags are answered at once", flags)
        expect(bulk(context, tag)[:2] == (304, tag), "what is known is not sent again")
        modelyard("flags", "alarm", "--remove")
        status, other, flags = bulk(context, tag)
        expect(status == 200 and other != tag and "banner" not in flags, "what changed is", flags)
        api.shutdown()


main()
