"""MLflow's own client against Modelyard's answers to its registry API: create, get, search, alias, tags, download address."""

import os
import uuid

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
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
assert client.get_model_version_download_uri("wine", "1") == "modelyard:/wine:1.0.0"

# Aliases and tags of the version.
client.set_registered_model_alias("wine", "mlflow-champion", "1")
assert client.get_model_version_by_alias("wine", "mlflow-champion").version == "1"
assert client.get_registered_model("wine").aliases["mlflow-champion"] == "1"
client.set_model_version_tag("wine", "1", "audit", "2026-11")
found = client.search_model_versions("name = 'wine' and tags.audit = '2026-11'")
assert [(one.name, one.version) for one in found] == [("wine", "1")], found
found = client.search_model_versions("run_id = '0123' and version_number = 1 and source_path = 'modelyard:/wine:1.0.0'")
assert [(one.name, one.version) for one in found] == [("wine", "1")], found
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
