"""The engine: ONNX Runtime, loaded by the first request. Outputs are the model server's."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

Array = numpy.typing.NDArray[Any]

_lock = threading.Lock()
_sessions: dict[str, Any] = {}


def _forget() -> None:
    """A forked process has none of a session's threads, so it makes sessions of its own.

    Its parent's are kept for ever: whoever frees one waits for threads that are not there.
    """
    global _lock
    _lock = threading.Lock()
    for session in _sessions.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(folder: Path, document: dict[str, Any], feeds: dict[str, Array], flags: dict[str, Any], types: dict[str, Any]) -> dict[str, Array]:
    """The model's outputs by name; a flag may choose the model file."""
    model: str = document["runtime"]["model"]
    for name, flag in document.get("flags", {}).items():
        model = flag.get("files", {}).get(flags[name], model)
    session = _loaded(str(folder / model))
    specs = {spec["name"]: types[spec["datatype"]] for spec in document["signature"]["outputs"]}
    names = [output.name for output in session.get_outputs()]
    answers: dict[str, Array] = {}
    for name, value in zip(names, session.run(names, feeds)):
        answers.update(_output(name, value, specs))
    return answers


def _loaded(path: str) -> Any:
    session = _sessions.get(path)
    if session is None:
        with _lock:
            session = _sessions.get(path)
            if session is None:
                import onnxruntime  # type: ignore[import-untyped,unused-ignore]

                session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                _sessions[path] = session
    return session


def _output(name: str, value: Any, types: dict[str, Any]) -> dict[str, Array]:
    if isinstance(value, dict):
        table = _table(name, [value], types)
        return {name: table[name][0], f"{name}_labels": table[f"{name}_labels"]}
    if isinstance(value, list):
        if all(isinstance(row, dict) for row in value):
            return _table(name, value, types)
        return {name: numpy.stack(value)}
    return {name: value}


def _table(name: str, rows: list[dict[Any, Any]], types: dict[str, Any]) -> dict[str, Array]:
    keys = list(rows[0]) if rows else []
    if any(list(row) != keys for row in rows):
        keys = sorted(set().union(*rows))
    kind = types[name]
    absent = math.nan if numpy.dtype(kind).kind == "f" else 0
    table = numpy.array([[row.get(key, absent) for key in keys] for row in rows], dtype=kind).reshape(len(rows), len(keys))
    labels = numpy.empty(len(keys), dtype=types[f"{name}_labels"])
    labels[:] = keys
    return {name: table, f"{name}_labels": labels}
