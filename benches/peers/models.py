"""Makes the models that the servers are measured with, as package folders with a ready request. Argument: the folder to fill.

They are trained on the examples' real data sets. `digits` takes sixteen images per request, so that the size of a request matters;
`wide` takes one digit as a picture of 32 x 32 pixels in three colours, 3 072 numbers.
"""

import json
import sys
from pathlib import Path

import numpy
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skl2onnx.common.data_types import FloatTensorType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
import exporting  # noqa: E402


def as_pictures():
    """The digits, each pixel as a square of 4 x 4, in three colours."""
    data = load_digits()
    images = numpy.repeat(numpy.repeat(data.images, 4, axis=1), 4, axis=2)
    data.data = numpy.stack([images, images * 0.5, 16.0 - images], axis=1).reshape(len(images), -1) / 16.0
    return data


MODELS = {
    "forest": (load_iris, RandomForestClassifier(n_estimators=50, random_state=1), 1),
    "mlp": (load_breast_cancer, make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=300, random_state=1)), 1),
    "digits": (load_digits, make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=200, random_state=1)), 16),
    "wide": (as_pictures, MLPClassifier((16,), max_iter=60, random_state=1), 1),
}


def main(into):
    for name, (load, estimator, rows) in MODELS.items():
        data = load()
        features = data.data.astype(numpy.float32)
        estimator.fit(features, data.target)
        folder = exporting.folder(into / name)
        options = {id(estimator): {"zipmap": False}}
        inputs = [("features", FloatTensorType([None, features.shape[1]]))]
        exporting.export(estimator, folder / "model.onnx", "bench", inputs, options, ["label", "probabilities"])
        feeds = {"features": features}
        model = {"name": "bench", "version": f"1.0.0-{name}", "description": f"For the benchmark: {name}"}
        exporting.write_toml(folder / "modelyard.toml", model, {"kind": "onnx", "model": "model.onnx"})
        exporting.write_samples(folder / "samples.json", exporting.session(folder / "model.onnx"), feeds, [0, 1, 2])
        request = exporting.request(exporting.take(feeds, list(range(rows))))
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


main(Path(sys.argv[1]))
