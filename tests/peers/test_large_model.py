"""A model with 200 MiB of external weights: one copy on disk, mapped into memory, shared by its instances. Measured from outside, by /proc."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy
from onnx import TensorProto, helper
from support import BINARY, expect, library, ok, post, to_json

MIB = 200
COLUMNS = 1024
ROWS = MIB * (1 << 20) // 4 // COLUMNS


def model(folder):
    """A matrix of weights beside its graph, and the matrix."""
    folder.mkdir()
    weights = numpy.random.default_rng(7).standard_normal((ROWS, COLUMNS), dtype=numpy.float32)
    (folder / "weights.bin").write_bytes(weights.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[ROWS, COLUMNS], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "weights.bin", "offset": "0", "length": str(weights.nbytes)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    info = helper.make_tensor_value_info
    node, x, y = helper.make_node("MatMul", ["x", "w"], ["y"]), info("x", TensorProto.FLOAT, ["n", ROWS]), info("y", TensorProto.FLOAT, ["n", COLUMNS])
    graph = helper.make_model(helper.make_graph([node], "g", [x], [y], [tensor]), opset_imports=[helper.make_opsetid("", 17)])
    graph.ir_version = 9
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    description = '[model]\nname = "large"\nversion = "1"\n\n[runtime]\nkind = "onnx"\nmodel = "model.onnx"\n'
    (folder / "modelyard.toml").write_text(description, encoding="utf-8")
    return weights


def processes(home):
    """Processes that have the weights mapped or serve the package of this home: the model servers, not their supervisors."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if b"serve" in command and any(str(home).encode() in word for word in command):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def mapped(pid, path):
    """Kilobytes of a file's mappings in a process, by name."""
    sums, inside = {}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and (value := re.match(r"^(\w+): +(\d+) kB", line)):
            sums[value[1]] = sums.get(value[1], 0) + int(value[2])
    return sums


def status(pid, key):
    return int(re.search(rf"^{key}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


def blocks(folder):
    """Bytes of disk below a folder, each inode once."""
    facts = {(fact.st_dev, fact.st_ino): fact.st_blocks * 512 for path in folder.rglob("*") if (fact := path.lstat())}
    return sum(facts.values())


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        home, weights = work / "home", model(work / "large")
        environment = {"MODELYARD_ONNXRUNTIME": library(), **os.environ}
        environment.pop("MODELYARD_CONTROL", None)

        def modelyard(*arguments, at=home):
            command = [BINARY, *map(str, arguments), "--output", "json"]
            done = subprocess.run(command, env={**environment, "MODELYARD_HOME": str(at)}, capture_output=True, text=True, cwd=work)
            if done.returncode:
                sys.exit(f"FAILED: modelyard {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")
            return json.loads(done.stdout or "null")

        began = time.monotonic()
        modelyard("package", work / "large")
        ok(f"packaged in {time.monotonic() - began:.2f} s")
        up = modelyard("up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0")
        try:
            shared = ("--set", 'configuration.MODELYARD_SHARE_WEIGHTS="true"')
            modelyard("deploy", "large:1", "--instances", "2", *shared, "--wait", "--timeout", "3m")
            stable = modelyard("status", "large")["stable"]
            document = modelyard("inspect", "large:1")
            digest = document["files"]["weights.bin"]["digest"].removeprefix("sha256:")
            unpacked = home / "unpacked" / document["digest"].removeprefix("sha256:") / "weights.bin"
            blob = home / "registry/blobs/sha256" / digest
            expect(blob.stat().st_ino == unpacked.stat().st_ino, "the blob and the file that instances open are one inode")
            disk = blocks(home)
            expect(disk < 1.1 * weights.nbytes, f"the home takes {disk >> 20} MiB of disk for {weights.nbytes >> 20} MiB of model")

            sent = numpy.random.default_rng(8).standard_normal((1, ROWS), dtype=numpy.float32)
            for instance in stable["instances"]:
                code, answer = post(instance["address"], "/v2/models/large/infer", to_json({"x": sent}))
                have = numpy.array(answer["outputs"][0]["data"], numpy.float32) if code == 200 else answer
                expect(code == 200 and numpy.allclose(have, (sent @ weights)[0], rtol=1e-3, atol=1e-2), f"{instance['id']} answers right", code)
            pids = processes(home)
            expect(len(pids) == 2, "two instances run", pids)
            for pid in pids:
                seen, private = mapped(pid, unpacked), status(pid, "RssAnon")
                print(f"process {pid}: mapping {seen}, private memory {private} kB, read {Path(f'/proc/{pid}/io').read_text().split()[9]} B of disk", flush=True)
                whole = weights.nbytes // 1024
                expect(seen["Rss"] >= 0.95 * whole and seen["Private_Dirty"] == 0, "the weights are pages of the file")
                expect(private < 0.5 * whole, "and no copy of them is on the heap", private)
                expect(seen["Shared_Clean"] >= 0.95 * whole and seen["Pss"] < 0.6 * seen["Rss"], "both instances have the same pages")
            live = [event for event in events(up["control"]) if event["event"] == "instance-live"]
            ok(f"live after {[event['after_ms'] for event in live]} ms")

            # Elsewhere it is one file again.
            there, remote = work / "there", f"{up['control']}/large:1"
            modelyard("pull", remote, at=there)
            subprocess.run([BINARY, "inspect", "large:1"], env={**environment, "MODELYARD_HOME": str(there)}, check=True, capture_output=True)
            server = subprocess.Popen([BINARY, "serve", "large:1", "--http", "127.0.0.1:0"], env={**environment, "MODELYARD_HOME": str(there)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            try:
                server.stdout.readline()
                copy = there / "unpacked" / unpacked.parent.name / "weights.bin"
                expect(copy.stat().st_ino == (there / "registry/blobs/sha256" / digest).stat().st_ino, "what was pulled is one inode, too")
                expect(blocks(there) < 1.1 * weights.nbytes, "and takes its size once")
            finally:
                server.terminate()
                server.wait(timeout=60)
        finally:
            subprocess.run([BINARY, "down"], env={**environment, "MODELYARD_HOME": str(home)}, capture_output=True)


def events(control):
    """The whole log."""
    with urllib.request.urlopen(f"http://{control}/api/events?after=0", timeout=10) as answer:
        return json.load(answer)


main()
