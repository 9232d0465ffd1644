"""Servers that answer oddly, slowly or without end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from hypothesis import strategies as st

ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=5,
)


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does as ``serve`` says, until the client is gone."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def work() -> None:
            with suppress(OSError):
                client, _ = listener.accept()
                with closing(client):
                    client.recv(65536)
                    serve(client)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(5)
    assert not thread.is_alive()


def drip(what: bytes) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\n" if what == b"X: y\r\n" else b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            client.sendall(what)
            time.sleep(0.02)

    return serve


def endless(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        client.sendall(b"x" * 65536)
