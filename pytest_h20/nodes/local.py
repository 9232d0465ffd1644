"""A node that is this very machine: commands as child processes, files as files, the daemon on its own unix socket."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError
from pytest_h20.nodes import shell
from pytest_h20.nodes.base import CommandResult, Containers, quote
from pytest_h20.nodes.daemon import dial
from pytest_h20.nodes.dialled import Dialled
from pytest_h20.nodes.shell import LineCutter, NodeProcess, kill_command, tail
from pytest_h20.nodes.ssh_config import DOCKER_SOCKET

_AFTER_EXIT_S = 1.0  # a child left in the background may hold the streams: so long is waited for more output after the end


class LocalNode:
    """This machine. Thread-safe. Implements ``Node``."""

    def __init__(self, name: str, docker_socket: str = DOCKER_SOCKET, sudo: bool = False) -> None:
        self._name = name
        self._docker_socket = docker_socket
        self._environment = {**os.environ, "H20_SUDO": "1"} if sudo else None
        self._sudo = sudo
        self._dialled: Dialled | None = None
        self._containers: Containers | None = None
        self._lock = threading.Lock()

    @property
    def tunnel_only(self) -> bool:
        """Its addresses may be tried directly before a tunnel is made."""
        return False

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self._name

    @property
    def address(self) -> str:
        """How errors and reports name it."""
        return "this machine"

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """Run a shell command; see ``Node.run``."""
        return self._run(quote(command, *args), timeout, stdin, None)

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """As ``run``, and ``on_line`` gets each line of both streams as it comes."""
        return self._run(quote(command, *args), timeout, None, on_line)

    def _run(self, command: str, timeout: float, stdin: bytes | None, on_line: Callable[[str], None] | None) -> CommandResult:
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command] if stdin else shell.local_argv(command),
                stdin=subprocess.PIPE,  # without data it stays open: the command ends when this end does
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=self._environment,
            )
        except (OSError, ValueError) as error:
            raise H20Error(f"{self._name}: the command could not be started ({error}): {command[:200]!r}") from error
        if stdin and process.stdin:
            threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True).start()
        output: tuple[list[bytes], list[bytes]] = ([], [])
        try:
            self._collect(self._name, command, process, began + timeout, output, on_line)
            rc = process.wait(max(0.1, began + timeout - time.monotonic()))
        except BaseException as error:
            left = self.kill_process(process.pid)
            process.poll()
            if isinstance(error, (_Deadline, subprocess.TimeoutExpired)):
                note = f"not all of it could be killed, still there: {left}" if left else "it was killed with its children"
                said = tail(b"".join(output[1])) or tail(b"".join(output[0])) or "nothing"
                raise CommandTimeout(
                    f"{self._name}: `{command}` was stopped at its deadline of {timeout:g} s; {note}; last output: {said}"
                ) from None
            raise
        finally:
            for stream in (process.stdout, process.stderr, None if stdin else process.stdin):
                if stream:
                    stream.close()
        out, err = (b"".join(part).decode("utf-8", "replace") for part in output)
        rc = 128 - rc if rc < 0 else rc  # ended by a signal: as a shell reports it
        return CommandResult(self._name, command, rc, out, err, time.monotonic() - began)

    @staticmethod
    def _collect(
        name: str,
        command: str,
        process: subprocess.Popen[bytes],
        deadline: float,
        output: tuple[list[bytes], list[bytes]],
        on_line: Callable[[str], None] | None,
    ) -> None:
        lines = (LineCutter(on_line), LineCutter(on_line)) if on_line else None
        ended_at: float | None = None
        size = 0
        with selectors.DefaultSelector() as selector:
            for index, stream in enumerate((process.stdout, process.stderr)):
                if stream:
                    selector.register(stream, selectors.EVENT_READ, index)
            while selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    raise _Deadline
                if ended_at is None and process.poll() is not None:
                    ended_at = now
                events = selector.select(min(deadline - now, 0.2 if ended_at is not None else 1.0))
                if not events and ended_at is not None and now - ended_at > _AFTER_EXIT_S:
                    break
                for key, _ in events:
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                        continue
                    output[key.data].append(data)
                    size += len(data)
                    if size > shell.MAX_OUTPUT:
                        raise shell.too_much(name, _short(command))
                    if lines:
                        lines[key.data].feed(data)
        for rest in lines or ():
            rest.feed(b"", final=True)

    def kill_process(self, pid: int, timeout: float = 15.0) -> str:
        """End a process and its descendants; returns what is left of it ("" = nothing)."""
        argv = ["/bin/sh", "-c", kill_command(NodeProcess(pid))]
        killer = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, start_new_session=True)
        return killer.stdout.decode("utf-8", "replace").strip()

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file: beside the place first, then moved there."""
        fresh = Path(f"{path}.h20-{secrets.token_hex(4)}")
        try:
            fresh.write_bytes(data)
            fresh.chmod(mode)
            fresh.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            if isinstance(error, FileNotFoundError):
                raise H20Error(f"{self._name}: cannot write {path}: the folder {Path(path).parent} is not there") from error
            raise H20Error(f"{self._name}: cannot write {path}: {error.strerror or error}") from error

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Read a file or a part of it. Raises ``FileNotFoundError`` when it is not there."""
        if offset < 0 or (limit is not None and limit < 0):
            raise H20Error(f"{self._name}: get({path!r}): offset {offset} and limit {limit} must not be negative")
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read() if limit is None else file.read(limit)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"no such file on {self._name}", path) from None
        except OSError as error:
            raise H20Error(f"{self._name}: cannot read {path}: {error.strerror or error}") from error

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """No tunnel is needed: the address itself."""
        return host, port

    @property
    def containers(self) -> Containers:
        """The daemon of this machine, connected on first use."""
        from pytest_h20.nodes.docker_api import ABSENT, DockerContainers

        with self._lock:
            if self._containers is None:
                path = self._docker_socket
                self._containers = DockerContainers(
                    self._name,
                    self._reach_docker,
                    where=path,
                    kill=self.kill_process,
                    absent=lambda paths: self.run(ABSENT % shlex.join(paths)).stdout.splitlines() if paths else (),
                )
            return self._containers

    def _reach_docker(self) -> str:
        path = Path(self._docker_socket)
        start = f"{self._name}: the container daemon cannot be reached: {path}"
        if path.parent.is_dir() and not os.access(path.parent, os.X_OK):
            return self._by_sudo(f"{start} is closed to this user (rootful Podman's folder is root's)", "run as root")
        if not path.exists():
            raise TransportError(f"{start} is not there. Next: `systemctl status docker`, or set `docker_socket`")
        if not path.is_socket():
            raise TransportError(f"{start} is not a socket: set `docker_socket` to the daemon's")
        if not os.access(path, os.R_OK | os.W_OK):
            return self._by_sudo(f"{start} is closed to this user", "`usermod -aG docker USER`, run as root")
        return str(path)

    def _by_sudo(self, closed: str, other: str) -> str:
        """A socket of our own that leads to root's by the command that sudo allows. Raises ``TransportError``."""
        command = f"sudo -n -- {shlex.join(dial(self._docker_socket))}"
        if not self._sudo:
            raise TransportError(f"{closed}. Next: {other}, or set `ssh.sudo`: then `{command}` opens it, a line that --h20-plan lists")
        with self._lock:
            try:
                self._dialled = self._dialled or Dialled(shlex.split(command), name=f"h20-docker-{self._name}")
            except TransportError as error:
                raise TransportError(f"{closed}. `{command}` does not open it either: {error}") from error
            return self._dialled.path

    def close(self) -> None:
        """Let go of the daemon. May be called twice."""
        with self._lock:
            containers, self._containers = self._containers, None
            dialled, self._dialled = self._dialled, None
        if containers is not None:
            containers.close()  # type: ignore[attr-defined]
        if dialled is not None:
            dialled.close()

    def __enter__(self) -> LocalNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 200 else line[:197] + "..."


class _Deadline(Exception):
    """The wall clock ran out."""


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError), pipe:
        pipe.write(data)
