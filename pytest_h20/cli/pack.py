"""``python -m pytest_h20 pack DIR``: everything a machine without internet needs, in one folder with checksums."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_h20 import __version__
from pytest_h20.config.environments import environments
from pytest_h20.core.errors import UsageError
from pytest_h20.lang import say
from pytest_h20.lang.arguments import Parser
from pytest_h20.load.remote import bundle

DISTRIBUTION = "pytest-h20"
SUMS = "SHA256SUMS"
INSTALL = """#!/bin/sh
# sh install.sh [VENV]: installs pytest-h20 {version} into VENV (default: ./venv) from this folder alone. PYTHON: which Python, {python}.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
(cd "$here" && sha256sum -c --quiet {sums})
venv=${{1:-venv}}
python=${{PYTHON:-python3}}
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = {python} ] || {{ echo "$python is Python $found; these wheels are for {python}: PYTHON=python{python}" >&2; exit 2; }}
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-index \\
  --find-links "$here/wheels" '{wanted}'
echo "installed; next: $venv/bin/python -m pytest_h20 discover root@node01 root@node02 > my-cluster.yaml"
"""


def main(argv: Sequence[str]) -> int:
    """Fill the folder. 0: done; 2: the folder cannot be used or a package could not be had."""
    parser = Parser(
        prog="python -m pytest_h20 pack",
        description="Fill DIR with wheels of pytest-h20 and of all it needs, the shipped inventories and limits, the load client as one "
        "file, an install.sh that needs Python alone, and SHA256SUMS. Run it where there is a network, on the kind of machine and with the "
        "Python version that the bastion has: pip chooses by the Python it runs on. Then carry DIR to where there is none.",
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder to make; it must be empty or not there")
    parser.add_argument("--extra", choices=["store", "watch"], action="append", default=[], help="also what this extra needs")
    args = parser.parse_args(list(argv))
    pack(args.dir, args.extra)
    size = sum(f.stat().st_size for f in args.dir.rglob("*") if f.is_file())
    count = len(list(args.dir.glob("wheels/*.whl")))
    say(f"{args.dir}: {count} wheels, {size / 1e6:.0f} MB; on the bastion: sh {args.dir.name}/install.sh")
    return 0


def pack(folder: Path, extras: Sequence[str] = ()) -> None:
    """Fill ``folder``. Raises ``UsageError``: it is not empty, cannot be written, or a package cannot be had."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty; give a folder that is, so that nothing else travels under these checksums")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
            made = Path(part) / "made"
            _fill(made, extras)
            made.replace(folder)  # in one step: what could not be finished is not there
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _fill(folder: Path, extras: Sequence[str]) -> None:
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    own_wheel(wheels)
    _download(wheels, extras)
    shutil.copytree(environments(), folder / "inventories", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (folder / "h20-load.pyz").write_bytes(bundle())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    install = folder / "install.sh"
    wanted = f"{DISTRIBUTION}{_extras(extras)}=={__version__}"
    install.write_text(INSTALL.format(version=__version__, python=python, sums=SUMS, wanted=wanted), encoding="utf-8")
    install.chmod(0o755)
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in _sums(folder)), encoding="utf-8")


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name != SUMS):
        yield file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()


def own_wheel(wheels: Path) -> Path:
    """The wheel of this very installation: built from the source of an editable one, put together again from what a wheel installed.

    Raises ``UsageError`` when this package is not installed, or pip cannot build it.
    """
    try:
        found = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"{DISTRIBUTION} is not installed in this environment; install it with pip, then pack") from None
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        source = unquote(urlsplit(str(origin["url"])).path)
        _pip(["wheel", "-q", "--no-deps", "--wheel-dir", str(wheels), source], f"a wheel of {source}")
        return next(wheels.glob("pytest_h20-*.whl"))
    return _put_together(found, wheels)


def _put_together(found: importlib.metadata.Distribution, wheels: Path) -> Path:
    """A wheel from the files of an installed one: RECORD names them, with what only an installation adds left out."""
    tag = next(iter(re.findall(r"^Tag: (\S+)", found.read_text("WHEEL") or "", re.M)), "py3-none-any")
    info = f"pytest_h20-{found.version}.dist-info"
    added = {f"{info}/{name}" for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")}
    file = wheels / f"pytest_h20-{found.version}-{tag}.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(found.files or (), key=str):
            name = path.as_posix()
            if name in added or name.startswith("..") or name.endswith(".pyc"):
                continue
            data = Path(str(found.locate_file(path))).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            rows.writerow((name, f"sha256={digest}", len(data)))
            archive.writestr(name, data)
        rows.writerow((f"{info}/RECORD", "", ""))
        archive.writestr(f"{info}/RECORD", record.getvalue())
    return file


def _download(wheels: Path, extras: Sequence[str]) -> None:
    """What the wheel of ours needs, as wheels: whatever would have to be compiled on the bastion is refused here."""
    wanted = str(next(wheels.glob("pytest_h20-*.whl"))) + _extras(extras)
    words = ["download", "-q", "--only-binary=:all:", "--dest", str(wheels)]
    _pip([*words, wanted], "what pytest-h20 needs")


def _extras(extras: Sequence[str]) -> str:
    """``[store,watch]``, as a requirement has it."""
    return f"[{','.join(extras)}]" if extras else ""


def _pip(words: Sequence[str], what: str) -> None:
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ended = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, env=env, check=False)
    if ended.returncode != 0:
        lines = [line for line in ended.stderr.splitlines() if "ERROR" in line] or ended.stderr.splitlines()[-3:]
        raise UsageError(f"pip could not get {what}: {' '.join(lines)[:600]}; pack where the package index can be reached")
