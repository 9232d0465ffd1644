"""A reference server on a thread: fast to start; for timing against a truth `ReferenceProcess` is used instead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_h20.load.reference import ReferenceConfig, ReferenceServer

Serve = Callable[..., ReferenceServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[tuple[ReferenceServer, threading.Thread]] = []

    def start(server: ReferenceServer | None = None, **knobs: object) -> ReferenceServer:
        if server is None:
            config = ReferenceConfig(ttft=0.01, tpot=0.001)
            config.update(knobs)
            server = ReferenceServer(config)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.stop()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def transcripts() -> Path:
    shared = os.environ.get("H20_SHARED") or str(Path(__file__).parents[4] / "shared")
    path = Path(shared) / "transcripts"
    if not path.is_dir():
        pytest.skip(f"recorded transcripts are not at {path} (H20_SHARED names their folder)")
    return path
