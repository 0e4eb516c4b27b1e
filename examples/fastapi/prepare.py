"""Fills the FastAPI example's package folder: the wine model, samples in the application's own form, and the package's facts."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "wine")]
import exporting  # noqa: E402
import train as wine  # noqa: E402

CARD = """
# Wine behind FastAPI, version 1.0.0

**What it does.** The model of `examples/wine/v2`, served by a FastAPI application instead of the native server. It shows the runtime `command`:
any program that listens on `$PORT` and answers 200 at its health path can be a package.

**Needs.** A `python3` that has what `requirements.txt` names: run Modelyard with that environment's `bin` first in `PATH`.

**Requests.** `POST /predict` with `{{"features": [[thirteen numbers], ...]}}`; the answer holds `label` and `probabilities`, row by row.

**Figures.** On the wine example's held-out rows: accuracy {accuracy}, log loss {log_loss}. Data and limits: see that example's card.
"""


def main():
    into = HERE / "v1"
    shutil.copyfile(HERE.parent / "wine" / "v2" / "model.onnx", into / "model.onnx")
    feeds, labels = wine.held_out()
    metrics = wine.measure(wine.fit("v2"), feeds, labels)
    spec = wine.VERSIONS["v2"] | {"version": "1.0.0", "description": "The wine model as a FastAPI application"}
    runtime = {"kind": "command", "command": ["python3", "main.py"], "health": "/health"}
    exporting.describe(into, "wine-fastapi", spec, CARD, {}, metrics, runtime, ["main.py", "model.onnx", "requirements.txt"])
    model, samples = exporting.session(into / "model.onnx"), []
    for row in exporting.one_of_each(labels.tolist()):
        label, probabilities = model.run(None, exporting.take(feeds, [row]))
        samples.append({
            "name": f"held-out-{row}",
            "path": "/predict",
            "request": {"features": [exporting.plain(feeds["features"][row])]},
            "response": {"label": label.tolist(), "probabilities": [exporting.plain(probabilities[0])]},
        })
    exporting.write_json(into / "samples.json", samples, one_per_line=True)


if __name__ == "__main__":
    main()
