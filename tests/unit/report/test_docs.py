"""The commands of the pages about reports and calibration are run; their YAML is loaded."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_h20.cli import compare, export, history, sign, verify
from pytest_h20.config.limits import parse_limits
from pytest_h20.core.setting import OPTIONS
from tests.unit.report import samples

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "read-the-report.md", DOCS / "calibrate.md", DOCS / "gate-ci.md"]
CLI = {"compare": compare.main, "history": history.main, "sign": sign.main, "verify": verify.main, "export": export.main}


def blocks(page: Path) -> list[str]:
    """Indented code blocks of a page."""
    return [re.sub(r"^    ", "", found, flags=re.M) for found in re.findall(r"(?:^    .*\n)+(?:(?:\n)*^    .*\n)*", page.read_text(), re.M)]


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m pytest_h20 ") and shlex.split(line)[3] in CLI]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the runs the pages speak of."""
    base = tmp_path_factory.mktemp("docs")
    runs = base / "h20-runs"
    for name, view in (
        ("OLD", samples.clean(runs, seed=61)),
        ("BOTH", samples.two_engines(runs)),
        ("NEW", samples.clean(runs, seed=62)),
    ):
        view.path.rename(runs / name)
    samples.clean(runs, seed=63).path.rename(runs / "RUN")
    key = Ed25519PrivateKey.generate()
    (base / ".ssh").mkdir()
    (base / ".ssh/id_ed25519").write_bytes(key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.OpenSSH, ser.NoEncryption()))
    public = key.public_key().public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH).decode()
    (base / "allowed_signers").write_text(f"alice {public}\n")
    (base / "runs").symlink_to(runs)
    return base


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_work(here: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    words = [os.path.expanduser(word) for word in shlex.split(line)[3:]]
    assert CLI[words[0]](words[1:]) == 0


def test_the_pages_have_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_options_of_the_pages_exist(page: Path) -> None:
    known = {option.name for option in OPTIONS}
    used = set(re.findall(r"--(h20-[a-z-]+)", page.read_text()))
    assert used
    assert used <= known


def test_limits_of_the_pages_can_be_loaded() -> None:
    written, by_hand = (block for block in blocks(DOCS / "calibrate.md") if "metrics:" in block)
    assert len(parse_limits(by_hand, "by-hand.yaml").cells) == 2
    head = "name: x\norigin: {kind: baseline}\n"
    assert parse_limits(head + written, "written.yaml").baseline("in128-out128-c64", "output_throughput") is not None
