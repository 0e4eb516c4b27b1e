"""Trains the breast-cancer examples, two good versions and five that fail on purpose, each in its own way."""

import json
import shutil
import sys
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skl2onnx.common.data_types import FloatTensorType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import exporting  # noqa: E402
import faults  # noqa: E402

SEED, HELD_OUT, COLUMNS = 7, 0.4, 30

CARD = """
# Breast cancer, version {version}

**What it does.** Tells from thirty measurements of cell nuclei, taken from a digitised image of a fine-needle aspirate, whether a breast
mass is malignant or benign.

**Model.** {model}

**Data.** Breast Cancer Wisconsin (Diagnostic), 569 masses, 1995, as scikit-learn ships it. {train} rows trained it, the other {test} were
held out (stratified, seed 7) and give the figures below.

| on held-out rows | |
| --- | --- |
| accuracy | {accuracy} |
| area under the ROC curve | {roc_auc} |
| recall of malignant masses | {malignant_recall} |
| log loss | {log_loss} |

**Input.** `features`, FP32 `[rows, 30]`: mean, standard error and worst value of radius, texture, perimeter, area, smoothness, compactness,
concavity, concave points, symmetry and fractal dimension, in the data set's order and units.

**Output.** `label`, INT64 `[rows]`: 0 malignant, 1 benign. `probabilities`, FP32 `[rows, 2]`.

**Limits.** One clinic, images of one microscope. A teaching example, not a medical device. {limits}
"""

ESTIMATORS = {
    "v1": lambda: make_pipeline(StandardScaler(), PCA(2, random_state=SEED), LogisticRegression(random_state=SEED)),
    "v2": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1_000, random_state=SEED)),
}

SAME_AS_V2 = {"estimator": "LogisticRegression", "C": 0.5, "seed": SEED, "held_out": HELD_OUT}
VERSIONS = {
    "v1": dict(
        version="1.0.0",
        description="Malignant or benign: logistic regression on two principal components",
        parameters={"estimator": "LogisticRegression", "components": 2, "seed": SEED, "held_out": HELD_OUT},
        model="Standardisation, two principal components, logistic regression.",
        limits="Two components leave out a third of the variance.",
    ),
    "v2": dict(
        version="2.0.0",
        description="Malignant or benign: logistic regression on all measurements",
        parameters=SAME_AS_V2,
        model="Standardisation, then logistic regression on all thirty measurements (C = 0.5).",
        limits="Linear in the standardised measurements.",
    ),
    "v3-wrong": dict(
        version="3.0.0-wrong",
        description="Fails on purpose: trained on columns in another order",
        parameters=SAME_AS_V2,
        model="Version 2 trained on the columns in alphabetical order, served with the data set's order.",
        limits="**This version fails on purpose**: its answers are wrong, and its samples (true answers) say so. The figures are of the "
        "training notebook, in which both orders agreed.",
    ),
    "v3-slow": dict(
        version="3.0.0-slow",
        description="Fails on purpose: right answers, tens of milliseconds late",
        parameters=SAME_AS_V2,
        model="Version 2 with a forgotten diagnostic in the graph: products of large matrices that end up multiplied by zero.",
        limits="**This version fails on purpose**: its answers are right and too late.",
    ),
    "v3-crash": dict(
        version="3.0.0-crash",
        description="Fails on purpose: aborts at its 40th request",
        parameters=SAME_AS_V2,
        model="Version 2 as a Python program (oip.py, weights.json).",
        limits="**This version fails on purpose**: serve.py aborts at its 40th request.",
    ),
    "v3-leak": dict(
        version="3.0.0-leak",
        description="Fails on purpose: keeps a megabyte per request",
        parameters=SAME_AS_V2,
        model="Version 2 as a Python program (oip.py, weights.json).",
        limits="**This version fails on purpose**: serve.py keeps a megabyte per request until it meets its memory limit.",
    ),
    "v3-errors": dict(
        version="3.0.0-errors",
        description="Fails on purpose: answers every 20th request with 500",
        parameters=SAME_AS_V2,
        model="Version 2 as a Python program (oip.py, weights.json).",
        limits="**This version fails on purpose**: serve.py answers every 20th request with 500.",
    ),
}
PROGRAMS = {"v3-crash": faults.CRASH, "v3-leak": faults.LEAK, "v3-errors": faults.ERRORS}


def split():
    """Training rows, held-out rows, and their labels."""
    data = load_breast_cancer()
    features = data.data.astype(numpy.float32)
    return train_test_split(features, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED)


def held_out():
    """The inputs and the true labels that check.py asks for."""
    _, test, _, labels = split()
    return {"features": test}, labels


def fit(version):
    """The fitted pipeline of one version; the failing ones are version 2 underneath."""
    train, _, train_labels, _ = split()
    return ESTIMATORS.get(version, ESTIMATORS["v2"])().fit(train, train_labels)


def measure(pipeline, feeds, labels):
    """The recorded metrics, from the pipeline's own answers."""
    guess, chances = pipeline.predict(feeds["features"]), pipeline.predict_proba(feeds["features"])
    return {
        "accuracy": round(accuracy_score(labels, guess), 4),
        "roc_auc": round(roc_auc_score(labels, chances[:, 1]), 4),
        "malignant_recall": round(recall_score(labels, guess, pos_label=0), 4),
        "log_loss": round(log_loss(labels, chances), 4),
    }


def export(pipeline, path):
    """The pipeline as ONNX."""
    options = {id(pipeline): {"zipmap": False}}
    inputs = [("features", FloatTensorType([None, COLUMNS]))]
    exporting.export(pipeline, path, "breast-cancer", inputs, options, ["label", "probabilities"])


def export_wrong(path):
    """Version 2 trained on alphabetically ordered columns: a real mistake, invisible in the notebook that made it."""
    train, _, train_labels, _ = split()
    alphabetical = numpy.argsort(load_breast_cancer().feature_names)
    export(ESTIMATORS["v2"]().fit(train[:, alphabetical], train_labels), path)


def export_slow(source, path, side=640, products=8):
    """Version 2 plus `products` multiplications of a `side` × `side` matrix that depends on the input and changes nothing."""
    model = onnx.load(source)
    graph = model.graph
    exporting.rename(graph, "probabilities", "fast_probabilities")
    graph.output[1].name = "probabilities"
    constants = {
        "slow_shape": numpy.array([side, side], dtype=numpy.int64),
        "slow_zero": numpy.array(0, dtype=numpy.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["slow_mean"], keepdims=0),
        helper.make_node("Sigmoid", ["slow_mean"], ["slow_scalar"]),
        helper.make_node("Expand", ["slow_scalar", "slow_shape"], ["slow_0"]),
    ]
    for step in range(products):
        nodes += [
            helper.make_node("MatMul", [f"slow_{step}", f"slow_{step}"], [f"slow_product_{step}"]),
            helper.make_node("Tanh", [f"slow_product_{step}"], [f"slow_{step + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMax", [f"slow_{products}"], ["slow_max"], keepdims=0),
        helper.make_node("Mul", ["slow_max", "slow_zero"], ["slow_nothing"]),
        helper.make_node("Add", ["fast_probabilities", "slow_nothing"], ["probabilities"]),
    ]
    graph.node.extend(nodes)
    graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_program(into, pipeline):
    """The weights and the program that answers with them."""
    scaler, regression = pipeline.steps[0][1], pipeline.steps[1][1]
    weights = {
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
        "coefficients": regression.coef_[0].tolist(),
        "intercept": float(regression.intercept_[0]),
    }
    (into / "weights.json").write_text(json.dumps(weights, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(HERE / "oip.py", into / "oip.py")
    (into / "serve.py").write_text(PROGRAMS[into.name], encoding="utf-8")


def write_model(into, pipeline):
    """The model file of a version, or its program; returns how it is run."""
    if into.name in PROGRAMS:
        write_program(into, pipeline)
        return {"kind": "command", "command": ["python3", "serve.py"], "health": "/v2/health/ready"}
    path = into / "model.onnx"
    if into.name == "v3-wrong":
        export_wrong(path)
    elif into.name == "v3-slow":
        export_slow(HERE / "v2" / "model.onnx", path)
    else:
        export(pipeline, path)
    return {"kind": "onnx", "model": "model.onnx"}


def main():
    feeds, labels = held_out()
    exporting.write_traffic(HERE / "traffic.json", feeds, labels.tolist())
    facts = {"train": len(split()[0]), "test": len(labels)}
    rows = exporting.one_of_each(labels.tolist())
    for name, spec in VERSIONS.items():
        into, pipeline = exporting.folder(HERE / name), fit(name)
        runtime = write_model(into, pipeline)
        metrics = measure(pipeline, feeds, labels)
        tables = {"resources": {"memory": "96MiB"}} if name == "v3-leak" else {}
        files = ["oip.py", "serve.py", "weights.json"] if name in PROGRAMS else []
        exporting.describe(into, "breast-cancer", spec, CARD, facts, metrics, runtime, files, **tables)
        truth = exporting.session(HERE / ("v1" if name == "v1" else "v2") / "model.onnx")
        at = "/v2/models/breast-cancer/infer" if name in PROGRAMS else None
        exporting.write_samples(into / "samples.json", truth, feeds, rows, at)
        print(f"breast-cancer {name}: {metrics}", file=sys.stderr)


if __name__ == "__main__":
    main()
