"""Podman behind its Docker-compatible API: GPUs by CDI where it heeds them, one sentence where it does not."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import ContainerSpec, Mount
from pytest_h20.nodes.daemon import dial
from pytest_h20.nodes.docker_api import DockerContainers, cdi_request

DOCKER = {"Components": [{"Name": "Engine", "Version": "29.0.1"}, {"Name": "containerd", "Version": "2.1.4"}]}


def podman(version: str) -> dict[str, Any]:
    return {"Components": [{"Name": "Podman Engine", "Version": version}, {"Name": "Conmon", "Version": "conmon version 2.1.6"}]}


def config(version: dict[str, Any], **fields: Any) -> dict[str, Any]:
    api = SimpleNamespace(version=lambda: version, api_version="1.41", create_host_config=lambda **given: given)
    containers = DockerContainers("node01", lambda: "", "", lambda pid: "", absent=lambda paths: [p for p in paths if p.startswith("/no")])
    return containers._host_config(cast("Any", api), ContainerSpec("n", "i", ["x"], **fields))


@pytest.mark.parametrize(
    ("gpus", "names"), [("all", ["all"]), ("2", ["0", "1"]), ("device=0,3", ["0", "3"]), ("device=GPU-7ab4", ["GPU-7ab4"])]
)
def test_gpus_by_their_cdi_names(gpus: str, names: list[str]) -> None:
    assert cdi_request(gpus) == {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={name}" for name in names]}
    (request,) = config(podman("5.4.0"), gpus=gpus)["device_requests"]
    assert (request["Driver"], request["DeviceIDs"]) == ("cdi", [f"nvidia.com/gpu={name}" for name in names])


def test_docker_is_asked_as_before() -> None:
    given = config(DOCKER, gpus="all", runtime="nvidia", shm_size="1g", mounts=[Mount("/no/such", "/x")])
    assert (given["device_requests"][0]["Count"], given["runtime"], given["shm_size"]) == (-1, "nvidia", 2**30)


@pytest.mark.parametrize("version", ["4.3.1", "4.9.3", "5.3.2"])
def test_an_older_one_would_start_without_gpus(version: str) -> None:
    with pytest.raises(H20Error, match=rf"node01: this daemon is Podman {version}; GPUs .* need Podman 5.4: .* without any"):
        config(podman(version), gpus="all")


def test_what_it_would_do_otherwise_than_docker() -> None:
    assert "shm_size" not in config(podman("5.4.0"), shm_size="1g"), "ipc: host"
    assert config(podman("5.4.0"), shm_size="1g", ipc=None)["shm_size"] == 2**30
    with pytest.raises(H20Error, match=r"ignores `runtime` \(nvidia\)"):
        config(podman("5.4.0"), runtime="nvidia")
    with pytest.raises(H20Error, match="/no/such is not on the node"):
        config(podman("5.4.0"), mounts=[Mount("/no/such", "/x")])


def test_who_dials() -> None:
    assert dial("/run/podman/podman.sock")[0] == "podman"
    assert dial("/var/run/docker.sock") == ("docker", "-H", "unix:///var/run/docker.sock", "system", "dial-stdio")


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The part of the Docker-compatible API that a start needs; keeps what it was asked to create."""

    daemon_threads = True
    told: dict[str, Any]
    asked: dict[str, Any]


class Answers(http.server.BaseHTTPRequestHandler):
    """HTTP over the socket of ``Daemon``."""

    def do_GET(self) -> None:
        daemon = cast("Daemon", self.server)
        inspected = {"Id": "c1", "Name": "/n", "State": {"Status": "running"}, "Config": {"Image": "i"}}
        self.answer(200, inspected if self.path.endswith("/json") else {**daemon.told, "ApiVersion": "1.41", "Version": "5"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/containers/create" in self.path:
            cast("Daemon", self.server).asked = json.loads(body)
            return self.answer(201, {"Id": "c1", "Warnings": []})
        return self.answer(204, None)

    def answer(self, status: int, value: Any) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "here"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to say."""


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (
            podman("5.4.0"),
            ("cdi", 0, ["nvidia.com/gpu=all"], []),
        ),  # podman's containers_create.go reads these two fields of it, and no other
        (DOCKER, ("", -1, [], [["gpu"]])),
    ],
)
def test_what_is_sent_to_the_socket(version: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path) -> None:
    """``--device nvidia.com/gpu=all`` for Podman, ``--gpus all`` for Docker, as their own clients send it."""
    with Daemon(str(tmp_path / "d.sock"), Answers) as daemon:
        daemon.told = version
        threading.Thread(target=daemon.serve_forever, daemon=True).start()
        made = DockerContainers("node01", lambda: str(tmp_path / "d.sock"), "d.sock", lambda pid: "", absent=lambda paths: [])
        try:
            assert made.start(ContainerSpec("n", "i", ["x"], gpus="all")).running
        finally:
            made.close()
            daemon.shutdown()
    (request,) = daemon.asked["HostConfig"]["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["DeviceIDs"], request["Capabilities"]) == wanted
    assert not daemon.asked["HostConfig"].get("Devices"), "as a path of a device it is `no such file` (podman#23560)"
