"""The node that is this machine keeps the same promises as one over SSH."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError
from pytest_h20.nodes import shell
from pytest_h20.nodes.base import Node
from pytest_h20.nodes.local import LocalNode


@pytest.fixture
def node() -> LocalNode:
    return LocalNode("here", docker_socket="/no/such/docker.sock")


def test_it_is_a_node(node: LocalNode) -> None:
    assert isinstance(node, Node)
    assert node.forward("127.0.0.1", 80) == ("127.0.0.1", 80)


def test_commands(node: LocalNode) -> None:
    result = node.run("cat; echo %s >&2; exit 3", "a 'b'", stdin=b"in")
    assert (result.rc, result.stdout, result.stderr, result.node) == (3, "in", "a 'b'\n", "here")
    assert node.run("kill -9 $$").rc == 137
    assert len(node.run("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero").stderr) == 3_000_000


def test_the_deadline_kills_the_family(node: LocalNode) -> None:
    mark = f"9{os.getpid() % 10000:04d}"
    with pytest.raises(CommandTimeout, match=r"here: .*deadline of 0\.5 s; it was killed with its children; last output: part"):
        node.run(f"echo part; trap '' TERM; setsid sleep {mark}1 & sleep {mark}2", timeout=0.5)
    assert f"sleep {mark}" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_stream_and_an_exception_of_on_line(node: LocalNode) -> None:
    lines: list[str] = []
    assert node.stream("echo one; printf two", on_line=lines.append).stdout == "one\ntwo"
    assert lines == ["one", "two"]

    def fail(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="x"):
        node.stream("echo x; sleep 100", on_line=fail)


def test_a_child_in_the_background_does_not_hold_the_result(node: LocalNode) -> None:
    result = node.run("sleep 300 & echo $!", timeout=60.0)
    os.kill(int(result.stdout), 9)


def test_files(node: LocalNode, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    node.put(b"0123456789", path, 0o600)
    assert (node.get(path), node.get(path, 8), node.get(path, 2, 3), node.get(path, 20)) == (b"0123456789", b"89", b"234", b"")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        node.get(path + "x")
    with pytest.raises(H20Error, match="folder"):
        node.put(b"", str(tmp_path / "no" / "file"))
    with pytest.raises(H20Error, match="must not be negative"):
        node.get(path, -1)


def test_no_daemon_is_one_clear_line(node: LocalNode) -> None:
    with pytest.raises(TransportError, match=r"here: .*/no/such/docker\.sock is not there\. Next: `systemctl status docker`"):
        node.containers.daemon()
    node.close()
    node.close()


def test_a_command_that_prints_without_end_is_stopped(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "MAX_OUTPUT", 2**20)
    with pytest.raises(H20Error, match="printed more than 1 MiB: redirect it to a file"):
        node.run("exec cat /dev/zero", timeout=30.0)


def test_a_command_ends_with_its_caller(tmp_path: Path) -> None:
    """SIGKILL of the caller leaves no time to end anything."""
    mark = f"5{os.getpid() % 10000:04d}"
    program = f"from pytest_h20.nodes.local import LocalNode; LocalNode('me').run('setsid sleep {mark}1 & sleep {mark}2', timeout=900)"
    caller = subprocess.Popen([sys.executable, "-c", program])

    def running() -> int:
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        return sum(1 for line in listed if line.startswith(f"sleep {mark}"))

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 20
        while running() != count and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running() == count

    try:
        wait_for(2)
    finally:
        caller.kill()
        caller.wait()
    wait_for(0)


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A daemon's socket that this user may not use, and a ``sudo`` that opens it: to ``docker … system dial-stdio`` and nothing else."""
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(path)
        access = os.access
        monkeypatch.setattr(os, "access", lambda place, mode: str(place) != path and access(place, mode))
        programs = {
            "sudo": f'[ "$*" = "-n -- docker -H unix://{path} system dial-stdio" ] || exit 1\n'
            '[ -z "$REFUSES" ] || { echo "$REFUSES" >&2; exit 1; }\nshift 2; exec "$@"',
            "docker": "while read -r word what rest; do case $word in GET) asked=$what;; esac; [ ${#word} -gt 1 ] || break; done\n"
            'printf "HTTP/1.0 200 OK\\r\\n\\r\\nyou asked %s\\n" "$asked"',
        }
        for name, body in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        yield path


def test_a_closed_socket_says_which_right_opens_it(closed: str) -> None:
    with pytest.raises(TransportError) as told:
        LocalNode("here", docker_socket=closed).containers.daemon()
    assert f"set `ssh.sudo`: then `sudo -n -- docker -H unix://{closed} system dial-stdio` opens it" in str(told.value)
    assert "usermod -aG docker USER" in str(told.value)


def test_sudo_opens_the_daemon_of_this_machine(closed: str) -> None:
    """It was tried over SSH only: a local node with ``ssh.sudo`` said "run as root"."""
    node = LocalNode("here", docker_socket=closed, sudo=True)
    path = node._reach_docker()
    assert path != closed
    assert stat.S_IMODE(os.stat(Path(path).parent).st_mode) == 0o700
    for number in range(3):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(20)
            asking.connect(path)
            asking.sendall(f"GET /{number} HTTP/1.0\r\n\r\n".encode())
            assert asking.makefile().read().endswith(f"you asked /{number}\n")
    node.close()
    assert not Path(path).parent.exists()


def test_a_line_that_sudo_lacks_is_told_in_its_words(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSES", "sudo: a password is required")
    with pytest.raises(TransportError, match=r"system dial-stdio` does not open it either: sudo: a password is required"):
        LocalNode("here", docker_socket=closed, sudo=True)._reach_docker()
