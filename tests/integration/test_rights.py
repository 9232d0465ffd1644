"""A login that is not root, on a real sshd with a real sudo: the listed commands and no other, the daemon's group alone, refusals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h20.core.errors import TransportError
from pytest_h20.nodes.base import ContainerSpec
from pytest_h20.nodes.ssh import SshNode
from pytest_h20.probes import kernel_log, net
from pytest_h20.probes.rights import GRANTED, rights, sudoers
from pytest_h20.probes.script import Missing, build, split
from tests.integration.dockerd import IMAGE, Dockerd
from tests.integration.login import DOCKER_GID, USER, Login

KERNEL_LOG = kernel_log.KERNEL_LOG


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    daemon = Dockerd()
    daemon.folder.chmod(0o755)
    os.chown(daemon.socket, 0, DOCKER_GID)
    daemon.socket.chmod(0o660)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def login() -> Iterator[Login]:
    made = Login()
    yield made
    made.close()


def listed(dockerd: Dockerd | None = None) -> str:
    return sudoers([USER], rights(["lo"], [], str(dockerd.socket) if dockerd else "/var/run/docker.sock"))


def run(node: SshNode, *argv: str) -> str:
    container = ContainerSpec(f"h20-rights-{os.getpid()}", IMAGE, argv, network="none", ipc=None)
    return node.containers.run(container, timeout=60).stdout


def test_the_file_is_one_that_sudo_takes(tmp_path: Path) -> None:
    text = sudoers([USER, "x.y-z", "DOMAIN\\some one"], rights(["xgbe1", "eth0.7:1"], ["mlx5_1"], "/run/podman/podman.sock"))
    (tmp_path / "pytest-h20").write_text(text)
    done = subprocess.run(["visudo", "-cf", str(tmp_path / "pytest-h20")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sudo_runs_what_is_listed_and_nothing_else(login: Login, dockerd: Dockerd) -> None:
    login.allow(listed(dockerd))
    commands = [right.command for right in rights(["lo"], [], str(dockerd.socket))]
    asked = GRANTED.with_args(*commands)
    with SshNode("node01", login.settings(sudo=True, docker_socket=str(dockerd.socket))) as node:
        told = asked.read(split(node.run(build([asked])).stdout))
        assert not isinstance(told, Missing)
        assert (told.user, told.root, told.refused) == (USER, False, {})
        assert {"dmesg", "ss -ltnp", commands[-1]} <= {*told.allowed} <= {*commands}
        for more in ("dmesg -C", "ss -ltnpK", "cat /etc/shadow", "docker -H unix:///var/run/docker.sock ps", "sh -c id"):
            refused = node.run(f"sudo -n -- {more} 2>&1")
            assert refused.rc == 1, more
            assert "sudo: a password is required" in refused.stdout, more
        sections = split(node.run(build([KERNEL_LOG, net.LISTENERS])).stdout)
        assert not isinstance(KERNEL_LOG.read(sections), Missing)
        assert all(not section.without_rights for section in sections.values())


def test_containers_by_sudo_where_the_socket_is_closed_to_the_login(login: Login, dockerd: Dockerd) -> None:
    login.allow(listed(dockerd))
    with SshNode("node01", login.settings(sudo=True, docker_socket=str(dockerd.socket))) as node:
        assert node.containers.daemon().version
        assert run(node, "/bin/sh", "-c", "echo from a container; id -u") == "from a container\n0\n"
        # more at once than the server lets one connection have
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(12) as pool:
            assert len({info.id for info in pool.map(lambda _: node.containers.image(IMAGE), range(24)) if info}) == 1


def test_sudo_that_wants_a_password(login: Login, dockerd: Dockerd) -> None:
    login.allow(f"{USER} ALL=(ALL) ALL\n")
    with SshNode("node01", login.settings(sudo=True, docker_socket=str(dockerd.socket))) as node:
        log = KERNEL_LOG.read(split(node.run(build([KERNEL_LOG])).stdout))
        assert isinstance(log, Missing)
        assert "`dmesg` needs root: sudo: a password is required" in log.reason
        assert "pytest_h20 sudoers" in log.hint
        with pytest.raises(
            TransportError, match=r"h20-ops may not use .*`sudo -n -- docker -H .* dial-stdio` does not open it.*a password is"
        ):
            node.containers.daemon()


def test_half_of_the_list(login: Login, dockerd: Dockerd) -> None:
    login.allow(f'{USER} ALL=(root) NOPASSWD: /usr/bin/dmesg ""\n')
    asked = GRANTED.with_args("dmesg", "ss -ltnp")
    with SshNode("node01", login.settings(sudo=True)) as node:
        sections = split(node.run(build([asked, KERNEL_LOG, net.LISTENERS])).stdout)
    told = asked.read(sections)
    assert not isinstance(told, Missing)
    assert (told.allowed, {*told.refused}) == (("dmesg",), {"ss -ltnp"})
    assert not isinstance(KERNEL_LOG.read(sections), Missing)
    assert {*sections["listeners"].without_rights} == {"ss -ltnp"}
    listeners = net.LISTENERS.read(sections)
    assert not isinstance(listeners, Missing)
    assert login.sshd.port in {one.port for one in listeners}, "ports are told without rights, their owners are not"


def test_neither_sudo_nor_the_daemons_group(login: Login, dockerd: Dockerd) -> None:
    login.allow("")
    with SshNode("node01", login.settings(docker_socket=str(dockerd.socket))) as node:
        log = KERNEL_LOG.read(split(node.run(build([KERNEL_LOG])).stdout))
        assert isinstance(log, Missing)
        assert "`dmesg` needs root: this login is not root" in log.reason
        with pytest.raises(TransportError, match=r"h20-ops may not use .*usermod -aG docker h20-ops.*ssh.sudo"):
            node.containers.daemon()


def test_a_folder_of_roots_is_closed_not_absent(login: Login, tmp_path: Path) -> None:
    """/run/podman of rootful Podman: what is in it cannot be seen."""
    login.allow("")
    closed = login.folder / "podman"
    closed.mkdir(mode=0o700, exist_ok=True)
    node = SshNode("node01", login.settings(docker_socket=str(closed / "podman.sock")))
    with node, pytest.raises(TransportError, match=r"h20-ops may not use .*podman.sock"):
        node.containers.daemon()


def test_the_daemons_group_alone(dockerd: Dockerd) -> None:
    login = Login(docker=True)
    try:
        with SshNode("node01", login.settings(docker_socket=str(dockerd.socket))) as node:
            assert run(node, "/bin/echo", "by the group") == "by the group\n"
            assert isinstance(KERNEL_LOG.read(split(node.run(build([KERNEL_LOG])).stdout)), Missing)
        with SshNode("node01", login.settings(docker_socket=str(dockerd.socket), sudo=True)) as node:
            assert node.containers.daemon().version
            assert node._dialled is None, "the socket is open to the login: no sudo"
    finally:
        login.close()
