"""The environment of a Python function: locked with uv, made from the lock by uv and by pip, found again without an index, refused with what to do.

The dependency is a small one from the index that uv and pip are set to. Each case has a home and caches of its own.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support import BINARY, expect, get, post

UV = str(Path(sys.executable).parent / "uv")
NOWHERE = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple/", "PIP_INDEX_URL": "http://127.0.0.1:9/simple/", "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
DESCRIPTION = '''[model]
name = "snake"
version = "1.0.0"
[runtime]
kind = "python"
entry = "predict:predict"
requirements = "requirements.txt"
[signature]
inputs = [{name = "x", datatype = "BYTES", shape = [-1]}]
outputs = [{name = "y", datatype = "BYTES", shape = [-1]}]
[python]
requires = ">=3.9"
'''
FUNCTION = "import sys\n\nimport six\n\n\ndef predict(inputs):\n    return [six.ensure_str(x) + six.__version__ + sys.prefix for x in inputs['x']]\n"


def model(folder):
    folder.mkdir()
    (folder / "modelyard.toml").write_text(DESCRIPTION, encoding="utf-8")
    (folder / "predict.py").write_text(FUNCTION, encoding="utf-8")
    (folder / "requirements.txt").write_text("six>=1.16\n", encoding="utf-8")
    return folder


def settings(work, home, tool):
    """The environment variables of a command: uv or pip, nothing kept from other runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MODELYARD_CONTROL", "MODELYARD_PYTHON_ENV"))}
    caches = {"UV_CACHE_DIR": str(work / home / "uv"), "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**own, **caches, "MODELYARD_HOME": str(work / home), "MODELYARD_PYTHON": sys.executable, "MODELYARD_UV": UV if tool == "uv" else ""}


def refused(folder, environment, *arguments):
    """What `serve`, or another command, says as it gives up."""
    command = [BINARY, *(arguments or ("serve", str(folder), "--http", "127.0.0.1:0"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    expect(done.returncode != 0, f"{command[1]} gives up", done.stdout + done.stderr)
    return " ".join(re.sub(r"[│×╰─▶├]", " ", done.stdout + done.stderr).split())


def asked(folder, environment):
    """The function's answer."""
    command = [BINARY, "serve", str(folder), "--http", "127.0.0.1:0", "--output", "json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        expect(first, "serve listens", "" if first else process.stderr.read())
        address = json.loads(first)["address"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                if get(address, "/v2/health/ready")[0] == 200:
                    break
            time.sleep(0.02)
        request = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
        status, answer = post(address, "/v2/models/snake/infer", request)
        expect(status == 200, "the function answers", answer)
        return answer["outputs"][0]["data"][0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        folder = model(work / "snake")
        unlocked = refused(folder, settings(work, "none", "uv"), "package", str(folder))
        expect("modelyard lock" in unlocked, "a package without a lock is refused, and it is said how to make one", unlocked)
        subprocess.run([BINARY, "lock", str(folder)], env=settings(work, "none", "uv"), check=True, capture_output=True)
        lock = folder / "modelyard.lock"
        good = lock.read_text(encoding="utf-8")
        pinned = re.search(r"^six==(\S+)", good, re.M)[1]
        expect("--hash=sha256:" in good, f"six is locked at {pinned} with hashes")

        # What is above the pins says what they were made from, and is no hash of a file.
        head, pins = re.match(r"((?:#[^\n]*\n)*)(.*)", good, re.S).groups()
        wrong = head + re.sub(r"sha256:(\w{64})", lambda found: "sha256:" + found[1][::-1], pins)
        for tool in ("uv", "pip"):
            lock.write_text(wrong, encoding="utf-8")
            told = refused(folder, settings(work, f"wrong-{tool}", tool))
            expect("do not trust it" in told and "modelyard lock --upgrade" in told, f"{tool}: a file with another hash is not installed", told)
            lock.write_text(good, encoding="utf-8")
            told = refused(folder, {**settings(work, f"offline-{tool}", tool), **NOWHERE})
            expect("UV_DEFAULT_INDEX" in told and "MODELYARD_PYTHON_ENVIRONMENT" in told, f"{tool}: without an index it is said what to do", told)
            answer = asked(folder, settings(work, tool, tool))
            expect(answer.startswith(f"a{pinned}") and str(work / tool / "cache") in answer, f"{tool}: the environment has what the lock pins", answer)
            again = asked(folder, {**settings(work, tool, tool), **NOWHERE})
            expect(again == answer, f"{tool}: it is found again without an index")


main()
