"""One HTTP/1.1 exchange over a socket, byte for byte, with arrival times and deadlines.

Client libraries repair and hide what an acceptance test must see, so the bytes are read by :mod:`pytest_h20.load.http1`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pytest_h20.core.errors import NoAnswer, ServerEnded, TransportError
from pytest_h20.load.http1 import ProtocolError, Response

MAX_ANSWER = 64 * 2**20
"""Bytes of one answer at most, framing included: an answer without an end fills no memory."""

LOOK_S = 0.5
"""Seconds between two looks at whether the server that is waited for is known to have ended."""

_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})

Ended = Literal["complete", "cut", "left"]
"""complete: as framed; cut: the peer closed too early; left: we closed on purpose."""


@dataclass(frozen=True)
class Request:
    """What is sent. ``target`` is the path with query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def raw(self, host: str) -> bytes:
        """The bytes on the wire. ``Content-Length`` is added for a body, ``Connection: close`` always."""
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if "connection" not in names:
            lines.append("Connection: close")
        if (self.body or self.method == "POST") and "content-length" not in names:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Piece:
    """Body bytes that arrived together. ``at_s``: seconds after the request was sent completely."""

    at_s: float
    data: bytes


@dataclass(frozen=True)
class Exchange:
    """One request with everything that came back.

    ``elapsed_s`` runs from the first byte sent to the last received. ``chunks``: sizes of the transfer chunks.
    """

    request: Request
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[Piece, ...]
    ended: Ended
    elapsed_s: float
    chunks: tuple[int, ...] = ()

    @property
    def body(self) -> bytes:
        """The whole body, transfer coding removed."""
        return b"".join(piece.data for piece in self.pieces)

    def header(self, name: str) -> str:
        """Value of a header, "" when absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def transcript(self) -> bytes:
        """For evidence: request and answer as text, secrets left out, long bodies shortened in the middle."""
        sent = [f"{self.request.method} {self.request.target}"]
        sent += [f"{n}: {'<redacted>' if n.lower() in _SECRET_HEADERS else v}" for n, v in self.request.headers]
        got = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{n}: {v}" for n, v in self.headers)]
        tail = f"\n\n[{self.ended} after {self.elapsed_s:.3f} s, {len(self.pieces)} reads]\n"
        return (
            b"\n".join(["\n".join(sent).encode(), b"", _short(self.request.body), b"", "\n".join(got).encode(), b"", _short(self.body)])
            + tail.encode()
        )


def _short(body: bytes, most: int = 200_000) -> bytes:
    if len(body) <= most:
        return body
    return body[: most // 2] + f"\n... {len(body) - most} bytes left out ...\n".encode() + body[-most // 2 :]


@dataclass(frozen=True)
class Pace:
    """How a slow client sends and reads: ``piece`` bytes, then a pause of ``pause_s``."""

    send_piece: int = 0
    send_pause_s: float = 0.0
    read_pause_s: float = 0.0
    reads_paused: int = 0


@dataclass(frozen=True)
class Wire:
    """One server. Every exchange has its own connection, so no check inherits another's trouble.

    ``ended_file``: a file that appears once the server is known to have ended, although it may still hold its connections; "" = none.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ended_file: str = ""

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, bare: bool = False
    ) -> Request:
        """A request with the endpoint's own headers; ``bare`` leaves those out (to look at the server as a stranger)."""
        parts = urlsplit(self.base_url)
        given = {**({} if bare else self.headers), **(headers or {})}
        return Request(method, parts.path.rstrip("/") + path, tuple(given.items()), body)

    def exchange(
        self,
        request: Request,
        deadline_s: float,
        *,
        leave: Callable[[bytes], bool] | None = None,
        pace: Pace | None = None,
    ) -> Exchange:
        """Send, read to the end, or until ``leave`` (told the body so far) says that we hang up.

        Raises:
            NoAnswer: no complete answer within ``deadline_s`` seconds.
            ServerEnded: none until the server was known to have ended.
            TransportError: no connection, or the peer reset it.
            ProtocolError: the answer is no HTTP, or longer than ``MAX_ANSWER``.
        """
        parts = urlsplit(self.base_url)
        start = time.monotonic()
        end = start + deadline_s
        pace = pace or Pace()
        what = f"{request.method} {self.base_url}{request.target}"
        pieces: list[Piece] = []
        reader = Response(request.method)
        try:
            with self._connect(parts.hostname or "", parts.port, parts.scheme, end) as sock:
                self._send(sock, request.raw(parts.netloc.rpartition("@")[2]), end, pace)
                sent = time.monotonic()
                ended = self._read(sock, reader, pieces, sent, end, leave, pace)
        except _Ended:
            waited = time.monotonic() - start
            raise ServerEnded(f"{what}: given up after {waited:.1f} s: the engine has ended ({_arrived(reader, pieces)} arrived)") from None
        except TimeoutError:
            got = _arrived(reader, pieces)
            raise NoAnswer(f"{what}: no complete answer within {deadline_s:g} s ({got} arrived)") from None
        except OSError as error:
            raise TransportError(f"{what}: {type(error).__name__}: {error}") from None
        if not reader.status:
            raise TransportError(f"{what}: the server closed the connection without an answer")
        return Exchange(
            request,
            reader.status,
            reader.reason,
            tuple(reader.headers),
            tuple(pieces),
            ended,
            time.monotonic() - start,
            tuple(reader.chunks.sizes) if reader.chunks else (),
        )

    @staticmethod
    def _connect(host: str, port: int | None, scheme: str, end: float) -> socket.socket:
        sock = socket.create_connection((host, port or (443 if scheme == "https" else 80)), timeout=_left(end))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if scheme != "https":
            return sock
        try:
            return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def _send(sock: socket.socket, raw: bytes, end: float, pace: Pace) -> None:
        if not pace.send_piece:
            sock.settimeout(_left(end))
            # A server may refuse a huge body before it has read it: its answer is there to be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(raw)
            return
        for at in range(0, len(raw), pace.send_piece):
            sock.settimeout(_left(end))
            sock.sendall(raw[at : at + pace.send_piece])
            time.sleep(pace.send_pause_s)

    def _receive(self, sock: socket.socket, most: int, end: float) -> bytes:
        while self.ended_file:
            sock.settimeout(min(LOOK_S, _left(end)))
            with contextlib.suppress(TimeoutError):
                return sock.recv(most)
            if os.path.exists(self.ended_file):
                raise _Ended
        sock.settimeout(_left(end))
        return sock.recv(most)

    def _read(
        self,
        sock: socket.socket,
        reader: Response,
        pieces: list[Piece],
        sent: float,
        end: float,
        leave: Callable[[bytes], bool] | None,
        pace: Pace,
    ) -> Ended:
        so_far = bytearray()
        reads = size = 0
        while not reader.done:
            data = self._receive(sock, 65536 if not pace.read_pause_s else 512, end)
            if not data:
                return "complete" if reader.close() else "cut"
            size += len(data)
            if size > MAX_ANSWER:
                raise ProtocolError(f"the answer has more than {MAX_ANSWER >> 20} MiB and no end: is it the right server?")
            body = reader.feed(data)
            if body:
                pieces.append(Piece(time.monotonic() - sent, body))
                if leave is not None:
                    so_far += body
                    if leave(bytes(so_far)):
                        return "left"
            reads += 1
            if pace.read_pause_s and reads <= pace.reads_paused:
                time.sleep(pace.read_pause_s)
        return "complete"


class _Ended(Exception):
    """The server that was waited for has ended."""


def _arrived(reader: Response, pieces: Sequence[Piece]) -> str:
    return f"status {reader.status} and {sum(len(p.data) for p in pieces)} body bytes" if reader.status else "nothing"


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
