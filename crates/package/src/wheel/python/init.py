"""A model as a Python package, made by Modelyard.

    import @MODULE@

    @MODULE@.signature()         # inputs and outputs with their types and shapes
    @MODULE@.predict(data)       # outputs by name, as NumPy arrays
    @MODULE@.flags()             # the values of the model's flags, unless `predict` is given others
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy
import numpy.typing

from . import _engine

__version__ = "@VERSION@"
__all__ = ["Array", "Flags", "check", "document", "flags", "predict", "samples", "signature"]

Array = numpy.typing.NDArray[Any]
# Values of flags by name: true or false, a number, a text.
Flags = Mapping[str, Union[bool, int, float, str]]

_FOLDER = Path(__file__).resolve().parent / "package"
_TYPES: dict[str, Any] = {
    "BOOL": numpy.bool_, "UINT8": numpy.uint8, "UINT16": numpy.uint16, "UINT32": numpy.uint32, "UINT64": numpy.uint64,
    "INT8": numpy.int8, "INT16": numpy.int16, "INT32": numpy.int32, "INT64": numpy.int64,
    "FP16": numpy.float16, "FP32": numpy.float32, "FP64": numpy.float64, "BYTES": object,
}

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


def flags() -> dict[str, Any]:
    """The value of every flag that the model declares, unless `predict` is given others; their types and limits stand in `document()`."""
    return {name: _default(flag) for name, flag in _document().get("flags", {}).items()}


def predict(data: Any, flags: Flags | None = None) -> dict[str, Array]:
    """Answers one request; any number of threads may ask at once. A flag keeps its default unless `flags` says otherwise.

    Raises TypeError for data of another kind than the model takes, ValueError for another shape, for names it does not know, and for values that a
    flag cannot have.
    """
    values = _values(flags or {})
    return _engine.run(_FOLDER, _document(), _feeds(data, values), values, _TYPES)


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


def _default(flag: dict[str, Any]) -> Any:
    return int(flag["default"]) if flag.get("whole") else flag["default"]


def _values(given: Flags) -> dict[str, Any]:
    declared: dict[str, dict[str, Any]] = _document().get("flags", {})
    for name, value in given.items():
        if name not in declared:
            raise ValueError(f"the model has no flag `{name}`" + (f"; it has {_listed(declared)}" if declared else ""))
        why = _misfit(declared[name], value)
        if why:
            raise ValueError(f"the flag `{name}` is {why}, and this is {value!r:.80}")
    return {name: given.get(name, _default(flag)) for name, flag in declared.items()}


def _misfit(flag: dict[str, Any], value: Any) -> str:
    """What the flag's values are, if this is none."""
    if flag["type"] == "boolean":
        return "" if isinstance(value, bool) else "true or false"
    if flag["type"] == "string":
        choices = flag.get("one_of") or list(flag.get("files", {}))
        if not isinstance(value, str):
            return "a text"
        return "" if not choices or value in choices else f"one of {_listed(choices)}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "a number"
    if flag.get("whole") and value != int(value):
        return "a whole number"
    if value < flag.get("minimum", value):
        return f"at least {flag['minimum']}"
    return f"at most {flag['maximum']}" if value > flag.get("maximum", value) else ""


def _filled(specs: dict[str, Any], feeds: dict[str, Array], values: dict[str, Any]) -> dict[str, Array]:
    """Inputs that flags fill where they are left out: one element, or one for each row."""
    by_flag = {flag["input"]: values[name] for name, flag in _document().get("flags", {}).items() if "input" in flag}
    theirs = [feeds[name] for name in specs if name in feeds and name not in by_flag]
    rows = next((array.shape[0] if array.ndim else 1 for array in theirs), 1)
    for name, value in by_flag.items():
        if name not in feeds:
            shape = [axis if axis >= 0 else rows if index == 0 else 1 for index, axis in enumerate(specs[name]["shape"])]
            feeds[name] = numpy.full(shape, value, dtype=_TYPES[specs[name]["datatype"]])
    return feeds


def _feeds(data: Any, values: dict[str, Any]) -> dict[str, Array]:
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
    return _filled(specs, {name: _input(specs[name], value) for name, value in data.items()}, values)


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
    answers, tolerance = predict(_of_request(sample["request"]), sample.get("flags")), sample["tolerance"]
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
