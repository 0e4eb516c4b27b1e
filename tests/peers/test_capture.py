"""Captured traffic, read by pandas and DuckDB: what was asked and answered, by whom, with what label; and nothing of what is masked."""

import datetime
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import duckdb
import pandas
from support import EXAMPLES, GATEWAY, expect, modelyard, post

CONTROL = os.environ["MODELYARD_CONTROL"]
HOME = Path(os.environ["MODELYARD_HOME"])
ROWS = json.loads((EXAMPLES / "wine" / "traffic.json").read_text(encoding="utf-8"))[:40]
SECRET = 424242.0


def until(what, look):
    """Waits for a condition."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    return sys.exit(f"FAILED: {what} within 60 s")


def main():
    package = EXAMPLES / "wine" / "v1"
    rules = ["capture = { share = \"100%\", mask = [\"/inputs/features\"] }", "metrics = [{ name = \"accuracy\", kind = \"accuracy\", from = \"feedback\" }]"]
    changes = [word for rule in rules for word in ("--set", rule.replace(" = ", "=", 1))]
    modelyard("deploy", package, "--service", "captured", "--wait", *changes)
    labels = {}
    for number, row in enumerate(ROWS):
        request = json.loads(json.dumps(row["request"]))
        request["id"] = f"row-{number}"
        request["inputs"][0]["data"][0] = SECRET
        status, answer = post(GATEWAY, "/v2/models/captured/infer", request, {"X-Request-Id": f"captured-{number}"})
        if status != 200:
            expect(False, f"the captured service answers row {number}", (status, answer))
        labels[f"captured-{number}"] = row["label"]
    status, _ = post(GATEWAY, "/captured/feedback", [{"id": one, "label": label} for one, label in labels.items()])
    expect(status == 202, "labels are taken")

    def told():
        """Whether the control plane has seen every label."""
        with urllib.request.urlopen(f"http://{CONTROL}/metrics", timeout=30) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("modelyard_capture_rows_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines) >= 2 * len(ROWS)

    until("every answer and label is kept", told)
    # What is kept of a service becomes files at once when it is removed.
    request = urllib.request.Request(f"http://{CONTROL}/api/services/captured", method="DELETE")
    urllib.request.urlopen(request, timeout=60).read()
    folder = HOME / "capture" / "captured"
    until("files are complete", lambda: list(folder.glob("*/feedback-*.parquet")) and [f for f in folder.glob("*/*.parquet") if not f.name.startswith("feedback-")])

    answers = [str(path) for path in folder.glob("*/*.parquet") if not path.name.startswith("feedback-")]
    table = pandas.concat([pandas.read_parquet(path) for path in answers])
    expect(len(table) == len(ROWS) and set(table["id"]) == set(labels), "pandas reads every answer", table.columns.tolist())
    expect(set(table["revision"]) == {1} and set(table["version"]) == {"1.0.0"} and not table["shadow"].any(), "with its arm")
    expect((table["status"] == 200).all() and (table["latency_us"] > 0).all(), "its status and latency")
    today = datetime.datetime.now(datetime.timezone.utc)
    expect(abs((table["at"] - pandas.Timestamp(today)).dt.total_seconds()).max() < 600, "and its moment, as a time stamp in UTC", table["at"].dtype)
    response = json.loads(table.iloc[0]["response"])
    expect("outputs" in response, "answers are whole", response)
    everything = "".join(path.read_bytes().decode("latin1") for path in folder.glob("**/*.parquet"))
    masked = table["request"].map(lambda text: "424242" not in text).all()
    expect(masked and "424242" not in everything, "what is masked is nowhere", table.iloc[0]["request"])

    right = duckdb.sql(
        f"""
        SELECT count(*) AS rows, avg((json_extract(f.feedback, '$.label')::INTEGER = json_extract(a.response, '$.outputs[0].data[0]')::INTEGER)::INTEGER) AS accuracy
        FROM read_parquet({answers}) a
        JOIN read_parquet('{folder}/*/feedback-*.parquet') f USING (id)
        """
    ).fetchall()[0]
    expect(right[0] == len(ROWS) and 0 <= right[1] <= 1, "DuckDB joins labels to answers by request id", right)


main()
