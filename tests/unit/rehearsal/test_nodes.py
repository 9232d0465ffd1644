"""Stand-in nodes: a sandbox, answers to what the suite asks, and a plain error for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import Containers, Node
from pytest_h20.probes import host
from pytest_h20.probes.script import build, split
from pytest_h20.rehearsal import Rehearsal
from pytest_h20.rehearsal.node import StandInNode


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    found: Rehearsal = Rehearsal.load("quick", [], tmp_path)
    return found


@pytest.fixture
def node(rehearsal: Rehearsal) -> StandInNode:
    return rehearsal.nodes()["node01"]


def test_it_is_a_node(node: StandInNode) -> None:
    assert isinstance(node, Node)
    assert isinstance(node.containers, Containers)


def test_a_command_it_does_not_know_is_named(node: StandInNode) -> None:
    with pytest.raises(H20Error, match="does not know the command 'reboot now'"):
        node.run("reboot %s", "now")


def test_files_live_in_the_sandbox(node: StandInNode, rehearsal: Rehearsal, tmp_path: Path) -> None:
    node.run("mkdir -p %s && chmod 777 %s", "/var/tmp/run", "/var/tmp/run").check()
    node.put(b"hello world", "/var/tmp/run/a.log")
    assert node.get("/var/tmp/run/a.log", 6, 3) == b"wor"
    assert node.run("ls -1 -- %s 2>/dev/null || true", "/var/tmp/run").stdout == "a.log\n"
    assert node.run("ls -1d /var/tmp/run/a* 2>/dev/null || true").stdout == "/var/tmp/run/a.log\n"
    other = rehearsal.nodes()["node02"]
    assert other.run("test -e %s", "/var/tmp/run").rc == 1
    node.put(b"x", "/../../../outside")
    assert not (tmp_path.parent / "outside").exists()
    node.run("rm -rf -- %s", "/var/tmp/run")
    assert node.run("test -e %s", "/var/tmp/run").rc == 1


def test_a_missing_file_is_missing(node: StandInNode) -> None:
    with pytest.raises(FileNotFoundError):
        node.get("/no/such/file")


def test_probes_are_answered(node: StandInNode) -> None:
    facts = host.SYSTEM.read(split(node.run(build([host.SYSTEM])).stdout))
    assert getattr(facts, "os", "") == "CentOS Linux release 7.6 (Final)"


def test_a_port_nobody_serves_is_closed(node: StandInNode) -> None:
    import socket

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(node.forward("10.63.65.207", 8000), timeout=2.0)


def test_an_unreachable_node_is_a_broken_transport(rehearsal: Rehearsal) -> None:
    rehearsal.world.unreachable["node02"] = "no route to host"
    with pytest.raises(TransportError, match="no route to host"):
        rehearsal.nodes()["node02"].run("test -e %s", "/")
