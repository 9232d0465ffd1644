"""Faults of the API: wrong counts, wrong streams, wrong errors, requests that reach another model than was meant."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, http, ids, profile, together, with_flags

_NEW = "sglang-0.5.16"
_VLLM = "vllm-0.32"
_SGLANG_ERRORS = (
    "error_bad_schema error_max_tokens_huge error_max_tokens_negative error_messages_empty error_n_zero "
    "error_prompt_empty error_prompt_no_ids error_prompt_too_long error_prompt_too_long_stream error_response_format "
    "error_temperature_negative error_top_p_high error_top_p_zero error_unknown_role"
)
_EVERY_ERROR = (
    "dialect error_array_body error_bad_schema error_content_type error_empty_body error_image_part error_malformed_json "
    "error_max_tokens_huge error_max_tokens_negative error_max_tokens_text error_max_tokens_zero error_messages_empty "
    "error_messages_missing error_messages_text error_n_zero error_out_of_vocabulary error_prompt_empty "
    "error_prompt_no_ids error_prompt_too_long error_prompt_too_long_stream error_response_format "
    "error_stream_options_alone error_temperature_5 error_temperature_negative error_tools_without_parser "
    "error_top_logprobs_100 error_top_logprobs_alone error_top_p_high error_top_p_zero error_unknown_model long_context "
    "openai_client"
)


def _fault(
    name: str, sentence: str, source: str, change: Change, red: str, phrase: str, scenario: str = "quick", engine: str = "sglang"
) -> Fault:
    return Fault(name, "endpoint", sentence, source, change, ids("endpoint", red), phrase, engine=engine, scenario=scenario)


def _knob(name: str, knob: str, sentence: str, source: str, red: str, phrase: str, scenario: str = "quick") -> Fault:
    engine = "vllm" if scenario.startswith("vllm") else "sglang"
    return _fault(name, sentence, source, http(knob), red, phrase, scenario, engine)


FAULTS = (
    # who answers
    _knob(
        "wrong-model-id", "other_model", "/v1/models lists another model.", "issue 3: an old server on the port", "models", "someone-else"
    ),
    _knob(
        "wrong-version",
        "other_version",
        "The server tells another version than the image holds.",
        "an old server on the port",
        "version",
        "0.1.0",
    ),
    _knob(
        "wrong-context",
        "other_context",
        "/v1/models tells half of the context that was asked for.",
        "F53: cut to what fits the memory",
        "long_context max_model_len",
        "81920",
        _NEW,
    ),
    _knob(
        "second-head",
        "worker_answers_models",
        "The worker serves the model, too: two servers instead of one.",
        "F68: started without node-rank",
        "worker_is_no_head",
        "node02",
    ),
    _fault(
        "tools-lost-in-lumps",
        "Of several tool calls of a streamed answer only the last arrives, without its name; not streamed all are there.",
        "sglang#35563",
        together(profile(tool_parser="deepseekv3"), with_flags(tool_call_parser="deepseekv3"), http("tools_lost_in_lumps")),
        "several_tools",
        "streamed calls",
        _NEW,
    ),
    # counts
    _knob(
        "usage-prompt-off-by-one",
        "prompt_count_off",
        "usage counts one prompt token too many.",
        "issue 3",
        "long_context parallel usage_prompt usage_tokenizer",
        "prompt_tokens is 2, not 1",
    ),
    _knob(
        "usage-completion-off-by-one",
        "completion_count_off",
        "usage counts one output token too many.",
        "issue 3",
        "bringup.first_completion",
        "completion_tokens=2",
    ),
    _knob("usage-sum-wrong", "sum_off", "total_tokens is not the sum.", "billing by total_tokens", "usage_sum", "total_tokens"),
    _knob(
        "usage-stream-off",
        "stream_count_off",
        "A stream's usage differs from the plain answer's.",
        "F67",
        "parallel usage_stream usage_sum",
        "completion_tokens is 8, not 7",
    ),
    _knob(
        "usage-stream-missing",
        "stream_usage_missing",
        "include_usage is ignored.",
        "F67",
        "parallel usage_stream usage_sum",
        "usage chunks is 0, not 1",
    ),
    _knob(
        "usage-continuous-falls",
        "continuous_falls",
        "continuous_usage_stats counts down.",
        "a counter that restarts",
        "usage_continuous",
        "usage",
        _VLLM,
    ),
    _knob(
        "max-tokens-short",
        "max_tokens_short",
        "One token less than max_tokens comes back.",
        "off by one in the scheduler",
        "logprobs max_tokens parallel",
        "tokens",
    ),
    _knob(
        "max-completion-tokens-ignored",
        "max_completion_tokens_ignored",
        "max_completion_tokens is not obeyed.",
        "OpenAI's newer name",
        "max_completion_tokens",
        "max_completion_tokens",
        _VLLM,
    ),
    # generation
    _knob("wrong-object", "wrong_object", "Answers are of no documented kind.", "a proxy in between", "completion chat", "thing"),
    _knob(
        "wrong-role", "wrong_role", "The answer's role is not assistant.", "a proxy in between", "chat openai_client stream_form", "role"
    ),
    _knob(
        "text-after-end",
        "text_after_end",
        "Text follows the finish reason in a stream.",
        "clients stop reading there",
        "stop stream_equals_chat stream_equals_completion stream_form",
        "finish",
    ),
    _knob(
        "stream-ids-differ", "stream_ids_differ", "The chunks of one stream have different ids.", "two streams mixed", "stream_form", "id"
    ),
    _knob(
        "stream-not-equal",
        "stream_drops_text",
        "A streamed answer lacks a token that the plain one has.",
        "issue 3",
        "stream_equals_completion stream_equals_chat",
        "streamed",
    ),
    _knob(
        "system-dropped",
        "system_dropped",
        "The system prompt does not reach the model.",
        "a chat template that forgets it",
        "roles",
        "system",
    ),
    _knob(
        "history-dropped",
        "history_dropped",
        "Earlier turns do not reach the model.",
        "a chat template that forgets them",
        "multi_turn roles",
        "turn",
    ),
    _knob(
        "finish-always-stop",
        "finish_always_stop",
        "A cut answer says stop.",
        "F65: clients cannot tell that it was cut",
        "finish_reason max_tokens",
        "length",
    ),
    _knob(
        "finish-always-length",
        "finish_always_length",
        "A complete answer says length.",
        "agents ask again for ever",
        "finish_reason",
        "stop",
    ),
    _knob("stop-ignored", "stop_ignored", "Stop strings are ignored.", "agents run on", "stop", "stop"),
    _knob("stop-included", "stop_included", "The stop string is part of the answer.", "agents parse it", "stop", "stop"),
    _knob("n-ignored", "n_ignored", "n alternatives are asked for, one comes.", "a proxy in between", "n", "n", _VLLM),
    _knob(
        "logprobs-positive",
        "logprobs_positive",
        "Log-probabilities are positive.",
        "probabilities sent as logarithms",
        "logprobs",
        "logprob",
    ),
    _knob(
        "logprobs-missing", "logprobs_missing", "There are fewer log-probabilities than tokens.", "off by one", "logprobs needle", "logprob"
    ),
    _knob("seed-ignored", "seed_ignored", "One seed gives different samples.", "results cannot be repeated", "seed", "seed", _VLLM),
    _knob(
        "never-repeats",
        "never_repeats",
        "Greedy answers differ from each other.",
        "a race between ranks",
        "determinism prefix_reuse stop stream_equals_chat stream_equals_completion",
        "differ",
    ),
    _knob("cache-spoils", "cache_spoils", "A cached prefix changes the answer.", "radix cache with a wrong key", "prefix_reuse", "cached"),
    _knob("window", "window", "Only the last 200 tokens are attended to.", "wrong sliding window or rope", "needle", "prompt"),
    _knob(
        "truncates-quietly",
        "truncates_quietly",
        "Long prompts are cut without a word.",
        "SGLang --allow-auto-truncate",
        "long_context needle",
        "prompt",
    ),
    _knob(
        "schema-ignored",
        "schema_ignored",
        "A JSON schema is accepted and ignored.",
        "no grammar backend in the image",
        "structured_output",
        "schema",
    ),
    # the wire
    _knob("no-done", "no_done", "Streams end without [DONE].", "clients wait for it", "slow_client sse_framing", "[DONE]"),
    _knob(
        "after-done",
        "after_done",
        "Something follows [DONE].",
        "clients have closed by then",
        "slow_client sse_framing stream_form",
        "[DONE]",
    ),
    _knob(
        "no-blank-line",
        "no_blank_line",
        "Events are not separated.",
        "the SSE standard",
        "disconnect long_line openai_client parallel slow_client sse_framing stop stream_equals_chat stream_equals_completion stream_form unicode_chinese unicode_combining unicode_control unicode_emoji unicode_output unicode_right_to_left usage_continuous usage_stream usage_sum",
        "event",
    ),
    _knob(
        "utf8-cut",
        "broken_utf8",
        "Chunks hold invalid UTF-8.",
        "issue 3: a character cut across chunks",
        "openai_client slow_client sse_framing",
        "no UTF-8",
    ),
    _knob(
        "broken-characters",
        "broken_characters",
        "Chinese comes out as replacement characters.",
        "detokenised byte by byte",
        "unicode_output",
        "�",
    ),
    _knob(
        "stream-content-type",
        "stream_content_type",
        "Streams are sent as text/plain.",
        "browsers refuse them",
        "disconnect long_line parallel slow_client sse_framing stop stream_equals_chat stream_equals_completion stream_form unicode_chinese unicode_combining unicode_control unicode_emoji unicode_output unicode_right_to_left usage_continuous usage_stream usage_sum",
        "text/plain",
    ),
    _knob("stream-cut", "stream_cut", "Streams break off before their end.", "a proxy's time limit", "slow_client sse_framing", "end"),
    _knob(
        "echo-ascii",
        "echo_ascii",
        "Everything but ASCII is lost on the way.",
        "a wrong locale in the container",
        "unicode_chinese unicode_combining unicode_control unicode_emoji unicode_right_to_left",
        "?",
    ),
    _knob("long-line-cut", "echo_short", "Long texts are cut.", "a buffer in between", "long_line", "characters"),
    _knob(
        "small-bodies-only",
        "small_bodies_only",
        "Bodies above 1 MiB break the server.",
        "client_max_body_size of a proxy",
        "huge_body",
        "500",
    ),
    _knob(
        "slot-leaks",
        "slot_leaks",
        "A client that goes away leaves its request running.",
        "abort is not passed on to the scheduler",
        "disconnect",
        "running",
    ),
    _knob(
        "mixes-answers",
        "mixes_answers",
        "Answers of parallel requests are mixed up.",
        "a race in the detokeniser",
        "parallel",
        "got the answer of",
        "quick@60",
    ),
    _knob("get-allowed", "get_allowed", "GET on a completion route answers 200.", "a proxy in between", "error_wrong_method", "200"),
    _knob("every-path", "every_path", "Every path answers 200.", "a proxy's landing page", "error_unknown_path", "200"),
    _knob(
        "ill-after-start",
        "ill_after_start",
        "/health answers 503 from some time after the start on.",
        "vLLM answers 503 once its core is dead; here it is not",
        "health",
        "status is 503",
    ),
    # errors
    _knob(
        "200-for-bad-input",
        "accepts_errors",
        "Bad input is answered with 200.",
        "issue 3",
        _EVERY_ERROR,
        "status 200 instead of a 4xx",
        _VLLM,
    ),
    _knob(
        "500-for-bad-input",
        "errors_are_500",
        "Bad input is answered with 500.",
        "clients retry 500 for ever",
        _EVERY_ERROR,
        "status 500 instead of a 4xx",
        _VLLM,
    ),
    _knob(
        "errors-without-words", "error_silent", "Errors have no message.", "nobody learns why", _SGLANG_ERRORS, "the error has no message"
    ),
    _fault(
        "engine-dies-mid-run",
        "The engine dies while it serves.",
        "F40; SGLang 0.5.16: ids outside the vocabulary (recorded)",
        http(completion_kills=2),
        "determinism bringup.stays_up bringup.stops",
        "illegal_memory_access",
    ),
    _knob(
        "200-for-bad-input-sglang",
        "accepts_errors",
        "Bad input is answered with 200 by SGLang.",
        "issue 3",
        f"{_SGLANG_ERRORS} dialect long_context openai_client",
        "status 200 instead of a 4xx",
    ),
    _fault(
        "hangs-on-a-request",
        "One kind of request is never answered.",
        "issue 3; F69",
        http(hang_on='"logprobs"'),
        "logprobs needle",
        "no complete answer within",
    ),
)
