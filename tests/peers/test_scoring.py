"""MLflow's scoring server and ours, over the same model and the same bodies: what the one answers the other answers, and each takes the other's client.

MLflow's is its own FastAPI application behind uvicorn, ours `modelyard serve --contract mlflow`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ.update(MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false", GIT_PYTHON_REFRESH="quiet")

import mlflow
import numpy
import onnx
import pandas
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.types import ColSpec, Schema
from onnx import TensorProto, helper
from support import BINARY, expect, library


def models(folder):
    """A model with one input and one output with a column, and one with three inputs of three datatypes."""
    single = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 1], [0.5, -1.25, 2.0])],
    )
    several = helper.make_graph(
        [
            helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["wide", "counted"], ["score"]),
            helper.make_node("Identity", ["who"], ["name"]),
        ],
        "several",
        [
            helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("who", TensorProto.STRING, ["n"]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]), helper.make_tensor_value_info("name", TensorProto.STRING, ["n"])],
    )
    for name, graph in {"single": single, "several": several}.items():
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")
        mlflow.onnx.save_model(model, folder / name, pip_requirements=["onnxruntime"])
        yield name, folder / f"{name}.onnx", folder / name


TABLE = """import mlflow
import pandas


class Table(mlflow.pyfunc.PythonModel):
    def predict(self, context, rows, params=None):
        total = rows["count"] ** params["power"] + (rows["extra"] if "extra" in rows else 0.0) + sum(params["shift"])
        return pandas.DataFrame({"who": rows["who"].str.upper(), "next": rows["when"] + pandas.Timedelta(days=1), "total": total})


mlflow.models.set_model(Table())
"""
# Its signature says two columns of doubles, as one that is inferred from training data does.
ARRAY = """import mlflow


class Array(mlflow.pyfunc.PythonModel):
    def predict(self, context, rows, params=None):
        return rows[["x", "y"]].to_numpy().astype("float32") * 2


mlflow.models.set_model(Array())
"""
SERIES = ARRAY.replace('rows[["x", "y"]].to_numpy().astype("float32") * 2', 'rows["x"] * 2')
MOMENTS = ["2026-02-03T00:00:00", "2026-11-01T10:30:00"]


def functions(folder):
    """Models of MLflow's Python flavour: a table with dates and parameters, an array for two columns, and a series."""
    rows = pandas.DataFrame({"who": ["ada"], "count": [3], "when": pandas.to_datetime(["2026-02-03"])})
    answer = pandas.DataFrame({"who": ["ADA"], "next": pandas.to_datetime(["2026-02-03"]), "total": [1.0]})
    inferred = infer_signature(rows, answer, {"power": 1, "shift": [0.5, 0.25]})
    inputs = Schema([*inferred.inputs.inputs, ColSpec("double", "extra", required=False)])
    numbers = pandas.DataFrame({"x": [1.5], "y": [2.0]})
    for name, source, signature in (
        ("table", TABLE, ModelSignature(inputs, inferred.outputs, inferred.params)),
        ("array", ARRAY, infer_signature(numbers, numbers.rename(columns={"x": "u", "y": "v"}))),
        ("series", SERIES, infer_signature(numbers, pandas.Series([1.5]))),
    ):
        file = folder / f"{name}.py"
        file.write_text(source, encoding="utf-8")
        mlflow.pyfunc.save_model(folder / name, python_model=str(file), signature=signature, pip_requirements=["mlflow-skinny", "pandas"])
        yield name, folder / name


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(command, environment, port, log):
    """A server as a process of its own, once it answers pings."""
    with open(log, "w+", encoding="utf-8") as output:
        process = subprocess.Popen([str(word) for word in command], env={**os.environ, **environment}, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while ask(port, "GET", "/ping")[0] != 200:
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    sys.exit(f"FAILED: {command[0]} did not come up:\n{output.read()[-3000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def ask(port, method, path, body=None, kind="application/json"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body.encode() if body is not None else None, {"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()
    except OSError:
        return 0, b""


SINGLE = pandas.DataFrame({"a": [1.0, 2.5], "b": [0.25, 1e-3], "c": [3.0, -7.5]})
SEVERAL = pandas.DataFrame({"count": [3, -2], "who": ["ada", 'gr"a,ce'], "wide": [1.5, 2.25]})

TABLED = [{"who": who, "count": count, "when": when} for who, count, when in zip(["ada", "bob"], [3, -2], MOMENTS)]
NUMBERS = pandas.DataFrame({"x": [1.5, 0.1], "y": [2.0, -7.25]})


def bodies(name):
    """Requests that both servers must answer alike."""
    table = {"single": SINGLE, "several": SEVERAL, "table": pandas.DataFrame(TABLED)}.get(name, NUMBERS)
    rows = SINGLE.to_numpy().tolist()
    csv = table.to_csv(index=False)
    yield "a table split", json.dumps({"dataframe_split": json.loads(table.to_json(orient="split"))}), "application/json"
    yield "records", json.dumps({"dataframe_records": table.to_dict(orient="records")}), "application/json; charset=utf-8"
    # MLflow's server reads no dates in CSV; ours does.
    if name != "table":
        yield "CSV", csv, "text/csv"
    if name == "table":
        for what, more in {"all parameters": {"power": 2, "shift": [1, 2]}, "one parameter": {"power": 3}, "a text for a parameter": {"power": "x"}}.items():
            yield what, json.dumps({"dataframe_records": TABLED, "params": more}), "application/json"
        yield "an optional column", json.dumps({"dataframe_records": [{**row, "extra": 0.5} for row in TABLED]}), "application/json"
        yield "no date", json.dumps({"dataframe_records": [{**TABLED[0], "when": "soon"}]}), "application/json"
    if name in ("table", "array", "series"):
        yield "columns by name", json.dumps({"inputs": {column: table[column].tolist() for column in table.columns}}), "application/json"
        yield "instances by name", json.dumps({"instances": table.to_dict(orient="records")}), "application/json"
    if name == "single":
        yield "tensors by name", json.dumps({"inputs": {"x": rows}}), "application/json"
        yield "one tensor", json.dumps({"inputs": rows}), "application/json"
        yield "instances", json.dumps({"instances": rows}), "application/json"
        yield "instances by name", json.dumps({"instances": [{"x": row} for row in rows]}), "application/json"
        numbered = pandas.DataFrame(SINGLE.to_numpy())
        yield "CSV whose columns are numbered", numbered.to_csv(index=False), "text/csv"
        yield "a table without names", json.dumps({"dataframe_split": {"data": rows}}), "application/json"
        yield "another number of columns", json.dumps({"dataframe_split": {"data": [[1, 2]]}}), "application/json"
        yield "a text for a number", json.dumps({"inputs": {"x": [["a", "b", "c"]]}}), "application/json"
    yield "no form at all", "{}", "application/json"
    yield "two forms", json.dumps({"inputs": [[1, 2, 3]], "instances": [[1, 2, 3]]}), "application/json"
    yield "a bare list", "[[1, 2, 3]]", "application/json"
    yield "no JSON", "{", "application/json"
    yield "another content type", "x", "application/x-www-form-urlencoded"
    yield "another character set", csv, "text/csv; charset=latin-1"
    yield "a parameter that is not known", "{}", "application/json; odd=1"


def close(ours, theirs):
    """Whether two answers are the same; MLflow writes a float32 as the double that it is."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(theirs, float):
        return numpy.float32(ours) == numpy.float32(theirs)
    return ours == theirs


def compare(name, ours, theirs):
    for what, body, kind in bodies(name):
        have, want = ask(ours, "POST", "/invocations", body, kind), ask(theirs, "POST", "/invocations", body, kind)
        # What MLflow's model stumbles over is an error of its own, ours is the caller's; neither is an answer.
        status = (have[0], want[0] if want[0] != 500 else 400)
        expect(status[0] == status[1], f"{name}: {what}: the status is MLflow's, {want[0]}", (have, want))
        if want[0] == 200:
            expect(close(json.loads(have[1]), json.loads(want[1])), f"{name}: {what}: so is the answer", (have, want))
        else:
            error = json.loads(have[1])
            expect(error["error_code"] and error["message"], f"{name}: {what}: and the error says why", have)


def through_the_client(port):
    """MLflow's own client for scoring servers, against ours."""
    client = ScoringServerClient("127.0.0.1", port)
    client.wait_server_ready()
    expect(client.get_version(), "the client reads a version")
    answer = client.invoke(SINGLE).get_predictions(dtype="float32")
    want = SINGLE.to_numpy().astype("float32") @ numpy.array([[0.5], [-1.25], [2.0]], "float32")
    expect(list(answer.columns) == ["y"] and numpy.allclose(answer["y"], want[:, 0]), "the client sends a table and reads records", answer)
    answer = client.invoke(SINGLE.to_numpy())
    expect(numpy.allclose(answer["predictions"]["y"], want), "and one tensor", answer)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        environment = {"MODELYARD_ONNXRUNTIME": os.environ.get("MODELYARD_ONNXRUNTIME") or library(), "MODELYARD_HOME": str(work / "home")}
        for name, file, saved in models(work):
            ours, theirs = free_port(), free_port()
            command = [BINARY, "serve", file, "--http", f"127.0.0.1:{ours}", "--contract", "mlflow"]
            server = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", theirs, "mlflow.pyfunc.scoring_server.app:app"]
            with running(command, environment, ours, work / "ours.log"), running(server, {"__pyfunc_model_path__": str(saved)}, theirs, work / "theirs.log"):
                for path in ("/ping", "/health"):
                    have, want = ask(ours, "GET", path), ask(theirs, "GET", path)
                    expect(have == want, f"{path} is MLflow's", (have, want))
                compare(name, ours, theirs)
                if name == "single":
                    through_the_client(ours)
        environment["MODELYARD_PYTHON_ENVIRONMENT"] = sys.prefix
        for name, saved in functions(work):
            command = [BINARY, "import", "mlflow", saved, "--as", f"{name}:1", "--out", work / f"{name}-folder", "--allow-unlocked"]
            done = subprocess.run([str(word) for word in command], env={**os.environ, **environment}, capture_output=True, text=True)
            expect(done.returncode == 0, f"{name} is imported", done.stderr)
            ours, theirs = free_port(), free_port()
            command = [BINARY, "serve", f"{name}:1", "--http", f"127.0.0.1:{ours}", "--contract", "mlflow"]
            server = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", theirs, "mlflow.pyfunc.scoring_server.app:app"]
            with running(command, environment, ours, work / "ours.log"), running(server, {"__pyfunc_model_path__": str(saved)}, theirs, work / "theirs.log"):
                compare(name, ours, theirs)


main()
