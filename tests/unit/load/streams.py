"""Streams as servers send them, piece by piece."""

from __future__ import annotations

import json
from typing import Any

from pytest_h20.load.http1 import LAST_CHUNK, chunk

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(map(chunk, parts)) + LAST_CHUNK


def event(document: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(document).encode() + end


def chat(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def text(value: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": value, "finish_reason": finish}], **more}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, "reasoning_tokens": 2}}


CHAT = (
    event(chat({"role": "assistant", "content": ""})),
    event(chat({"reasoning_content": "Hm"})),
    event(chat({"reasoning": '"content": "no"', "content": None})),
    event(chat({"content": "\n\n9.8"})),
    event(chat({"content": ""}, "stop")),
    event(USAGE),
    b"data: [DONE]\n\n",
)
