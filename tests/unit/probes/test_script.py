"""The frame: build, run in real shells, split; banners, cuts, markers in the output, time limits."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.core.errors import H20Error
from pytest_h20.probes.script import (
    Missing,
    Probe,
    ProbeError,
    Section,
    build,
    frame,
    integer,
    number,
    pairs,
    requests,
    rows,
    split,
)

SHELLS = [s for s in ("dash", "bash", "busybox sh", "sh") if shutil.which(s.split()[0])]
ECHO = Probe("echo", "printf '%s\\n' \"$@\"", lambda text: text.splitlines())


def run(shell: str, script: str) -> str:
    return subprocess.run([*shell.split(), "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_sections_come_back_from_a_real_shell(shell: str) -> None:
    probes = [
        Probe("good", "echo one; printf two", str),
        Probe("bad", "echo wrong >&2; exit 3", str),
        Probe("gone", "no-such-tool-anywhere", str, hint="install it"),
        Probe("silent", "true", str),
        ECHO.with_args("it's", 'a "quoted"', "$HOME", "*"),
    ]
    text = run(shell, build(probes))
    assert text.startswith("@@h20 section good ")  # nothing else is printed: an environment may hold secrets
    found = split(text)
    assert found["good"] == Section(0, "one\ntwo", "")
    assert found["bad"] == Section(3, "", "wrong\n")
    assert found["silent"] == Section(0, "", "")
    assert ECHO.read(found) == ["it's", 'a "quoted"', "$HOME", "*"]
    gone = probes[2].read(found)
    assert isinstance(gone, Missing)
    assert gone.hint == "install it"


@pytest.mark.skipif(shutil.which("timeout") is None, reason="coreutils' timeout is not here")
def test_a_probe_that_hangs_loses_only_itself() -> None:
    probes = [Probe("slow", "sleep 600", str, seconds=1), Probe("quick", "echo here", str)]
    start = time.monotonic()
    found = split(run("sh", build(probes)))
    assert time.monotonic() - start < 30
    slow = probes[0].read(found)
    assert isinstance(slow, Missing)
    assert "did not finish within 1 s" in slow.reason
    assert probes[1].read(found) == "here\n"


def test_nothing_is_left_on_the_node(tmp_path: object) -> None:
    left = run("sh", f"TMPDIR={tmp_path}; export TMPDIR\n" + build([ECHO]) + f"\n(sleep 0.2; ls {tmp_path})")
    assert left.strip().endswith("@@h20 complete") or "h20-probe" in left  # the trap runs at the very end of the script
    assert subprocess.run(["ls", str(tmp_path)], capture_output=True, text=True, check=True).stdout == ""


def test_requests_read_back_what_build_wrote() -> None:
    script = build([ECHO.with_args("a b", "c'd"), Probe("other", "true", str)])
    assert requests(script) == [("echo", ("a b", "c'd")), ("other", ())]


sections = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
    st.builds(Section, st.integers(0, 255), st.text(alphabet=st.characters(codec="utf-8")), st.text(max_size=30)),
    max_size=4,
)


@settings(deadline=None)
@given(sections, st.text(max_size=40).filter(lambda t: "@@h20" not in t))
def test_split_undoes_frame_whatever_is_inside(given_sections: dict[str, Section], banner: str) -> None:
    assert split(banner + "\n" + frame(given_sections)) == given_sections


def test_output_that_looks_like_our_markers_is_kept() -> None:
    nasty = Section(0, "\n@@h20 stderr a\n\n@@h20 end a\n@@h20 section b rc=0 out=0 err=0", "x")
    assert split(frame({"a": nasty, "b": Section(1, "y", "")})) == {"a": nasty, "b": Section(1, "y", "")}


@settings(deadline=None)
@given(sections.filter(bool), st.floats(0, 1))
def test_a_cut_never_makes_a_whole_section_up(given_sections: dict[str, Section], where: float) -> None:
    text = frame(given_sections)
    for name, section in split(text[: int(len(text) * where)]).items():
        assert section.cut or section == given_sections[name]


def test_undecodable_bytes_do_not_lose_the_section() -> None:
    raw = frame({"a": Section(0, "caf?", "e"), "b": Section(0, "z", "")}).encode().replace(b"caf?", b"caf\xe9")
    found = split(raw.decode("utf-8", "replace"))
    assert found["a"].out == "caf\ufffd"
    assert found["b"].out == "z"


def test_a_parser_that_refuses_gives_missing() -> None:
    def refuse(text: str) -> str:
        raise ProbeError("nonsense")

    fact = Probe("p", "true", refuse, hint="h").read({"p": Section(0, "x", "")})
    assert fact == Missing("output of probe 'p' not understood: nonsense", "h")


def test_an_absent_or_cut_section_is_missing() -> None:
    assert isinstance(ECHO.read({}), Missing)
    assert isinstance(ECHO.read({"echo": Section(0, "", "", cut=True)}), Missing)


def test_errors_are_ours() -> None:
    assert issubclass(ProbeError, H20Error)
    with pytest.raises(ValueError, match="twice"):
        build([ECHO, ECHO])
    with pytest.raises(ValueError, match="probe name"):
        Probe("Not Good", "true", str)


def test_small_readers() -> None:
    assert pairs("a=1\nnoise\na=2\nB=3\n") == {"a": "2"}
    assert integer("12 MiB") == 12
    assert integer("N/A") is None
    assert number("71.59 W") == 71.59
    assert list(rows("x\t1\t2\ny\t3\n", "x", 2)) == [["1", "2"]]
    with pytest.raises(ProbeError, match="fields"):
        list(rows("x\t1\n", "x", 2))
