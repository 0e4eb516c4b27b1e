"""MLflow's own client against Modelyard's answers to its registry API: create, get, search, alias, tags, files; models loaded from it answer as they do here."""

import os
import tempfile
import uuid
from pathlib import Path

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.update(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", GIT_PYTHON_REFRESH="quiet")

import mlflow
import numpy
import onnx
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support import EXAMPLES, arrays, expect, merged, post, same, to_json, traffic

address = f"http://{os.environ['MODELYARD_CONTROL']}"
client = MlflowClient(tracking_uri=address, registry_uri=address)


def refused(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except MlflowException as error:
        assert error.error_code == code, (code, error)
        return
    raise AssertionError(f"{call.__name__} was not refused")


# Create: a model without versions, described and tagged.
name = f"port-{uuid.uuid4().hex[:8]}"
made = client.create_registered_model(name, tags={"team": "cellar"}, description="sweet")
assert (made.name, made.description, made.tags) == (name, "sweet", {"team": "cellar"}), made
refused("RESOURCE_ALREADY_EXISTS", client.create_registered_model, name)
client.update_registered_model(name, description="sweeter")
client.set_registered_model_tag(name, "shelf", "3")
client.delete_registered_model_tag(name, "team")
found = client.get_registered_model(name)
assert (found.description, found.tags, found.latest_versions) == ("sweeter", {"shelf": "3"}, []), found
refused("RESOURCE_DOES_NOT_EXIST", client.get_registered_model, "no-such-model")

# A version: a package that Modelyard has.
version = client.create_model_version("wine", "models:/wine/1.0.0", run_id="0123", description="a tree", tags={"seen": "yes"})
assert (version.name, version.version, version.status, version.run_id) == ("wine", "1", "READY", "0123"), version
tags = client.get_model_version("wine", "1").tags
assert (tags["seen"], tags["modelyard.version"]) == ("yes", "1.0.0"), tags
refused("INVALID_PARAMETER_VALUE", client.create_model_version, "wine", "s3://bucket/model")
client.update_model_version("wine", "1", description="a small tree")
assert client.get_model_version("wine", "1").description == "a small tree"
assert client.get_model_version_download_uri("wine", "1") == f"{address}/api/2.0/mlflow-artifacts/artifacts/wine/1.0.0"

# Aliases and tags of the version.
client.set_registered_model_alias("wine", "mlflow-champion", "1")
assert client.get_model_version_by_alias("wine", "mlflow-champion").version == "1"
assert client.get_registered_model("wine").aliases["mlflow-champion"] == "1"
client.set_model_version_tag("wine", "1", "audit", "2026-11")
found = client.search_model_versions("name = 'wine' and tags.audit = '2026-11'")
assert [(one.name, one.version) for one in found] == [("wine", "1")], found
found = client.search_model_versions("run_id = '0123' and version_number = 1 and source_path = 'modelyard:/wine:1.0.0'")
assert [(one.name, one.version) for one in found] == [("wine", "1")], found
found = client.search_model_versions("run_id IN ('4567', '0123')")
assert [(one.name, one.version) for one in found] == [("wine", "1")], found

# A model that is loaded by its alias, from a registry that is not where runs are kept: it answers as the service does.
rows = merged(traffic("wine"))
mlflow.set_registry_uri(address)
with tempfile.TemporaryDirectory() as elsewhere:
    mlflow.set_tracking_uri(f"sqlite:///{elsewhere}/runs.db")
    model = mlflow.pyfunc.load_model("models:/wine@mlflow-champion")
    taken = model.metadata.get_input_schema().input_dict()["features"]
    expect((taken.type, taken.shape) == (numpy.dtype("float32"), (-1, 13)), "a model that MLflow did not save has its signature", taken)
    expect(model.metadata.metadata["modelyard.package"] == "wine:1.0.0", "and says where it is from", model.metadata.metadata)
    status, answer = post(os.environ["MODELYARD_GATEWAY"], "/v2/models/wine/infer", to_json(rows))
    have, want = arrays(answer), model.predict(rows)
    expect(status == 200 and want and all(same(numpy.asarray(value), have.get(name)) for name, value in want.items()), "it answers as it does here", answer)
    loaded = mlflow.onnx.load_model("models:/wine/1")
    expect(loaded == onnx.load(str(EXAMPLES / "wine/v1/model.onnx")), "the flavour's own loader gives the graph")
    saved = Path(mlflow.artifacts.download_artifacts("models:/wine/1", dst_path=elsewhere))
    original = {path.relative_to(EXAMPLES / "wine/v1"): path for path in (EXAMPLES / "wine/v1").rglob("*") if path.is_file()}
    came = {path.relative_to(saved): path for path in saved.rglob("*") if path.is_file()}
    both = [path for path in came if path in original and path.name != "modelyard.toml"]
    expect(len(both) > 1 and all(came[path].read_bytes() == original[path].read_bytes() for path in both), "every file is as it was packaged", list(came))
    for wrong in ("models:/wine/99", "models:/wine@nobody", "models:/beer/1"):
        refused_load = None
        try:
            mlflow.pyfunc.load_model(wrong)
        except MlflowException as error:
            refused_load = error
        expect(refused_load is not None, f"{wrong} is refused")
client.delete_model_version_tag("wine", "1", "audit")
assert len(client.search_model_versions("tags.audit = '2026-11'")) == 0
client.delete_registered_model_alias("wine", "mlflow-champion")
refused("INVALID_PARAMETER_VALUE", client.get_model_version_by_alias, "wine", "mlflow-champion")

# Search, in pages and in order.
every = [model.name for model in client.search_registered_models(order_by=["name ASC"])]
assert every == sorted(every) and {"wine", name} <= set(every), every
paged, token = [], None
while True:
    page = client.search_registered_models(max_results=1, order_by=["name ASC"], page_token=token)
    paged += [model.name for model in page]
    token = page.token
    if not token:
        break
assert paged == every, (paged, every)
assert [model.name for model in client.search_registered_models("name LIKE 'port-%'")].count(name) == 1
refused("INVALID_PARAMETER_VALUE", client.search_registered_models, "nonsense")
