"""Models as Python packages: built without Python, judged by the tools of Python, installed from our index by pip and uv, and asked.

Every held-out row of every example is answered as Python's onnxruntime and the running server answer it.
"""

import base64
import csv
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
from support import BINARY, EXAMPLES, GATEWAY, SERVICES, Truth, arrays, equal, expect, merged, ok, post, served_by, to_json, traffic

CONTROL = os.environ["MODELYARD_CONTROL"]
INDEX = f"http://{CONTROL}/simple/"
UPLOAD = f"http://{CONTROL}/legacy/"
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "NO_COLOR": "1"}
JSON = "application/vnd.pypi.simple.v1+json"


def run(*command, fails=False, **environment):
    """What a program said; ends the script when it fails, or does not though it should."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("TWINE_", "PIP_", "UV_"))}
    done = subprocess.run([str(word) for word in command], env={**outer, **QUIET, **environment}, capture_output=True, text=True)
    if (done.returncode != 0) != fails:
        sys.exit(f"FAILED ({done.returncode}): {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr if fails else done.stdout


def python(*arguments, **environment):
    """Runs a module of this interpreter's environment."""
    return run(sys.executable, "-m", *arguments, **environment)


def packaged(folder, out, umask=0o022):
    """The wheel and the source distribution of an example."""
    before = os.umask(umask)
    try:
        told = json.loads(run(BINARY, "package", EXAMPLES / folder, "--format", "wheel", "--out", out, "--output", "json"))
    finally:
        os.umask(before)
    for entry in told["formats"]:
        data = Path(entry["path"]).read_bytes()
        good = entry["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}" and entry["size_bytes"] == len(data)
        expect(good, f"{Path(entry['path']).name}: digest and size are as told")
    return [Path(entry["path"]) for entry in told["formats"]]


def record_is_right(wheel):
    """Every file stands in RECORD with its hash and length, and nothing else does."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = {path: (hashed, size) for path, hashed, size in csv.reader(io.StringIO(archive.read(record).decode()))}
        wrong = [name for name in names if name != record and rows.get(name) != hashed_as(archive.read(name))]
        expect(not wrong and set(rows) == set(names) and rows[record] == ("", ""), f"{wheel.name}: RECORD is right", wrong)
        package = [name for name in names if ".dist-info/" not in name]
        expect(names[: len(package)] == sorted(package), f"{wheel.name}: entries are sorted, .dist-info last")


def hashed_as(data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={digest}", str(len(data))


def ask(path, accept=JSON, method="GET", body=None):
    """Status and body of a request to the index."""
    request = urllib.request.Request(f"http://{CONTROL}{path}", body, {"Accept": accept}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


def predicts(service, target):
    """The installed package answers every row as onnxruntime and the server do."""
    module = importlib.import_module(service.replace("-", "_"))
    expect(Path(module.__file__).is_relative_to(target), f"{service}: imported from where it was installed")
    expect(module.check() == [], f"{service}: digests and samples hold", module.check())
    truth, rows = Truth(f"{service}/v1"), traffic(service)
    for number, row in enumerate([*rows, merged(rows)]):
        answer = module.predict(row)
        if not equal(truth.answer(row), answer.get) or set(answer) != set(truth.answer(row)):
            expect(False, f"{service}: row {number} is as onnxruntime answers it", answer)
    ok(f"{service}: {len(rows)} rows one by one and at once, as onnxruntime answers them")
    status, answer = post(GATEWAY, f"/v2/models/{service}/infer", to_json(merged(rows)))
    own = module.predict(merged(rows))
    given = arrays(answer) if status == 200 else {}
    expect(set(given) == set(own) and equal(given, own.get), f"{service}: the same names and answers as the server's", answer)
    return module


def takes_what_people_have(wine):
    """Arrays, lists, DataFrames, threads; and clear words about the rest."""
    rows = merged(traffic("wine"))["features"]
    want = wine.predict({"features": rows})
    for what, data in [("an array", rows), ("float64", rows.astype(float)), ("lists", rows.tolist()), ("a DataFrame", pandas.DataFrame(rows))]:
        expect(equal(want, wine.predict(data).get), f"wine takes {what}")
    with ThreadPoolExecutor(8) as pool:
        expect(all(equal(want, answer.get) for answer in pool.map(wine.predict, [rows] * 64)), "eight threads ask at once")
    wrong = [
        (TypeError, "FP32", [["a"] * 13]), (ValueError, "(any, 13)", rows[:, :12]), (ValueError, "(any, 13)", rows[0]),
        (ValueError, "`other`", {"other": rows}), (ValueError, "missing", {}), (ValueError, "no array", [[1.0], [1.0, 2.0]]),
    ]
    for kind, says, data in wrong:
        try:
            wine.predict(data)
        except kind as error:
            expect(says in str(error), f"wine refuses: {error}")
        else:
            expect(False, f"wine refuses what is wrong ({says})")
    fresh = "import sys, wine; assert 'onnxruntime' not in sys.modules; print(wine.__version__)"
    version = run(sys.executable, "-c", fresh, PYTHONPATH=str(Path(wine.__file__).parent.parent)).strip()
    expect(version == wine.__version__ == "1.0.0", "importing loads no engine", version)


def console(target):
    """The command reads a request and prints the answer."""
    request = traffic("wine")[0]
    file = target / "request.json"
    file.write_text(json.dumps(to_json(request)), encoding="utf-8")
    told = json.loads(run(target / "bin" / "wine-predict", file, PYTHONPATH=str(target)))
    answer = Truth("wine/v1").answer(request)
    expect(told["outputs"]["label"] == answer["label"].tolist(), "wine-predict answers", told)


def from_source(sdist, wheel, folder):
    """The source distribution builds, offline, into a wheel with the same files."""
    python("pip", "wheel", "--quiet", "--no-deps", "--no-index", "--wheel-dir", folder, sdist)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(wheel) as other:
        same = {name: one.read(name) for name in one.namelist()} == {name: other.read(name) for name in other.namelist()}
    expect(built.name == wheel.name and same, f"{sdist.name} builds into the same wheel")


def installs(work):
    """pip and uv find, download and install from the index."""
    for name, install in {
        "pip": ["pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--index-url", INDEX, "--target"],
        "uv": ["uv", "pip", "install", "--quiet", "--no-deps", "--no-cache", "--index-url", INDEX, "--target"],
    }.items():
        target = work / f"by-{name}"
        python(*install, target, "Breast.Cancer")
        expect((target / "breast_cancer" / "package" / "model.onnx").is_file(), f"{name} installs from the index")
    python("pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--index-url", INDEX, "--dest", work / "down", "wine==1.0.0")
    expect((work / "down" / "wine-1.0.0-py3-none-any.whl").is_file(), "pip downloads from the index")
    python("pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--no-cache-dir", "--index-url", INDEX, "--dest", work / "down", "wine==1.0.0")
    expect((work / "down" / "wine-1.0.0.tar.gz").is_file(), "pip downloads the source distribution, too")


def yanked(work):
    """A yanked version is only given to who names it."""
    status, _ = ask("/legacy/wine/2.0.0/yank", method="POST", body=b'{"reason": "answers wrong"}')
    expect(status == 200, "a version is yanked")
    download = ["pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--index-url", INDEX, "--dest"]
    python(*download, work / "any", "wine")
    expect([file.name for file in (work / "any").iterdir()] == ["wine-1.0.0-py3-none-any.whl"], "pip passes over the yanked version")
    python(*download, work / "named", "wine==2.0.0")
    expect((work / "named" / "wine-2.0.0-py3-none-any.whl").is_file(), "pip takes it when it is named")


def foreign(files, work):
    """`publish` uploads to another index (pypiserver), and is told no without a login."""
    folder = work / "foreign"
    folder.mkdir()
    passwords = work / "passwords"
    passwords.write_text("me:{SHA}" + base64.b64encode(hashlib.sha1(b"secret").digest()).decode() + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pypiserver", "run", "--interface", "127.0.0.1", "--passwords", passwords, "--authenticate", "update"]
    with served_by(command, folder) as address:
        url = f"http://{address}/"
        publish = [BINARY, "publish", *files, "--repository-url", url]
        refused = run(*publish, fails=True)
        expect("TWINE_USERNAME" in refused, "pypiserver wants a login, and publish says how to give one", refused)
        run(*publish, TWINE_USERNAME="me", TWINE_PASSWORD="secret")
        for file in files:
            expect((folder / file.name).read_bytes() == file.read_bytes(), f"pypiserver has {file.name}")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        dist, again = work / "dist", work / "again"
        files = {service: packaged(f"{service}/v1", dist) for service in SERVICES}
        for first in [file for pair in files.values() for file in pair]:
            record_is_right(first) if first.suffix == ".whl" else None
        for service, pair in files.items():
            twice = packaged(f"{service}/v1", again, umask=0o077)
            expect([f.read_bytes() for f in pair] == [f.read_bytes() for f in twice], f"{service}: twice the same bytes, whatever the umask")
        every = [file for pair in files.values() for file in pair]
        python("twine", "check", "--strict", *every)
        run(Path(sys.executable).parent / "check-wheel-contents", *[file for file in every if file.suffix == ".whl"])
        ok("twine check --strict and check-wheel-contents find nothing")

        python("twine", "upload", "--non-interactive", "--repository-url", UPLOAD, "-u", "me", "-p", "secret", *files["wine"])
        ok("twine uploads into the index")
        others = [file for service, pair in files.items() if service != "wine" for file in pair]
        run(BINARY, "publish", *others, "--repository-url", UPLOAD)
        run(BINARY, "publish", *files["wine"])
        ok("publish uploads into the index, and again without harm")
        run(BINARY, "publish", *packaged("wine/v2", dist))
        function = packaged("language/v1", dist)
        python("twine", "check", "--strict", *function)
        run(Path(sys.executable).parent / "check-wheel-contents", function[0])
        record_is_right(function[0])
        from_source(function[1], function[0], work / "function")

        page = json.loads(ask("/simple/wine/")[1])
        expect(page["versions"] == ["1.0.0", "2.0.0"] and len(page["files"]) == 4, "the index lists both versions", page)
        python("pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--index-url", INDEX, "--target", work / "site", "wine==1.0.0", *[f"{s}==1.0.0" for s in SERVICES if s != "wine"])
        sys.path.insert(0, str(work / "site"))
        modules = {service: predicts(service, (work / "site").resolve()) for service in SERVICES}
        takes_what_people_have(modules["wine"])
        console(work / "site")
        from_source(files["wine"][1], files["wine"][0], work / "built")
        installs(work)
        yanked(work)
        foreign(files["wine"], work)


main()
