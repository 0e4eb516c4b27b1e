"""The Hugging Face Hub's own client against our stand-in for it, so that the stand-in is known to be faithful: the same files, digests and commit as
`modelyard import hf` got from there.

Arguments: repository, its former name, commit, token, the model folder that was imported.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1")

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from support import expect


def git_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def main():
    repository, former, commit, token, imported = sys.argv[1:]
    api = HfApi(token=False)
    info = api.model_info(repository, files_metadata=True)
    expect(info.sha == commit and info.card_data.license == "apache-2.0", "the client reads what the hub says of a model", info)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        fetched = Path(snapshot_download(repository, local_dir=folder / "all", token=token))
        for sibling in info.siblings:
            data = (fetched / sibling.rfilename).read_bytes()
            if sibling.lfs:
                right = hashlib.sha256(data).hexdigest() == sibling.lfs.sha256
            else:
                right = git_id(data) == sibling.blob_id
            expect(right and len(data) == sibling.size, f"{sibling.rfilename} is what the API says of it")
            ours = Path(imported) / sibling.rfilename
            if ours.exists():
                expect(ours.read_bytes() == data, f"{sibling.rfilename} is what was imported")
        for name in ("config.json", "onnx/model.onnx"):
            about = get_hf_file_metadata(hf_hub_url(repository, name), token=token)
            data = (fetched / name).read_bytes()
            etag = git_id(data) if len(data) < 1024 else hashlib.sha256(data).hexdigest()
            expect((about.commit_hash, about.etag, about.size) == (commit, etag, len(data)), f"the headers of {name} are the hub's", about)
        moved = hf_hub_download(former, "config.json", local_dir=folder / "former", token=False)
        expect(Path(moved).read_bytes() == (fetched / "config.json").read_bytes(), "a former name leads to the model")
        for name, revision, error in (("none.txt", "main", EntryNotFoundError), ("config.json", "nowhere", RevisionNotFoundError)):
            try:
                hf_hub_download(repository, name, revision=revision, local_dir=folder / "none", token=False)
            except error:
                expect(True, f"{name} at {revision} is not there")
            else:
                expect(False, f"{name} at {revision} is not there")


main()
