"""What the peers' scripts share: where Modelyard runs, the examples' rows, Python's own answers, and how a check is told.

The Rust tests set MODELYARD_GATEWAY (host:port), MODELYARD_EXAMPLES (folder) and MODELYARD_BINARY (path), as far as a script needs them.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import ml_dtypes
import numpy
import onnxruntime

GATEWAY = os.environ.get("MODELYARD_GATEWAY", "")
EXAMPLES = Path(os.environ.get("MODELYARD_EXAMPLES", "examples"))
BINARY = os.environ.get("MODELYARD_BINARY", "modelyard")
SERVICES = ["wine", "breast-cancer", "digits", "diabetes", "iris"]
WHOLE = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
ARRAYS = {
    "FP16": numpy.float16, "FP32": numpy.float32, "FP64": numpy.float64, "BF16": ml_dtypes.bfloat16, "BOOL": numpy.bool_, "BYTES": object,
    **{name.upper(): getattr(numpy, name) for name in WHOLE},
}
DATATYPES = {numpy.dtype(kind).name: datatype for datatype, kind in ARRAYS.items()}


def ok(what):
    """Tells that a check held."""
    print(f"ok: {what}", flush=True)


def expect(condition, what, detail=""):
    """Ends the script unless the check holds."""
    if not condition:
        sys.exit(f"FAILED: {what} {detail}")
    ok(what)


def modelyard(*arguments):
    """Runs the program; ends the script when it fails."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FAILED: modelyard {arguments}:\n{done.stdout}{done.stderr}")
    return done.stdout


def resolved(document, schema):
    """The schema itself, `$ref`s followed."""
    while "$ref" in schema:
        *_, name = schema["$ref"].split("/")
        schema = document["components"]["schemas"][name]
    return schema


def traffic(example):
    """Every held-out row of an example as inputs by name."""
    rows = json.loads((EXAMPLES / example / "traffic.json").read_text(encoding="utf-8"))
    return [feeds(row["request"]) for row in rows]


def feeds(request):
    """The inputs of a request in the protocol's JSON form as arrays."""
    tensors = request["inputs"]
    return {t["name"]: numpy.array(t["data"], dtype=ARRAYS[t["datatype"]]).reshape(t["shape"]) for t in tensors}


def merged(rows):
    """Many rows as one request's inputs."""
    return {name: numpy.concatenate([row[name] for row in rows]) for name in rows[0]}


def tensors(kind, inputs, **settings):
    """Inputs as a client's own class of them, `InferInput` in every one; `settings` as `set_data_from_numpy` takes them."""
    made = []
    for name, array in inputs.items():
        tensor = kind(name, list(array.shape), DATATYPES[array.dtype.name])
        tensor.set_data_from_numpy(array, **settings)
        made.append(tensor)
    return made


class Truth:
    """Python's onnxruntime on a package's model, or on an ONNX file; outputs as the server gives them.

    Maps become one column per key, keys in order, and a further output with the keys; a sequence of tensors becomes one tensor.
    """

    def __init__(self, what):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = what if Path(what).is_file() else EXAMPLES / what / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def answer(self, inputs):
        """Outputs by name."""
        answers = {}
        names = [output.name for output in self.session.get_outputs()]
        for name, value in zip(names, self.session.run(names, inputs)):
            rows = [value] if isinstance(value, dict) else value
            if isinstance(rows, list) and isinstance(rows[0], dict):
                keys = sorted(rows[0])
                answers[f"{name}_labels"] = numpy.array(keys, dtype=object if isinstance(keys[0], str) else numpy.int64)
                table = numpy.array([[row[key] for key in keys] for row in rows], dtype=numpy.float32)
                value = table[0] if isinstance(value, dict) else table
            answers[name] = numpy.asarray(value)
        return answers


def texts(array):
    """Texts whatever the client made of them: bytes become strings."""
    flat = [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]
    return numpy.array(flat, dtype=object).reshape(array.shape)


def same(expected, actual):
    """Whether two outputs are the same: shape, type, texts, integers and truths exactly, numbers within 1e-5."""
    if actual is None or expected.shape != actual.shape:
        return False
    if expected.dtype.kind in "OUS":
        return bool((texts(expected) == texts(actual)).all())
    if expected.dtype.kind in "iub":
        return actual.dtype.kind == expected.dtype.kind and bool((expected == actual).all())
    return bool(numpy.allclose(actual.astype(float), expected.astype(float), rtol=1e-5, atol=1e-5))


def equal(expected, actual):
    """Whether all outputs are there and the same; `actual` gives an output by its name."""
    return all(same(value, actual(name)) for name, value in expected.items())


def to_json(inputs):
    """Inputs in the protocol's JSON form."""
    return {
        "inputs": [
            {"name": n, "shape": list(a.shape), "datatype": DATATYPES[a.dtype.name], "data": a.ravel().tolist()}
            for n, a in inputs.items()
        ]
    }


def post(address, path, body, headers=None):
    """Status and JSON body of a POST; a refusal is an answer too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read() or b"null")


def get(address, path):
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


def arrays(answer):
    """The outputs of an answer in JSON form as arrays by name."""
    outputs = answer["outputs"]
    return {o["name"]: numpy.array(o["data"], dtype=ARRAYS[o["datatype"]]).reshape(o["shape"]) for o in outputs}


@contextlib.contextmanager
def served(folder):
    """A model server of our own for one package folder; gives its address and ends it afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as home, open(Path(home) / "serve.log", "w+") as log:
        environment = {"MODELYARD_ONNXRUNTIME": library(), **os.environ, "MODELYARD_HOME": home}
        command = [BINARY, "serve", str(EXAMPLES / folder), "--http", address]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(process, address, log)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


@contextlib.contextmanager
def served_by(command, folder):
    """A server of somebody else's that takes `--port PORT FOLDER`; gives its address and ends it afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with open(Path(folder).parent / "server.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([*map(str, command), "--port", str(port), str(folder)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.01)
            else:
                log.seek(0)
                sys.exit(f"FAILED: {command[0]} did not come up:\n{log.read()[-2000:]}")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def library():
    """The ONNX Runtime library of this Python, so that nothing needs to be fetched."""
    return str(next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")))


def wait_until_ready(process, address, log):
    """Waits until the server says that it is ready; tells its last words if it ends instead."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            sys.exit(f"FAILED: the server ended ({process.returncode}) before it was ready:\n{log.read()[-2000:]}")
        with contextlib.suppress(OSError):
            if get(address, "/v2/health/ready")[0] == 200:
                return
        time.sleep(0.01)
    sys.exit("FAILED: the server was not ready within 60 s")
