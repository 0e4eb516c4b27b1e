"""Trains the iris examples: the species of an iris by four lengths. Labels are texts, and probabilities come as maps (ZipMap)."""

import sys
from pathlib import Path

import numpy
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skl2onnx.common.data_types import FloatTensorType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import exporting  # noqa: E402

SEED, HELD_OUT = 7, 0.4

CARD = """
# Iris, version {version}

**What it does.** Names the species of an iris from the lengths and widths of its sepals and petals.

**Model.** {model} Exported with ZipMap, as scikit-learn's exporter does by default: the probabilities are maps from species to number.

**Data.** Fisher's iris data (150 flowers, 1936), as scikit-learn ships it. {train} rows trained it, the other {test} were held out
(stratified, seed 7) and give the figures below.

| on held-out rows | |
| --- | --- |
| accuracy | {accuracy} |
| macro F1 | {macro_f1} |
| log loss | {log_loss} |

**Input.** `lengths`, FP32 `[rows, 4]`: {features}.

**Output.** `species`, text `[rows]`: setosa, versicolor or virginica. `probabilities`: one map per row.

**Limits.** Three species; any other flower is still called one of the three. {limits}
"""

VERSIONS = {
    "v1": dict(
        version="1.0.0",
        description="Species of an iris: a random forest",
        # No scaling before trees: its rounding in single precision moves rows that lie on a threshold to the other side.
        estimator=lambda: make_pipeline(RandomForestClassifier(n_estimators=20, max_depth=2, random_state=SEED)),
        parameters={"estimator": "RandomForestClassifier", "trees": 20, "max_depth": 2, "seed": SEED, "held_out": HELD_OUT},
        model="A random forest of 20 trees, depth 2.",
        limits="Probabilities are averages of few coarse trees.",
    ),
    "v2": dict(
        version="2.0.0",
        description="Species of an iris: linear discriminant analysis",
        estimator=lambda: make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
        parameters={"estimator": "LinearDiscriminantAnalysis", "seed": SEED, "held_out": HELD_OUT},
        model="Standardisation, then linear discriminant analysis.",
        limits="Assumes that the species vary alike.",
    ),
}


def split():
    """Training rows, held-out rows, and their species."""
    data = load_iris()
    lengths, species = data.data.astype(numpy.float32), data.target_names[data.target]
    return train_test_split(lengths, species, test_size=HELD_OUT, stratify=species, random_state=SEED)


def held_out():
    """The inputs and the true labels that check.py asks for."""
    _, test, _, labels = split()
    return {"lengths": test}, labels


def fit(version):
    """The fitted pipeline of one version."""
    train, _, train_labels, _ = split()
    return VERSIONS[version]["estimator"]().fit(train, train_labels)


def measure(pipeline, feeds, labels):
    """The recorded metrics, from the pipeline's own answers."""
    guess, chances = pipeline.predict(feeds["lengths"]), pipeline.predict_proba(feeds["lengths"])
    return {
        "accuracy": round(accuracy_score(labels, guess), 4),
        "macro_f1": round(f1_score(labels, guess, average="macro"), 4),
        "log_loss": round(log_loss(labels, chances), 4),
    }


def main():
    feeds, labels = held_out()
    exporting.write_traffic(HERE / "traffic.json", feeds, labels.tolist())
    facts = {"train": len(split()[0]), "test": len(labels), "features": ", ".join(load_iris().feature_names)}
    rows = exporting.one_of_each(labels.tolist())
    for name, spec in VERSIONS.items():
        into, pipeline = exporting.folder(HERE / name), fit(name)
        inputs = [("lengths", FloatTensorType([None, 4]))]
        exporting.export(pipeline, into / "model.onnx", "iris", inputs, None, ["species", "probabilities"])
        metrics = measure(pipeline, feeds, labels)
        exporting.describe(into, "iris", spec, CARD, facts, metrics, {"kind": "onnx", "model": "model.onnx"})
        model = exporting.session(into / "model.onnx")
        exporting.write_samples(into / "samples.json", model, feeds, rows, outputs=["species", "probabilities"])
        print(f"iris {name}: {metrics}", file=sys.stderr)


if __name__ == "__main__":
    main()
