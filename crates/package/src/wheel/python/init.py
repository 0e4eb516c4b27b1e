"""A model as a Python package, made by Modelyard.

    import @MODULE@

    @MODULE@.signature()         # inputs and outputs with their types and shapes
    @MODULE@.predict(data)       # outputs by name, as NumPy arrays
    @MODULE@.check()             # what is wrong with this installation: [] if nothing is

`data` is a mapping from input name to array, a pandas DataFrame, or one array when the model has one input. The answers are those of the model
server: a map (what scikit-learn's converter calls ZipMap) becomes a table NAME with one row per map, and its keys NAME_labels.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

__version__ = "@VERSION@"
__all__ = ["check", "document", "predict", "samples", "signature"]

Array = numpy.typing.NDArray[Any]

_FOLDER = Path(__file__).resolve().parent / "package"
_TYPES: dict[str, Any] = {
    "BOOL": numpy.bool_, "UINT8": numpy.uint8, "UINT16": numpy.uint16, "UINT32": numpy.uint32, "UINT64": numpy.uint64,
    "INT8": numpy.int8, "INT16": numpy.int16, "INT32": numpy.int32, "INT64": numpy.int64,
    "FP16": numpy.float16, "FP32": numpy.float32, "FP64": numpy.float64, "BYTES": object,
}
_lock = threading.Lock()
_session: Any = None


def _forget() -> None:
    """A forked process has none of the session's threads, so it makes a session of its own."""
    global _lock, _session
    _lock, _session = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@functools.lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((_FOLDER / "modelyard.json").read_text(encoding="utf-8"))
    return loaded


def document() -> dict[str, Any]:
    """What the package says of itself: signature, samples, parameters, metrics, files with their digests."""
    return copy.deepcopy(_document())


def signature() -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs, each with `name`, `datatype` (Open Inference Protocol) and `shape` (-1 is a free axis)."""
    found: dict[str, list[dict[str, Any]]] = copy.deepcopy(_document()["signature"])
    return found


def samples() -> list[dict[str, Any]]:
    """Real requests with the answers that a correct model gives."""
    found: list[dict[str, Any]] = copy.deepcopy(_document().get("samples", []))
    return found


def predict(data: Any) -> dict[str, Array]:
    """Answers one request; any number of threads may ask at once.

    Raises TypeError for data of another kind than the model takes, ValueError for another shape, or names it does not know.
    """
    session, feeds = _loaded(), _feeds(data)
    names = [output.name for output in session.get_outputs()]
    answers: dict[str, Array] = {}
    for name, value in zip(names, session.run(names, feeds)):
        answers.update(_output(name, value))
    return answers


def check() -> list[str]:
    """Compares every file with its digest and asks every sample; tells what is wrong."""
    wrong = []
    for path, entry in _document()["files"].items():
        hashed = hashlib.sha256()
        with open(_FOLDER / path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                hashed.update(piece)
        if f"sha256:{hashed.hexdigest()}" != entry["digest"]:
            wrong.append(f"the file {path} is damaged: install the package again")
    for sample in samples():
        wrong += [f"sample {sample['name']}: {why}" for why in _differences(sample)]
    return wrong


def _loaded() -> Any:
    global _session
    if _session is None:
        with _lock:
            if _session is None:
                import onnxruntime

                path = str(_FOLDER / _document()["runtime"]["model"])
                _session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return _session


def _feeds(data: Any) -> dict[str, Array]:
    specs = {spec["name"]: spec for spec in _document()["signature"]["inputs"]}
    required = [name for name, spec in specs.items() if not spec.get("optional", False)]
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        data = _of_frame(data, specs, required)
    elif not isinstance(data, Mapping):
        if len(required) != 1:
            raise TypeError(f"the model has the inputs {_listed(specs)}: give a mapping from name to array")
        data = {required[0]: data}
    unknown = [str(name) for name in data if name not in specs]
    if unknown:
        raise ValueError(f"the model has no input {_listed(unknown)}; it has {_listed(specs)}")
    missing = [name for name in required if name not in data]
    if missing:
        raise ValueError(f"the input {_listed(missing)} is missing")
    return {name: _input(specs[name], value) for name, value in data.items()}


def _of_frame(frame: Any, specs: dict[str, Any], required: list[str]) -> dict[str, Any]:
    columns = [str(column) for column in frame.columns]
    if set(required) <= set(columns) <= set(specs):
        arrays = {name: frame[name].to_numpy() for name in columns}
        return {name: array.reshape(-1, 1) if len(specs[name]["shape"]) == 2 else array for name, array in arrays.items()}
    if len(required) == 1 and len(specs[required[0]]["shape"]) == 2:
        return {required[0]: frame.to_numpy()}
    raise ValueError(f"the columns {_listed(columns)} are not the model's inputs {_listed(specs)}")


def _input(spec: dict[str, Any], value: Any) -> Array:
    name, kind, want = spec["name"], spec["datatype"], _TYPES.get(spec["datatype"])
    if want is None:
        raise TypeError(f"input `{name}` is {kind}, which NumPy has no type for: ask the model server")
    try:
        array = numpy.asarray(value)
    except ValueError as error:
        raise ValueError(f"input `{name}` is no array: {error}") from None
    if want is object:
        array = _texts(name, array)
    elif array.dtype.kind in "iu" and numpy.dtype(want).kind in "iu":
        limits = numpy.iinfo(want)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise ValueError(f"input `{name}` is {kind}, and a number lies outside of {limits.min}..{limits.max}")
        array = array.astype(want)
    elif array.size == 0 or numpy.can_cast(array.dtype, want, "same_kind"):
        array = array.astype(want)
    else:
        raise TypeError(f"input `{name}` is {kind}, and this is {array.dtype}: convert it first")
    shape = spec["shape"]
    if len(shape) != array.ndim or any(-1 < want != have for want, have in zip(shape, array.shape)):
        wanted = ", ".join("any" if axis < 0 else str(axis) for axis in shape)
        raise ValueError(f"input `{name}` has the shape ({wanted}), and this has {array.shape}")
    return array


def _texts(name: str, array: Array) -> Array:
    flat = [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
    if any(not isinstance(value, str) for value in flat):
        raise TypeError(f"input `{name}` takes texts, and this is {array.dtype}")
    texts = numpy.empty(len(flat), dtype=object)
    texts[:] = flat
    return texts.reshape(array.shape)


def _output(name: str, value: Any) -> dict[str, Array]:
    if isinstance(value, dict):
        table = _table(name, [value])
        return {name: table[name][0], f"{name}_labels": table[f"{name}_labels"]}
    if isinstance(value, list):
        if all(isinstance(row, dict) for row in value):
            return _table(name, value)
        return {name: numpy.stack(value)}
    return {name: value}


def _table(name: str, rows: list[dict[Any, Any]]) -> dict[str, Array]:
    types = {spec["name"]: _TYPES[spec["datatype"]] for spec in _document()["signature"]["outputs"]}
    keys = list(rows[0]) if rows else []
    if any(list(row) != keys for row in rows):
        keys = sorted(set().union(*rows))
    kind = types[name]
    absent = math.nan if numpy.dtype(kind).kind == "f" else 0
    table = numpy.array([[row.get(key, absent) for key in keys] for row in rows], dtype=kind).reshape(len(rows), len(keys))
    labels = numpy.empty(len(keys), dtype=types[f"{name}_labels"])
    labels[:] = keys
    return {name: table, f"{name}_labels": labels}


def _of_request(request: Any) -> Any:
    """The inputs of a request in the protocol's JSON form, in the plain form, or bare."""
    inputs = request.get("inputs", request) if isinstance(request, dict) else request
    if not (isinstance(inputs, list) and inputs and all(isinstance(one, dict) and "name" in one for one in inputs)):
        return inputs
    arrays = {}
    for one in inputs:
        kind = _TYPES.get(one.get("datatype", ""))
        if kind is None:
            raise TypeError(f"input `{one['name']}` has the datatype {one.get('datatype')}, which cannot be read here")
        arrays[one["name"]] = numpy.array(one["data"], dtype=kind).reshape(one["shape"])
    return arrays


def _differences(sample: dict[str, Any]) -> list[str]:
    answers, tolerance = predict(_of_request(sample["request"])), sample["tolerance"]
    wrong = []
    for output in sample["response"].get("outputs", []):
        got = answers.get(output["name"])
        if got is None:
            wrong.append(f"there is no output `{output['name']}`")
        elif "shape" in output and list(got.shape) != output["shape"]:
            wrong.append(f"`{output['name']}` has the shape {list(got.shape)} instead of {output['shape']}")
        elif "data" in output:
            want = numpy.array(output["data"], dtype=object).ravel().tolist()
            have = got.ravel().tolist()
            if len(want) != len(have) or not all(_close(w, h, tolerance) for w, h in zip(want, have)):
                wrong.append(f"`{output['name']}` is not what it should be")
    return wrong


def _close(want: Any, have: Any, tolerance: dict[str, float]) -> bool:
    if isinstance(want, (int, float)) and isinstance(have, (int, float)):
        return want == have or abs(want - have) <= tolerance["absolute"] + tolerance["relative"] * abs(want)
    return bool(want == have)


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
