"""A real MLflow server for the scripts that need one: a registry in SQLite, its files behind its proxy."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder, port=None):
    """MLflow's server with its files in a folder, on a port of its own or a given one; gives its address."""
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    command = [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "files"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with open(folder / "server.log", "w+", encoding="utf-8") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"FAILED: MLflow's server did not come up:\n{log.read()[-3000:]}")
                time.sleep(0.1)
            yield address
        finally:
            # Its workers, too: they are of its own session.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
