"""Builds the wheel from this source distribution; needs nothing but Python. The model is data, so there is nothing to compile."""

import base64
import gzip
import hashlib
import os
import tarfile
import time
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_STEM = "@STEM@"
_MODULE = "@MODULE@"


def _moment():
    return max(int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")), 315532800)


def _metadata():
    folder = f"{_STEM}.dist-info"
    return {
        f"{folder}/METADATA": _ROOT / "PKG-INFO",
        f"{folder}/WHEEL": _ROOT / "_build" / "WHEEL",
        f"{folder}/entry_points.txt": _ROOT / "_build" / "entry_points.txt",
    }


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    for name, path in _metadata().items():
        target = Path(metadata_directory) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return f"{_STEM}.dist-info"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    package = {path.relative_to(_ROOT).as_posix(): path for path in (_ROOT / _MODULE).rglob("*") if path.is_file()}
    package = {name: path for name, path in package.items() if "__pycache__" not in name.split("/")}
    name, record, moment = f"{_STEM}-py3-none-any.whl", [], time.gmtime(_moment())[:6]
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as archive:

        def entry(path):
            found = zipfile.ZipInfo(path, moment)
            found.compress_type, found.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            return found

        for path, source in [*sorted(package.items()), *_metadata().items()]:
            hashed, size, about = hashlib.sha256(), source.stat().st_size, entry(path)
            about.file_size = size
            with open(source, "rb") as file, archive.open(about, "w") as sink:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    hashed.update(piece)
                    sink.write(piece)
            digest = base64.urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode()
            quoted = f'"{path}"' if "," in path else path
            record.append(f"{quoted},sha256={digest},{size}\n")
        record.append(f"{_STEM}.dist-info/RECORD,,\n")
        archive.writestr(entry(f"{_STEM}.dist-info/RECORD"), "".join(record))
    return name


def build_sdist(sdist_directory, config_settings=None):
    def plain(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime, entry.mode = _moment(), 0o644
        return entry

    name = f"{_STEM}.tar.gz"
    paths = [path for path in sorted(_ROOT.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    with open(Path(sdist_directory) / name, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in paths:
                archive.add(path, f"{_STEM}/{path.relative_to(_ROOT).as_posix()}", recursive=False, filter=plain)
    return name
