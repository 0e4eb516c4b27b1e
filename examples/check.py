"""Checks the examples: what stands in the package folders is what the training scripts say, and it is true.

Per version: the ONNX file answers like the scikit-learn pipeline on every held-out row, the samples' answers are the model's (for the
versions that fail on purpose: version 2's), the recorded metrics are the measured ones, version 2 is better, the traffic is the held-out rows.
Usage: python examples/check.py [EXAMPLE]...   Prints one `ok:` line per check; exits 1 at the end if one failed.
"""

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import exporting  # noqa: E402

LOWER_IS_BETTER = {"log_loss", "mean_absolute_error"}
EXAMPLES = ["wine", "breast-cancer", "digits", "iris", "diabetes", "language"]
FAILURES = []


def check(what, good, detail=""):
    """Prints the outcome of one check and remembers a failure."""
    print(f"ok: {what}" if good else f"FAILED: {what} {detail}", flush=True)
    if not good:
        FAILURES.append(what)


def training_script(example):
    """The example's train.py as a module of its own name."""
    spec = importlib.util.spec_from_file_location(f"train_{example}", HERE / example / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pipeline_answers(module, pipeline, feeds):
    """What scikit-learn answers, output by output, in the order of the graph."""
    if not hasattr(pipeline, "predict_proba"):
        return [pipeline.predict(module.split()[1]).reshape(-1, 1)]
    rows = next(iter(feeds.values()))
    return [pipeline.predict(rows), pipeline.predict_proba(rows)]


def near(expected, actual, absolute, relative):
    """Equal for texts and integers, close for the rest."""
    expected, actual = numpy.asarray(expected), numpy.asarray(actual)
    if expected.shape != actual.shape:
        return False
    if expected.dtype.kind in "OUSiu":
        return bool((expected == actual).all())
    return bool(numpy.allclose(actual, expected, atol=absolute, rtol=relative))


def values(answer):
    """The tensors of an answer by name."""
    return {output["name"]: numpy.array(output["data"]).reshape(output["shape"]) for output in answer["outputs"]}


def feeds_of(request):
    """The inputs of a recorded request as arrays."""
    kinds = {"FP32": numpy.float32, "INT64": numpy.int64, "BYTES": object}
    return {t["name"]: numpy.array(t["data"], dtype=kinds[t["datatype"]]).reshape(t["shape"]) for t in request["inputs"]}


def recorded(folder):
    """The metrics that a package folder states."""
    return tomllib.loads((folder / "modelyard.toml").read_text(encoding="utf-8"))["metrics"]


def check_better(example):
    """Every metric of version 2 is better than version 1's: what a rollout from one to the other should find."""
    old, new = recorded(HERE / example / "v1"), recorded(HERE / example / "v2")
    worse = [key for key in old if (new[key] > old[key]) == (key in LOWER_IS_BETTER)]
    check(f"{example}: v2 is better than v1 in {', '.join(old)}", old.keys() == new.keys() and not worse, worse)


def check_version(module, example, folder, reference):
    """One package folder against its training script; `reference` is the model whose answers are the truth."""
    name, document = f"{example}/{folder.name}", tomllib.loads((folder / "modelyard.toml").read_text(encoding="utf-8"))
    feeds, labels = module.held_out()
    pipeline = module.fit(folder.name)
    metrics = module.measure(pipeline, feeds, labels)
    close = document["metrics"].keys() == metrics.keys() and all(
        abs(document["metrics"][key] - value) < 2e-3 for key, value in metrics.items()
    )
    check(f"{name}: metrics as recorded", close, f"recorded {document['metrics']}, measured {metrics}")

    if folder.name != "v3-wrong" and document["runtime"]["kind"] == "onnx":
        answers = values(exporting.response(exporting.session(folder / "model.onnx"), feeds)).values()
        expected = pipeline_answers(module, pipeline, feeds)
        same = all(near(want, have, 1e-4, 1e-4) for want, have in zip(expected, answers, strict=True))
        check(f"{name}: ONNX answers like scikit-learn on {len(labels)} held-out rows", same)

    if "reference" in document:
        table = (folder / document["reference"]["data"]).read_text(encoding="utf-8")
        trained = exporting.reference({name: module.split()[0] for name in feeds})
        check(f"{name}: the reference is the rows that trained it", table == trained)

    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    right = all(sample_is_right(sample, reference) for sample in samples)
    check(f"{name}: {len(samples)} samples hold the true answers", right and len(samples) >= 4)


def sample_is_right(sample, model):
    """Whether Python's onnxruntime gives the recorded answer."""
    answer = values(exporting.response(model, feeds_of(sample["request"])))
    limits = sample["tolerance"]
    wanted = values(sample["response"])
    return all(near(want, answer[name], limits["absolute"], limits["relative"]) for name, want in wanted.items())


def check_traffic(module, example):
    """traffic.json holds the held-out rows, in order, with their labels."""
    feeds, labels = module.held_out()
    rows = json.loads((HERE / example / "traffic.json").read_text(encoding="utf-8"))
    same = len(rows) == len(labels) and all(row["label"] == label for row, label in zip(rows, labels.tolist()))
    for index, row in enumerate(rows):
        recorded = feeds_of(row["request"])
        same = same and all((recorded[name] == array[index : index + 1]).all() for name, array in feeds.items())
    check(f"{example}: traffic is the {len(labels)} held-out rows", same)


def check_failing(module, example):
    """The versions that fail on purpose fail in the way that they say, and only in that way."""
    feeds, _ = module.held_out()
    answers = {
        name: exporting.session(HERE / example / name / "model.onnx").run(None, feeds)
        for name in ("v2", "v3-wrong", "v3-slow")
    }
    slow = all(near(want, have, 1e-5, 1e-4) for want, have in zip(answers["v2"], answers["v3-slow"]))
    check(f"{example}/v3-slow: the same answers as v2", slow)
    wrong = (answers["v2"][0] != answers["v3-wrong"][0]).mean()
    check(f"{example}/v3-wrong: {wrong:.0%} of the labels differ from v2", wrong > 0.2)
    for name in module.PROGRAMS:
        copied = (HERE / example / name / "oip.py").read_bytes() == (HERE / example / "oip.py").read_bytes()
        check(f"{example}/{name}: oip.py is the shared one", copied)


def check_language():
    """The Python function: its weights are what its script computes, and it answers its samples and the held-out sentences."""
    module = training_script("language")
    predict = module.function()
    folder = HERE / "language/v1"
    written = json.loads((folder / "weights.json").read_text(encoding="utf-8"))
    check("language/v1: the weights are those of the script", written == module.weights(predict.trigrams))
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    right = all(
        near(values(sample["response"])[name], have, 1e-4, 1e-4)
        for sample in samples
        for name, have in predict.predict(feeds_of(sample["request"]), {"least-confidence": 0.0, **sample.get("flags", {})}).items()
    )
    check(f"language/v1: {len(samples)} samples hold the true answers", right and len(samples) >= 4)
    rows = json.loads((HERE / "language/traffic.json").read_text(encoding="utf-8"))
    texts = [row["request"]["inputs"][0]["data"][0] for row in rows]
    check("language: traffic is the held-out sentences", [(text, row["label"]) for text, row in zip(texts, rows)] == module.held_out())
    found = predict.predict({"text": texts}, {"least-confidence": 0.0})["language"]
    accuracy = sum(have == row["label"] for have, row in zip(found, rows)) / len(rows)
    check("language/v1: the stated accuracy is the measured one", recorded(folder) == {"accuracy": accuracy})


def main(examples):
    for example in examples:
        if example == "language":
            check_language()
            continue
        module = training_script(example)
        check_traffic(module, example)
        check_better(example)
        for folder in sorted(path.parent for path in (HERE / example).glob("*/modelyard.toml")):
            truth = "v2" if folder.name.startswith("v3-") else folder.name
            check_version(module, example, folder, exporting.session(HERE / example / truth / "model.onnx"))
        if example == "breast-cancer":
            check_failing(module, example)
    same = (HERE / "fastapi/v1/model.onnx").read_bytes() == (HERE / "wine/v2/model.onnx").read_bytes()
    check("fastapi/v1: the model is wine v2's", same and recorded(HERE / "fastapi/v1") == recorded(HERE / "wine/v2"))
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or EXAMPLES))
