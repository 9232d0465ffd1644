"""A real dockerd of our own under a temporary root, with one small image made from this machine's busybox. Ends by pid."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

IMAGE = "h20-test/busybox:1"
STANDINS = Path(__file__).parents[1] / "lab"


class Dockerd:
    """dockerd without bridge and iptables: containers use the host's network, as the engines do."""

    def __init__(self) -> None:
        busybox = shutil.which("busybox")
        missing = [tool for tool in ("dockerd", "containerd", "runc") if not shutil.which(tool)]
        if os.geteuid() != 0 or missing or not busybox:
            pytest.skip(f"needs root, docker.io and busybox-static; missing: {missing or ['busybox' if not busybox else 'root']}")
        # not below pytest's own folder: unix socket paths are limited to 108 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="h20-dockerd-", dir="/tmp"))
        self.socket = self.folder / "docker.sock"
        wrapper = self.folder / "runtime"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {STANDINS / "oci_runtime.py"} "$@"\n')
        wrapper.chmod(0o755)
        self.argv = [
            "dockerd",
            "--data-root",
            f"{self.folder}/data",
            "--exec-root",
            f"{self.folder}/exec",
            "-p",
            f"{self.folder}/pid",
            "-H",
            f"unix://{self.socket}",
            "--bridge=none",
            "--iptables=false",
            "--add-runtime",
            f"lab={wrapper}",
            "--default-runtime",
            "lab",
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        load(self.socket, busybox)

    def start(self) -> None:
        """Start it; dockerd gives up when its containerd is slow, so it is tried again."""
        for _ in range(3):
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and self.process.poll() is None:
                if self.socket.exists() and self._answers():
                    return
                time.sleep(0.1)
            self.stop(clean=False)
        pytest.skip(f"dockerd does not start here: {(self.folder / 'log').read_text()[-500:]}")

    def _answers(self) -> bool:
        import docker

        try:
            client = docker.APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=5)
            client.close()
        except docker.errors.DockerException:
            return False
        return True

    def stop(self, clean: bool = True) -> None:
        """End it with its containers, unmount what it left, remove its folder."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
                self.process.wait()
            self.process = None
        if clean:
            for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
                if line.split()[1].startswith(str(self.folder)):
                    subprocess.run(["umount", "-l", line.split()[1]], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)


def load(socket: Path, busybox: str) -> None:
    """Give the daemon its one image."""
    import docker

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in ("sh", "sleep", "cat", "echo", "env", "ls", "df", "id", "true"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        tar.addfile(_folder("tmp"))
    client = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=60)
    name, tag = IMAGE.split(":")
    client.import_image_from_data(data.getvalue(), repository=name, tag=tag)
    if not client.images(name=IMAGE):  # Podman 4.3 heeds no tag here
        client.tag(f"{name}:latest", name, tag)
    client.close()


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o1777
    return info
