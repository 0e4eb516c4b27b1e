"""Trains the diabetes examples: progression of the disease after a year. Ten inputs of three types, one of them text."""

import sys
from pathlib import Path

import numpy
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import exporting  # noqa: E402

SEED, HELD_OUT = 7, 0.4
NUMBERS = ["bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]

CARD = """
# Diabetes, version {version}

**What it does.** Estimates how far diabetes has progressed one year after ten baseline measurements.

**Model.** {model}

**Data.** The 442 patients of Efron, Hastie, Johnstone and Tibshirani (Least Angle Regression, 2004), unscaled, as scikit-learn ships
them. {train} rows trained it, the other {test} were held out (seed 7) and give the figures below.

| on held-out rows | |
| --- | --- |
| R² | {r2} |
| mean absolute error | {mean_absolute_error} |

**Input.** One tensor `[rows, 1]` per column: `age` INT64; `sex` text, the study's codes "1" and "2", which are categories and not
numbers; `bmi`, `bp`, `s1` to `s6` FP32 in the units of the study.

**Output.** `progression`, FP32 `[rows, 1]`: the study's score, 25 to 346.

**Limits.** One study; the error is more than a quarter of the score's mean. Not for decisions about patients. {limits}
"""

VERSIONS = {
    "v1": dict(
        version="1.0.0",
        description="Progression of diabetes: a regression tree",
        estimator=lambda: DecisionTreeRegressor(max_depth=3, random_state=SEED),
        parameters={"estimator": "DecisionTreeRegressor", "max_depth": 3, "seed": SEED, "held_out": HELD_OUT},
        model="Columns standardised or one-hot encoded, then a regression tree of depth 3.",
        limits="It knows only eight different answers.",
    ),
    "v2": dict(
        version="2.0.0",
        description="Progression of diabetes: ridge regression",
        estimator=lambda: Ridge(alpha=1.0, random_state=SEED),
        parameters={"estimator": "Ridge", "alpha": 1.0, "seed": SEED, "held_out": HELD_OUT},
        model="Columns standardised or one-hot encoded, then ridge regression (alpha = 1).",
        limits="Linear, so it can leave the range of the score for unusual patients.",
    ),
}


def split():
    """Training rows, held-out rows, and their scores."""
    data = load_diabetes(as_frame=True, scaled=False)
    frame = data.data.astype({name: numpy.float32 for name in NUMBERS} | {"age": numpy.int64})
    frame["sex"] = frame["sex"].astype(int).astype(str)
    return train_test_split(frame, data.target.to_numpy(), test_size=HELD_OUT, random_state=SEED)


def held_out():
    """The inputs and the true scores that check.py asks for."""
    _, test, _, scores = split()
    return {name: test[[name]].to_numpy() for name in test.columns}, scores


def fit(version):
    """The fitted pipeline of one version."""
    train, _, scores, _ = split()
    columns = ColumnTransformer(
        [("age", StandardScaler(), ["age"]), ("sex", OneHotEncoder(), ["sex"]), ("numbers", StandardScaler(), NUMBERS)]
    )
    return make_pipeline(columns, VERSIONS[version]["estimator"]()).fit(train, scores)


def measure(pipeline, feeds, scores):
    """The recorded metrics, from the pipeline's own answers."""
    guess = pipeline.predict(split()[1])
    return {
        "r2": round(r2_score(scores, guess), 4),
        "mean_absolute_error": round(mean_absolute_error(scores, guess), 4),
    }


def main():
    feeds, scores = held_out()
    exporting.write_traffic(HERE / "traffic.json", feeds, scores.tolist())
    facts = {"train": len(split()[0]), "test": len(scores)}
    kinds = {"age": Int64TensorType, "sex": StringTensorType}
    inputs = [(name, kinds.get(name, FloatTensorType)([None, 1])) for name in feeds]
    for name, spec in VERSIONS.items():
        into, pipeline = exporting.folder(HERE / name), fit(name)
        exporting.export(pipeline, into / "model.onnx", "diabetes", inputs, None, ["progression"])
        metrics = measure(pipeline, feeds, scores)
        exporting.describe(into, "diabetes", spec, CARD, facts, metrics, {"kind": "onnx", "model": "model.onnx"})
        model = exporting.session(into / "model.onnx")
        exporting.write_samples(into / "samples.json", model, feeds, [0, 1, 2, 3, 4, 5], absolute=1e-3)
        print(f"diabetes {name}: {metrics}", file=sys.stderr)


if __name__ == "__main__":
    main()
