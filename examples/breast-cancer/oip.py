"""A logistic regression behind the Open Inference Protocol (JSON form), with nothing but Python's standard library.

It is what people write when they have no model server: weights in a JSON file, a program that listens on $PORT.
train.py copies this file into each version that runs as a `command`.
"""

import json
import math
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WEIGHTS = json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))
COLUMNS = len(WEIGHTS["mean"])
MODEL = os.environ.get("MODELYARD_SERVICE", "breast-cancer")
LARGEST_BODY = 4 * 1024 * 1024


class Refused(Exception):
    """The request is not one that this model can answer."""


def benign(row):
    """Chance that one row of measurements is benign."""
    scaled = ((x - m) / s for x, m, s in zip(row, WEIGHTS["mean"], WEIGHTS["scale"]))
    z = WEIGHTS["intercept"] + sum(x * w for x, w in zip(scaled, WEIGHTS["coefficients"]))
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def flat(data):
    """Nested lists as one list of numbers."""
    for value in data:
        if isinstance(value, list):
            yield from flat(value)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Refused("`data` of `features` must hold numbers only")
        else:
            yield float(value)


def rows_of(body):
    """The rows of the one input `features`."""
    try:
        inputs = json.loads(body)["inputs"]
        tensor = next(tensor for tensor in inputs if tensor["name"] == "features")
        shape, values = list(tensor["shape"]), list(flat(tensor["data"]))
    except (ValueError, KeyError, TypeError, StopIteration):
        raise Refused("the body must be JSON with an input `features` that has `shape`, `datatype` and `data`") from None
    if len(shape) != 2 or shape[1] != COLUMNS or shape[0] * COLUMNS != len(values):
        raise Refused(f"`features` must have the shape [rows, {COLUMNS}] and as many values")
    return [values[start : start + COLUMNS] for start in range(0, len(values), COLUMNS)]


def infer(body):
    """The answer to one inference request."""
    chances = [benign(row) for row in rows_of(body)]
    labels = {"name": "label", "shape": [len(chances)], "datatype": "INT64", "data": [int(c > 0.5) for c in chances]}
    both = [value for chance in chances for value in (1 - chance, chance)]
    probabilities = {"name": "probabilities", "shape": [len(chances), 2], "datatype": "FP32", "data": both}
    return {"model_name": MODEL, "outputs": [labels, probabilities]}


def metadata():
    """What the model takes and gives."""
    features = {"name": "features", "datatype": "FP32", "shape": [-1, COLUMNS]}
    outputs = [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ]
    return {"name": MODEL, "platform": "python_json", "inputs": [features], "outputs": outputs}


class Handler(BaseHTTPRequestHandler):
    """One connection. `before_answer` is where a version adds what is special about it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @staticmethod
    def before_answer():
        """Called once per inference request, before it is answered; may raise to answer 500."""

    def do_GET(self):
        answers = {
            "/v2": {"name": "breast-cancer", "version": "3", "extensions": []},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            f"/v2/models/{MODEL}": metadata(),
            f"/v2/models/{MODEL}/ready": {"name": MODEL, "ready": True},
        }
        answer = answers.get(self.path)
        self.reply(*((200, answer) if answer else (404, {"error": f"no such path: {self.path[:80]}"})))

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.refuse_unread(411, "a body needs a Content-Length")
        if not 0 <= length <= LARGEST_BODY:
            return self.refuse_unread(413, f"the body may have {LARGEST_BODY} bytes at most")
        body = self.rfile.read(length)
        if self.path not in (f"/v2/models/{MODEL}/infer", "/v2/models/breast-cancer/infer"):
            return self.reply(404, {"error": f"no such path: {self.path[:80]}"})
        try:
            self.before_answer()
            self.reply(200, infer(body))
        except Refused as why:
            self.reply(400, {"error": str(why)})
        except RuntimeError as why:
            self.reply(500, {"error": str(why)})

    def refuse_unread(self, status, why):
        """Answers without reading the body, so the connection cannot be used again."""
        self.close_connection = True
        self.reply(status, {"error": why})

    def reply(self, status, answer):
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        """No line per request: the gateway counts them."""


def run(handler):
    """Listens on $PORT of the loopback address until it is told to end."""
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), handler)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
