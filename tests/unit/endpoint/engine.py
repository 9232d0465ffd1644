"""The rehearsal's engine on loopback, in a thread: fast, without a cluster, and what it was asked is kept."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from pytest_h20.load.reference import Generation, ReferenceReply, ReferenceRequest
from pytest_h20.rehearsal.replies import Replies
from pytest_h20.rehearsal.server import EngineServer, config_of
from pytest_h20.rehearsal.timing import Timing, TimingRow

NOWHERE = Path(os.devnull)


class Engine(EngineServer):
    """One server. ``faults``: knobs of ``pytest_h20/rehearsal/replies.py``; ``token_s``: seconds between two tokens."""

    def __init__(
        self,
        engine: str = "vllm",
        version: str = "0.32.0",
        *,
        faults: frozenset[str] = frozenset(),
        max_len: int = 2048,
        token_s: float = 0.0,
        api_key: str = "",
        tool_parser: bool = False,
        thinking_switch: str = "",
    ) -> None:
        self.asked: list[tuple[str, Any]] = []
        """(route, body) of every POST."""
        knobs = dict.fromkeys(faults, True)
        replies = Replies(
            engine, version, "fake-r1", max_len, knobs, tool_parser=tool_parser, api_key=api_key, thinking_switch=thinking_switch
        )
        config = config_of(knobs, engine, replies.model, max_len, metrics=True)
        super().__init__(replies, Timing([TimingRow(1, 1, 1, 0.0, 1e3 * token_s)], 1.0, knobs), config, NOWHERE, NOWHERE, lambda line: None)
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(5)

    def handle(self, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        if request.method == "POST":
            with contextlib.suppress(ValueError):
                self.asked.append((request.path, json.loads(request.body)))
        return super().handle(request)
