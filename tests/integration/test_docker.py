"""Containers over the docker SDK against a real dockerd: through SSH, and on the local socket."""

from __future__ import annotations

import os
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError
from pytest_h20.nodes.base import Containers, ContainerSpec, Mount
from pytest_h20.nodes.docker_api import DockerContainers
from pytest_h20.nodes.local import LocalNode
from pytest_h20.nodes.ssh import SshNode
from tests.integration.dockerd import IMAGE, Dockerd
from tests.integration.sshd import Sshd

LABEL = {"h20.test": f"docker-{os.getpid()}"}


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    daemon = Dockerd()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["ssh", "local"])
def containers(request: pytest.FixtureRequest, dockerd: Dockerd, sshd: Sshd) -> Iterator[Containers]:
    node: SshNode | LocalNode
    if request.param == "ssh":
        node = SshNode("node-a", sshd.settings(docker_socket=str(dockerd.socket)))
    else:
        node = LocalNode("node-a", docker_socket=str(dockerd.socket))
    yield node.containers
    for left in node.containers.find(LABEL):
        node.containers.remove(left.id)
    node.close()


def spec(name: str, *argv: str, **changes: Any) -> ContainerSpec:
    return replace(ContainerSpec(name=f"h20-test-{os.getpid()}-{name}", image=IMAGE, argv=argv, labels=LABEL), **changes)


def test_it_is_containers(containers: Containers) -> None:
    assert isinstance(containers, Containers)


def test_daemon_and_image(containers: Containers) -> None:
    daemon = containers.daemon()
    assert daemon.version
    assert tuple(map(int, daemon.api_version.split("."))) >= (1, 24)
    assert "lab" in daemon.runtimes
    image = containers.image(IMAGE)
    assert image is not None
    assert image.id.startswith("sha256:")
    assert image.size > 100_000
    assert containers.image("no/such:image") is None


def test_run_separates_streams_and_removes_the_container(containers: Containers) -> None:
    asked = spec("run", "/bin/sh", "-c", "echo out; echo err >&2; echo $X; exit 3", env={"X": "1"})
    result = containers.run(asked)
    assert (result.rc, result.stdout, result.stderr) == (3, "out\n1\n", "err\n")
    assert containers.find(LABEL) == []


def test_run_is_killed_at_its_deadline(containers: Containers) -> None:
    with pytest.raises(CommandTimeout, match=r"deadline of 1 s.*still here"):
        containers.run(spec("late", "/bin/sh", "-c", "echo still here; sleep 100"), timeout=1.0)
    assert containers.find(LABEL) == []


def test_every_field_of_the_spec_arrives(containers: Containers, dockerd: Dockerd, tmp_path: Path) -> None:
    import docker

    (tmp_path / "file").write_text("mounted")
    started = containers.start(
        spec(
            "full",
            "/bin/sleep",
            "100",
            env={"NCCL_DEBUG": "INFO"},
            mounts=[Mount(str(tmp_path), "/h20"), Mount("/etc", "/x", True)],
            shm_size="128m",
            privileged=True,
            ulimits={"memlock": (-1, -1), "stack": (67108864, 67108864)},
            cap_add=["SYS_PTRACE"],
            security_opt=["seccomp=unconfined"],
            devices=["/dev/null:/dev/h20null:rw"],
            runtime="lab",
        )
    )
    try:
        assert started.running
        assert started.labels == LABEL
        assert started.image == IMAGE
        client = docker.APIClient(base_url=f"unix://{dockerd.socket}", version="auto")
        data = client.inspect_container(started.id)
        client.close()
        assert data["Config"]["Entrypoint"] == ["/bin/sleep"]
        assert data["Config"]["Cmd"] == ["100"]
        host = data["HostConfig"]
        assert (host["NetworkMode"], host["IpcMode"], host["Privileged"], host["ShmSize"]) == ("host", "host", True, 128 << 20)
        assert host["CapAdd"] in (["SYS_PTRACE"], ["CAP_SYS_PTRACE"])
        assert host["SecurityOpt"][0] == "seccomp=unconfined"
        assert {"Name": "memlock", "Soft": -1, "Hard": -1} in host["Ulimits"]
        assert host["Devices"][0]["PathInContainer"] == "/dev/h20null"
        assert host["Runtime"] == "lab"
        assert containers.exec(started.id, ["/bin/cat", "/h20/file"]).stdout == "mounted"
        assert not containers.exec(started.id, ["/bin/sh", "-c", "echo x > /x/h20-must-not"]).ok
    finally:
        containers.remove(started.id)
    assert containers.inspect(started.id) is None


def test_exec_logs_find_and_end(containers: Containers) -> None:
    started = containers.start(spec("main", "/bin/sh", "-c", "echo hello; echo bad >&2; sleep 1000"))
    try:
        result = containers.exec(started.id, ["/bin/sh", "-c", "echo $A; echo e >&2; exit 5"], env={"A": "b c"})
        assert (result.rc, result.stdout, result.stderr) == (5, "b c\n", "e\n")
        assert containers.exec(started.id, ["/bin/no-such"]).rc in (126, 127)
        assert set(containers.logs(started.id).split()) == {"hello", "bad"}
        containers.exec_detached(started.id, ["/bin/sh", "-c", "echo $B > /tmp/detached"], env={"B": "done"})
        deadline = time.monotonic() + 20
        while not containers.exec(started.id, ["/bin/cat", "/tmp/detached"]).ok and time.monotonic() < deadline:
            time.sleep(0.1)
        assert containers.exec(started.id, ["/bin/cat", "/tmp/detached"]).stdout == "done\n"
        assert [c.id for c in containers.find(LABEL)] == [started.id]
        assert [c.id for c in containers.find({"h20.test": ""})] == [started.id]
        assert containers.find({**LABEL, "other": "1"}) == []
    finally:
        containers.remove(started.id)
    containers.remove(started.id)
    containers.stop(started.id)


def test_a_command_in_a_container_is_killed_at_its_deadline(containers: Containers) -> None:
    started = containers.start(spec("exec", "/bin/sleep", "1000"))
    mark = f"4{os.getpid() % 10000:04d}"
    try:
        with pytest.raises(CommandTimeout, match=r"it was killed; last output: begun"):
            containers.exec(started.id, ["/bin/sh", "-c", f"echo begun; sleep {mark}1 & sleep {mark}2"], timeout=1.0)
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert f"sleep {mark}" not in listed
        state = containers.inspect(started.id)
        assert state is not None
        assert state.running
    finally:
        containers.remove(started.id)


def test_stop_escalates_and_waits_until_it_has_ended(containers: Containers) -> None:
    started = containers.start(spec("stubborn", "/bin/sh", "-c", "trap '' TERM INT; echo armed; while :; do sleep 1; done"))
    try:
        deadline = time.monotonic() + 20
        while "armed" not in containers.logs(started.id) and time.monotonic() < deadline:
            time.sleep(0.05)
        containers.stop(started.id, timeout=1.0)
        state = containers.inspect(started.id)
        assert state is not None
        assert (state.status, state.exit_code) == ("exited", 137)
        containers.stop(started.id)
    finally:
        containers.remove(started.id)


def test_a_taken_name_names_its_owner(containers: Containers) -> None:
    first = containers.start(spec("twice", "/bin/sleep", "1000"))
    try:
        with pytest.raises(H20Error) as caught:
            containers.start(spec("twice", "/bin/true"))
        assert f"is taken by container {first.id[:12]}" in str(caught.value)
        assert "running" in str(caught.value)
        assert f"h20.test={LABEL['h20.test']}" in str(caught.value)
        assert f"docker rm -f {first.id[:12]}" in str(caught.value)
    finally:
        containers.remove(first.id)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "no/such:image"}, r"no/such:image is not on the node \(it has .*h20-test/busybox:1.*docker pull"),
        ({"gpus": "all"}, r"could not select device driver.*nvidia-container-toolkit"),
        ({"argv": ("/bin/no-such",)}, r"no such file or directory.*is it the right image"),
        ({"mounts": (Mount("/no/such/folder", "/x"),)}, r"bind source path does not exist.*inventory"),
        ({"runtime": "nvidia"}, r"refused: .*[Rr]untime.*docker info"),
        ({"devices": ("/dev/no-such:/dev/x",)}, r"/dev/no-such.*`devices`"),
        ({"shm_size": "much"}, r"shm_size is 'much'; accepted"),
        ({"gpus": "some"}, r"gpus is 'some'; accepted"),
        ({"argv": ()}, "empty argv"),
    ],
)
def test_refusals_carry_the_daemons_words_and_a_hint(containers: Containers, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(H20Error, match=words) as caught:
        containers.start(spec("refused", "/bin/true", **changes))
    assert not isinstance(caught.value, TransportError)
    assert "\n" not in str(caught.value)
    assert containers.find(LABEL) == []


def test_labels_are_required(containers: Containers) -> None:
    with pytest.raises(H20Error, match="by label only"):
        containers.find({})


def test_a_cut_connection_is_mended(dockerd: Dockerd, sshd: Sshd) -> None:
    with SshNode("node-a", sshd.settings(docker_socket=str(dockerd.socket))) as node:
        assert node.containers.daemon().version
        sshd.cut()
        time.sleep(0.5)
        assert node.containers.daemon().version


def test_a_daemon_that_is_gone_is_a_transport_error(sshd: Sshd) -> None:
    daemon = Dockerd()
    try:
        with SshNode("node-a", sshd.settings(docker_socket=str(daemon.socket))) as node:
            assert node.containers.daemon().version
            daemon.stop(clean=False)
            with pytest.raises(TransportError, match=r"node-a: the container daemon .* cannot be reached"):
                node.containers.daemon()
            daemon.start()
            assert node.containers.daemon().version
    finally:
        daemon.stop()


def test_a_daemon_that_is_too_old_is_named(tmp_path: Path) -> None:
    body = b'{"Version": "1.9.1", "ApiVersion": "1.21"}'

    class Old(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    path = tmp_path / "old.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        containers = DockerContainers("node-a", lambda: str(path), where=str(path), kill=lambda pid: "")
        with pytest.raises(H20Error, match=r"too old: .*1\.24.*update Docker") as caught:
            containers.daemon()
        assert not isinstance(caught.value, TransportError)
        server.shutdown()


def test_a_silent_daemon_is_a_transport_error(tmp_path: Path) -> None:
    class Mute(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            time.sleep(3)

    path = tmp_path / "mute.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Mute) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        containers = DockerContainers("node-a", lambda: str(path), where=str(path), kill=lambda pid: "", timeout=1.0)
        with pytest.raises(TransportError, match=r"did not answer within 1 s|cannot be reached"):
            containers.daemon()
        server.shutdown()
