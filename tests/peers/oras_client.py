"""Pushes a file with oras, attaches a report to it, pulls the file back; argument: the registry's address."""

import json
import pathlib
import sys

import oras.client
import oras.oci

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
address = sys.argv[1]
pathlib.Path("weights.bin").write_text("the weights")
pathlib.Path("report.txt").write_text("all is well")
client = oras.client.OrasClient(insecure=True)
pushed = client.push(files=["weights.bin"], target=f"{address}/team/wine:1")
digest = pushed.headers["Docker-Content-Digest"]
raw = client.do_request(f"http://{address}/v2/team/wine/manifests/1", headers={"Accept": MANIFEST}).content
pathlib.Path("config.json").write_text("{}")
client.push(
    files=["report.txt"],
    target=f"{address}/team/wine:report",
    subject=oras.oci.Subject(MANIFEST, digest, len(raw)),
    # Without an artefact type of its own, a manifest is of its configuration's type.
    manifest_config="config.json:application/vnd.example.report",
)
pathlib.Path("back").mkdir()
client.pull(target=f"{address}/team/wine:1", outdir="back")
print(json.dumps({
    "digest": digest,
    "pulled": pathlib.Path("back/weights.bin").read_text(),
    "tags": sorted(client.get_tags(f"{address}/team/wine")),
}))
