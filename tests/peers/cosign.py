"""Checks a package's signature as cosign does, and signs it as cosign does: arguments ADDRESS REPOSITORY TAG PUBLIC-KEY NEW-PUBLIC-KEY.

Written from cosign's signature specification alone; the cryptography is OpenSSL's.
"""

import base64
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distribution import MANIFEST, Repository, digest_of

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"

address, repository, tag, public, new_public = sys.argv[1:]
of = Repository(address, repository)
ask, put_blob = of.ask, of.put_blob


def verified(digest, key):
    """Payloads of the signatures by `key`."""
    image = json.loads(ask(f"/manifests/{digest.replace(':', '-')}.sig")[0])
    assert image["mediaType"] == MANIFEST and image["subject"]["digest"] == digest, image
    assert image["artifactType"] == "application/vnd.dev.cosign.artifact.sig.v1+json", image
    configuration = json.loads(ask(f"/blobs/{image['config']['digest']}")[0])
    assert configuration["rootfs"]["diff_ids"] == [layer["digest"] for layer in image["layers"]], configuration
    found = []
    for layer in image["layers"]:
        assert layer["mediaType"] == PAYLOAD, layer
        payload = ask(f"/blobs/{layer['digest']}")[0]
        assert digest_of(payload) == layer["digest"] and len(payload) == layer["size"]
        try:
            key.verify(base64.b64decode(layer["annotations"][SIGNATURE], validate=True), payload, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        said = json.loads(payload)
        assert said["critical"]["type"] == "cosign container image signature", said
        assert said["critical"]["image"]["docker-manifest-digest"] == digest, said
        found.append(said)
    return image, found


manifest, headers = ask(f"/manifests/{tag}")
digest = digest_of(manifest)
assert headers["Docker-Content-Digest"] == digest

with open(public, "rb") as file:
    key = serialization.load_pem_public_key(file.read())
image, found = verified(digest, key)
assert [said["critical"]["identity"]["docker-reference"] for said in found] == [repository], found

listed = json.loads(ask(f"/referrers/{digest}?artifactType=application/vnd.dev.cosign.artifact.sig.v1%2Bjson")[0])
assert len(listed["manifests"]) == 1, listed

# And now ours, appended as cosign appends: payload, layer, annotation.
private = ec.generate_private_key(ec.SECP256R1())
payload = json.dumps(
    {
        "critical": {
            "identity": {"docker-reference": f"{address}/{repository}"},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": {"creator": "peer"},
    }
).encode()
signature = base64.b64encode(private.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
layers = image["layers"] + [{"mediaType": PAYLOAD, **put_blob(payload), "annotations": {SIGNATURE: signature}}]
configuration = {"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [l["digest"] for l in layers]}}
# Cosign's older way: no subject, only the tag.
body = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put_blob(json.dumps(configuration).encode())},
        "layers": layers,
    }
).encode()
ask(f"/manifests/{digest.replace(':', '-')}.sig", "PUT", body, MANIFEST)
with open(new_public, "wb") as file:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    file.write(private.public_key().public_bytes(serialization.Encoding.PEM, form))
print("verified and signed", digest)
