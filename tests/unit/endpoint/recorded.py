"""Answers recorded from SGLang 0.5.16, vLLM 0.24.0 and vLLM 0.32.0, as exchanges. The whole recordings are used where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_h20.endpoint.wire import Exchange, Piece, Request

SERVERS = ("sglang-0.5.16", "vllm-0.24.0", "vllm-0.32.0")
_DATA: dict[str, dict[str, dict[str, Any]]] = json.loads((Path(__file__).parent / "data" / "recorded.json").read_text(encoding="utf-8"))
_SHARED = Path(os.environ.get("H20_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "transcripts"
_FOLDERS = {
    "sglang-0.5.16": "sglang-0.5.16-h200/api",
    "vllm-0.24.0": "vllm-0.24.0-h200/api",
    "vllm-0.32.0": "vllm-0.32.0-cpu/api",
}


def exchange(status: int, content_type: str, body: bytes, cuts: Sequence[int] = ()) -> Exchange:
    """An exchange with this answer, arrived in pieces of these sizes (one piece by default)."""
    pieces, at = [], 0
    for number, size in enumerate(cuts):
        pieces.append(Piece(0.01 * number, body[at : at + size]))
        at += size
    if body[at:]:
        pieces.append(Piece(0.01 * len(pieces), body[at:]))
    request = Request("POST", "/v1/chat/completions")
    return Exchange(request, status, "", (("Content-Type", content_type),), tuple(pieces), "complete", 0.1)


def recorded(server: str, name: str) -> Exchange:
    """One of the recordings that are kept with the tests."""
    row = _DATA[server][name]
    body = json.dumps(row["json"], ensure_ascii=False) if "json" in row else row["text"]
    return exchange(row["status"], row["content_type"], body.encode())


def everything() -> Iterator[tuple[str, dict[str, Any], Exchange]]:
    """Every recorded request to a completion route, with its real read borders; nothing where the recordings are absent."""
    for server, folder in _FOLDERS.items():
        for path in sorted((_SHARED / folder).glob("*.json")):
            item = json.loads(path.read_text(encoding="utf-8"))
            request = item.get("request") if isinstance(item, dict) else None
            if not request or request["path"] not in ("/v1/chat/completions", "/v1/completions") or not item.get("response"):
                continue
            response = item["response"]
            if response.get("body_file"):
                body = (path.parent / response["body_file"]).read_bytes()
            elif response.get("body") is not None:
                body = json.dumps(response["body"], ensure_ascii=False).encode()
            else:
                body = str(response.get("body_text") or "").encode()
            kind = next((v for k, v in response["headers"] if k.lower() == "content-type"), "")
            cuts = [length for _, length in response.get("read_chunks_t_len") or []]
            yield f"{server} {path.stem}", item, exchange(response["status"], kind, body, cuts)


def names(server: str) -> list[str]:
    """The recordings of a server that are kept with the tests."""
    return sorted(_DATA[server])
