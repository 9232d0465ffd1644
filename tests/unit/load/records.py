"""Requests with known times."""

from __future__ import annotations

from typing import Any

from pytest_h20.load.loop import TimedExchange
from tests.unit.load.streams import HEAD, chunked, event, text


def recorded(
    tokens: int = 5, asked: int = 5, sent: float = 100.0, first: float = 0.2, gap: float = 0.02, counted: int = 0
) -> TimedExchange:
    """A completion whose tokens arrive one by one; the last one brings the end of the answer. ``counted``: the server's own count."""
    exchange = TimedExchange(0, b"", asked, 7)
    exchange.sent = sent
    usage: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": counted or tokens}}
    exchange.parts = [HEAD]
    exchange.stamps = [sent + 0.001]
    for number in range(tokens):
        last = number + 1 == tokens
        data = event(text("x")) + ((event(text("", "length")) + event(usage) + b"data: [DONE]\n\n") if last else b"")
        exchange.parts.append(chunked(data)[: None if last else -5])
        exchange.stamps.append(sent + first + number * gap)
    exchange.end = exchange.stamps[-1]
    exchange.status = 200
    return exchange
