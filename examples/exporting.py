"""What every example's train.py shares: exporting a fitted pipeline as a package folder with samples, traffic and card.

Promises: the same pinned requirements give the same files, byte for byte, on the same kind of machine.
Absent on purpose: anything of Modelyard. A package folder is plain files that any training script can write.
"""

import json
from pathlib import Path

import numpy
import onnxruntime
import sklearn
import skl2onnx

DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "object": "BYTES", "bool": "BOOL"}
PINNED = {"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__, "onnxruntime": onnxruntime.__version__}
OPSETS = {"": 18, "ai.onnx.ml": 3}


def plain(array):
    """The array as flat JSON values; single-precision numbers as the shortest text that reads back to the same number."""
    if array.dtype == numpy.float32:
        return [float(str(value)) for value in array.ravel()]
    return array.ravel().tolist()


def tensor(name, array):
    """One tensor as the Open Inference Protocol writes it."""
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name], "data": plain(array)}


def request(feeds):
    """A request with these named inputs."""
    return {"inputs": [tensor(name, array) for name, array in feeds.items()]}


def session(path):
    """The model file in Python's onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def response(model, feeds):
    """What onnxruntime answers, tensors as tensors; an output of maps (ZipMap) becomes one column per key, keys in order."""
    names = [output.name for output in model.get_outputs()]
    outputs = []
    for name, value in zip(names, model.run(names, feeds)):
        if isinstance(value, list):
            value = numpy.array([[row[key] for key in sorted(row)] for row in value], dtype=numpy.float32)
        outputs.append(tensor(name, value))
    return {"outputs": outputs}


def take(feeds, rows):
    """The same inputs, these rows only."""
    return {name: array[rows] for name, array in feeds.items()}


def write_json(path, value, one_per_line=False):
    """Writes JSON: readable, or one element of a list per line so that a change shows as one line."""
    if one_per_line:
        text = "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "\n]\n"
    else:
        text = json.dumps(value, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def write_samples(path, model, feeds, rows, at=None, outputs=None, absolute=1e-5, relative=1e-4):
    """Rows of held-out data, one request each and the last two together, with the answers that `model` gives in Python."""
    samples = []
    groups = [[row] for row in rows[:-2]] + [rows[-2:]]
    for group in groups:
        part = take(feeds, group)
        sample = {"name": "held-out-" + "-".join(str(row) for row in group)}
        if at:
            sample["path"] = at
        asked, answer = request(part), response(model, part)
        if outputs:
            asked["outputs"] = [{"name": name} for name in outputs]
            answer["outputs"] = [output for output in answer["outputs"] if output["name"] in outputs]
        tolerance = {"absolute": absolute, "relative": relative}
        samples.append(sample | {"request": asked, "response": answer, "tolerance": tolerance})
    write_json(path, samples, one_per_line=True)


def write_traffic(path, feeds, labels):
    """Every held-out row as one request with its true label."""
    rows = [{"id": f"held-out-{row}", "request": request(take(feeds, [row])), "label": label} for row, label in enumerate(labels)]
    write_json(path, rows, one_per_line=True)


def reference(feeds):
    """Training rows as the table that `[reference]` names: a column per element, `input[0]`, `input[1]`, ..."""
    heading = [f"{name}[{column}]" for name, array in feeds.items() for column in range(array.shape[1])]
    rows = zip(*(array for array in feeds.values()))
    lines = [",".join(str(value) for part in row for value in plain(part)) for row in rows]
    return "\n".join([",".join(heading), *lines]) + "\n"


def write_reference(path, feeds):
    """The rows that a model was trained on, for the profile that drift is measured against."""
    path.write_text(reference(feeds), encoding="utf-8")


def toml_value(value):
    """A number, text, truth value or list as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


def write_toml(path, model, runtime, files=(), **tables):
    """modelyard.toml: what the package says of itself. `files` are those that neither the model nor the card is."""
    lines = ['samples = "samples.json"'] + ([f"files = {toml_value(list(files))}"] if files else [])
    for name, table in {"model": model, "runtime": runtime, **tables}.items():
        lines += ["", f"[{name}]"] + [f"{key} = {toml_value(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")


def export(pipeline, path, name, inputs, options=None, outputs=None):
    """The fitted pipeline as an ONNX file. `inputs` are skl2onnx's typed inputs, `outputs` names for what it gives."""
    graph = skl2onnx.convert_sklearn(pipeline, name=name, initial_types=inputs, options=options, target_opset=OPSETS)
    for old, new in zip([output.name for output in graph.graph.output], outputs or []):
        rename(graph.graph, old, new)
    # The converter lists operator sets in the order of a set of texts, which differs from run to run.
    opsets = sorted(graph.opset_import, key=lambda opset: opset.domain)
    del graph.opset_import[:]
    graph.opset_import.extend(opsets)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def rename(graph, old, new):
    """Gives a value of the graph another name, wherever it is made or used; what had that name already makes way."""
    if old == new:
        return
    if any(new in node.output for node in graph.node):
        rename(graph, new, f"{new}_inner")
    for node in graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                if value == old:
                    names[index] = new
    for output in graph.output:
        if output.name == old:
            output.name = new


def folder(path):
    """The folder, made if it is not there."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def card(path, text, facts, metrics):
    """The model card: `text` with facts and measured figures in place of `{name}`."""
    figures = {key: f"{value:.4f}" for key, value in metrics.items()}
    path.write_text(text.format(**facts, **figures).lstrip(), encoding="utf-8")


def describe(into, name, spec, card_text, facts, metrics, runtime, files=(), **tables):
    """modelyard.toml and MODEL_CARD.md of one version. `spec` holds version, description, model (a sentence), limits and parameters."""
    model = {"name": name, "version": spec["version"], "description": spec["description"], "license": "Apache-2.0",
             "authors": ["The Modelyard authors"], "card": "MODEL_CARD.md"}
    tables = {"parameters": spec["parameters"], "metrics": metrics, "dependencies": PINNED, **tables}
    write_toml(into / "modelyard.toml", model, runtime, files, **tables)
    said = {key: spec[key] for key in ("version", "model", "limits")}
    card(into / "MODEL_CARD.md", card_text, {**facts, **said}, metrics)


def one_of_each(labels, extra=3):
    """The first held-out row of each class, then the next `extra` rows: what the samples are made of."""
    first = [labels.index(label) for label in sorted(set(labels))]
    return first + [row for row in range(len(labels)) if row not in first][:extra]
