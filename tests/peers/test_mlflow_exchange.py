"""A running MLflow server, both ways: its models become packages that answer as MLflow answers, and what became of them is written back.

The server is MLflow's own, with a registry in SQLite and its files behind its proxy; the models are logged, and what was written read, by its own client.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.update(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", GIT_PYTHON_REFRESH="quiet")

import mlflow
import numpy
import onnx
import pandas
from mlflow.models import infer_signature
from mlflow_server import mlflow_server
from support import BINARY, EXAMPLES, arrays, expect, library, merged, post, same, to_json, traffic

SOURCE = '''import mlflow
import pandas


class Grade(mlflow.pyfunc.PythonModel):
    """Columns of every width in, two columns out."""

    def predict(self, context, model_input, params=None):
        assert str(model_input["narrow"].dtype) == "float32" and str(model_input["count"].dtype) == "int32", model_input.dtypes
        score = model_input["wide"] + model_input["narrow"] * model_input["count"]
        return pandas.DataFrame({"score": score.astype("float64"), "who": model_input["who"].str.upper()})


mlflow.models.set_model(Grade())
'''


def logged(work):
    """An ONNX model and a function, registered; a table that the function takes."""
    mlflow.set_experiment("cellar")
    rows = merged(traffic("wine"))["features"]
    outputs = {"label": numpy.array([0]), "probabilities": numpy.zeros((1, 3), numpy.float32)}
    with mlflow.start_run() as run:
        mlflow.log_param("depth", 3)
        mlflow.log_metric("accuracy", 0.9444)
        model = onnx.load(str(EXAMPLES / "wine/v1/model.onnx"))
        signature = infer_signature({"features": rows}, outputs)
        mlflow.onnx.log_model(model, name="model", signature=signature, registered_model_name="cellar", pip_requirements=["onnxruntime==1.32.0"])
    table = pandas.DataFrame({
        "wide": [1.5, 2.25], "narrow": numpy.array([0.5, 4.0], numpy.float32), "count": numpy.array([3, -2], numpy.int32), "who": ["ada", "grace"],
    })
    source = work / "grade.py"
    source.write_text(SOURCE, encoding="utf-8")
    answer = pandas.DataFrame({"score": [0.0], "who": ["A"]})
    needed = [f"{name}=={version(name)}" for name in ("mlflow-skinny", "pandas", "numpy")]
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            python_model=str(source), name="model", signature=infer_signature(table, answer), registered_model_name="grade", pip_requirements=needed,
        )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("cellar", "champion", "1")
    return run.info.run_id, rows, table


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        home = work / "home"
        environment = {"MODELYARD_ONNXRUNTIME": library(), **os.environ, "MODELYARD_HOME": str(home)}
        environment.pop("MODELYARD_CONTROL", None)
        environment["MODELYARD_UV"] = str(Path(sys.executable).parent / "uv")

        def modelyard(*arguments, fails=False):
            done = subprocess.run([BINARY, *map(str, arguments)], env=environment, capture_output=True, text=True, cwd=work)
            expect((done.returncode != 0) == fails, f"modelyard {' '.join(map(str, arguments[:3]))}", done.stdout + done.stderr)
            return done.stderr if fails else json.loads(done.stdout or "null")

        with mlflow_server(work) as address:
            environment["MLFLOW_TRACKING_URI"] = address
            mlflow.set_tracking_uri(address)
            run, rows, table = logged(work)

            told = modelyard("import", "mlflow", "cellar@champion", "--output", "json")
            expect((told["name"], told["version"], told["runtime"]) == ("cellar", "1", "onnx"), "an ONNX flavour runs natively", told)
            document = modelyard("inspect", "cellar:1", "--output", "json")
            package = document.get("package", document)
            expect(package["metrics"] == {"accuracy": 0.9444} and package["parameters"] == {"depth": "3"}, "with its run's figures", package)
            notes = package["annotations"]
            expect((notes["mlflow.model"], notes["mlflow.version"], notes["mlflow.run_id"]) == ("cellar", "1", run), "and where it comes from", notes)
            [arrival] = document["arrivals"]
            expect((arrival["how"], arrival["from"]) == ("imported", f"{address}/models/cellar"), "which is noted, too", arrival)
            told = modelyard("import", "mlflow", "models:/grade/1", "--output", "json")
            expect(told["runtime"] == "python" and (work / "grade/modelyard.lock").is_file(), "a Python flavour is a function with a lock", told)
            for what, says in {"cellar@nobody": "nobody", "cellar/9": "9", "nothing": "no model `nothing`"}.items():
                expect(says in modelyard("import", "mlflow", what, "--out", work / "none", fails=True), f"{what} is refused with the reason")
            output = mlflow.MlflowClient().get_run(run).outputs.model_outputs[0]
            for number, what in enumerate([f"runs:/{run}/model", f"models:/{output.model_id}"]):
                told = modelyard("import", "mlflow", what, "--as", f"logged:{number}", "--out", work / f"logged-{number}", "--output", "json")
                notes = modelyard("inspect", f"logged:{number}", "--output", "json")
                notes = notes.get("package", notes)["annotations"]
                have = (told["runtime"], notes["mlflow.run_id"], notes["mlflow.model_id"])
                expect(have == ("onnx", run, output.model_id), f"{what.split('/')[0]} names a model that was logged", notes)
            said = modelyard("import", "mlflow", f"runs:/{run}/nothing", "--out", work / "nowhere", fails=True)
            expect("nothing" in said, "a run without that model is refused with the reason", said)
            local = Path(mlflow.artifacts.download_artifacts("models:/cellar/1", dst_path=str(work / "saved")))
            told = modelyard("import", "mlflow", local, "--as", "local:2", "--out", work / "local", "--output", "json")
            expect((told["name"], told["version"]) == ("local", "2"), "a folder that MLflow saved is imported, too", told)
            [arrival] = modelyard("inspect", "local:2", "--output", "json")["arrivals"]
            expect(arrival["how"] == "built", "and counts as packaged here", arrival)

            up = modelyard("up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0", "--output", "json")
            try:
                for name in ("cellar:1", "grade:1"):
                    modelyard("deploy", name, "--wait", "--timeout", "3m", "--output", "json")
                status, answer = post(up["gateway"], "/v2/models/cellar/infer", to_json({"features": rows}))
                want = mlflow.pyfunc.load_model("models:/cellar/1").predict({"features": rows})
                have = arrays(answer) if status == 200 else {}
                expect(all(same(numpy.asarray(want[name]), have.get(name)) for name in want), f"{len(rows)} rows as MLflow answers them", answer)
                status, answer = post(up["gateway"], "/v2/models/grade/infer", to_json({name: table[name].to_numpy() for name in table.columns}))
                want = mlflow.pyfunc.load_model("models:/grade/1").predict(table)
                have = arrays(answer) if status == 200 else {}
                expect(all(same(want[name].to_numpy(), have.get(name)) for name in want.columns), "the function answers as MLflow does", answer)

                # What MLflow saved is loaded back from Modelyard's registry by MLflow, as MLflow described it.
                for name, given in {"cellar": {"features": rows}, "grade": table}.items():
                    mlflow.set_registry_uri(f"http://{up['control']}")
                    mine = mlflow.pyfunc.load_model(f"models:/{name}/1")
                    mlflow.set_registry_uri(address)
                    theirs = mlflow.pyfunc.load_model(f"models:/{name}/1")
                    have, want = (pandas.DataFrame(dict(model.predict(given))) if name == "grade" else model.predict(given) for model in (mine, theirs))
                    alike = have.equals(want) if name == "grade" else all(same(numpy.asarray(want[key]), numpy.asarray(have[key])) for key in want)
                    expect(alike, f"{name} is loaded from here as from MLflow", [have, want])
                    expect(mine.metadata.signature == theirs.metadata.signature, "with the signature that it was logged with", mine.metadata)

                # A version that MLflow does not know takes over, and one is taken back.
                modelyard("package", EXAMPLES / "wine/v2", "--output", "json")
                modelyard("deploy", "wine:2.0.0", "--service", "cellar", "--strategy", "rolling", "--wait", "--timeout", "3m", "--output", "json")
                told = modelyard("export", "mlflow", "cellar", "--output", "json")
                again = modelyard("export", "mlflow", "cellar", "--output", "json")
                expect(told == again and len(told["versions"]) == 2, "what became of it is written, and once", [told, again])
                modelyard("export", "mlflow", "grade", "--alias", "graders", "--output", "json")
                client = mlflow.MlflowClient()
                first = client.get_model_version("cellar", "1")
                expect(first.tags["modelyard.dev.cellar"].startswith("revision 1: promoted"), "the first version's tag tells", first.tags)
                serves = client.get_model_version_by_alias("wine", "dev")
                expect(serves.tags["modelyard.dev.cellar"].endswith("; serves") and serves.tags["modelyard.version"] == "2.0.0", "the alias is where it serves", serves.tags)
                expect(client.get_model_version_by_alias("grade", "graders").version == "1", "an alias of one's own choice")
                expect(len(client.search_model_versions("name = 'wine'")) == 1, "one version for one package")
                points = client.get_metric_history(run, "modelyard.cellar.promoted")
                expect([(point.value, point.step) for point in points] == [(1.0, 1)], "the run has the outcome as a metric", points)
            finally:
                subprocess.run([BINARY, "down"], env=environment, capture_output=True)


main()
