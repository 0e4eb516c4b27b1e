"""Trains the digits examples: which digit a hand-written 8×8 image shows."""

import sys
from pathlib import Path

import numpy
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from skl2onnx.common.data_types import FloatTensorType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import exporting  # noqa: E402

SEED, HELD_OUT = 7, 0.3

CARD = """
# Digits, version {version}

**What it does.** Reads a hand-written digit from an 8×8 image.

**Model.** {model}

**Data.** The test part of the UCI optical recognition of hand-written digits (1 797 images, 1998), as scikit-learn ships it. {train} images
trained it, the other {test} were held out (stratified, seed 7) and give the figures below.

| on held-out images | |
| --- | --- |
| accuracy | {accuracy} |
| macro F1 | {macro_f1} |
| log loss | {log_loss} |

**Input.** `pixels`, FP32 `[images, 64]`: darkness 0 to 16, row by row from the top left.

**Output.** `label`, INT64 `[images]`: the digit. `probabilities`, FP32 `[images, 10]`.

**Limits.** Centred single digits of thirteen writers, reduced to 8×8 the same way as the data set. {limits}
"""

VERSIONS = {
    "v1": dict(
        version="1.0.0",
        description="Hand-written digits: principal components and logistic regression",
        estimator=lambda: make_pipeline(
            StandardScaler(), PCA(n_components=16, random_state=SEED), LogisticRegression(max_iter=2_000, random_state=SEED)
        ),
        parameters={"estimator": "LogisticRegression", "components": 16, "seed": SEED, "held_out": HELD_OUT},
        model="Standardisation, 16 principal components, multinomial logistic regression.",
        limits="Takes a 9 for an 8 most often: 7 of the 54 held-out nines.",
    ),
    "v2": dict(
        version="2.0.0",
        description="Hand-written digits: a neural network",
        estimator=lambda: make_pipeline(
            MinMaxScaler(), MLPClassifier(hidden_layer_sizes=(64,), alpha=0.01, max_iter=400, random_state=SEED)
        ),
        parameters={"estimator": "MLPClassifier", "hidden": 64, "alpha": 0.01, "seed": SEED, "held_out": HELD_OUT},
        model="Scaling to [0, 1], then a neural network with one hidden layer of 64.",
        limits="Sure of itself where it should not be: of 200 images of random noise, 88 % get a digit with more than 90 %.",
    ),
}


def split():
    """Training images, held-out images, and their labels."""
    data = load_digits()
    pixels = data.data.astype(numpy.float32)
    return train_test_split(pixels, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED)


def held_out():
    """The inputs and the true labels that check.py asks for."""
    _, test, _, labels = split()
    return {"pixels": test}, labels


def fit(version):
    """The fitted pipeline of one version."""
    train, _, train_labels, _ = split()
    return VERSIONS[version]["estimator"]().fit(train, train_labels)


def measure(pipeline, feeds, labels):
    """The recorded metrics, from the pipeline's own answers."""
    guess, chances = pipeline.predict(feeds["pixels"]), pipeline.predict_proba(feeds["pixels"])
    return {
        "accuracy": round(accuracy_score(labels, guess), 4),
        "macro_f1": round(f1_score(labels, guess, average="macro"), 4),
        "log_loss": round(log_loss(labels, chances), 4),
    }


def main():
    feeds, labels = held_out()
    exporting.write_traffic(HERE / "traffic.json", feeds, labels.tolist())
    facts = {"train": len(split()[0]), "test": len(labels)}
    rows = exporting.one_of_each(labels.tolist())
    for name, spec in VERSIONS.items():
        into, pipeline = exporting.folder(HERE / name), fit(name)
        options = {id(pipeline): {"zipmap": False}}
        inputs = [("pixels", FloatTensorType([None, 64]))]
        exporting.export(pipeline, into / "model.onnx", "digits", inputs, options, ["label", "probabilities"])
        metrics = measure(pipeline, feeds, labels)
        exporting.describe(into, "digits", spec, CARD, facts, metrics, {"kind": "onnx", "model": "model.onnx"})
        exporting.write_samples(into / "samples.json", exporting.session(into / "model.onnx"), feeds, rows)
        print(f"digits {name}: {metrics}", file=sys.stderr)


if __name__ == "__main__":
    main()
