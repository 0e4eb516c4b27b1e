"""MLflow's scoring server with its ONNX flavour, one worker. Arguments: MODEL PORT."""

import os
import sys
import tempfile
from pathlib import Path

import mlflow.onnx
import onnx

MODEL, PORT = sys.argv[1], sys.argv[2]
folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
session = {"intra_op_num_threads": 1}
mlflow.onnx.save_model(onnx.load(MODEL), str(folder / "model"), onnx_session_options=session, pip_requirements=[])
# The server looks its programs up by name.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
arguments = ["models", "serve", "-m", str(folder / "model"), "-h", "127.0.0.1", "-p", PORT, "-w", "1", "--env-manager", "local"]
os.execv(str(Path(sys.executable).with_name("mlflow")), ["mlflow", *arguments])
