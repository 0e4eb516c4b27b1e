"""Files that safetensors and gguf write, told as those libraries tell them themselves; and what safetensors refuses, we refuse.

Fixed files of these and other kinds lie in tests/fixtures/kinds; here every datatype and many shapes are written anew by the libraries that are installed.
"""

import json
import os
import struct
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import gguf
import ml_dtypes
import numpy
from gguf import GGMLQuantizationType as Type
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file
from support import BINARY, expect


def inspected(path):
    """What the program says of a file, or why it takes none."""
    done = subprocess.run([BINARY, "inspect", str(path), "--output", "json"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return None, done.stderr
    (model,) = json.loads(done.stdout)["models"].values()
    return model["kind"], model["facts"]


def of_safetensors(folder):
    path = folder / "all.safetensors"
    kinds = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]
    tensors = {f"layer.{kind}": numpy.ones((3, index), kind) for index, kind in enumerate(kinds)}
    tensors |= {"scalar": numpy.array(1.5, numpy.float32), "größe/☃ \"'": numpy.zeros((1, 2, 3, 4, 5), numpy.float16)}
    tensors["brain"] = numpy.ones(7, ml_dtypes.bfloat16)
    save_file(tensors, path, metadata={"format": "np", "author": "Grüße"})
    with safe_open(path, framework="np") as file:
        slices = [file.get_slice(name) for name in file.keys()]
        want = {
            "tensors": len(slices),
            "parameters": sum(int(numpy.prod(one.get_shape(), dtype=int)) for one in slices),
            "datatypes": dict(Counter(one.get_dtype() for one in slices)),
            "metadata": file.metadata(),
        }
    expect(inspected(path) == ("safetensors", want), f"safetensors: {len(slices)} tensors of every datatype", (inspected(path), want))
    nothing = folder / "nothing.safetensors"
    save_file({}, nothing)
    expect(inspected(nothing)[0] == "safetensors", "a file without tensors is one, too", inspected(nothing))


def refused_alike(folder):
    """Damage of every kind: the library's verdict is ours."""
    whole = save({"a": numpy.arange(6, dtype=numpy.float32), "b": numpy.arange(3, dtype=numpy.int16)})
    size = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def written(change=lambda header: None, data=data):
        copy = json.loads(json.dumps(header))
        change(copy)
        text = json.dumps(copy).encode()
        return struct.pack("<Q", len(text)) + text + data

    cases = {
        "as it was": written(),
        "cut short": whole[:-1],
        "with something behind it": whole + b"\0",
        "cut within its header": whole[: size // 2],
        "of an unknown datatype": written(lambda header: header["a"].update(dtype="F33")),
        "with a shape that is too large": written(lambda header: header["a"].update(shape=[7])),
        "with a shape beyond all numbers": written(lambda header: header["a"].update(shape=[2**62, 2**62])),
        "with a negative axis": written(lambda header: header["a"].update(shape=[-6])),
        "with places that overlap": written(lambda header: header["b"].update(data_offsets=[20, 26])),
        "with a hole": written(lambda header: header["b"].update(data_offsets=[26, 32]), data + b"\0\0"),
        "with places the wrong way round": written(lambda header: header["a"].update(data_offsets=[24, 0])),
        "with metadata that is no text": written(lambda header: header.update(__metadata__={"a": 1})),
        "with a header past its end": struct.pack("<Q", 2**40) + whole[8:],
    }
    path = folder / "case.safetensors"
    for what, content in cases.items():
        path.write_bytes(content)
        try:
            with safe_open(path, framework="np") as file:
                list(file.keys())
            theirs = True
        except SafetensorError:
            theirs = False
        ours, why = inspected(path)
        expect((ours == "safetensors") == theirs, f"safetensors: one {what} is {'taken' if theirs else 'refused'} by both", why)


def of_gguf(folder):
    path = folder / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny ☃")
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token {index}" for index in range(5000)])
    writer.add_token_scores([float(index) for index in range(5000)])
    for name, value in {"x.u8": 1, "x.i64": -(2**40)}.items():
        writer.add_int64(name, value)
    writer.add_bool("x.flag", True)
    writer.add_float64("x.double", 0.1)
    writer.add_array("x.list", [1, 2, 3])
    for kind in ("float32", "float16", "float64", "int8", "int16", "int32", "int64"):
        writer.add_tensor(f"plain.{kind}", numpy.ones((3, 64), kind))
    rows = numpy.linspace(-1, 1, 4 * 256, dtype=numpy.float32).reshape(4, 256)
    quantised = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.BF16]
    for kind in quantised:
        writer.add_tensor(f"packed.{kind.name}", gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = gguf.GGUFReader(path)
    want = {
        "tensors": len(read.tensors),
        "parameters": sum(int(tensor.n_elements) for tensor in read.tensors),
        "types": dict(Counter(tensor.tensor_type.name for tensor in read.tensors)),
        "version": 3,
    }
    kind, facts = inspected(path)
    expect(kind == "gguf" and {key: facts[key] for key in want} == want, f"gguf: {want['tensors']} tensors, plain and quantised", (facts, want))
    known = {"general.name": "tiny ☃", "llama.context_length": 4096, "tokenizer.ggml.model": "llama"}
    expect(known.items() <= facts["metadata"].items(), "and what it says of itself", facts)
    whole = path.read_bytes()
    for cut in (len(whole) - 64, len(whole) // 2, 1000, 30):
        path.write_bytes(whole[:cut])
        ours, why = inspected(path)
        expect(ours is None and "gguf" in why.lower(), f"gguf: one cut at {cut} is refused", why)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["MODELYARD_HOME"] = str(folder / "home")
        of_safetensors(folder)
        refused_alike(folder)
        of_gguf(folder)


main()
