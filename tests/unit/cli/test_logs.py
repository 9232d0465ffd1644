"""Logs that are named on a command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pytest_h20.cli import diagnose, kv, nccl
from pytest_h20.cli.logs import opened
from pytest_h20.core.errors import UsageError


def test_a_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_bytes(b"a\rb\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    with opened(str(tmp_path / "a.log")) as log:
        assert log.read() == b"a\rb\n"
    with opened("-") as log:
        assert log.read() == b"from a pipe"


@pytest.mark.parametrize("name", ["no.log", "."])
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"cannot read '{name}': .*accepted are"), opened(name) as log:
        log.read()


@pytest.mark.parametrize("command", [nccl, kv, diagnose])
def test_every_command_says_it_alike(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["/no/such.log"]) == 2
    assert "cannot read '/no/such.log': No such file or directory; accepted are" in capsys.readouterr().err


@pytest.mark.parametrize("command", [nccl, kv])
def test_standard_input_is_read_once(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-", "-"]) == 2
    assert "- (standard input) can be given once" in capsys.readouterr().err
