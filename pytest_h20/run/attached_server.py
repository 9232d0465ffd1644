"""What an endpoint that runs already says it serves. Asked once, by the controller, when a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_h20.cluster.http import ask
from pytest_h20.core.errors import TransportError, UsageError

OWNERS = ("vllm", "sglang")
"""``owned_by`` of /v1/models names the engine; a router or proxy says something else, which tells nothing."""


@dataclass(frozen=True)
class Served:
    """The model card of an endpoint. ``owner``: ``owned_by``; ``splits_reasoning``: a short answer had its reasoning apart."""

    model: str
    max_model_len: int | None = None
    splits_reasoning: bool = False
    owner: str = ""

    def plain(self) -> dict[str, Any]:
        """For a worker of pytest-xdist: simple types only."""
        return asdict(self)


def ask_served(url: str) -> Served:
    """Ask an endpoint that nothing is known about. Raises ``UsageError`` when it does not answer as such a server does."""
    refuse_no_url(url)
    try:
        answer = ask(url, "/v1/models", timeout=10.0)
        if answer.status in (401, 403):
            raise UsageError(
                f"--h20-attach={url}: answers {answer.status}; name the variable that holds its key in an inventory "
                "(attach: {url: ..., api_key_env: NAME}) and give it with --nodes"
            )
        card = answer.json()["data"][0]  # type: ignore[index]
        model = str(card["id"])
    except TransportError as error:
        raise UsageError(f"--h20-attach: {error}; is the engine up, and is this its address?") from None
    except (KeyError, IndexError, TypeError):
        raise UsageError(f"--h20-attach={url}: /v1/models does not list a model; is this an OpenAI-compatible server?") from None
    longest = card.get("max_model_len")
    return Served(
        model=model,
        max_model_len=longest if isinstance(longest, int) else None,
        splits_reasoning="deepseek-r1" in model.lower() or _splits_reasoning(url, model),
        owner=str(card.get("owned_by") or ""),
    )


def refuse_no_url(url: str) -> None:
    """Raises ``UsageError`` for what is no URL."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--h20-attach={url}: give a URL such as http://10.63.65.207:8000")


def owner_of(url: str, headers: Mapping[str, str]) -> str:
    """``owned_by`` of an endpoint's first model; empty when it does not answer: the run tells that in its own place."""
    try:
        return str(ask(url, "/v1/models", headers=dict(headers), timeout=5.0).json()["data"][0]["owned_by"])  # type: ignore[index]
    except (TransportError, KeyError, IndexError, TypeError):
        return ""


def refuse_another_engine(owner: str, engine: str, url: str) -> None:
    """Raises ``UsageError`` when the server says that it is the other engine: every check of the dialect would be red."""
    if owner.lower() in OWNERS and owner.lower() != engine:
        told = owner.lower()
        raise UsageError(f"--h20-attach={url}: this server is {told} (owned_by of /v1/models), not {engine}: give --engine={told}")


def _splits_reasoning(url: str, model: str) -> bool:
    """Whether a short answer of the server has its reasoning apart: then somebody has asked for a reasoning parser."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is 6 times 7?"}], "max_tokens": 64, "temperature": 0}
    try:
        message = ask(url, "/v1/chat/completions", body=body, timeout=60.0).json()["choices"][0]["message"]  # type: ignore[index]
        return bool(message.get("reasoning_content") or message.get("reasoning"))
    except (TransportError, KeyError, IndexError, TypeError, AttributeError):
        return False
