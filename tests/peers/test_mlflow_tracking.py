"""Rollouts in a running MLflow while they go on: watched by its own client, through a crash of the control plane and an outage of MLflow."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ.update(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="10", GIT_PYTHON_REFRESH="quiet")

import mlflow
from mlflow_server import free_port, mlflow_server
from support import BINARY, EXAMPLES, expect, library, merged, post, to_json, traffic


def until(what, seconds, look):
    """Waits until `look` gives something."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        found = last = look()
        if found:
            return found
        time.sleep(0.2)
    return sys.exit(f"FAILED: {what} did not come: {last}")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        environment = {"MODELYARD_ONNXRUNTIME": library(), **os.environ, "MODELYARD_HOME": str(work / "home")}
        environment.pop("MODELYARD_CONTROL", None)

        def modelyard(*arguments):
            command = [BINARY, *map(str, arguments), "--output", "json"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=work)
            if done.returncode:
                sys.exit(f"FAILED: modelyard {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")
            return json.loads(done.stdout or "null")

        def tracking():
            return modelyard("status", "wine").get("tracking", {})

        port, answered = free_port(), threading.Event()
        (work / "dev.toml").write_text(f'[tracking]\nmlflow = "http://127.0.0.1:{port}"\nalias = "champion"\n', encoding="utf-8")
        up = ("up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0")
        started = modelyard(*up)
        try:
            modelyard("env", "set", work / "dev.toml")
            for version in ("v1", "v2"):
                modelyard("package", EXAMPLES / "wine" / version)
            # MLflow is not there yet, and nothing waits for it.
            modelyard("deploy", "wine:1.0.0", "--wait", "--timeout", "3m")
            untold = until("that it is behind", 30, lambda: tracking().get("error"))
            expect("cannot be reached" in untold, "status tells why MLflow is behind", untold)

            def load():
                body = to_json({"features": merged(traffic("wine"))["features"]})
                while not answered.wait(0.05):
                    post(started["gateway"], "/v2/models/wine/infer", body)

            caller = threading.Thread(target=load)
            with mlflow_server(work, port) as address:
                client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)

                def run_of(rollout):
                    experiment = client.get_experiment_by_name("dev/wine")
                    found = client.search_runs([experiment.experiment_id], f"tags.`modelyard.rollout` = '{rollout}'") if experiment else []
                    if len(found) > 1:
                        sys.exit(f"FAILED: {rollout} has {len(found)} runs")
                    return found[0] if found else None

                first = modelyard("history", "wine")["rollouts"][0]["rollout"]
                done = until("the first rollout's run", 90, lambda: (run := run_of(first)) and run.info.status == "FINISHED" and run)
                expect(done.data.tags["modelyard.outcome"] == "promoted", "what happened before MLflow was there is told", done.data.tags)

                caller.start()
                rollout = modelyard("deploy", "wine:2.0.0", "--strategy", "canary", "--steps", "20,100", "--bake", "10m")["rollout"]
                run = until("the run", 30, lambda: run_of(rollout))
                points = lambda key: client.get_metric_history(run.info.run_id, key)
                counts = []

                def grows():
                    counts.append(len(points("candidate/requests")))
                    return counts[-1] >= 5 and len(set(counts)) >= 3

                until("growing metrics", 60, grows)
                run = client.get_run(run.info.run_id)
                expect(run.info.status == "RUNNING" and "baking at 20" in run.data.tags["modelyard.phase"], "they grow while it runs", run.data.tags)
                version = {key: run.data.params[f"{key}.version"] for key in ("stable", "candidate")}
                expect(version == {"stable": "1.0.0", "candidate": "2.0.0"} and run.data.params["strategy"] == "canary", "with what it is", run.data.params)
                shares = {round(point.value, 2) for point in points("candidate/weight")}
                expect(0.2 in shares and points("stable/latency_p95_ms")[-1].value > 0, "with weights and latencies per arm", shares)

                os.kill(started["pid"], signal.SIGKILL)
                started.update(modelyard(*up))
                before = len(points("candidate/requests"))
                until("metrics after kill -9", 60, lambda: len(points("candidate/requests")) > before + 3)

            behind = until("that it is behind", 60, lambda: (told := tracking()).get("error") and told["behind_ms"] > 2000 and told)
            told = urllib.request.urlopen(f"http://{started['control']}/metrics", timeout=10).read().decode()
            lag = [line for line in told.splitlines() if line.startswith("modelyard_tracking_lag_seconds{")]
            expect(lag and float(lag[0].split()[-1]) > 2, "an outage of MLflow shows as a lag", [behind, lag])
            ended = subprocess.run([BINARY, "promote", "wine", "--all"], env=environment, capture_output=True, text=True)
            expect(ended.returncode == 0, "and holds nothing up", ended.stderr)
            path = f"http://{started['control']}/api/rollouts/{rollout}"
            until("the promotion", 60, lambda: json.loads(urllib.request.urlopen(path, timeout=10).read())["outcome"] == "promoted")
            answered.set()

            with mlflow_server(work, port):
                run = until("the end", 120, lambda: (run := run_of(rollout)) and run.info.status == "FINISHED" and run)
                expect(run.data.tags["modelyard.outcome"] == "promoted", "what happened meanwhile is told", run.data.tags)
                # Each figure of the log once, through kill -9 and the outage.
                until("all of it", 60, lambda: tracking()["behind_ms"] == 0)
                log = json.loads(urllib.request.urlopen(f"http://{started['control']}/api/events?rollout={rollout}", timeout=30).read())
                candidate = str(log[0].get("candidate") or next(event["candidate"] for event in log if event["event"] == "rollout-started"))
                measured = sorted((event["seq"], event["at"]) for event in log if event["event"] == "measured" and candidate in event["revisions"])
                have = sorted((point.step, point.timestamp) for point in points("candidate/weight"))
                expect(have == measured and len(have) > 10, f"{len(have)} figures of the log, each once", [len(have), len(measured), have[:3], measured[:3]])
                serves = client.get_model_version_by_alias("wine", "champion")
                expect(serves.tags["modelyard.version"] == "2.0.0", "the alias is where it was promoted to", serves.tags)

                aborted = modelyard("deploy", "wine:1.0.0", "--strategy", "canary", "--bake", "10m")["rollout"]
                until("its run", 60, lambda: run_of(aborted))
                subprocess.run([BINARY, "abort", "wine"], env=environment, capture_output=True)
                run = until("the abort", 60, lambda: (run := run_of(aborted)) and run.info.status == "KILLED" and run)
                expect(run.data.tags["modelyard.outcome"] == "aborted", "an abort is told as one", run.data.tags)
                expect(client.get_model_version_by_alias("wine", "champion").version == serves.version, "and moves no alias")
        finally:
            answered.set()
            subprocess.run([BINARY, "down"], env=environment, capture_output=True)


main()
