"""HTTP/1.1 answers: one reader of bytes in any cut, and the writer of chunks. For the load loop, the endpoint's checks and the stand-ins.

Client libraries repair and hide what an acceptance test must see: chunk borders, a stream cut without its terminator, bytes
after the end. So the wire is read here, strictly. The reader is pure: it is fed with what a socket gave.
"""

from __future__ import annotations

from pytest_h20.core.errors import H20Error

CRLF2 = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers, or of a chunk's size line, at most; anything longer is no sane server."""


class ProtocolError(H20Error):
    """The peer's bytes are no HTTP/1.1 as it must be. The text says what."""


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. `LAST_CHUNK` ends a body of them."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line. Raises ProtocolError for anything but one to eight hex digits: no sign, no `0x`."""
    digits = line.split(b";", 1)[0].strip()
    if not 0 < len(digits) <= 8 or digits.strip(b"0123456789abcdefABCDEF"):
        raise ProtocolError(f"not a chunk size: {line[:40]!r}")
    return int(digits, 16)


class Chunks:
    """Takes the chunked transfer coding off a body. Feed it; ask `done`.

    Attributes:
        sizes: of the chunks, the last one's 0 included.
        done: the last chunk and its trailers were read.
        leftover: what followed.
    """

    __slots__ = ("_due", "_left", "_rest", "done", "leftover", "sizes")

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.done = False
        self.leftover = b""
        self._rest = b""  # an unfinished line
        self._left = 0  # bytes still to come of the chunk
        self._due = "size"  # the next line: size | end (of a chunk's data) | trailer

    @property
    def between(self) -> bool:
        """All chunks so far were whole, and there may be more."""
        return self._due == "size" and not self._rest

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in what arrived. Raises ProtocolError."""
        data = self._rest + data
        body: list[bytes] = []
        at, left = 0, self._left
        while not self.done:
            if left:
                part = data[at : at + left]
                body.append(part)
                at += len(part)
                left -= len(part)
                if left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_HEAD:
                    raise ProtocolError(f"no end of line within {MAX_HEAD} bytes of chunks: {data[at : at + 40]!r}")
                break
            if self._due == "end":
                if end != at:
                    raise ProtocolError(f"a chunk of {self.sizes[-1]} bytes does not end in CRLF but in {data[at : at + 20]!r}")
                self._due = "size"
            elif self._due == "size":
                left = chunk_size(data[at:end])
                self.sizes.append(left)
                self._due = "end" if left else "trailer"
            else:
                self.done = end == at
            at = end + 2
        self._left, self._rest = left, data[at:]
        if self.done:
            self.leftover, self._rest = self.leftover + self._rest, b""
        return b"".join(body)


class Response:
    """Reads one answer. Feed it; ask `done`; call `close` when the peer closed.

    Attributes:
        status, reason, headers: of the answer itself, interim answers (100 Continue) are passed over; status 0: no whole head yet.
        keep_alive: the connection may be used again.
        chunks: where the body is chunked.
        close_delimited: the body ends where the connection does.
        done: the answer is whole.
        leftover: what followed it.
    """

    __slots__ = ("_head", "_left", "_method", "chunks", "close_delimited", "done", "headers", "keep_alive", "leftover", "reason", "status")

    def __init__(self, method: str = "GET") -> None:
        self.status = 0
        self.reason = ""
        self.headers: list[tuple[str, str]] = []
        self.keep_alive = True
        self.chunks: Chunks | None = None
        self.close_delimited = False
        self.done = False
        self.leftover = b""
        self._method = method
        self._head = b""  # an unfinished one
        self._left = 0  # bytes of the body still to come, by Content-Length

    @property
    def between_chunks(self) -> bool:
        """All chunks so far were whole: a piece that is a whole chunk need not be shown to `feed`."""
        return self.chunks is not None and self.chunks.between

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in what arrived. Raises ProtocolError for what is not HTTP."""
        if not self.status:
            self._head += data
            while not self.status:
                if not self._read_head():
                    return b""
            data, self._head = self._head, b""
        if self.done:
            self.leftover += data
            return b""
        if self.chunks is not None:
            body = self.chunks.feed(data)
            self.done, self.leftover = self.chunks.done, self.chunks.leftover
            return body
        if self.close_delimited:
            return data
        body, self.leftover = data[: self._left], data[self._left :]
        self._left -= len(body)
        self.done = not self._left
        return body

    def over(self) -> bool:
        """Whether the answer is whole. Raises ProtocolError when more bytes follow it: they would be taken for the next one's."""
        if self.leftover:
            raise ProtocolError(f"bytes after the end of the answer: {self.leftover[:40]!r}")
        return self.done

    def close(self) -> bool:
        """The peer closed. Whether the answer is whole now."""
        self.done = self.done or self.close_delimited
        return self.done

    def header(self, name: str) -> str:
        """The last value of a header (its name in small letters), "" when absent."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), "")

    def _read_head(self) -> bool:
        """Take one head, which may be an interim answer's. False: it is not whole yet."""
        end = self._head.find(CRLF2)
        if end < 0:
            if len(self._head) > MAX_HEAD:
                raise ProtocolError(f"no end of headers within {MAX_HEAD} bytes")
            if len(self._head) >= 5 and not self._head.startswith(b"HTTP/"):
                raise ProtocolError(f"not an HTTP answer: {self._head[:40]!r}")
            return False
        lines = self._head[:end].decode("latin-1").split("\r\n")
        self._head = self._head[end + 4 :]
        version, _, rest = lines[0].partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3 and code >= "100"):
            raise ProtocolError(f"not an HTTP answer: its status line is {lines[0][:60]!r}")
        if code < "200":
            return True
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ProtocolError(f"not a header line: {line[:60]!r}")
            self.headers.append((name, value.strip()))
        self.status, self.reason = int(code), reason
        connection = self.header("connection").lower()
        self.keep_alive = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
        self._frame()
        return True

    def _frame(self) -> None:
        """How the body ends (RFC 9112 6.3)."""
        length = self.header("content-length")
        if self._method == "HEAD" or self.status in (204, 304):
            self.done = True
        elif "chunked" in self.header("transfer-encoding").lower():
            self.chunks = Chunks()
        elif length:
            if not (length.isascii() and length.isdigit() and len(length) <= 18):
                raise ProtocolError(f"Content-Length is {length[:20]!r}")
            self._left = int(length)
            self.done = not self._left
        else:
            self.close_delimited, self.keep_alive = True, False
