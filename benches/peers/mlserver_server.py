"""MLServer with the runtime beside this file, one process, no gRPC traffic. Arguments: MODEL PORT."""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path

MODEL, PORT = sys.argv[1], int(sys.argv[2])


def free_port():
    """A loopback port that is free right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
settings = {
    "host": "127.0.0.1", "http_port": PORT, "grpc_port": free_port(), "metrics_endpoint": None, "debug": False,
    "parallel_workers": 0, "use_structured_logging": False,
}
model = {"name": "bench", "implementation": "mlserver_runtime.Onnx", "parameters": {"uri": MODEL}}
(folder / "settings.json").write_text(json.dumps(settings))
(folder / "model-settings.json").write_text(json.dumps(model))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
os.execv(str(Path(sys.executable).with_name("mlserver")), ["mlserver", "start", str(folder)])
