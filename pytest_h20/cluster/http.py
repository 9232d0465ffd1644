"""The few plain HTTP requests a bring-up needs. Everything about the API itself is in ``endpoint/``."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_h20.errors import TransportError


@dataclass(frozen=True)
class Answer:
    """Status, body and nothing else."""

    status: int
    body: bytes

    def json(self) -> object:
        """The body as JSON, or None when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(url: str, path: str, *, body: object = None, headers: dict[str, str] | None = None, timeout: float = 10.0) -> Answer:
    """GET, or POST when there is a body. Raises ``TransportError`` when no complete answer came within ``timeout`` s."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(
            "GET" if data is None else "POST",
            parts.path.rstrip("/") + path,
            body=data,
            headers={**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})},
        )
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        what = "no answer" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        raise TransportError(f"{url}{path}: {what} within {timeout:g} s") from None
    finally:
        connection.close()


def reachable(host: str, port: int, timeout: float = 2.0) -> bool:
    """True when a TCP connection opens."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False
