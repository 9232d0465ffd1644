"""A command speaks the reader's language: its help, and what it found; not the lines of a log, and nothing that a machine reads."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from pytest_h20 import lang
from pytest_h20.__main__ import COMMANDS, main

CORPUS = Path(__file__).parents[2] / "corpus"
READS = (
    ("nccl", next(iter(sorted((CORPUS / "nccl").glob("*socket*.log"))))),
    ("diagnose", next(iter(sorted((CORPUS / "engine").glob("*.log"))))),
    ("kv", next(iter(sorted((CORPUS / "engine").glob("*.log"))))),
)
_ENGLISH = re.compile(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b")


@pytest.fixture(autouse=True)
def english_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lang, "_spoken", "en")
    for name in ("LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, locale: str, *argv: str) -> str:
    monkeypatch.setenv("LANG", locale)
    monkeypatch.setenv("COLUMNS", "400")
    with contextlib.suppress(SystemExit):
        main(argv)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_in_chinese(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ENGLISH.findall(said(capsys, monkeypatch, "zh_CN.UTF-8", command, "--help")) == []


@pytest.mark.parametrize(("command", "log"), READS)
def test_json_is_the_same_in_every_language(
    command: str, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [said(capsys, monkeypatch, locale, command, "--json", str(log)) for locale in ("zh_CN.UTF-8", "en_US.UTF-8")]
    assert both[0]
    assert both[0] == both[1]


@pytest.mark.parametrize(("command", "log"), READS[:2])
def test_what_was_found_is_in_chinese_and_lines_of_the_log_are_as_they_were(
    command: str, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chinese = said(capsys, monkeypatch, "zh_CN.UTF-8", command, str(log)).splitlines()
    english = said(capsys, monkeypatch, "en_US.UTF-8", command, str(log)).splitlines()
    quoted = [line for line in english if line in chinese]
    assert quoted, "the lines that decide"
    assert len(chinese) == len(english)
    ours = [line for line in chinese if line not in quoted]
    assert ours
    assert [line for line in ours if _ENGLISH.search(line)] == []
