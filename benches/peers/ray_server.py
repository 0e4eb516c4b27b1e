"""Ray Serve with onnxruntime: one replica behind its proxy, on loopback. Arguments: MODEL PORT."""

import os
import signal
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import numpy  # noqa: E402
import onnxruntime  # noqa: E402
import ray  # noqa: E402
from ray import serve  # noqa: E402

MODEL, PORT = sys.argv[1], int(sys.argv[2])
TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Onnx:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        [given] = self.session.get_inputs()
        self.name, self.type = given.name, TYPES[given.type]
        self.outputs = [output.name for output in self.session.get_outputs()]

    async def __call__(self, request):
        rows = numpy.array((await request.json())["rows"], dtype=self.type)
        return {name: value.tolist() for name, value in zip(self.outputs, self.session.run(self.outputs, {self.name: rows}))}


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", object_store_memory=100 << 20)
serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False, "log_level": "ERROR"})
serve.run(Onnx.bind(), name="bench", route_prefix="/predict")
signal.sigwait([signal.SIGTERM, signal.SIGINT])
serve.shutdown()
ray.shutdown()
