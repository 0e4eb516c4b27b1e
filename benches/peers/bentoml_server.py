"""BentoML with onnxruntime: one worker, no batching. Arguments: MODEL PORT."""

import os
import sys
from pathlib import Path

os.environ["BENCH_MODEL"] = sys.argv[1]
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
arguments = ["serve", "bentoml_service:Onnx", "--host", "127.0.0.1", "--port", sys.argv[2], "--api-workers", "1"]
os.chdir(Path(__file__).resolve().parent)
os.execv(str(Path(sys.executable).with_name("bentoml")), ["bentoml", *arguments])
