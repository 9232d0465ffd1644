"""Rootful Podman through its Docker-compatible socket: what the suite needs of it, and what it lacks, named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import ContainerSpec, Mount
from pytest_h20.nodes.local import LocalNode
from tests.integration.dockerd import IMAGE
from tests.integration.podman import Podman

LABEL = {"h20.test": f"podman-{os.getpid()}"}


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    daemon = Podman()
    with LocalNode("node01", docker_socket=str(daemon.socket)) as made:
        yield made
    daemon.stop()


def spec(name: str, *argv: str, **changes: Any) -> ContainerSpec:
    return replace(ContainerSpec(f"h20-test-{os.getpid()}-{name}", IMAGE, argv, labels=LABEL), **changes)


def test_a_container_as_the_engines_are_started(node: LocalNode, tmp_path: Path) -> None:
    """IPC of the host with a size of /dev/shm beside it: Docker leaves the size alone then, Podman refuses it."""
    (tmp_path / "file").write_text("mounted")
    asked = spec("run", "/bin/sh", "-c", "cat /h20/file; echo $NCCL_DEBUG; echo err >&2; exit 3", env={"NCCL_DEBUG": "INFO"})
    asked = replace(asked, mounts=[Mount(str(tmp_path), "/h20")], shm_size="128m", ulimits={"nofile": (512, 512)}, cap_add=["IPC_LOCK"])
    done = node.containers.run(asked)
    assert (done.rc, done.stdout, done.stderr) == (3, "mountedINFO\n", "err\n")
    daemon = node.containers.daemon()
    assert (daemon.podman, daemon.version[:1].isdigit()) == (True, True)


def test_exec_logs_name_and_end(node: LocalNode) -> None:
    containers = node.containers
    started = containers.start(spec("long", "/bin/sh", "-c", "echo up; sleep 100"))
    assert containers.exec(started.id, ["/bin/sh", "-c", "echo in; exit 4"]).rc == 4
    assert containers.logs(started.id) == "up\n"
    assert [c.id for c in containers.find(LABEL)] == [started.id]
    with pytest.raises(H20Error, match=rf"is taken by container {started.id[:12]}"):
        containers.start(spec("long", "/bin/true"))
    containers.stop(started.id, timeout=0.2)
    containers.stop(started.id)  # it has ended: Podman answers 500 where Docker answers 409
    ended = containers.inspect(started.id)
    assert ended is not None
    assert not ended.running
    containers.remove(started.id)
    assert containers.find(LABEL) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": "all"}, r"this daemon is Podman \d.*GPUs \(`--gpus all`\) need Podman 5.4: an older one ignores them"),
        ({"runtime": "nvidia"}, r"Podman \d.*ignores `runtime` \(nvidia\)"),
        ({"argv": ("/bin/no-such",)}, r"not found.*is it the right image"),
        ({"devices": ("/dev/no-such:/dev/x",)}, r"/dev/no-such.*`devices`"),
        ({"image": "no/such:image"}, r"no/such:image is not on the node"),
    ],
)
def test_what_it_lacks_or_refuses_is_named(node: LocalNode, changes: dict[str, Any], words: str) -> None:
    if "gpus" in changes and tuple(map(int, node.containers.daemon().version.split(".")[:2])) >= (5, 4):
        pytest.skip("this Podman heeds requests for GPUs")
    with pytest.raises(H20Error, match=words):
        node.containers.start(replace(spec("refused", "/bin/true"), **changes))
    assert node.containers.find(LABEL) == []


def test_a_mount_that_is_not_there_is_not_made(node: LocalNode, tmp_path: Path) -> None:
    """Podman makes the folder, as root, and starts the container."""
    with pytest.raises(H20Error, match=rf"{tmp_path}/a/b is not on the node: mend the mount's source"):
        node.containers.start(spec("refused", "/bin/true", mounts=(Mount(f"{tmp_path}/a/b", "/x"),)))
    assert list(tmp_path.iterdir()) == []
