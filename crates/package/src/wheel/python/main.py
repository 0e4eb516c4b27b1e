"""The command line: `python -m @MODULE@ predict|check|signature`."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy

from . import _of_request, check, document, predict, signature

_USAGE = """usage: python -m @MODULE@ predict [--flag NAME=VALUE]... [FILE]   answer the JSON request in FILE, or on stdin
       python -m @MODULE@ check                                   compare files with their digests, ask the samples
       python -m @MODULE@ signature                               inputs and outputs
"""


def _plain(array: Any) -> Any:
    return array.tolist() if isinstance(array, numpy.ndarray) else array


def _flags(given: list[str]) -> dict[str, Any]:
    """Takes `--flag NAME=VALUE` out of the arguments."""
    declared, values = document().get("flags", {}), {}
    while "--flag" in given:
        at = given.index("--flag")
        name, _, text = (given[at + 1 : at + 2] or [""])[0].partition("=")
        del given[at : at + 2]
        if declared.get(name, {}).get("type") in ("boolean", "number"):
            try:
                values[name] = json.loads(text)
            except ValueError:
                values[name] = text
        else:
            values[name] = text
    return values


def answer(arguments: list[str] | None = None) -> int:
    """Reads a request, prints `{"outputs": {name: values}}`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        flags = _flags(given)
        if len(given) > 1 or given[:1] in (["-h"], ["--help"]):
            sys.stderr.write(_USAGE)
            return 2
        if given and given[0] != "-":
            with open(given[0], encoding="utf-8") as file:
                request = json.load(file)
        else:
            request = json.load(sys.stdin)
        outputs = predict(_of_request(request), flags)
    except (OSError, TypeError, ValueError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(json.dumps({"outputs": {name: _plain(array) for name, array in outputs.items()}}))
    return 0


def main() -> int:
    """One of the commands."""
    command = sys.argv[1:2]
    if command == ["predict"]:
        return answer(sys.argv[2:])
    if command == ["check"]:
        wrong = check()
        for line in wrong:
            sys.stderr.write(f"{line}\n")
        print(f"{len(document()['files'])} files, {len(document().get('samples', []))} samples: {len(wrong)} wrong")
        return 1 if wrong else 0
    if command == ["signature"]:
        print(json.dumps(signature(), indent=2))
        return 0
    sys.stderr.write(_USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main())
