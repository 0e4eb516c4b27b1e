"""The service that BentoML imports; the model's path is in BENCH_MODEL."""

import os

import bentoml
import numpy
import onnxruntime

TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Onnx:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        [given] = self.session.get_inputs()
        self.name, self.type = given.name, TYPES[given.type]
        self.outputs = [output.name for output in self.session.get_outputs()]

    @bentoml.api
    def predict(self, rows: list[list[float]]) -> dict:
        values = self.session.run(self.outputs, {self.name: numpy.array(rows, dtype=self.type)})
        return {name: value.tolist() for name, value in zip(self.outputs, values)}
