"""FastAPI and onnxruntime, as people write it. Arguments: MODEL PORT."""

import sys

import numpy
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

MODEL, PORT = sys.argv[1], int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
NAME = session.get_inputs()[0].name
TYPE = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}[session.get_inputs()[0].type]
OUTPUTS = [output.name for output in session.get_outputs()]
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


@app.get("/health")
async def health():
    return {"ready": True}


@app.post("/predict")
async def predict(body: Rows):
    values = session.run(OUTPUTS, {NAME: numpy.array(body.rows, dtype=TYPE)})
    return {name: value.tolist() for name, value in zip(OUTPUTS, values)}


uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="error", access_log=False)
