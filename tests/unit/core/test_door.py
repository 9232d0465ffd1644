"""What leaves a process: no secret, no control character, no command to a CI."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.__main__ import main
from pytest_h20.cluster.shared import FailedElsewhere, Shared, Told, Topic
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core import door
from pytest_h20.core.redact import Redactor, known_secrets

SECRET = "hf_" + "PlantedPlantedPlanted1234"


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\x9b31mb", "a\\x9b31mb"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten", "over\\rwritten"),
        ("line\r\nline\ttab", "line\nline\ttab"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("half \ud800", "half \\ud800"),
        ("中文 – ü", "中文 – ü"),
    ],
)
def test_control_characters_are_shown(text: str, visible: str) -> None:
    assert door.shown(text) == visible
    assert door.shown(visible) == visible


@pytest.mark.parametrize(
    "line", ["::stop-commands::x", "  ::add-mask::a", "\t::set-env name=A::b", "x\n::error::y", "left ##[add-mask]a", "\x1b[31m::debug::x"]
)
def test_a_ci_obeys_nothing_that_a_node_said(line: str) -> None:
    told = door.unpowered(line)
    assert not [found for found in told.splitlines() if found.replace("\x1b[31m", "").strip().startswith("::") or "##[" in found]


def test_node_ids_and_addresses_stay_as_they_are() -> None:
    assert door.unpowered("tests/test_a.py::test_b\n  [::1]:80") == "tests/test_a.py::test_b\n  [::1]:80"


def test_a_line_that_is_written_in_pieces_is_one_line() -> None:
    stream = io.StringIO()
    out = door.Out(stream)
    for piece in ("name", "::test\n", "  ", "::add-mask::x\n", "\x1b[32mgreen\x1b[0m\r", f"HF_TOKEN={SECRET}\x1b[2J\n"):
        out.write(piece)
    out.raw("::error::ours\n")
    assert stream.getvalue() == "name::test\n  : :add-mask::x\n\x1b[32mgreen\x1b[0m\rHF_TOKEN=[redacted]\\x1b[2J\n::error::ours\n"


@pytest.mark.parametrize(
    "pieces",
    [
        ("HF_TOKEN=", "plantedsecret1", "\n"),
        ("no line end: HF_TOKEN=plantedsecret1",),
        ("-----BEGIN PRIVATE KEY-----\n", "plantedsecret1\n", "-----END PRIVATE KEY-----\n", "after\n"),
        ("-----BEGIN PRIVATE KEY-----\nplantedsecret1\n", None, "planted", None, "secret1\n-----END PRIVATE KEY-----\nafter\n"),
        ("-----BEGIN PRIVATE KEY-----\nplantedsecret1", None),
    ],
)
def test_what_is_seen_at_once_comes_whole(pieces: tuple[str | None, ...]) -> None:
    """None: the writer flushes."""
    stream = io.StringIO()
    live = door.Live(stream)
    for piece in pieces:
        live.flush() if piece is None else live.write(piece)
    live.flush()
    assert "plantedsecret1" not in stream.getvalue()
    assert "secret1" not in stream.getvalue()
    assert "[redacted]" in stream.getvalue()
    assert stream.getvalue().endswith("after\n") == any(piece and piece.endswith("after\n") for piece in pieces)


def test_ordinary_output_is_seen_line_by_line_and_when_it_is_flushed() -> None:
    stream = io.StringIO()
    live = door.Live(stream)
    for piece, visible in (("a", ""), ("b\nc", "ab\n"), ("d\n::error::x\n", "ab\ncd\n: :error::x\n")):
        live.write(piece)
        assert stream.getvalue() == visible
    live.write("(Pdb) ")
    live.flush()
    assert stream.getvalue().endswith("(Pdb) ")


def test_settings_tell_the_secrets_that_a_program_may_print_bare() -> None:
    settings = {
        "env": {"HF_TOKEN": "tok-1234567", "NCCL_DEBUG": "INFO", "HTTPS_PROXY": "http://me:proxy-pass-1@proxy:3128"},
        "flags": {"api-key": "bare-api-key-1", "max-num-tokens": "16384000"},
        "args": ["--api-key", "listed-key-1", "--port", "30000"],
        "password": "${PASSWORD}",
    }
    assert set(known_secrets(settings)) == {"tok-1234567", "proxy-pass-1", "bare-api-key-1", "listed-key-1"}


def test_what_processes_of_a_run_tell_each_other_is_redacted(tmp_path: Path) -> None:
    def fails() -> str:
        raise OSError(f"log tail: HF_TOKEN={SECRET}\x1b[2J")

    shared = Shared(tmp_path / ".shared")
    cluster, role = Topic[str]("cluster", str), Topic[RoleRef]("role", RoleRef)
    with pytest.raises(OSError, match="log tail"):
        shared.once(cluster, fails)
    shared.once(Topic[str]("died", str), lambda: f"token {SECRET}")
    made = RoleRef("n", "rank0", 0, "id", "name", "/log", f"docker run -e HF_TOKEN={SECRET} image")
    assert shared.once(role, lambda: made) == made, "who made it has it as it is"
    told = Shared(tmp_path / ".shared").published(role)
    assert told == Told(replace(made, command="docker run -e HF_TOKEN=[redacted] image"))
    with pytest.raises(FailedElsewhere, match="redacted"):
        Shared(tmp_path / ".shared").once(cluster, fails)
    assert SECRET not in "".join(f.read_text() for f in (tmp_path / ".shared").glob("*.json"))


def test_every_command_prints_behind_the_door(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(f"RuntimeError: HF_TOKEN={SECRET} \x1b[2J\n::stop-commands::{SECRET}\n")
    for command, *arguments in (
        ("diagnose", str(log)),
        ("nccl", str(log)),
        ("compare", f"http://me:{SECRET}@host/run"),
        ("history", "--runs", f"/{SECRET}\x1b[2J"),
    ):
        main([command, *arguments])
    seen = "".join(capsys.readouterr())
    assert SECRET not in seen
    assert "\x1b" not in seen
    assert not [line for line in seen.splitlines() if line.strip().startswith("::")]


def test_the_schema_is_printed_as_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_h20", "schema", "inventory"], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0
    assert "[redacted]" not in done.stdout


def test_the_rules_are_those_of_the_run() -> None:
    try:
        door.use(Redactor(patterns=["rack-[0-9]+"], secrets=["bare-secret"]))
        assert door.shown("rack-77 says bare-secret") == "[redacted] says [redacted]"
    finally:
        door.use(Redactor())
