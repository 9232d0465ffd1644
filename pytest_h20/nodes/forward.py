"""A local listener whose connections travel through SSH channels: one thread moves the bytes of all of them.

``paramiko`` gives a channel no file descriptor of its own (``fileno`` costs a pipe, two per channel); its receive buffer does
take an event, and that is what wakes the pump here. A thousand connections cost a thousand sockets and no thread.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_h20.core.errors import TransportError

if TYPE_CHECKING:
    import paramiko

OpenChannel = Callable[[], "paramiko.Channel"]

_CHUNK = 65536
_TURNS = 16  # chunks per connection before the others get theirs
_OPENERS = 16  # channels being opened at once: each waits one round trip
_STALL_S = 0.005  # how soon a connection that waits for the peer's SSH window is looked at again
_WANTED_FILES = 16384


class _Pair:
    """One local connection and its channel."""

    def __init__(self, sock: socket.socket, channel: paramiko.Channel) -> None:
        self.sock = sock
        self.channel = channel
        self.to_node = b""
        self.to_here = b""
        self.here_done = False  # the local side has sent its last byte
        self.node_done = False  # the node's side has
        self.interest = 0


class _Wake:
    """Stands where paramiko expects an event: tells the pump that a channel has data or has ended."""

    def __init__(self, pump: Forward, pair: _Pair) -> None:
        self._pump = pump
        self._pair = pair

    def set(self) -> None:
        self._pump._notify(self._pair)

    def clear(self) -> None:
        """Nothing to do: the pump looks at the buffer itself."""

    def is_set(self) -> bool:
        """Never latched."""
        return False


class Forward:
    """Carries every connection made to ``listener`` over a channel of its own. ``close`` ends all of them.

    Half-closes pass through in both directions. When a channel cannot be opened the connection is reset, and ``last_error``
    holds the reason. The soft limit of open files is raised (to at most 16384 and the hard limit): one per connection.
    """

    def __init__(self, listener: socket.socket, open_channel: OpenChannel, name: str = "h20-forward") -> None:
        _raise_file_limit()
        self.listener = listener
        self.last_error: Exception | None = None
        self._address = ("", 0) if listener.family == socket.AF_UNIX else listener.getsockname()[:2]
        self._open_channel = open_channel
        self._selector = selectors.DefaultSelector()
        self._pairs: set[_Pair] = set()
        self._ready: deque[_Pair] = deque()
        self._new: deque[_Pair] = deque()
        self._stalled: set[_Pair] = set()
        self._closing = False
        self._paused = False
        self._signalled = False
        self._bell, self._ear = socket.socketpair()
        for sock in (listener, self._bell, self._ear):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix=f"{name}-open")
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where a TCP listener listens."""
        return self._address

    def close(self) -> None:
        """Stop listening and end every connection. May be called twice."""
        if self._closing:
            return
        self._closing = True
        self._ring()
        self._thread.join(5.0)
        self._openers.shutdown(wait=False, cancel_futures=True)

    # called from paramiko's reader thread, with a lock of the channel held: must not block
    def _notify(self, pair: _Pair) -> None:
        self._ready.append(pair)
        self._ring()

    def _ring(self) -> None:
        if not self._signalled:
            self._signalled = True
            with contextlib.suppress(OSError):
                self._bell.send(b"x")

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            self.listener.close()
            for pair in [*self._pairs, *self._new]:
                self._drop(pair)
            self._selector.close()
            self._bell.close()
            self._ear.close()

    def _turn(self) -> None:
        timeout = 0.2 if self._paused else None
        if self._stalled:
            timeout = _STALL_S
        events = self._selector.select(timeout)
        if self._paused:
            self._paused = False
            self._selector.register(self.listener, selectors.EVENT_READ)
        todo: dict[_Pair, None] = dict.fromkeys(self._stalled)
        self._stalled.clear()
        for key, _ in events:
            if key.fileobj is self.listener:
                self._accept()
            elif key.fileobj is self._ear:
                self._hear()
            else:
                todo[key.data] = None
        while self._new:
            pair = self._new.popleft()
            self._pairs.add(pair)
            # from here on the channel rings; what it already holds rings at once
            pair.channel.in_buffer.set_event(_Wake(self, pair))  # type: ignore[arg-type]
            todo[pair] = None
        while self._ready:
            todo[self._ready.popleft()] = None
        for pair in todo:
            if pair in self._pairs:
                self._serve(pair)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass
        self._signalled = False

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self.last_error = error
                if error.errno in (errno.EMFILE, errno.ENFILE) and not self._paused:
                    self._paused = True  # no file descriptor free: look again in a moment
                    self._selector.unregister(self.listener)
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._openers.submit(self._open, sock)

    def _open(self, sock: socket.socket) -> None:
        try:
            if self._closing:
                raise TransportError("the forward is closed")
            channel = self._open_channel()
        except Exception as error:
            # any failure ends in a reset of this one connection; the reason is kept for whoever asks why
            self.last_error = error
            _reset(sock)
            return
        channel.settimeout(0.0)
        self._new.append(_Pair(sock, channel))
        self._ring()
        if self._closing:
            channel.close()
            sock.close()

    def _serve(self, pair: _Pair) -> None:
        try:
            self._to_here(pair)
            self._to_node(pair)
        except OSError:
            self._drop(pair, broken=True)
            return
        if pair.node_done and (pair.here_done or pair.channel.closed) and not pair.to_here:
            self._drop(pair)
            return
        interest = (0 if pair.here_done or pair.to_node else selectors.EVENT_READ) | (selectors.EVENT_WRITE if pair.to_here else 0)
        if interest == pair.interest:
            return
        if not pair.interest:
            self._selector.register(pair.sock, interest, pair)
        elif not interest:
            self._selector.unregister(pair.sock)
        else:
            self._selector.modify(pair.sock, interest, pair)
        pair.interest = interest

    def _to_here(self, pair: _Pair) -> None:
        for _ in range(_TURNS):
            if pair.to_here:
                sent = _send(pair.sock, pair.to_here)
                pair.to_here = pair.to_here[sent:]
                if pair.to_here:
                    return
            ended = pair.channel.eof_received or pair.channel.closed  # asked before the buffer: nothing comes after it
            if pair.channel.recv_ready():
                pair.to_here = pair.channel.recv(_CHUNK)
            elif ended:
                if not pair.channel.eof_received:
                    raise OSError(errno.ECONNRESET, "the SSH connection broke")  # must not look like a complete answer
                if not pair.node_done:
                    pair.node_done = True
                    pair.sock.shutdown(socket.SHUT_WR)
                return
            else:
                return
        self._notify(pair)

    def _to_node(self, pair: _Pair) -> None:
        for _ in range(_TURNS):
            if not pair.to_node:
                if pair.here_done:
                    return
                try:
                    pair.to_node = pair.sock.recv(_CHUNK)
                except BlockingIOError:
                    return
                if not pair.to_node:
                    pair.here_done = True
                    pair.channel.shutdown_write()
                    return
            while pair.to_node and pair.channel.send_ready():
                pair.to_node = pair.to_node[pair.channel.send(pair.to_node) :]
            if pair.to_node:
                if pair.channel.closed:
                    raise OSError(errno.EPIPE, "the channel is closed")
                self._stalled.add(pair)
                return
        self._notify(pair)

    def _drop(self, pair: _Pair, broken: bool = False) -> None:
        self._pairs.discard(pair)
        self._stalled.discard(pair)
        if pair.interest:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(pair.sock)
            pair.interest = 0
        if broken:
            _reset(pair.sock)
        pair.sock.close()
        with contextlib.suppress(Exception):  # a transport that is already gone cannot be told
            pair.channel.close()


def _send(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def _reset(sock: socket.socket) -> None:
    """Close with a TCP reset: the client sees a failed connection, not an empty answer."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
