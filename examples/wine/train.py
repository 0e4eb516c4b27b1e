"""Trains the wine examples: which of three cultivars a wine was pressed from, by thirteen chemical measurements."""

import sys
from pathlib import Path

import numpy
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skl2onnx.common.data_types import FloatTensorType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import exporting  # noqa: E402

SEED, HELD_OUT = 7, 0.4

CARD = """
# Wine, version {version}

**What it does.** Tells from thirteen chemical measurements of a wine which of three cultivars it was pressed from.

**Model.** {model}

**Data.** The UCI wine recognition data (178 wines from one region of Italy, 1991), as scikit-learn ships it. {train} rows trained it,
the other {test} were held out (stratified, seed 7) and give the figures below.

| on held-out rows | |
| --- | --- |
| accuracy | {accuracy} |
| macro F1 | {macro_f1} |
| log loss | {log_loss} |

**Input.** `features`, FP32 `[rows, 13]`: {features}; in this order and in the units of the data set.

**Output.** `label`, INT64 `[rows]`: cultivar 0, 1 or 2. `probabilities`, FP32 `[rows, 3]`.

**Limits.** One region, one year, three cultivars: any other wine is still called one of the three. {limits}
"""

VERSIONS = {
    "v1": dict(
        version="1.0.0",
        description="Cultivar of a wine by its chemistry: a decision tree",
        estimator=lambda: make_pipeline(MinMaxScaler(), DecisionTreeClassifier(max_depth=3, random_state=SEED)),
        parameters={"estimator": "DecisionTreeClassifier", "max_depth": 3, "seed": SEED, "held_out": HELD_OUT},
        model="Scaling to [0, 1], then a decision tree of depth 3.",
        limits="Probabilities of a shallow tree are coarse: do not set thresholds on them.",
    ),
    "v2": dict(
        version="2.0.0",
        description="Cultivar of a wine by its chemistry: logistic regression",
        estimator=lambda: make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1_000, random_state=SEED)),
        parameters={"estimator": "LogisticRegression", "C": 1.0, "seed": SEED, "held_out": HELD_OUT},
        model="Standardisation, then multinomial logistic regression (C = 1).",
        limits="Linear in the standardised measurements.",
        reference="reference.csv",
    ),
}


def split():
    """Training rows, held-out rows, and their labels."""
    data = load_wine()
    features = data.data.astype(numpy.float32)
    return train_test_split(features, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED)


def held_out():
    """The inputs and the true labels that check.py asks for."""
    _, test, _, labels = split()
    return {"features": test}, labels


def fit(version):
    """The fitted pipeline of one version."""
    train, _, train_labels, _ = split()
    return VERSIONS[version]["estimator"]().fit(train, train_labels)


def measure(pipeline, feeds, labels):
    """The recorded metrics, from the pipeline's own answers."""
    guess, chances = pipeline.predict(feeds["features"]), pipeline.predict_proba(feeds["features"])
    return {
        "accuracy": round(accuracy_score(labels, guess), 4),
        "macro_f1": round(f1_score(labels, guess, average="macro"), 4),
        "log_loss": round(log_loss(labels, chances), 4),
    }


def main():
    feeds, labels = held_out()
    exporting.write_traffic(HERE / "traffic.json", feeds, labels.tolist())
    facts = {"train": len(split()[0]), "test": len(labels), "features": ", ".join(load_wine().feature_names)}
    rows = exporting.one_of_each(labels.tolist())
    for name, spec in VERSIONS.items():
        into, pipeline = exporting.folder(HERE / name), fit(name)
        options = {id(pipeline): {"zipmap": False}}
        inputs = [("features", FloatTensorType([None, 13]))]
        exporting.export(pipeline, into / "model.onnx", "wine", inputs, options, ["label", "probabilities"])
        metrics = measure(pipeline, feeds, labels)
        runtime = {"kind": "onnx", "model": "model.onnx"}
        tables = {"reference": {"data": spec["reference"]}} if "reference" in spec else {}
        exporting.describe(into, "wine", spec, CARD, facts, metrics, runtime, **tables)
        if tables:
            exporting.write_reference(into / spec["reference"], {"features": split()[0]})
        exporting.write_samples(into / "samples.json", exporting.session(into / "model.onnx"), feeds, rows)
        print(f"wine {name}: {metrics}", file=sys.stderr)


if __name__ == "__main__":
    main()
