"""The engine: the package's own function, imported by the first request and called by one thread at a time, as the model server does."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import numpy
import numpy.typing

Array = numpy.typing.NDArray[Any]

# The function's environment has no NumPy of its own, so that behind the server it gets nested lists.
_LISTS = @LISTS@

_lock = threading.Lock()
_function: Callable[..., Any] | None = None


def _forget() -> None:
    """In a forked process nobody holds the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(folder: Path, document: dict[str, Any], feeds: dict[str, Array], flags: dict[str, Any], types: dict[str, Any]) -> dict[str, Array]:
    """What the function gives, held against the signature.

    Raises what the function raises, and ValueError when it gives something else than the signature says.
    """
    global _function
    given = {name: array.tolist() if _LISTS else array for name, array in feeds.items()}
    with _lock:
        if _function is None:
            _function = _loaded(folder, document["runtime"]["entry"])
        further = {"flags": flags, "parameters": document.get("parameters", {})}
        takes = inspect.signature(_function).parameters
        answer = _function(given, **{name: value for name, value in further.items() if name in takes})
    return _outputs(document["signature"]["outputs"], answer, types)


def _loaded(folder: Path, entry: str) -> Callable[..., Any]:
    if entry.startswith("mlflow:"):
        return _mlflow(folder / entry[len("mlflow:") :])
    module, _, path = entry.partition(":")
    found: Any = _imported(folder, module)
    for name in path.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{entry} is no function")
    function: Callable[..., Any] = found
    return function


def _imported(folder: Path, module: str) -> Any:
    """The module of the package's folder, whatever else is called like it or like its neighbours in this process."""
    own = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
    own -= set(getattr(sys, "stdlib_module_names", ()))
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))
        # What the function imports later is still found, after everything else.
        sys.path.append(str(folder))
        sys.modules.update(hidden)


def _mlflow(folder: Path) -> Callable[..., Any]:
    pyfunc = importlib.import_module("mlflow.pyfunc")
    model = pyfunc.load_model(str(folder))
    signature = model.metadata.signature
    columns = signature is None or signature.inputs is None or not signature.inputs.is_tensor_spec()

    def predict(inputs: dict[str, Array]) -> Any:
        if columns and (signature is not None or len(inputs) > 1):
            pandas = importlib.import_module("pandas")
            table = {name: array.reshape(len(array)) for name, array in inputs.items()}
            return plain(model.predict(pandas.DataFrame(table)))
        return plain(model.predict(next(iter(inputs.values())) if len(inputs) == 1 else inputs))

    def plain(given: Any) -> Any:
        return {str(name): given[name].to_numpy() for name in given.columns} if hasattr(given, "columns") else given

    return predict


def _outputs(specs: list[dict[str, Any]], given: Any, types: dict[str, Any]) -> dict[str, Array]:
    if not isinstance(given, Mapping):
        if len(specs) != 1:
            raise ValueError(f"the function gave no dict, and the signature has {len(specs)} outputs")
        given = {specs[0]["name"]: given}
    known = [spec["name"] for spec in specs]
    for name in given:
        if name not in known:
            raise ValueError(f"the function gave {name!r}, which the signature has not")
    for name in known:
        if name not in given:
            raise ValueError(f"output `{name}` is missing")
    return {spec["name"]: _output(spec, given[spec["name"]], types[spec["datatype"]]) for spec in specs}


def _output(spec: dict[str, Any], value: Any, kind: Any) -> Array:
    name, wanted = spec["name"], numpy.dtype(kind)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array = _texts(name, value) if wanted.kind == "O" else _numbers(name, spec["datatype"], value, wanted)
    shape = spec["shape"]
    if len(shape) != array.ndim or any(-1 < want != have for want, have in zip(shape, array.shape)):
        raise ValueError(f"output `{name}` has the shape {list(array.shape)}, and the signature says {shape}")
    return array


def _texts(name: str, value: Any) -> Array:
    array = numpy.asarray(value, dtype=object)
    flat = [text.decode() if isinstance(text, bytes) else text for text in array.ravel().tolist()]
    if any(not isinstance(text, str) for text in flat):
        raise ValueError(f"output `{name}` holds something else than texts")
    texts = numpy.empty(len(flat), dtype=object)
    texts[:] = flat
    return texts.reshape(array.shape)


def _numbers(name: str, datatype: str, value: Any, wanted: numpy.dtype[Any]) -> Array:
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        if value.dtype != wanted:
            raise ValueError(f"output `{name}` is an array of {value.dtype}, and the signature says {datatype}")
        return numpy.asarray(value)
    try:
        array = numpy.asarray(value)
    except ValueError:
        raise ValueError(f"output `{name}` is ragged: its lists differ in length") from None
    # Python's own numbers have no width: what fits is taken.
    fits = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]
    cast = array.astype(wanted) if array.dtype.kind in fits or not array.size else None
    if cast is None or (wanted.kind in "iu" and bool((cast != array).any())):
        raise ValueError(f"output `{name}` holds something else than {datatype}")
    return cast
