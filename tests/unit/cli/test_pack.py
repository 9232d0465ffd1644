"""What is packed is this installation, whatever way it was installed; errors are those people meet."""

from __future__ import annotations

import importlib.metadata
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_h20 import __version__
from pytest_h20.__main__ import main
from pytest_h20.cli import pack
from pytest_h20.core.errors import UsageError


def _installed(site: Path) -> importlib.metadata.Distribution:
    """As pip leaves a wheel: files, a script outside, compiled ones, and what only an installation writes."""
    info = site / "pytest_h20-0.1.0.dist-info"
    info.mkdir(parents=True)
    (site / "pytest_h20").mkdir()
    (site / "pytest_h20/__init__.py").write_text("__version__ = '0.1.0'\n")
    (site / "pytest_h20/__init__.cpython-311.pyc").write_bytes(b"\0")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: pytest-h20\nVersion: 0.1.0\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "direct_url.json").write_text('{"url": "git+ssh://host/pytest-h20.git", "vcs_info": {"vcs": "git"}}')
    names = [f.relative_to(site).as_posix() for f in sorted(site.rglob("*")) if f.is_file()]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in ("../../../bin/pytest-h20", *names, f"{info.name}/RECORD")))
    return importlib.metadata.PathDistribution(info)


def test_a_wheel_is_put_together_from_what_one_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: _installed(tmp_path / "site"))
    wheel = pack.own_wheel(tmp_path)
    assert wheel.name == "pytest_h20-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = "pytest_h20-0.1.0.dist-info"
        assert sorted(archive.namelist()) == [f"{info}/METADATA", f"{info}/RECORD", f"{info}/WHEEL", "pytest_h20/__init__.py"]
        record = archive.read(f"{info}/RECORD").decode()
        assert all(name in record for name in archive.namelist())
        assert record.count("sha256=") == 3


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["pack", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]
    assert main(["pack", str(tmp_path / "notes.txt")]) == 2


def test_what_pip_says_is_told_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "WARNING: x\nERROR: No matching distribution found for docker>=7.1\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(UsageError, match=r"No matching distribution found for docker.*index can be reached"):
        pack.pack(tmp_path / "new")
    assert list(tmp_path.iterdir()) == [], "nothing half done is left"


def test_what_was_packed_is_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra whose wheels travel and that install.sh does not ask for would not be there."""
    asked: list[str] = []

    def own_wheel(wheels: Path) -> Path:
        (wheels / "pytest_h20-0.1.0-py3-none-any.whl").write_bytes(b"")
        return wheels

    monkeypatch.setattr(pack, "own_wheel", own_wheel)
    monkeypatch.setattr(pack, "_pip", lambda words, what: asked.extend(words))
    assert main(["pack", str(tmp_path / "new"), "--extra", "store", "--extra", "watch"]) == 0
    assert asked[-1].endswith(".whl[store,watch]")
    assert f"'pytest-h20[store,watch]=={__version__}'" in (tmp_path / "new" / "install.sh").read_text(encoding="utf-8")
