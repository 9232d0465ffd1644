"""What the HTTP API of each engine version looks like: fields, error bodies, health semantics.

Sources: ``S`` = read in released wheels (E-api/E-rank1), ``R`` = recorded from real
servers (SGLang 0.5.16, vLLM 0.24.0 and 0.32.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_h20.engines.base import EngineName, Version

ErrorStyle = Literal["flat", "nested"]
"""flat: ``{"object":"error","message",…}``; nested: ``{"error":{"message",…}}``."""

HealthMeaning = Literal["constant", "engine-alive", "forward-pass"]
"""What a 200 from ``/health`` proves: that HTTP answers; that the engine process lives; that a token was generated."""

EmptyToolCalls = Literal["empty-list", "omitted", "null"]


@dataclass(frozen=True)
class ApiShape:
    """The API of one engine version.

    Attributes:
        reasoning_fields: keys of ``message``/``delta`` that carry the reasoning, in the order to read them.
        truncated_content: ``content`` of an answer that was cut while still reasoning.
        version_route: GET it for the version; ``version_key`` names the field.
        reasoning_tokens_path: where ``usage`` counts reasoning tokens, or None.
        reasoning_tokens_trusted: False where the count is recorded as wrong (always 0).
        array_body_status: HTTP status for a JSON array as request body.
        extras: request fields beyond OpenAI's that are honoured; anything else is ignored or refused.
    """

    engine: EngineName
    version: Version
    owned_by: str
    reasoning_fields: tuple[str, ...]
    truncated_content: Literal["null", "empty"]
    error_style: ErrorStyle
    malformed_status: tuple[int, ...]
    array_body_status: int | None
    unknown_model_refused: bool
    health: HealthMeaning
    dead_engine_health: tuple[int, ...]
    version_route: str
    version_key: str
    model_info_routes: tuple[str, ...]
    models_has_max_model_len: bool
    tokenize_route: str | None
    tool_calls_when_empty: EmptyToolCalls
    reasoning_tokens_path: tuple[str, ...] | None
    reasoning_tokens_trusted: bool
    extras: frozenset[str]


def vllm_shape(v: Version) -> ApiShape:
    """vLLM 0.7.2 … 0.33.0."""
    if v.below("0.11.1"):
        fields: tuple[str, ...] = ("reasoning_content",)
    elif v.below("0.16.0"):
        fields = ("reasoning", "reasoning_content")
    else:
        fields = ("reasoning",)
    if v.below("0.9.2"):
        # 0.8.2/0.8.5: V1's check_health does nothing. 0.7.2 (V0) does ask its engine.
        health: HealthMeaning = "constant" if v.at_least("0.8.0") else "engine-alive"
    else:
        health = "engine-alive"
    extras = {
        "ignore_eos",
        "min_tokens",
        "stop_token_ids",
        "skip_special_tokens",
        "chat_template_kwargs",
        "continuous_usage_stats",
    }
    if v.at_least("0.10.1"):
        extras.add("include_reasoning")
    if v.at_least("0.18.0"):
        extras.add("reasoning_effort")
    if v.at_least("0.19.0"):
        extras.add("thinking_token_budget")
    if v.at_least("0.24.0"):
        extras.add("return_token_ids")
    return ApiShape(
        engine="vllm",
        version=v,
        owned_by="vllm",
        reasoning_fields=fields,
        truncated_content="null",
        error_style="nested" if v.at_least("0.10.1") else "flat",
        malformed_status=(400,) if v.at_least("0.10.1") else (400, 422),
        array_body_status=400 if v.at_least("0.32.0") else 500 if v.within("0.24.0", "0.25.0") else None,
        unknown_model_refused=True,
        health=health,
        dead_engine_health=(200,) if health == "constant" else (503,) if v.at_least("0.11.0") else (500,),
        version_route="/version",
        version_key="version",
        model_info_routes=(),
        models_has_max_model_len=True,
        tokenize_route="/tokenize",
        tool_calls_when_empty="omitted" if v.at_least("0.24.0") else "empty-list",
        reasoning_tokens_path=("completion_tokens_details", "reasoning_tokens") if v.at_least("0.28.0") else None,
        reasoning_tokens_trusted=False,
        extras=frozenset(extras),
    )


def sglang_shape(v: Version) -> ApiShape:
    """SGLang 0.4.4 … 0.5.23."""
    extras = {
        "separate_reasoning",
        "stream_reasoning",
        "ignore_eos",
        "min_tokens",
        "stop_token_ids",
        "skip_special_tokens",
        "regex",
        "ebnf",
    }
    if v.at_least("0.4.8"):
        extras.add("chat_template_kwargs")
    if v.at_least("0.5.1"):
        extras.add("reasoning_effort")
    generate = v.at_least("0.5.1")
    server_info = v.at_least("0.5.6")
    return ApiShape(
        engine="sglang",
        version=v,
        owned_by="sglang",
        reasoning_fields=("reasoning_content",),
        truncated_content="empty",
        error_style="flat",
        malformed_status=(400,) if v.at_least("0.4.8") else (400, 422, 500),
        array_body_status=500,
        unknown_model_refused=False,
        health="forward-pass" if generate else "constant",
        dead_engine_health=(503,) if generate else (200,),
        version_route="/server_info" if server_info else "/get_server_info",
        version_key="version",
        model_info_routes=("/model_info", "/get_model_info") if server_info else ("/get_model_info",),
        models_has_max_model_len=v.at_least("0.4.6"),
        tokenize_route="/v1/tokenize" if v.at_least("0.5.5") else None,
        tool_calls_when_empty="null",
        reasoning_tokens_path=("reasoning_tokens",) if v.at_least("0.5.1") else None,
        reasoning_tokens_trusted=v.at_least("0.5.1"),
        extras=frozenset(extras),
    )


def shape_for(engine: EngineName, version: Version) -> ApiShape:
    """The API of one engine version."""
    return vllm_shape(version) if engine == "vllm" else sglang_shape(version)
