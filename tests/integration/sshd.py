"""A real sshd on loopback with its own host key, for the transport's tests. It ends with the fixture, by pid."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pytest_h20.nodes.ssh_config import SshSettings


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return path


class Sshd:
    """One sshd in the foreground (``-D``) with settings of its own."""

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None, inside: Sequence[str] = ()) -> None:
        """``inside``: a command that execs what follows it, in a namespace of its own."""
        binary = shutil.which("sshd") or "/usr/sbin/sshd"
        if os.geteuid() != 0 or not Path(binary).exists() or not shutil.which("ssh-keygen"):
            pytest.skip("needs root and openssh-server: an sshd of its own is started on loopback")
        self.folder, self.inside = folder, inside
        self.binary = binary
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.host_key = keygen(folder / "host_key")
        self.key = keygen(folder / "id_user")
        (folder / "authorized").write_text((folder / "id_user.pub").read_text())
        kind, blob, *_ = (folder / "host_key.pub").read_text().split()
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")
        settings = {
            "Port": str(self.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(folder / "authorized"),
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": "50",
            "Subsystem": "sftp internal-sftp",
            "LogLevel": "ERROR",
            **(options or {}),
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items() if value))
        Path("/run/sshd").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it accepts."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, self.binary, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log, start_new_session=True
            )
        for _ in range(100):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                pytest.skip(f"sshd does not start here: {(self.folder / 'log').read_text()[-300:]}")
            time.sleep(0.05)
        raise AssertionError("sshd did not accept within 5 s")

    def sessions(self) -> list[int]:
        """The pids that serve connections now: descendants of our listener."""
        assert self.process is not None
        found: list[int] = []
        waiting = [self.process.pid]
        while waiting:
            parent = waiting.pop()
            listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout.split()
            children = [int(pid) for pid in listed]
            found += [pid for pid in children if Path(f"/proc/{pid}/comm").exists() and "sshd" in _comm(pid)]
            waiting += children
        return found

    def cut(self) -> None:
        """Break every connection as a crash of the server would; commands on the node go on."""
        for pid in self.sessions():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """End the listener and every connection."""
        if self.process is not None:
            self.cut()
            self.process.kill()
            self.process.wait()
            self.process = None

    def settings(self, **changes: object) -> SshSettings:
        """How to reach it."""
        values: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "key_file": self.key,
            "known_hosts": self.known_hosts,
            "use_agent": False,
            "use_ssh_config": False,
            "connect_timeout": 10.0,
            **changes,
        }
        return SshSettings(**values)  # type: ignore[arg-type]


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
