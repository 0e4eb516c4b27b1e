"""The wine model behind a FastAPI application, as people write it: one route that predicts, one that tells whether it is ready."""

import os
from pathlib import Path

import numpy
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
model = onnxruntime.InferenceSession(
    str(Path(__file__).with_name("model.onnx")), options, providers=["CPUExecutionProvider"]
)
app = FastAPI(title="wine", version="1.0.0")


class Wines(BaseModel):
    """Thirteen measurements per wine, in the data set's order."""

    features: list[list[float]] = Field(min_length=1, max_length=10_000)


@app.get("/health")
def health():
    """200 once the model is loaded: the module is imported before the port is opened."""
    return {"ready": True}


@app.post("/predict")
def predict(wines: Wines):
    """Cultivar and probabilities of each wine."""
    if any(len(wine) != 13 for wine in wines.features):
        raise HTTPException(422, "each wine needs thirteen numbers")
    features = numpy.array(wines.features, dtype=numpy.float32)
    label, probabilities = model.run(["label", "probabilities"], {"features": features})
    return {"label": label.tolist(), "probabilities": probabilities.tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
