"""The edge of every command: what goes wrong below it is a line and a status, never a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_h20 import lang
from pytest_h20.__main__ import COMMANDS, main
from pytest_h20.lang.arguments import wrapped
from pytest_h20.load.cli import parser as load_parser


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("nothing",), "pytest_h20: no command 'nothing'; there are nccl, kv,"),
        (("reapp",), "pytest_h20: no command 'reapp' (did you mean reap?); there are"),
        (("discover", "local", "--like", "."), "pytest_h20 discover: .: is a folder; give the inventory, a YAML file"),
        (("discover", "local", "--like", "binary"), "pytest_h20 discover: binary: cannot be read as UTF-8 text"),
        (("soak", "n" * 300), "File name too long"),
        (("weights", "n" * 300), "File name too long"),
        (("weights", ".", "--full", "--state", "binary/below"), "pytest_h20 weights: "),
        (("reap", "--nodes", "rehearsal"), "rehearsal: no such inventory file; `python -m pytest_h20 example` prints one\n"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_wrong_use_is_one_line(
    argv: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"")
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_is_for_people(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m pytest_h20 {name} ")
    assert "``" not in out


def _ended(argv: list[str], stdout: int) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-m", "pytest_h20", *argv], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_a_disk_that_is_full_and_a_reader_that_left() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert _ended(["example"], full) == (2, "pytest_h20 example: No space left on device\n")
        assert _ended(["example"], writer) == (141, "")
    finally:
        os.close(full)
        os.close(writer)


def test_a_reader_of_chinese_is_answered_in_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage, headings, helps of `load`, and what argparse says of wrong words."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    try:
        assert main([]) == 2
        for line in capsys.readouterr().out.splitlines():
            assert not line or line.startswith("  pytest --engine") or re.search("[\u4e00-\u9fff]", line), line
        for argv, said in (
            (["load", "--url", "x"], "load: 错误：缺少以下参数：--dialect"),
            (["load", "--url", "x", "--dialect", "vlm"], "错误：参数 --dialect：没有选项 'vlm'（可选："),
            (["load", "--url", "x", "--dialect", "chat", "--requests", "x"], "错误：参数 --requests：要求整数，给的是 'x'"),
            (["load", "--url", "x", "--dialect", "chat", "--foo"], "错误：不认识的参数：--foo"),
            (["compare", "a", "b", "--spread"], "错误：参数 --spread：要求一个值"),
            (["discover"], "错误：请给出主机，或 --hosts-from-slurm"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(argv)
            told = capsys.readouterr().err
            assert ended.value.code == 2
            assert told.startswith("用法：python -m pytest_h20 ")
            assert said in told
        assert main(["load", "--url", "x", "--dialect", "chat"]) == 2
        assert capsys.readouterr().err == "url 'x'：需要 http://host:port 或 https://host:port\n"
        helps = [action.help for action in load_parser()._actions if action.help and "://" not in action.help]
        assert [text for text in helps if lang.local(text) == text] == []
    finally:
        lang.use("en")


def test_lines_of_chinese_are_as_wide_as_they_look() -> None:
    assert list(wrapped("用 token id 请求 /generate，并发流数", 12)) == ["用 token id", "请求", "/generate，", "并发流数"]
