"""Checks a package's provenance with implementations that are not ours, and states another: ADDRESS REPOSITORY TAG PUBLIC-KEY NEW-PUBLIC-KEY.

The envelope is opened by securesystemslib, the statement and its predicate are read by in-toto's own bindings of their schemas.
"""

import json
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distribution import MANIFEST, Repository, digest_of
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

ENVELOPE = "application/vnd.dsse.envelope.v1+json"

address, repository, tag, public, new_public = sys.argv[1:]
of = Repository(address, repository)
ask, put_blob = of.ask, of.put_blob

digest = digest_of(ask(f"/manifests/{tag}")[0])
listed = json.loads(ask(f"/referrers/{digest}?artifactType=application/vnd.dev.cosign.artifact.att.v1%2Bjson")[0])
assert len(listed["manifests"]) == 1, listed
holder = json.loads(ask(f"/manifests/{digest.replace(':', '-')}.att")[0])
[layer] = holder["layers"]
assert layer["mediaType"] == ENVELOPE, layer
assert layer["annotations"]["predicateType"] == "https://slsa.dev/provenance/v1", layer
envelope = Envelope.from_dict(json.loads(ask(f"/blobs/{layer['digest']}")[0]))
assert envelope.payload_type == "application/vnd.in-toto+json"

with open(public, "rb") as file:
    key = serialization.load_pem_public_key(file.read())
ours = SSlibKey.from_crypto(key)
ours.keyid = ""  # as cosign leaves it; this reader looks for the same
assert list(envelope.verify([ours], 1)) == [""]
stranger = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP256R1()).public_key())
stranger.keyid = ""
try:
    envelope.verify([stranger], 1)
except VerificationError:
    pass
else:
    raise AssertionError("a stranger's key was accepted")

# Unknown fields are refused: what is stated is what the schemas have.
said = json.loads(envelope.payload)
statement = Statement.copy_from_pb(json_format.ParseDict(said, statement_pb2.Statement()))
statement.validate()
assert statement.pb.subject[0].digest["sha256"] == digest.removeprefix("sha256:")
predicate = json_format.ParseDict(said["predicate"], provenance_pb2.Provenance())
assert predicate.build_definition.build_type and predicate.run_details.builder.id and predicate.run_details.metadata.started_on
sources = [one for one in predicate.build_definition.resolved_dependencies if "gitCommit" in one.digest]
assert len(sources) == 1 and sources[0].uri.startswith("git+"), sources

# And another one, as another builder states it.
private = CryptoSigner.generate_ecdsa()
said["predicate"]["runDetails"] = {"builder": {"id": "https://peer.example/builder"}}
theirs = Envelope(json.dumps(said).encode(), "application/vnd.in-toto+json", {})
theirs.sign(private)
body = json.dumps(theirs.to_dict()).encode()
part = {"mediaType": ENVELOPE, **put_blob(body), "annotations": {"predicateType": said["predicateType"]}}
configuration = {"mediaType": "application/vnd.oci.image.config.v1+json", **put_blob(b"{}")}
holder |= {"config": configuration, "layers": [part]}
body = json.dumps(holder).encode()
ask(f"/manifests/{digest_of(body)}", "PUT", body, MANIFEST)
with open(new_public, "wb") as file:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    file.write(private._private_key.public_key().public_bytes(serialization.Encoding.PEM, form))
print("verified and attested", digest)
