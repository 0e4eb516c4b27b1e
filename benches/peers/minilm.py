"""Makes the model `minilm`: all-MiniLM-L6-v2 as an ONNX graph, with a sentence as request. Arguments: FOLDER-OF-THE-WEIGHTS INTO.

The graph is BERT as its paper has it (six layers, twelve heads), written with the operators that an export from PyTorch has, and the
mean of the tokens' vectors behind it, as sentence-transformers takes it. Token 0 is padding and is not attended to.
"""

import json
import struct
import sys
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import exporting  # noqa: E402

HIDDEN, HEADS, LAYERS, TOKENS = 384, 12, 6, 32
SENTENCE = (
    "the ship yard builds a new model of the ship , tests it with care , and sends it out to sea only when every answer "
    "that it gives is right ."
)


def weights(path):
    """The tensors of a safetensors file: eight bytes of length, a JSON header, raw little-endian data."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = numpy.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"])
    return tensors


class Graph:
    """Nodes and initialisers as they are added."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.initialisers = tensors, [], []

    def constant(self, name, value):
        self.initialisers.append(numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def weight(self, name, transposed=False):
        return self.constant(name, self.tensors[name].T if transposed else self.tensors[name])

    def add(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def dense(self, value, name):
        product = self.add("MatMul", [value, self.weight(f"{name}.weight", transposed=True)], f"{name}/product")
        return self.add("Add", [product, self.weight(f"{name}.bias")], f"{name}/sum")

    def normed(self, value, name):
        inputs = [value, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("LayerNormalization", inputs, f"{name}/normed", axis=-1, epsilon=1e-12)

    def heads(self, value, name, order):
        split = self.add("Reshape", [value, "split"], f"{name}/split")
        return self.add("Transpose", [split], f"{name}/heads", perm=order)


def embedded(graph):
    words = graph.add("Gather", [graph.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
    places = graph.tensors["embeddings.position_embeddings.weight"] + graph.tensors["embeddings.token_type_embeddings.weight"][0]
    length = graph.add("Slice", [graph.add("Shape", ["input_ids"], "shape"), "one", "two"], "length")
    place = graph.add("Slice", [graph.constant("places", places), "zero", length, "zero"], "place")
    return graph.normed(graph.add("Add", [words, place], "embedded"), "embeddings.LayerNorm")


def attended(graph, value, mask, layer):
    own = f"{layer}.attention.self"
    query = graph.heads(graph.dense(value, f"{own}.query"), f"{own}.query", [0, 2, 1, 3])
    key = graph.heads(graph.dense(value, f"{own}.key"), f"{own}.key", [0, 2, 3, 1])
    content = graph.heads(graph.dense(value, f"{own}.value"), f"{own}.value", [0, 2, 1, 3])
    scores = graph.add("Div", [graph.add("MatMul", [query, key], f"{own}/raw"), "scale"], f"{own}/scores")
    shares = graph.add("Softmax", [graph.add("Add", [scores, mask], f"{own}/masked")], f"{own}/shares", axis=-1)
    mixed = graph.add("Transpose", [graph.add("MatMul", [shares, content], f"{own}/mixed")], f"{own}/back", perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", [mixed, "joined"], f"{own}/joined")
    out = graph.add("Add", [graph.dense(joined, f"{layer}.attention.output.dense"), value], f"{layer}/attended")
    return graph.normed(out, f"{layer}.attention.output.LayerNorm")


def fed(graph, value, layer):
    inner = graph.dense(value, f"{layer}.intermediate.dense")
    erf = graph.add("Erf", [graph.add("Div", [inner, "root"], f"{layer}/scaled")], f"{layer}/erf")
    product = graph.add("Mul", [inner, graph.add("Add", [erf, "unit"], f"{layer}/shifted")], f"{layer}/product")
    active = graph.add("Mul", [product, "half"], f"{layer}/gelu")
    return graph.normed(graph.add("Add", [graph.dense(active, f"{layer}.output.dense"), value], f"{layer}/fed"), f"{layer}.output.LayerNorm")


def built(tensors):
    graph = Graph(tensors)
    for name, value in {"zero": [0], "one": [1], "two": [2], "split": [0, 0, HEADS, HIDDEN // HEADS], "joined": [0, 0, HIDDEN]}.items():
        graph.constant(name, numpy.array(value, dtype=numpy.int64))
    numbers = {"scale": (HIDDEN / HEADS) ** 0.5, "root": 2**0.5, "unit": 1.0, "half": 0.5, "least": 1e-9, "far": -10_000.0}
    for name, value in numbers.items():
        graph.constant(name, numpy.array(value, dtype=numpy.float32))
    graph.constant("padding", numpy.array(0, dtype=numpy.int64))
    graph.constant("axes", numpy.array([1, 2], dtype=numpy.int64))
    graph.constant("last", numpy.array([-1], dtype=numpy.int64))
    padded = graph.add("Cast", [graph.add("Equal", ["input_ids", "padding"], "is_padding")], "padded", to=TensorProto.FLOAT)
    mask = graph.add("Unsqueeze", [graph.add("Mul", [padded, "far"], "mask_rows"), "axes"], "mask")
    value = embedded(graph)
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        value = fed(graph, attended(graph, value, mask, layer), layer)
    present = graph.add("Unsqueeze", [graph.add("Sub", ["unit", padded], "present_rows"), "last"], "present")
    total = graph.add("ReduceSum", [graph.add("Mul", [value, present], "kept"), "one"], "total", keepdims=0)
    count = graph.add("Max", [graph.add("ReduceSum", [present, "one"], "counted", keepdims=0), "least"], "count")
    graph.add("Div", [total, count], "embedding")
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", HIDDEN])]
    body = helper.make_graph(graph.nodes, "minilm", inputs, outputs, graph.initialisers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sentence(vocabulary):
    numbers = {word: number for number, word in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    words = ["[CLS]", *SENTENCE.split()][: TOKENS - 1] + ["[SEP]"]
    return numpy.array([[numbers[word] for word in words]], dtype=numpy.int64)


def main(source, into):
    [file] = source.glob("*/model/model.safetensors")
    folder = exporting.folder(into / "minilm")
    model = built(weights(file))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    rows = sentence(file.with_name("vocab.txt"))
    feeds = {"input_ids": numpy.concatenate([rows, numpy.roll(rows, 3, axis=1), numpy.flip(rows, axis=1)])}
    about = {"name": "bench", "version": "1.0.0-minilm", "description": "For the benchmark: all-MiniLM-L6-v2"}
    exporting.write_toml(folder / "modelyard.toml", about, {"kind": "onnx", "model": "model.onnx"})
    exporting.write_samples(folder / "samples.json", exporting.session(folder / "model.onnx"), feeds, [0, 1, 2])
    (folder / "request.json").write_text(json.dumps(exporting.request(exporting.take(feeds, [0]))), encoding="utf-8")


main(Path(sys.argv[1]), Path(sys.argv[2]))
