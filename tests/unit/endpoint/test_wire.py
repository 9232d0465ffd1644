"""The socket side of an exchange, against a real listener on loopback. The reader itself: ``tests/unit/load/test_http1.py``."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pytest_h20.core.errors import TransportError
from pytest_h20.endpoint.wire import Exchange, Pace, Request, Wire


@contextlib.contextmanager
def listener(work: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands each connection to ``work``."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    work(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def _get(wire: Wire) -> Request:
    return wire.request("GET", "/x")


def test_request_bytes_and_secrets() -> None:
    got: list[bytes] = []

    def work(connection: socket.socket) -> None:
        got.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with listener(work) as url:
        wire = Wire(url + "/base", {"Authorization": "Bearer topsecret"})
        exchange = wire.exchange(wire.request("POST", "/v1/x", b"{}", {"A": "b"}), 5)
    text = got[0].decode()
    assert text.startswith("POST /base/v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "Authorization: Bearer topsecret\r\n" in text
    assert text.endswith("Content-Length: 2\r\n\r\n{}")
    assert (exchange.body, exchange.ended) == (b"ok", "complete")
    assert b"topsecret" not in exchange.transcript()
    assert "topsecret" not in str(wire.request("GET", "/", bare=True))


def test_connection_refused_is_a_transport_error() -> None:
    wire = Wire("http://127.0.0.1:9")
    with pytest.raises(TransportError, match="ConnectionRefusedError"):
        wire.exchange(_get(wire), 2)


def test_silence_ends_at_the_deadline() -> None:
    done = threading.Event()

    def work(connection: socket.socket) -> None:
        done.wait(10)

    with listener(work) as url:
        wire = Wire(url)
        with pytest.raises(TransportError, match=r"no complete answer within 0.2 s \(nothing arrived\)"):
            wire.exchange(_get(wire), 0.2)
        done.set()


def test_a_stream_that_never_ends_is_stopped_by_the_deadline_although_bytes_keep_coming() -> None:
    stop = threading.Event()

    def work(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.wait(0.02):
            connection.sendall(b"1\r\nx\r\n")

    with listener(work) as url:
        wire = Wire(url)
        with pytest.raises(TransportError, match="status 200 and"):
            wire.exchange(_get(wire), 0.3)
        stop.set()


def test_closed_without_a_word() -> None:
    def work(connection: socket.socket) -> None:
        connection.recv(10)

    with listener(work) as url:
        wire = Wire(url)
        with pytest.raises(TransportError, match=r"without an answer|reset"):
            wire.exchange(_get(wire), 2)


def test_cut_is_told_from_complete() -> None:
    def work(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    with listener(work) as url:
        wire = Wire(url)
        exchange = wire.exchange(_get(wire), 2)
    assert (exchange.ended, exchange.body) == ("cut", b"abc")


def test_leaving_closes_the_connection() -> None:
    gone = threading.Event()

    def work(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.settimeout(5)
        if connection.recv(10) == b"":
            gone.set()

    with listener(work) as url:
        wire = Wire(url)
        exchange = wire.exchange(_get(wire), 5, leave=lambda body: body == b"abc")
        assert gone.wait(5)
    assert exchange.ended == "left"


def test_slow_sending_arrives_whole() -> None:
    got = bytearray()

    def work(connection: socket.socket) -> None:
        while not got.endswith(b"the end"):
            got.extend(connection.recv(1000))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with listener(work) as url:
        wire = Wire(url)
        exchange = wire.exchange(wire.request("POST", "/", b"body until the end"), 5, pace=Pace(send_piece=7, send_pause_s=0.001))
    assert exchange.status == 200
    assert got.endswith(b"\r\n\r\nbody until the end")


def test_long_bodies_are_shortened_in_evidence() -> None:
    request = Request("POST", "/", (), b"x" * 300_000)
    text = Exchange(request, 200, "", (), (), "complete", 0.0).transcript()
    assert b"100000 bytes left out" in text
    assert len(text) < 210_000
