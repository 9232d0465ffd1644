"""What the HTTP API of each engine version looks like: fields, error bodies, health semantics, surprises.

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
class Surprise:
    """Something this version does that a client would not expect."""

    id: str
    text: str
    source: str


@dataclass(frozen=True)
class ApiShape:
    """The API of one engine version.

    Attributes:
        reasoning_fields: keys of ``message``/``delta`` that carry the reasoning, in the order to read them.
        truncated_content: ``content`` of an answer that was cut while still reasoning.
        version_route: GET it for the version; ``version_key`` names the field.
        reasoning_tokens_path: where ``usage`` counts reasoning tokens, or None.
        reasoning_tokens_trusted: False where the count is recorded as wrong (always 0).
        metrics_flag: option without which ``/metrics`` does not exist, or None.
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
    missing_model_refused: bool
    health: HealthMeaning
    health_generate: bool
    dead_engine_health: tuple[int, ...]
    version_route: str
    version_key: str
    model_info_routes: tuple[str, ...]
    models_has_max_model_len: bool
    tokenize_route: str | None
    detokenize_route: str | None
    tool_calls_when_empty: EmptyToolCalls
    usage_in_stream: Literal["on-request"]
    reasoning_tokens_path: tuple[str, ...] | None
    reasoning_tokens_trusted: bool
    strict_sampling: bool
    metrics_flag: str | None
    extras: frozenset[str]
    surprises: tuple[Surprise, ...]

    @property
    def peer_health_is_dummy(self) -> bool:
        """True where nodes of rank ≥ 1 answer ``/health`` with 200 whatever happens (SGLang's dummy server)."""
        return self.engine == "sglang"


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
    surprises = [
        Surprise(
            "health_never_runs_a_forward_pass",
            "a hung collective still answers /health with 200: add a completion with a deadline",
            "S; F69",
        ),
        Surprise(
            "truncated_reasoning_has_null_content",
            "cut while reasoning: content is null, finish_reason length, all text in the reasoning field",
            "R 0.24, 0.32; F65",
        ),
        Surprise(
            "separate_reasoning_ignored",
            "separate_reasoning=false is ignored; include_reasoning=false drops the reasoning",
            "R 0.24, 0.32",
        ),
        Surprise("unknown_role_accepted", "a message with an unknown role is accepted", "R 0.24, 0.32"),
        Surprise("finish_reason_on_text_chunk", "finish_reason can sit on a chunk that carries text or reasoning", "R 0.24, 0.32"),
        Surprise(
            "dead_engine_exits_zero",
            "with its engine killed the stream in flight ends with HTTP 200, an error event and [DONE]; the process exits 0",
            "R 0.24",
        ),
    ]
    if v.below("0.7.3"):
        surprises.append(
            Surprise(
                "prefilled_think_not_split",
                "with R1's template that prefills <think> everything lands in content, reasoning_content is null",
                "S 0.7.2; F63",
            )
        )
    if v.within("0.8.0", "0.9.2"):
        surprises.append(
            Surprise(
                "health_constant",
                "/health is 200 although the engine is dead (V1 check_health is a no-op)",
                "S 0.8.2, 0.8.5; F69",
            )
        )
    if v.within("0.20.0", "0.32.0"):
        surprises.append(
            Surprise(
                "port_shared_silently",
                "binds a port that another vLLM already has (SO_REUSEPORT) without complaint",
                "R 0.24; 0.32 refuses",
            )
        )
    if v.at_least("0.28.0"):
        surprises.append(
            Surprise(
                "reasoning_tokens_zero",
                "completion_tokens_details.reasoning_tokens is 0 in every recording, reasoning or not",
                "R 0.32",
            )
        )
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
        missing_model_refused=False,
        health=health,
        health_generate=False,
        dead_engine_health=(200,) if health == "constant" else (503,) if v.at_least("0.11.0") else (500,),
        version_route="/version",
        version_key="version",
        model_info_routes=(),
        models_has_max_model_len=True,
        tokenize_route="/tokenize",
        detokenize_route="/detokenize",
        tool_calls_when_empty="omitted" if v.at_least("0.24.0") else "empty-list",
        usage_in_stream="on-request",
        reasoning_tokens_path=("completion_tokens_details", "reasoning_tokens") if v.at_least("0.28.0") else None,
        reasoning_tokens_trusted=False,
        strict_sampling=True,
        metrics_flag=None,
        extras=frozenset(extras),
        surprises=tuple(surprises),
    )


def sglang_shape(v: Version) -> ApiShape:
    """SGLang 0.4.4 … 0.5.23."""
    surprises = [
        Surprise(
            "ready_line_of_a_stranger",
            "with its port taken it prints the ready line all the same: its warm-up went to the other server",
            "R 0.5.16",
        ),
        Surprise(
            "peer_dummy_health",
            "nodes of rank 1 and higher answer /health with 200 before rank 0 is ready and after it died; /v1/models is 404 there",
            "S; R 0.5.16; F68",
        ),
        Surprise(
            "missing_shard_still_ready",
            "a missing shard is not noticed: ready, healthy, and garbage (checked from 0.5.17 on)"
            if v.below("0.5.17")
            else "a missing shard is refused from 0.5.17 on",
            "R 0.5.16; S; F46",
        ),
        Surprise("any_model_accepted", "any model name in a POST is served and echoed; only GET /v1/models/X is 404", "R 0.5.16"),
        Surprise(
            "no_sampling_checks",
            "accepts temperature 5, max_tokens 0, top_logprobs 100 or without logprobs, stream_options "
            "without stream, tools without a parser",
            "R 0.5.16",
        ),
        Surprise("array_body_500", "a JSON array as body is 500", "R 0.5.16"),
        Surprise(
            "out_of_vocabulary_id_kills",
            "one token id outside the vocabulary in /v1/completions kills the whole server: never send one",
            "R 0.5.16",
        ),
        Surprise(
            "n_above_one_leaks",
            "each request with n > 1 leaves one id behind, and SIGTERM then never ends: stop must escalate to SIGKILL",
            "R 0.5.16",
        ),
        Surprise("generate_stream_cumulative", "/generate streams the whole text again in each event", "R 0.5.16"),
        Surprise(
            "finish_chunk_apart",
            "a last chunk of its own carries finish_reason and matched_stop, its delta is empty",
            "R 0.5.16",
        ),
        Surprise(
            "include_reasoning_ignored",
            "include_reasoning is ignored; separate_reasoning=false puts all text, </think> included, into content",
            "R 0.5.16",
        ),
        Surprise("drain_answers_503", "while draining after SIGTERM /health is 503 and /v1/models 200", "R 0.5.16"),
        Surprise(
            "dead_children_hang",
            "with the scheduler killed connections hang about 5 s, with the detokenizer or node 1 killed up to 60 s more, port open",
            "R 0.5.16",
        ),
        Surprise("api_key_leaves_health_open", "with --api-key, /health, /health_generate and /metrics stay open", "R 0.5.16"),
    ]
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
        missing_model_refused=False,
        health="forward-pass" if generate else "constant",
        health_generate=True,
        dead_engine_health=(503,) if generate else (200,),
        version_route="/server_info" if server_info else "/get_server_info",
        version_key="version",
        model_info_routes=("/model_info", "/get_model_info") if server_info else ("/get_model_info",),
        models_has_max_model_len=v.at_least("0.4.6"),
        tokenize_route="/v1/tokenize" if v.at_least("0.5.5") else None,
        detokenize_route="/v1/detokenize" if v.at_least("0.5.5") else None,
        tool_calls_when_empty="null",
        usage_in_stream="on-request",
        reasoning_tokens_path=("reasoning_tokens",) if v.at_least("0.5.1") else None,
        reasoning_tokens_trusted=v.at_least("0.5.1"),
        strict_sampling=False,
        metrics_flag="enable-metrics",
        extras=frozenset(extras),
        surprises=tuple(surprises),
    )


def shape_for(engine: EngineName, version: Version) -> ApiShape:
    """The API of one engine version."""
    return vllm_shape(version) if engine == "vllm" else sglang_shape(version)
