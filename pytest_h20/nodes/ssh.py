"""A node over SSH (paramiko): commands, files, tunnels and the container daemon, on connections that come back.

What is promised, and how:

* Both output streams are drained as they come; the deadline is ours (wall clock) and kills the command with its children.
* A command that never started is tried once more on a new connection. One that was running when the connection broke is never
  run again: ``TransportError`` says what is known of it.
* Commands beyond the server's ``MaxSessions`` wait for their turn; a server that allows fewer is noticed and respected.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import secrets
import select
import shlex
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError
from pytest_h20.nodes import scratch, shell
from pytest_h20.nodes.base import CommandResult, Containers, quote
from pytest_h20.nodes.connect import Connection, ssh_errors
from pytest_h20.nodes.daemon import dial
from pytest_h20.nodes.shell import FramedStream, LineCutter, NodeProcess, Script, kill_command, tail, wrap
from pytest_h20.nodes.ssh_config import SshSettings

if TYPE_CHECKING:
    import paramiko

    from pytest_h20.nodes.forward import Forward

CHANNELS_PER_CARRIER = 200
"""Forwarded connections per SSH connection. Each costs sshd one file, and its soft limit is usually 1024 (systemd)."""

_RESERVED_SESSIONS = 1  # of MaxSessions: the one that kills the others
_KILL_TIMEOUT = 15.0
_ANSWER_S = 3.0  # for a node to answer at all when a command must be killed: a connection that stalls delays no error for longer
_LAG_S = 5.0
_START_TIMEOUT = 30.0  # to open a session and to see the wrapper's first line on a loaded node
_NO_SUCH_FILE = 44
_SFTP_CHUNK = 32768  # what OpenSSH's sftp-server answers per request


@dataclass
class _Output:
    """What a command has printed so far."""

    out: list[bytes]
    err: list[bytes]
    size: int = 0

    @property
    def stdout(self) -> bytes:
        return b"".join(self.out)

    @property
    def stderr(self) -> bytes:
        return b"".join(self.err)

    def tail(self) -> str:
        """Its end, for an error text."""
        text = tail(self.stderr) or tail(self.stdout)
        return f"; last output: {text}" if text else "; it printed nothing"


@dataclass(frozen=True)
class RawResult:
    """As ``CommandResult``, in bytes."""

    rc: int
    stdout: bytes
    stderr: bytes
    seconds: float


class _SocketClosed(TransportError):
    """The daemon's socket is there, and the login may not use it."""


class _NeverStarted(Exception):
    """The connection broke before the command could have begun: it is safe to try again."""


class _Slots:
    """How many session channels may be open at once; shrinks when the server refuses one."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._used = 0
        self._free = threading.Condition()

    def acquire(self, timeout: float) -> bool:
        """Wait for a slot; False when none came free in time."""
        with self._free:
            if not self._free.wait_for(lambda: self._used < self._limit, timeout):
                return False
            self._used += 1
            return True

    def release(self) -> None:
        """Give a slot back."""
        with self._free:
            self._used -= 1
            self._free.notify()

    def refused(self, timeout: float) -> bool:
        """The server refused the session of a slot we hold: lower the limit to the others and wait for one of theirs.

        False when there are no others or none ended in time. The slot is held again in either case.
        """
        with self._free:
            if self._used <= 1:
                return False
            self._limit = min(self._limit, self._used - 1)
            self._used -= 1
            free = self._free.wait_for(lambda: self._used < self._limit, timeout)
            self._used += 1
            return free


class _OnLineFailed(Exception):
    """Carries what ``on_line`` raised past the handlers for a broken connection."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class SshNode:
    """A machine reached over SSH. Thread-safe. Implements ``Node``."""

    def __init__(self, name: str, settings: SshSettings) -> None:
        self._name = name
        self._settings = settings
        self._connection = Connection(name, settings)
        self._prefix = "H20_SUDO=1; export H20_SUDO\n" if settings.sudo else ""
        self._slots = _Slots(settings.max_sessions - _RESERVED_SESSIONS)
        self._sftp_missing = False
        self._lock = threading.RLock()
        self._running: set[FramedStream] = set()
        self._containers: Containers | None = None
        self._docker_forward: Forward | None = None
        self._docker_folder: str | None = None
        self._forwards: dict[tuple[str, int], Forward] = {}
        self._carriers: list[_Carrier] = []
        self._dialled: list[_Carrier] | None = None  # of the daemon, where it is reached by sudo; None: by its socket

    # --- what it is

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
        """``user@host:port`` that is really used, after ``~/.ssh/config``."""
        return self._connection.target.address

    @property
    def host_key(self) -> str:
        """Kind and fingerprint of the host key the server showed; empty before the first connection."""
        opened = self._connection.opened
        return opened.host_key if opened else ""

    def connect(self) -> None:
        """Connect now. Raises ``TransportError`` in one line."""
        self._connection.transport()

    def close(self) -> None:
        """Kill the commands that other threads still run, end the connections and every tunnel. May be called twice."""
        for running in list(self._running):
            self._kill(running, None)
        with self._lock:
            forwards, self._forwards = list(self._forwards.values()), {}
            carriers, self._carriers, self._dialled = [*self._carriers, *(self._dialled or ())], [], None
            docker, self._docker_forward = self._docker_forward, None
            folder, self._docker_folder = self._docker_folder, None
            containers, self._containers = self._containers, None
        if containers is not None:
            containers.close()  # type: ignore[attr-defined]
        for forward in [*forwards, *([docker] if docker else [])]:
            forward.close()
        for carrier in carriers:
            carrier.connection.close(with_jump=False)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        self._connection.close()

    def __enter__(self) -> SshNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- commands

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """Run a shell command, arguments quoted into ``%s``; see ``Node.run``."""
        line = quote(command, *args)
        return self._decoded(line, self.run_raw(line, timeout=timeout, stdin=stdin))

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """As ``run``, and ``on_line`` gets each line of both streams as it comes. What it raises kills the command."""
        line = quote(command, *args)
        return self._decoded(line, self.run_raw(line, timeout=timeout, on_line=on_line))

    def run_raw(
        self, command: str, timeout: float = 60.0, stdin: bytes | None = None, on_line: Callable[[str], None] | None = None
    ) -> RawResult:
        """Run a shell command and return its output as bytes. Raises as ``run``."""
        script = wrap(self._prefix + command, watched=not stdin)
        with self._slot(command, timeout):
            for attempt in (1, 2):
                try:
                    return self._attempt(command, script, timeout, stdin, on_line)
                except _NeverStarted as error:
                    if attempt == 2:
                        raise TransportError(
                            f"{self._name} ({self.address}): `{_short(command)}` could not be started, on a new connection neither: {error}"
                        ) from error
                    script = wrap(self._prefix + command, watched=not stdin)
        raise AssertionError("unreachable: both attempts return or raise")

    def _decoded(self, command: str, raw: RawResult) -> CommandResult:
        out, err = raw.stdout.decode("utf-8", "replace"), raw.stderr.decode("utf-8", "replace")
        return CommandResult(self._name, command, raw.rc, out, err, raw.seconds)

    @contextlib.contextmanager
    def _slot(self, command: str, timeout: float) -> Iterator[None]:
        if not self._slots.acquire(max(timeout, _START_TIMEOUT)):
            raise TransportError(
                f"{self._name}: `{_short(command)}` was never started: every session the server allows (MaxSessions) was busy "
                f"for {max(timeout, _START_TIMEOUT):g} s with other commands"
            )
        try:
            yield
        finally:
            self._slots.release()

    def _session(self, transport: paramiko.Transport, timeout: float) -> paramiko.Channel:
        """Open a session channel in the slot we hold; a server with fewer sessions than we thought makes us wait."""
        import paramiko

        # a session that has just ended counts a moment longer on the server: one refusal, or one while we hold none, may be that
        hurry = time.monotonic() + _LAG_S
        for attempt in itertools.count(1):
            try:
                return transport.open_session(timeout=_START_TIMEOUT)
            except paramiko.ChannelException as error:
                if attempt > 1 and self._slots.refused(max(timeout, _START_TIMEOUT)):
                    hurry = time.monotonic() + _LAG_S  # the slot was another's until now
                    continue
                if time.monotonic() > hurry:
                    raise TransportError(
                        f"{self._name} ({self.address}): the server refuses a session: {error.text or error}. Next: look at "
                        "MaxSessions, ForceCommand and the log-in shell on the node"
                    ) from error
                time.sleep(0.1)
        raise AssertionError("unreachable: the loop has no end")

    def _attempt(
        self,
        command: str,
        script: Script,
        timeout: float,
        stdin: bytes | None,
        on_line: Callable[[str], None] | None,
    ) -> RawResult:
        transport = self._connection.transport()
        try:
            channel = self._session(transport, timeout)
        except ssh_errors() as error:
            self._connection.retire(transport)
            raise _NeverStarted(str(error) or type(error).__name__) from error
        try:
            return self._drive(channel, command, script, timeout, stdin, on_line)
        finally:
            with contextlib.suppress(*ssh_errors()):
                channel.close()

    def _drive(
        self,
        channel: paramiko.Channel,
        command: str,
        script: Script,
        timeout: float,
        stdin: bytes | None,
        on_line: Callable[[str], None] | None,
    ) -> RawResult:
        try:
            channel.settimeout(_START_TIMEOUT)
            with _guard(channel):
                channel.exec_command(script.login)
            with _ended_by_node(channel):
                channel.sendall(script.body[:-1])
        except ssh_errors() as error:
            raise _NeverStarted(str(error) or type(error).__name__) from error
        began = time.monotonic()
        out, err = FramedStream(script.token), FramedStream(script.token)
        output = _Output([], [])
        self._running.add(out)
        try:
            # from its last byte on the script may have run: no second attempt any more
            with _ended_by_node(channel):
                channel.sendall(script.body[-1:])
                self._feed(channel, stdin)
            self._collect(channel, command, began, timeout, (out, err), output, on_line)
        except ssh_errors() as error:
            raise self._broken(command, began, out, output, str(error)) from error
        except BaseException as error:
            # the deadline, Ctrl-C, an exception of on_line: whatever it is, the command does not outlive it
            note = self._kill(out, channel)
            if isinstance(error, CommandTimeout):
                raise CommandTimeout(f"{error}; {note}{output.tail()}") from None
            if isinstance(error, _OnLineFailed):
                raise error.cause from None
            raise
        finally:
            self._running.discard(out)
        return self._result(channel, command, began, (out, err), output)

    def _feed(self, channel: paramiko.Channel, stdin: bytes | None) -> None:
        """Standard input from a thread of its own: the command may print before it has read everything."""

        def send(data: bytes) -> None:
            with contextlib.suppress(*ssh_errors()):
                channel.settimeout(None)
                channel.sendall(data)
                channel.shutdown_write()

        if stdin:
            threading.Thread(target=send, args=(stdin,), daemon=True, name=f"h20-stdin-{self._name}").start()
        # else it stays open: the command is watched, and ends when this end does

    def _collect(
        self,
        channel: paramiko.Channel,
        command: str,
        began: float,
        timeout: float,
        streams: tuple[FramedStream, FramedStream],
        output: _Output,
        on_line: Callable[[str], None] | None,
    ) -> None:
        """Drain both streams until both end marks are there or the channel ends. Raises ``CommandTimeout`` at the deadline."""
        out, err = streams
        lines = (LineCutter(on_line), LineCutter(on_line)) if on_line else None
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        deadline = began + timeout
        while out.ended is None or err.ended is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandTimeout(f"{self._name}: `{_short(command)}` was stopped at its deadline of {timeout:g} s")
            poll.poll(min(left, 5.0) * 1000)
            ended = channel.eof_received or channel.closed  # asked before the buffers: nothing comes after it
            for _ in range(64):  # then look at the clock again
                chunk = channel.recv(65536) if channel.recv_ready() else b""
                wrong = channel.recv_stderr(65536) if channel.recv_stderr_ready() else b""
                if not chunk and not wrong:
                    if not ended:
                        break
                    self._take(output, out.flush() if out.ended is None else b"", err.flush() if err.ended is None else b"", lines)
                    for rest in lines or ():
                        _hand_over(rest, b"", final=True)
                    return
                self._take(output, out.feed(chunk), err.feed(wrong), lines)
            if output.size > shell.MAX_OUTPUT:
                raise shell.too_much(self._name, _short(command))
        for rest in lines or ():
            _hand_over(rest, b"", final=True)

    @staticmethod
    def _take(output: _Output, out: bytes, err: bytes, lines: tuple[LineCutter, LineCutter] | None) -> None:
        output.size += len(out) + len(err)
        for data, kept, index in ((out, output.out, 0), (err, output.err, 1)):
            if data:
                kept.append(data)
                if lines:
                    _hand_over(lines[index], data)

    def _result(
        self,
        channel: paramiko.Channel,
        command: str,
        began: float,
        streams: tuple[FramedStream, FramedStream],
        output: _Output,
    ) -> RawResult:
        seconds = time.monotonic() - began
        out, err = streams
        if out.ended is not None and out.ended.lstrip("-").isdigit():
            return RawResult(int(out.ended), output.stdout, output.stderr, seconds)
        if not channel.get_transport().is_active():
            raise self._broken(command, began, out, output, "")
        if out.started is None:
            said = tail(out.noise + err.noise) or "nothing"
            raise TransportError(
                f"{self._name} ({self.address}): the log-in shell did not start /bin/sh for `{_short(command)}` "
                f"(exit status {self._status(channel)}); it said: {said}. "
                f"Next: `{self._connection.target.command('ssh', 'true')}`; a "
                "ForceCommand, a restricted shell or a .bashrc that exits or reads its input is in the way"
            )
        raise TransportError(
            f"{self._name}: the shell around `{_short(command)}` was killed on the node (exit status {self._status(channel)}) "
            f"after {seconds:.1f} s: out of memory, or ended by somebody{output.tail()}"
        )

    @staticmethod
    def _status(channel: paramiko.Channel) -> int | str:
        return channel.recv_exit_status() if channel.status_event.wait(2.0) else "unknown"

    def _broken(self, command: str, began: float, out: FramedStream, output: _Output, why: str) -> TransportError:
        process = _process(out)
        state = f"it ran as pid {process.pid}" if process else "whether it had started is not known"
        note = self._kill(out, None)
        why = f" ({why})" if why else ""
        return TransportError(
            f"{self._name} ({self.address}): the connection broke {time.monotonic() - began:.1f} s after `{_short(command)}` "
            f"was sent{why}: {state}, {output.size} bytes of output came; it was not run again; {note}{output.tail()}"
        )

    def _kill(self, out: FramedStream, channel: paramiko.Channel | None) -> str:
        """Kill a command on the node, on the same connection or, if that is gone or full, on another. Says how it went."""
        process = _process(out)
        if process is None:
            return "it had not reported its process yet: look for it on the node"
        script = wrap(kill_command(process))
        transports: list[Callable[[], paramiko.Transport]] = [self._connection.transport]
        if channel is not None:
            transports.append(lambda: self._connection.another(_ANSWER_S).transport)
        for index, get in enumerate(transports):
            own = index == 1
            transport = None
            try:
                transport = get()
                killer = transport.open_session(timeout=_ANSWER_S)
                try:
                    left = self._drive_kill(killer, script)
                finally:
                    killer.close()
                if left:
                    return f"not all of it could be killed, still there: {left} (state D: stuck in a driver or in NFS)"
                return "it was killed with its children"
            except TransportError:
                continue
            except ssh_errors():
                continue
            finally:
                if own and transport is not None:
                    transport.close()
        return (
            f"it could not be killed (the node does not answer) and may still run there as pid {process.pid} until the node "
            "notices that the connection is gone"
        )

    def _drive_kill(self, channel: paramiko.Channel, script: Script) -> str:
        channel.settimeout(_KILL_TIMEOUT)
        with _guard(channel):
            channel.exec_command(script.login)
        channel.sendall(script.body)
        channel.shutdown_write()
        streams = FramedStream(script.token), FramedStream(script.token)
        output = _Output([], [])
        self._collect(channel, "kill", time.monotonic(), _KILL_TIMEOUT, streams, output, None)
        if streams[0].ended is None:
            raise TransportError("the killer was cut off")
        return tail(output.stdout, 20)

    def kill_process(self, pid: int, timeout: float = _KILL_TIMEOUT) -> str:
        """End a process of this node and its descendants; returns what is left of it ("" = nothing)."""
        return self.run(kill_command(NodeProcess(pid)), timeout=timeout).stdout.strip()

    # --- files

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file on the node: beside the place first, then moved there, so that no reader sees half of it."""
        fresh = f"{path}.h20-{secrets.token_hex(4)}"
        with self._slot(f"put {path}", _START_TIMEOUT):
            sftp = self._sftp()
            if sftp is not None:
                try:
                    with sftp:
                        self._sftp_put(sftp, data, path, fresh, mode)
                    return
                except ssh_errors() as error:
                    raise self._file_error("write", path, error) from error
        result = self.run_raw(
            quote("cat > %s && chmod %s %s && mv -f %s %s", fresh, f"{mode:o}", fresh, fresh, path), stdin=data, timeout=600.0
        )
        if result.rc:
            raise H20Error(f"{self._name}: cannot write {path}: {tail(result.stderr)}")

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Read ``limit`` bytes of a file from ``offset`` on (all of the rest when None). See ``Node.get``."""
        if offset < 0 or (limit is not None and limit < 0):
            raise H20Error(f"{self._name}: get({path!r}): offset {offset} and limit {limit} must not be negative")
        with self._slot(f"get {path}", _START_TIMEOUT):
            sftp = self._sftp()
            if sftp is not None:
                try:
                    with sftp:
                        return _sftp_get(sftp, path, offset, limit)
                except ssh_errors() as error:
                    raise self._file_error("read", path, error) from error
        take = f"tail -c +{offset + 1} -- %s" if offset else "cat -- %s"
        cut = f" | head -c {limit}" if limit is not None else ""
        result = self.run_raw(quote(f"[ -e %s ] || exit {_NO_SUCH_FILE}; {take}{cut}", path, path), timeout=600.0)
        if result.rc == _NO_SUCH_FILE:
            raise FileNotFoundError(errno.ENOENT, f"no such file on {self._name}", path)
        if result.rc or result.stderr:
            raise H20Error(f"{self._name}: cannot read {path}: {tail(result.stderr)}")
        return result.stdout

    def _sftp(self) -> paramiko.SFTPClient | None:
        """A new SFTP session, or None when the server has no such subsystem. One retry on a new connection."""
        import paramiko

        for attempt in (1, 2):
            if self._sftp_missing:
                return None
            transport = self._connection.transport()
            try:
                channel = self._session(transport, _START_TIMEOUT)
            except ssh_errors() as error:
                self._connection.retire(transport)
                if attempt == 2:
                    raise TransportError(f"{self._name} ({self.address}): the connection broke: {error}") from error
                continue
            try:
                channel.settimeout(60.0)
                with _guard(channel):
                    channel.invoke_subsystem("sftp")
                return paramiko.SFTPClient(channel)
            except ssh_errors():
                channel.close()
                if transport.is_active():
                    self._sftp_missing = True  # refused while the connection lives: there is no SFTP here
        return None

    def _sftp_put(self, sftp: paramiko.SFTPClient, data: bytes, path: str, fresh: str, mode: int) -> None:
        try:
            with sftp.open(fresh, "wb") as file:
                file.set_pipelined(True)
                file.write(data)
            sftp.chmod(fresh, mode)
            sftp.posix_rename(fresh, path)
        except BaseException:
            with contextlib.suppress(*ssh_errors()):
                sftp.remove(fresh)
            raise

    def _file_error(self, what: str, path: str, error: Exception) -> Exception:
        if isinstance(error, FileNotFoundError) and what == "read":
            return FileNotFoundError(errno.ENOENT, f"no such file on {self._name}", path)
        if isinstance(error, FileNotFoundError):
            return H20Error(f"{self._name}: cannot write {path}: the folder {Path(path).parent} is not there")
        if isinstance(error, PermissionError):
            return H20Error(f"{self._name}: {self._connection.target.user} may not {what} {path}")
        opened = self._connection.opened
        if isinstance(error, OSError) and not isinstance(error, (TimeoutError, EOFError)) and opened and opened.transport.is_active():
            return H20Error(f"{self._name}: cannot {what} {path}: {error}")
        return TransportError(f"{self._name} ({self.address}): the connection broke while {path} was {what[:4]}: {error}")

    # --- tunnels

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """A local address (on loopback) that leads through the node to ``host:port``. Many connections at once are fine.

        They travel on SSH connections of their own, ``CHANNELS_PER_CARRIER`` on each. Asked twice, it returns the same address.
        Raises :class:`TunnelForbidden` where sshd lets none through: each connection would only be reset. That nothing listens at the
        other end is for whoever connects to see.
        """
        from pytest_h20.nodes.forward import Forward

        if (host, port) not in self._forwards:
            with contextlib.suppress(NothingListens):
                self._tunnel(host, port).close()
        with self._lock:
            known = self._forwards.get((host, port))
            if known is None:
                listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
                known = Forward(listener, lambda: self._tunnel(host, port), name=f"h20-forward-{self._name}")
                self._forwards[host, port] = known
            return known.address

    def _tunnel(self, host: str, port: int) -> paramiko.Channel:
        import paramiko

        for attempt in (1, 2):
            carrier = self._carrier(self._carriers, CHANNELS_PER_CARRIER)
            transport = None
            try:
                transport = carrier.connection.transport()
                channel = transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=_START_TIMEOUT)
                carrier.add(channel)
                return channel
            except paramiko.ChannelException as error:
                where = f"{self._name}: no tunnel to {host}:{port}"
                if error.code == 1:
                    why = "sshd on the node forbids tunnels (AllowTcpForwarding, PermitOpen)"
                    raise TunnelForbidden(f"{where}: {why}; allow them, or run where that address can be reached directly") from error
                raise NothingListens(f"{where}: the node could not connect to it ({error.text}): does anything listen there?") from error
            except ssh_errors() as error:
                if transport is not None:
                    carrier.connection.retire(transport)
                if attempt == 2:
                    raise TransportError(f"{self._name} ({self.address}): no tunnel to {host}:{port}: {error}") from error
            finally:
                carrier.opening -= 1
        raise AssertionError("unreachable: both attempts return or raise")

    def _carrier(self, carriers: list[_Carrier], most: int) -> _Carrier:
        """The SSH connection with room for one more channel; the caller takes back its ``opening`` count."""
        with self._lock:
            for carrier in carriers:
                if carrier.load() < most:
                    break
            else:
                carrier = _Carrier(self._connection.sibling())
                carriers.append(carrier)
            carrier.opening += 1
            return carrier

    # --- containers

    @property
    def containers(self) -> Containers:
        """The node's container daemon, over a forwarded unix socket; connected on first use."""
        from pytest_h20.nodes.docker_api import ABSENT, DockerContainers

        with self._lock:
            if self._containers is None:
                self._containers = DockerContainers(
                    self._name,
                    self._reach_docker,
                    where=f"{self._settings.docker_socket} on {self._name}",
                    kill=self.kill_process,
                    problem=lambda: str(self._docker_forward.last_error or "") if self._docker_forward else "",
                    absent=lambda paths: self.run(ABSENT % shlex.join(paths)).stdout.splitlines() if paths else (),
                )
            return self._containers

    def _reach_docker(self) -> str:
        from pytest_h20.nodes.forward import Forward

        path = self._settings.docker_socket
        try:
            self._streamlocal(path).close()  # says at once, in our words, what is wrong
        except _SocketClosed as closed:
            if not self._settings.sudo:
                raise
            self._dial_once(path, closed)
        with self._lock:
            if self._docker_forward is None:
                # the folder is private (0700): the socket is as good as root on the node
                self._docker_folder = scratch.folder()
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(f"{self._docker_folder}/docker.sock")
                listener.listen(64)
                self._docker_forward = Forward(listener, lambda: self._daemon_channel(path), name=f"h20-docker-{self._name}")
            return f"{self._docker_folder}/docker.sock"

    def _dial_once(self, path: str, closed: TransportError) -> None:
        """See that root's own socket can be reached by ``sudo``. Raises ``TransportError``."""
        line = f"sudo -n -- {shlex.join(dial(path))}"
        told = self.run_raw(f"printf 'GET /_ping HTTP/1.0\\r\\n\\r\\n' | {line}", timeout=30.0)
        if b"200 OK" not in told.stdout.partition(b"\n")[0]:
            raise TransportError(
                f"{closed}. `{line}` does not open it either: {tail(told.stderr) or tail(told.stdout) or 'it said nothing'}"
            )
        with self._lock:
            self._dialled = self._dialled or []

    def _daemon_channel(self, path: str) -> paramiko.Channel:
        """One connection to the daemon: to its socket, or to the standard input and output of a command of root's."""
        if self._dialled is None:
            return self._streamlocal(path)
        carrier = self._carrier(self._dialled, max(1, self._settings.max_sessions - _RESERVED_SESSIONS))
        try:
            channel = carrier.connection.transport().open_session(timeout=_START_TIMEOUT)
            with _guard(channel):
                channel.exec_command(f"exec sudo -n -- {shlex.join(dial(path))}")
            carrier.add(channel)
            return channel
        except ssh_errors() as error:
            raise TransportError(f"{self._name} ({self.address}): no way to {path} by sudo: {error}") from error
        finally:
            carrier.opening -= 1

    def _streamlocal(self, path: str) -> paramiko.Channel:
        import paramiko

        from pytest_h20.nodes.channels import Transport

        for attempt in (1, 2):
            transport = self._connection.transport()
            assert isinstance(transport, Transport)
            try:
                return transport.open_streamlocal(path, _START_TIMEOUT)
            except paramiko.ChannelException as error:
                raise self._no_docker(path, error) from error
            except ssh_errors() as error:
                self._connection.retire(transport)
                if attempt == 2:
                    raise TransportError(f"{self._name} ({self.address}): no way to {path}: {error}") from error
        raise AssertionError("unreachable: both attempts return or raise")

    def _no_docker(self, path: str, error: paramiko.ChannelException) -> TransportError:
        """Why the daemon's socket cannot be reached: sshd does not tell, so the node is asked."""
        user = self._connection.target.user
        start = f"{self._name} ({self.address}): the container daemon cannot be reached: "
        found = self.run_raw(_WHY_NO_SOCKET.format(path=shlex.quote(path)), timeout=20.0).rc
        if found == 2:
            return TransportError(f"{start}{path} is not there. Next: `systemctl status docker` on the node, or set `docker_socket`")
        if found == 3:
            return TransportError(f"{start}{path} is not a socket: set `docker_socket` to the daemon's")
        if found == 4:
            return _SocketClosed(
                f"{start}{user} may not use {path}. Next: `usermod -aG docker {user}` on the node, log in as root, or set `ssh.sudo`"
            )
        if error.code == 1 or found == 5:
            return TransportError(
                f"{start}sshd forbids it: set `AllowStreamLocalForwarding yes` in /etc/ssh/sshd_config on the node (and no "
                "DisableForwarding), then `systemctl reload ssh`"
            )
        return TransportError(f"{start}nothing answers at {path} ({error.text}). Next: `systemctl status docker` on the node")


def _hand_over(lines: LineCutter, data: bytes, final: bool = False) -> None:
    try:
        lines.feed(data, final)
    except Exception as error:
        raise _OnLineFailed(error) from error


class TunnelForbidden(TransportError):
    """sshd lets no tunnel through."""


class NothingListens(TransportError):
    """The tunnel is allowed, and the node itself could not connect at its end."""


class _Carrier:
    """An SSH connection that carries forwarded connections."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.opening = 0
        self._channels: list[paramiko.Channel] = []

    def add(self, channel: paramiko.Channel) -> None:
        self._channels.append(channel)

    def load(self) -> int:
        """Channels open or being opened."""
        self._channels = [c for c in self._channels if not c.closed]
        return len(self._channels) + self.opening


@contextlib.contextmanager
def _ended_by_node(channel: paramiko.Channel) -> Iterator[None]:
    """Writing to a command that has ended fails too, and is no broken connection: what it said explains the rest."""
    try:
        yield
    except ssh_errors():
        if not (channel.closed or channel.eof_received) or not channel.get_transport().is_active():
            raise


@contextlib.contextmanager
def _guard(channel: paramiko.Channel) -> Iterator[None]:
    """paramiko waits for the answer to a channel request without any limit: a server that hangs there ends the channel."""
    timer = threading.Timer(_START_TIMEOUT, channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_WHY_NO_SOCKET = (
    'p={path}; q=${{p%/*}}; [ ! -d "$q" ] || [ -x "$q" ] || exit 4; [ -e "$p" ] || exit 2; '
    '[ -S "$p" ] || exit 3; [ -r "$p" ] && [ -w "$p" ] || exit 4; '
    # flag 00010000 = somebody listens on it (__SO_ACCEPTCON): then it is sshd that says no
    'awk -v a="$p" -v b="$(readlink -f "$p")" \'$4 == "00010000" && ($8 == a || $8 == b) {{ f = 1 }} END {{ exit !f }}\' '
    "/proc/net/unix && exit 5; exit 0"
)


def _process(out: FramedStream) -> NodeProcess | None:
    fields = (out.started or "").split()
    return NodeProcess(int(fields[0]), int(fields[1])) if len(fields) == 2 and all(f.isdigit() for f in fields) else None


def _short(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 200 else line[:197] + "..."


def _sftp_get(sftp: paramiko.SFTPClient, path: str, offset: int, limit: int | None) -> bytes:
    with sftp.open(path, "rb") as file:
        info = file.stat()
        if info.st_mode is not None and stat.S_ISDIR(info.st_mode):
            raise OSError(errno.EISDIR, "it is a folder")
        # files of /proc and /sys say 0 or 4096 bytes whatever they hold: those are read until they end
        size = (info.st_size or 0) - offset
        wanted = size if limit is None else min(limit, size)
        if wanted > 4 * _SFTP_CHUNK:
            pieces = [(at, min(_SFTP_CHUNK, offset + wanted - at)) for at in range(offset, offset + wanted, _SFTP_CHUNK)]
            data = b"".join(file.readv(pieces))
            if len(data) < wanted or limit is not None:
                return data[: limit if limit is not None else None]
            rest = b""
        else:
            data, rest = b"", b"more"
        file.seek(offset + len(data))
        parts = [data]
        got = len(data)
        while rest and (limit is None or got < limit):
            rest = file.read(_SFTP_CHUNK if limit is None else min(_SFTP_CHUNK, limit - got))
            parts.append(rest)
            got += len(rest)
        return b"".join(parts)
