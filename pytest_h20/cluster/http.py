"""The few plain HTTP requests a bring-up needs. Everything about the API itself is in ``endpoint/``."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

from pytest_h20.core.errors import TransportError
from pytest_h20.endpoint.wire import Wire
from pytest_h20.load.http1 import ProtocolError


@dataclass(frozen=True)
class HttpAnswer:
    """Status, body and nothing else."""

    status: int
    body: bytes

    def json(self) -> object:
        """The body as JSON, or None when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def ask(
    url: str, path: str, *, body: object = None, headers: dict[str, str] | None = None, timeout: float = 10.0, ended_file: str = ""
) -> HttpAnswer:
    """GET, or POST when there is a body. Raises ``TransportError`` when no complete answer came within ``timeout`` s in all.

    ``ended_file``: as ``Wire`` has it. The answer is bounded too (``endpoint.wire.MAX_ANSWER``): a server that drips or never ends holds
    nobody up.
    """
    data = b"" if body is None else json.dumps(body).encode()
    given = {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
    wire = Wire(url, given, ended_file)
    try:
        answer = wire.exchange(wire.request("GET" if body is None else "POST", path, data), timeout)
    except ProtocolError as error:
        raise TransportError(f"{url}{path}: {error}") from None
    if answer.ended == "cut":
        raise TransportError(f"{url}{path}: the answer was cut after {len(answer.body)} bytes")
    return HttpAnswer(answer.status, answer.body)


def reachable(host: str, port: int, timeout: float = 2.0) -> bool:
    """True when a TCP connection opens."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False
