"""examples/webhook: what a run decided arrives where it was posted to; a receiver that refuses is said, and changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.foreign import REHEARSAL, pytest_in, write

CONFTEST = (Path(__file__).parents[2] / "examples" / "webhook" / "conftest.py").read_text(encoding="utf-8")


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[Any]]]:
    posted: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/refuses" else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_was_decided_is_posted_and_a_receiver_that_refuses_changes_nothing(tmp_path: Path, receiver: tuple[str, list[Any]]) -> None:
    url, posted = receiver
    write(tmp_path, conftest=CONFTEST)
    done = pytest_in(tmp_path, *REHEARSAL, "-k", "environment and docker", DECISION_URL=url + "/refuses")
    (said,) = posted
    assert said["accepted"] is False
    assert said["run"] == done.run.name
    assert said["text"].startswith("NOT ACCEPTED: rehearsal-quick: ")
    assert said["gates"] == {gate["name"]: gate["status"] for gate in done.verdict["gates"]}
    assert "pytest_h20_report broke: HTTPError" in done.output
    assert done.status == 0
