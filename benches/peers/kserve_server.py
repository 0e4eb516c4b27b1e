"""KServe's Python server with onnxruntime, on the loopback address and without a line per request. Arguments: MODEL PORT."""

import logging
import sys

import onnxruntime
import uvicorn

MODEL, PORT = sys.argv[1], int(sys.argv[2])
sys.argv = sys.argv[:1]  # KServe reads the command line when it is imported
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402

logging.disable(logging.INFO)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
configure = uvicorn.Config.__init__


def on_loopback(self, *arguments, **settings):
    """KServe has no setting for the address: it listens on all of them."""
    configure(self, *arguments, **{**settings, "host": "127.0.0.1", "access_log": False})


uvicorn.Config.__init__ = on_loopback


class Onnx(Model):
    def __init__(self):
        super().__init__("bench")
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None):
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, value in zip(self.outputs, self.session.run(self.outputs, feeds)):
            output = InferOutput(name, list(value.shape), "INT64" if value.dtype.kind == "i" else "FP32")
            output.set_data_from_numpy(value, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or "0", "bench", outputs)


ModelServer(http_port=PORT, enable_grpc=False, workers=1, access_log_format=None).start([Onnx()])
