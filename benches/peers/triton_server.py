"""Triton's server with its Python backend and onnxruntime: the only backend that its wheel carries. Arguments: MODEL PORT."""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import onnxruntime
import pytriton

MODEL, PORT = sys.argv[1], sys.argv[2]
HERE, ROOT = Path(__file__).resolve().parent, Path(pytriton.__file__).parent / "tritonserver"
TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


def tensors(word, values):
    """The tensors of the configuration."""
    one = '{{ name: "{}" data_type: {} dims: [{}] }}'
    listed = [one.format(v.name, TYPES[v.type], ", ".join(str(d) if isinstance(d, int) else "-1" for d in v.shape)) for v in values]
    return f"{word} [{', '.join(listed)}]"


def main():
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    repository = Path(tempfile.mkdtemp(prefix="triton-"))
    version = repository / "bench" / "1"
    version.mkdir(parents=True)
    shutil.copyfile(MODEL, version / "model.onnx")
    # The backend's interpreter knows neither PYTHONPATH nor this environment.
    code = (HERE / "triton_model.py").read_text(encoding="utf-8")
    (version / "model.py").write_text(f"import sys\nsys.path[:0] = {[path for path in sys.path if path]!r}\n{code}")
    stub = ROOT / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    backends = Path(tempfile.mkdtemp(prefix="triton-backends-"))
    shutil.copytree(ROOT / "backends" / "python", backends / "python")
    shutil.copy(stub, backends / "python")
    configuration = [
        'name: "bench"', 'backend: "python"', "max_batch_size: 0", "instance_group [{ kind: KIND_CPU count: 1 }]",
        tensors("input", session.get_inputs()), tensors("output", session.get_outputs()),
    ]
    (repository / "bench" / "config.pbtxt").write_text("\n".join(configuration))
    libraries = [str(ROOT.parent.parent / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in libraries if path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        unused = listener.getsockname()[1]
    arguments = [
        f"--model-repository={repository}", f"--backend-directory={backends}", "--http-address=127.0.0.1",
        f"--http-port={PORT}", "--allow-grpc=false", "--allow-metrics=false", f"--metrics-port={unused}", "--log-info=false",
    ]
    os.execv(str(ROOT / "bin" / "tritonserver"), ["tritonserver", *arguments])


main()
