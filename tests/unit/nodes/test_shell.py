"""The wrapper around a command, run by real shells of this machine but without any network."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.shell import FramedStream, LineCutter, NodeProcess, kill_command, tail, wrap

SHELLS = [["sh", "-c"], ["bash", "-c"], ["busybox", "sh", "-c"], ["tcsh", "-c"], ["fish", "-c"], ["zsh", "-c"]]


def through(shell: list[str], command: str, stdin: bytes = b"") -> tuple[bytes, bytes, str | None]:
    """Run a wrapped command with a log-in shell; returns both streams and the exit status as framed."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not on this machine")
    script = wrap(command)
    done = subprocess.run([*shell, script.login], input=script.body + stdin, capture_output=True, check=False)
    out, err = FramedStream(script.token), FramedStream(script.token)
    return out.feed(done.stdout), err.feed(done.stderr), out.ended


@pytest.mark.parametrize("shell", SHELLS, ids=lambda s: s[0])
@pytest.mark.parametrize(
    "command",
    [
        "echo out; echo err >&2; cat; exit 3",
        "printf '%s' 'it''s \\ !x\nand' \"$((1 + 1))\" `echo b` 你好 >&2; echo out; cat; exit 3",
    ],
)
def test_every_log_in_shell_runs_the_same_command(shell: list[str], command: str) -> None:
    plain = subprocess.run(["/bin/sh", "-c", command], input=b"in\0put", capture_output=True, check=False)
    assert through(shell, command, b"in\0put") == (plain.stdout, plain.stderr, "3")


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_survives_as_an_argument(text: str) -> None:
    import shlex

    out, _, status = through(["sh", "-c"], f"printf %s {shlex.quote(text)}")
    assert (out, status) == (text.encode(), "0")


def test_nothing_runs_before_the_last_byte_of_the_go_line(tmp_path: Path) -> None:
    script = wrap(f"touch {tmp_path / 'ran'}")
    done = subprocess.run(["sh", "-c", script.login], input=script.body[:-1], capture_output=True, check=False)
    assert done.returncode == 96
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["echo \0", "x" * 200_000])
def test_what_cannot_travel_is_refused(command: str) -> None:
    with pytest.raises(H20Error):
        wrap(command)


@given(
    noise=st.binary(max_size=40),
    body=st.binary(max_size=60),
    after=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_frames_are_found_however_the_stream_is_cut(noise: bytes, body: bytes, after: bytes, cuts: list[int]) -> None:
    token = "h20-0123456789abcdef01234567"
    whole = noise + f"\n{token}:start 12 34\n".encode() + body + f"{token}:end 7\n".encode() + after
    stream = FramedStream(token)
    places = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})
    out = b"".join(stream.feed(whole[a:b]) for a, b in itertools.pairwise(places))
    assert (out, stream.started, stream.ended) == (body, "12 34", "7")


@given(body=st.binary(max_size=60))
def test_a_stream_without_end_mark_gives_the_rest_on_flush(body: bytes) -> None:
    stream = FramedStream("h20-x")
    got = stream.feed(b"hello\n\nh20-x:start 1 2\n" + body)
    assert got + stream.flush() == body
    assert stream.ended is None


def test_noise_is_kept_only_while_there_is_no_start() -> None:
    stream = FramedStream("h20-x")
    assert stream.feed(b"This account is closed.\n") == b""
    assert stream.noise == b"This account is closed.\n"
    assert stream.flush() == b""


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=8), min_size=1),
    st.integers(1, 5),
)
def test_lines_come_whole_whatever_the_chunks(lines: list[str], size: int) -> None:
    data = "\n".join(lines).encode()
    got: list[str] = []
    cutter = LineCutter(got.append)
    for at in range(0, len(data), size):
        cutter.feed(data[at : at + size])
    cutter.feed(b"", final=True)
    assert got == (lines if lines[-1] else lines[:-1])


@pytest.mark.parametrize("shell", SHELLS[:3], ids=lambda s: s[0])
def test_the_killer_ends_the_whole_family_and_nothing_else(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not on this machine")
    mark = f"2{os.getpid() % 10000:04d}"
    bystander = subprocess.Popen(["sleep", f"{mark}0"], start_new_session=True)
    family = subprocess.Popen(
        [
            "sh",
            "-c",
            f"trap '' TERM; (sleep {mark}1 & timeout 9999 sleep {mark}2 & wait) & setsid sleep {mark}3 & sleep {mark}4; :",
        ],
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while _count(mark) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        stale = subprocess.run([*shell, kill_command(NodeProcess(family.pid, 1))], capture_output=True, text=True, check=True)
        assert (stale.stdout, family.poll()) == ("", None)  # another start time: not the same process
        killed = subprocess.run([*shell, kill_command(NodeProcess(family.pid))], capture_output=True, text=True, check=True)
        assert (killed.stdout, killed.stderr) == ("", "")
        assert family.wait(10) != 0
        assert _count(mark) == 1
        assert bystander.poll() is None
    finally:
        for process in (bystander, family):
            process.kill()
            process.wait()


def _count(mark: str) -> int:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(1 for line in listed if line.startswith(("sleep ", "timeout ")) and f"sleep {mark}" in line)


def test_tail() -> None:
    assert tail(b"a\nb\nc\n", 2) == "b / c"


def test_one_long_line_costs_time_in_proportion_to_its_length() -> None:
    """64 MiB without a newline took 35 s: what had come was copied with every piece that came."""

    def seconds(pieces: int) -> float:
        cutter = LineCutter(lambda line: None)
        began = time.process_time()
        for _ in range(pieces):
            cutter.feed(b"x" * 4096)
        cutter.feed(b"", final=True)
        return time.process_time() - began

    assert min(seconds(8000) for _ in range(2)) < 32 * max(min(seconds(1000) for _ in range(3)), 0.002)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda s: s[0])
def test_a_watched_command_ends_with_its_connection(shell: list[str]) -> None:
    """SIGKILL of the caller closes standard input; the command and its children must not outlive that, and only that."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not on this machine")
    mark = f"3{os.getpid() % 10000:04d}"
    script = wrap(f"trap '' TERM; setsid sleep {mark}1 & sleep {mark}2 & cat; sleep {mark}3", watched=True)
    caller = subprocess.Popen([*shell, script.login], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert caller.stdin is not None
        caller.stdin.write(script.body)
        caller.stdin.flush()
        _wait_for(mark, 3)
        caller.stdin.close()
        _wait_for(mark, 0)
    finally:
        caller.kill()
        caller.wait()


@pytest.mark.parametrize("shell", SHELLS, ids=lambda s: s[0])
def test_what_a_watched_command_leaves_in_the_background_stays(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not on this machine")
    mark = f"4{os.getpid() % 10000:04d}"
    script = wrap(f"sleep {mark}1 >/dev/null 2>&1 & echo $!; exit 3", watched=True)
    caller = subprocess.Popen([*shell, script.login], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert caller.stdin is not None
    assert caller.stdout is not None
    assert caller.stderr is not None
    caller.stdin.write(script.body)
    caller.stdin.flush()
    out, err = FramedStream(script.token), FramedStream(script.token)
    pid = int(out.feed(caller.stdout.read()))
    try:
        assert (out.ended, err.feed(caller.stderr.read())) == ("3", b"")
        caller.communicate()
        time.sleep(0.5)
        assert _count(mark) == 1
    finally:
        os.kill(pid, 9)


def _wait_for(mark: str, count: int) -> None:
    deadline = time.monotonic() + 20
    while _count(mark) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _count(mark) == count
