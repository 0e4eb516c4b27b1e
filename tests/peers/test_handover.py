"""Models handed over to a third party: wheels in an environment that knows nothing of Modelyard, built into a program that mypy checks.

The program gets NumPy arrays, lists and pandas tables, other values of flags, threads and forked processes, two functions whose modules are called the
same, and must print what the server answers. Nothing of the checkout, of Modelyard or of its server is on the program's paths.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy
import onnxruntime
from support import BINARY, EXAMPLES, GATEWAY, arrays, equal, expect, merged, post, same, to_json, traffic

PROGRAM = '''"""Grades wines and sorts letters: a program of somebody else's."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import alarm
import half
import language
import numpy
import pandas
import wine


def graded(rows: numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float32]]) -> dict[str, list[float]]:
    answer: dict[str, wine.Array] = wine.predict({"features": rows})
    return {name: array.tolist() for name, array in answer.items()}


def sorted_letters(letters: list[str], flags: language.Flags | None = None) -> list[str]:
    found: list[str] = language.predict(letters, flags)["language"].tolist()
    return found


def in_a_child(letters: list[str]) -> bool:
    """Whether a forked process answers as its parent does."""
    child = os.fork()
    if child == 0:
        same = sorted_letters(letters) == language.predict(letters)["language"].tolist() and wine.check() == []
        os._exit(0 if same else 1)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    given = json.load(sys.stdin)
    rows = numpy.array(given["rows"], dtype=numpy.float32)
    letters: list[str] = given["letters"]
    table = pandas.DataFrame({"text": pandas.Series(letters, dtype="string")})
    settings: list[alarm.Flags] = [{}, {"threshold": 0.7}, {"threshold": 0.7, "size": "large"}]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(sorted_letters, [letters] * 16))
    told = {
        "checks": [wine.check(), language.check(), alarm.check(), half.check()],
        "wine": graded(rows),
        "table": wine.predict(pandas.DataFrame(rows))["label"].tolist(),
        "language": sorted_letters(letters),
        "confidence": language.predict(table)["confidence"].tolist(),
        "strict": sorted_letters(letters, {"least-confidence": 1}),
        "threads": all(one == at_once[0] for one in at_once),
        "fork": in_a_child(letters),
        "alarm": [alarm.predict([[0.6] * 4], flags)["label"].tolist() for flags in settings],
        "half": half.predict([1, 3])["y"].tolist(),
        "flags": alarm.flags(),
        "numpy": numpy.__version__,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
'''
WRONG = 'import language\n\nfound: int = language.predict(["a"])\nlanguage.predict(["a"], flags={1: "a"})\nlanguage.predicts(["a"])\n'


def run(*command, fails=False, **more):
    """What a program said; ends the script when it fails, or does not though it should."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if (done.returncode != 0) != fails:
        sys.exit(f"FAILED ({done.returncode}): {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr if fails else done.stdout


def half(folder):
    """A function without any dependency, whose module has the name of another package's module."""
    folder.mkdir()
    (folder / "modelyard.toml").write_text(
        '[model]\nname = "half"\nversion = "1.0.0"\n[runtime]\nkind = "python"\nentry = "predict:predict"\n[signature]\n'
        'inputs = [{name = "x", datatype = "FP32", shape = [-1]}]\noutputs = [{name = "y", datatype = "FP64", shape = [-1]}]\n',
        encoding="utf-8",
    )
    # Lists, as behind the server: NumPy's arrays would add where lists are put one after the other.
    source = "def predict(inputs):\n    assert type(inputs['x']) is list\n    return [x / 2 for x in inputs['x'] + [10.0]]\n"
    (folder / "predict.py").write_text(source, encoding="utf-8")
    return folder


def wheels(work):
    """A wheel of each model."""
    folders = [EXAMPLES / "wine/v1", EXAMPLES / "language/v1", EXAMPLES.parent / "tests/fixtures/threshold", half(work / "half")]
    found = []
    for folder in folders:
        told = json.loads(run(BINARY, "package", folder, "--format", "wheel", "--out", work / "dist", "--output", "json"))
        found += [Path(entry["path"]) for entry in told["formats"] if entry["format"] == "wheel"]
    expect(len(found) == 4, "four models are wheels", found)
    return found


def typed(work, python):
    """mypy finds nothing in the program nor in the loaders themselves, and finds what is wrong."""
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", work / "mypy", "--python-executable"]
    program, wrong = work / "app" / "program.py", work / "app" / "wrong.py"
    program.parent.mkdir()
    program.write_text(PROGRAM, encoding="utf-8")
    wrong.write_text(WRONG, encoding="utf-8")
    told = run(*mypy, python, "--disable-error-code=import-untyped", program, cwd=program.parent)
    expect(told == "", "mypy --strict finds nothing in a program that uses four models", told)
    told = run(*mypy, python, wrong, cwd=program.parent, fails=True)
    lines = [line.split(":")[1] for line in told.splitlines() if "error:" in line]
    expect(lines == ["3", "4", "5"], "and finds wrong types, flags and names", told)
    return program


def loaders_are_typed(work, files):
    """mypy --strict finds nothing in what is generated, an ONNX model's loader and a function's."""
    sources = work / "sources"
    for file in files[:2]:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(sources)
    modules = [word for name in ("wine", "language") for part in ("", ".__main__", "._engine") for word in ("-m", name + part)]
    told = run(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", work / "mypy", *modules, cwd=sources)
    expect(told == "", "mypy --strict finds nothing in the loaders", told)


def installed(work, files):
    """A fresh environment with the wheels, and what they ask for."""
    python = work / "venv" / "bin" / "python"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, work / "venv")
    wanted = [f"{file}[pandas]" if file.name.startswith("wine") else file for file in files]
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *wanted)
    told = json.loads(run(sys.executable, "-m", "uv", "pip", "list", "--quiet", "--format", "json", "--python", python))
    versions = {entry["name"]: entry["version"] for entry in told}
    expect(versions["onnxruntime"] == onnxruntime.__version__, "the engine is the one that the model was checked with", versions)
    lock = (EXAMPLES / "language/v1/modelyard.lock").read_text(encoding="utf-8")
    expect(f"numpy=={versions['numpy']} " in lock, "NumPy is the one of the function's lock", versions)
    expect(not any("modelyard" in name for name in versions), "nothing of Modelyard is there", versions)
    return python


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        files = wheels(work)
        loaders_are_typed(work, files)
        python = installed(work, files)
        program = typed(work, python)
        rows, letters = merged(traffic("wine"))["features"], merged(traffic("language"))["text"]
        given = json.dumps({"rows": rows.tolist(), "letters": letters.tolist()})
        # Isolated: only what is installed is found, and nothing of the environment is told.
        told = json.loads(run(python, "-I", program, input=given, cwd=program.parent, env={}))
        expect(told["checks"] == [[], [], [], []], "digests and samples hold", told["checks"])

        answers = {}
        for service, inputs in (("wine", {"features": rows}), ("language", {"text": letters})):
            status, answer = post(GATEWAY, f"/v2/models/{service}/infer", to_json(inputs))
            expect(status == 200, f"{service}: the server answers", answer)
            answers[service] = arrays(answer)
        own = {name: numpy.array(values, dtype=answers["wine"][name].dtype) for name, values in told["wine"].items()}
        expect(equal(answers["wine"], own.get), f"wine: {len(rows)} rows as the server answers them")
        expect(told["table"] == told["wine"]["label"], "a pandas table gives the same as an array")
        expect(told["language"] == answers["language"]["language"].tolist(), f"language: {len(letters)} texts as the server answers them", told)
        confidence = numpy.array(told["confidence"], dtype=numpy.float32)
        expect(same(answers["language"]["confidence"], confidence), "a pandas column of texts, too")
        expect("unknown" in told["strict"] and "unknown" not in told["language"], "a flag reaches the function", told["strict"])
        expect(told["threads"], "four threads at once are answered alike")
        expect(told["fork"], "a forked process is answered as its parent is")
        expect(told["alarm"] == [[1], [0], [1]] and told["flags"] == {"size": "small", "threshold": 0.5}, "flags fill inputs and choose files", told)
        expect(told["half"] == [0.5, 1.5, 5.0], "two functions of one module's name do not meet, and lists stay lists", told["half"])


main()
