"""LitServe with onnxruntime: one worker, one API server, no batching. Arguments: MODEL PORT."""

import sys

import litserve
import numpy
import onnxruntime

MODEL, PORT = sys.argv[1], int(sys.argv[2])
TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}


class Onnx(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        [given] = self.session.get_inputs()
        self.name, self.type = given.name, TYPES[given.type]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def decode_request(self, request):
        return numpy.array(request["rows"], dtype=self.type)

    def predict(self, rows):
        return self.session.run(self.outputs, {self.name: rows})

    def encode_response(self, values):
        return {name: value.tolist() for name, value in zip(self.outputs, values)}


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, log_level="error", generate_client_file=False)
