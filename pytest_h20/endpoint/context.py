"""What the checks of an endpoint must know about it. Built by the caller; nothing here is read from the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_h20.core.errors import UsageError
from pytest_h20.engines.base import EngineName, Version

if TYPE_CHECKING:
    from pytest_h20.core.verdict import Limit
    from pytest_h20.engines.api import ApiShape


def no_evidence(name: str, data: bytes) -> str:
    """Evidence sink for callers that keep none."""
    return ""


@dataclass(frozen=True)
class EndpointContext:
    """One endpoint under test.

    Attributes:
        base_url: scheme, host and port of rank 0, without ``/v1`` (``http://10.0.0.1:8000``).
        version: what the image said, ``0.5.16`` or ``0.32.0+cpu``; the dialect and the capabilities follow from it.
        model_id: the name the server must serve (``served_model_name`` or the model path).
        max_model_len: tokens, from the profile; None lets the server's own figure stand.
        headers: sent with every request (``Authorization``); never written to evidence.
        head_metrics_url: where rank 0's Prometheus text is, or None for ``base_url/metrics``.
        worker_health_urls: node name → base URL of a node of rank ≥ 1, same port; looked at only to prove that it is no head.
        reasoning_parser, tool_parser: whether the profile asked for one.
        parser_name: the reasoning parser as the profile names it; "" where only the server knows.
        thinking_switch: the chat template's argument that switches thinking; None for a model that always thinks.
        deadline_s: seconds for one ordinary answer, before ``time_scale``.
        time_scale: multiplies every deadline (a CPU lab needs more, a rehearsal less).
        answer_tokens: most tokens one graded answer may take; R1 thinks for hundreds to thousands.
        parallel: graded questions asked at a time.
        evidence: takes a name and bytes, gives back the path to put into the verdict ("" = not kept).
        limits: check id → limit that replaces the built-in one.
        servers: URLs of the engines behind, where ``base_url`` is a router's: asked for what it does not pass on.
        unmeasured_ok: ``expect.unmeasured_ok``: checks (patterns) that may stay unmeasured.
        ended_file: a file that appears once the engine is known to have ended: nothing is waited for any more; "" = none.
    """

    base_url: str
    engine: EngineName
    version: str
    model_id: str
    max_model_len: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    head_metrics_url: str | None = None
    worker_health_urls: Mapping[str, str] = field(default_factory=dict)
    reasoning_parser: bool = True
    tool_parser: bool = False
    parser_name: str = ""
    thinking_switch: str | None = None
    deadline_s: float = 60.0
    time_scale: float = 1.0
    answer_tokens: int = 4096
    parallel: int = 32
    evidence: Callable[[str, bytes], str] = no_evidence
    limits: Mapping[str, Limit] = field(default_factory=dict)
    servers: tuple[str, ...] = ()
    unmeasured_ok: tuple[str, ...] = ()
    ended_file: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"endpoint URL {self.base_url!r} is no http(s) URL with a host, such as http://10.0.0.1:8000")

    @cached_property
    def parsed_version(self) -> Version:
        """The version, comparable."""
        return Version.parse(self.version)

    @cached_property
    def shape(self) -> ApiShape:
        """What the API of this version looks like."""
        from pytest_h20.engines.api import shape_for

        return shape_for(self.engine, self.parsed_version)

    @property
    def who(self) -> str:
        """``sglang 0.5.16``"""
        return f"{self.engine} {self.version}"

    def seconds(self, factor: float = 1.0) -> float:
        """A deadline: ``factor`` times the ordinary one."""
        return self.deadline_s * self.time_scale * factor
