"""A real rootful Podman of our own behind its Docker-compatible socket, with the image of ``dockerd.py``. Ends by pid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.integration.dockerd import STANDINS, load


class Podman:
    """``podman system service`` on a store of its own; containers use the host's network."""

    def __init__(self) -> None:
        busybox = shutil.which("busybox")
        missing = [tool for tool in ("podman", "conmon", "runc") if not shutil.which(tool)]
        if os.geteuid() != 0 or missing or not busybox:
            pytest.skip(f"needs root, podman and busybox-static; missing: {missing or ['busybox' if not busybox else 'root']}")
        self.folder = Path(tempfile.mkdtemp(prefix="h20-podman-", dir="/tmp"))
        self.socket = self.folder / "podman.sock"
        wrapper = self.folder / "runtime"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {STANDINS / "oci_runtime.py"} "$@"\n')
        wrapper.chmod(0o755)
        store = ["--root", f"{self.folder}/data", "--runroot", f"{self.folder}/run", "--storage-driver", "vfs", "--runtime", str(wrapper)]
        self.base = ["podman", *store, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", f"{self.folder}/tmp"]
        with (self.folder / "log").open("wb") as log:
            argv = [*self.base, "system", "service", "--time", "0", f"unix://{self.socket}"]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder / "log").read_text()[-500:]
                self.stop()
                pytest.skip(f"podman does not start here: {words}")
            time.sleep(0.05)
        load(self.socket, busybox)

    def stop(self) -> None:
        """End it with its containers, unmount what it left, remove its folder."""
        subprocess.run([*self.base, "rm", "-fa", "-t", "0"], capture_output=True, check=False, timeout=60)
        self.process.terminate()
        self.process.wait(30)
        deadline = time.monotonic() + 10  # conmon cleans up after each container by a podman of its own, which would make the folder anew
        while time.monotonic() < deadline and not subprocess.run(["pgrep", "-f", str(self.folder)], capture_output=True).returncode:
            time.sleep(0.1)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if line.split()[1].startswith(str(self.folder)):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
