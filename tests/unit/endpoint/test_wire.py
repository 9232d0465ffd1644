"""The socket side of an exchange, against a real listener on loopback. The reader itself: ``tests/unit/load/test_http1.py``."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_h20.core.errors import NoAnswer, ServerEnded, TransportError
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
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


def test_a_server_that_is_known_to_have_ended_is_not_waited_for_although_it_holds_the_connection(tmp_path: Path) -> None:
    """vLLM's rank 0 after its peer was killed: its API goes on, and requests hang until somebody gives them up."""
    over, ended = threading.Event(), tmp_path / "died-vllm.json"

    def work(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        ended.touch()  # by whoever looks at the containers
        over.wait(60)

    with listener(work) as url:
        wire = Wire(url, ended_file=str(ended))
        with pytest.raises(ServerEnded, match=r"given up after .* s: the engine has ended \(status 200 and 3 body bytes arrived\)"):
            wire.exchange(_get(wire), 60)
        over.set()


def test_a_client_that_is_not_ours_is_left_alone_then(tmp_path: Path) -> None:
    over, ended = threading.Event(), tmp_path / "died-vllm.json"
    api = Api(EndpointContext("http://127.0.0.1:9", "vllm", "0.24.0", "m", ended_file=str(ended)))

    def hangs() -> bool:
        ended.touch()
        return over.wait(60)

    with pytest.raises(ServerEnded, match="openai client: given up: the engine has ended"):
        api.unless_ended("openai client", hangs)
    over.set()
    assert api.unless_ended("openai client", lambda: 5) == 5, "an answer is an answer"
    with pytest.raises(TimeoutError, match="its own"):
        api.unless_ended("openai client", lambda: raises(TimeoutError("its own")))


def raises(error: Exception) -> None:
    raise error


def test_while_nobody_has_seen_it_end_a_slow_server_has_until_the_deadline(tmp_path: Path) -> None:
    over = threading.Event()

    def work(connection: socket.socket) -> None:
        over.wait(10)

    with listener(work) as url:
        wire = Wire(url, ended_file=str(tmp_path / "died-vllm.json"))
        with pytest.raises(NoAnswer, match=r"no complete answer within 0.6 s \(nothing arrived\)"):
            wire.exchange(_get(wire), 0.6)
        over.set()


def test_an_answer_that_came_is_an_answer_although_the_server_ended_then(tmp_path: Path) -> None:
    ended = tmp_path / "died-vllm.json"
    ended.touch()

    def work(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with listener(work) as url:
        wire = Wire(url, ended_file=str(ended))
        assert wire.exchange(_get(wire), 60).body == b"ok"


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
