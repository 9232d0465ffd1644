"""Every check on a right engine is green or skipped with a reason, and its own fault turns it red. Real sockets, the rehearsal's engine."""

from __future__ import annotations

import socket
import types
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_h20.checks.endpoint.answers import check_accuracy
from pytest_h20.checks.endpoint.errors import CASES
from pytest_h20.checks.endpoint.frame import Listed
from pytest_h20.core.verdict import Status, worst
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from tests.unit.checks.endpoint.running import ALL, context, run
from tests.unit.endpoint.engine import Engine

SGLANG_ONLY = {"reasoning.separate_false", "reasoning.parser_table", "reasoning.token_count"}

FAULTS: dict[str, str] = {
    "endpoint.models": "other_model",
    "endpoint.max_model_len": "other_context",
    "endpoint.health": "unhealthy",
    "endpoint.version": "other_version",
    "endpoint.auth": "auth_open",
    "endpoint.openai_client": "accepts_errors",
    "endpoint.dialect": "field_renamed",
    "endpoint.max_tokens": "max_tokens_short",
    "endpoint.max_completion_tokens": "max_completion_tokens_ignored",
    "endpoint.usage_prompt": "prompt_count_off",
    "endpoint.usage_sum": "sum_off",
    "endpoint.usage_tokenizer": "prompt_count_off",
    "endpoint.usage_stream": "stream_count_off",
    "endpoint.usage_continuous": "continuous_falls",
    "endpoint.completion": "wrong_object",
    "endpoint.chat": "wrong_role",
    "endpoint.stream_form": "text_after_end",
    "endpoint.stream_equals_completion": "stream_drops_text",
    "endpoint.stream_equals_chat": "stream_drops_text",
    "endpoint.roles": "system_dropped",
    "endpoint.multi_turn": "history_dropped",
    "endpoint.finish_reason": "finish_always_stop",
    "endpoint.stop": "stop_included",
    "endpoint.n": "n_ignored",
    "endpoint.logprobs": "logprobs_positive",
    "endpoint.seed": "seed_ignored",
    "endpoint.determinism": "never_repeats",
    "endpoint.prefix_reuse": "cache_spoils",
    "endpoint.long_context": "truncates_quietly",
    "endpoint.needle": "window",
    "endpoint.structured_output": "schema_ignored",
    "endpoint.tool_call": "tool_arguments",
    "endpoint.sse_framing": "no_done",
    "endpoint.unicode_chinese": "echo_ascii",
    "endpoint.unicode_emoji": "echo_ascii",
    "endpoint.unicode_right_to_left": "echo_ascii",
    "endpoint.unicode_combining": "echo_ascii",
    "endpoint.unicode_control": "echo_ascii",
    "endpoint.unicode_output": "broken_characters",
    "endpoint.long_line": "echo_short",
    "endpoint.huge_body": "small_bodies_only",
    "endpoint.slow_client": "stream_cut",
    "endpoint.several_tools": "tools_lost_in_lumps",
    "endpoint.disconnect": "slot_leaks",
    "endpoint.parallel": "mixes_answers",
    "endpoint.error_unknown_path": "every_path",
    "endpoint.error_wrong_method": "get_allowed",
    "reasoning.split": "not_split",
    "reasoning.split_stream": "not_split",
    "reasoning.order": "late_reasoning",
    "reasoning.no_tags": "tag_leaks",
    "reasoning.stream_equals_message": "stream_drops_text",
    "reasoning.cut": "cut_is_content",
    "reasoning.cut_anywhere": "cut_is_content",
    "reasoning.lossless": "eats_content",
    "reasoning.empty": "tag_leaks",
    "reasoning.newline_only": "newlines_are_content",
    "reasoning.tag_in_content": "later_tags_swallowed",
    "reasoning.user_tags": "user_tags_end_reasoning",
    "reasoning.not_fed_back": "history_keeps_reasoning",
    "reasoning.separate_false": "separate_ignored",
    "reasoning.include_false": "include_ignored",
    "reasoning.switched_off": "switched_off_is_reasoning",
    "reasoning.switched_off_stream": "stream_drops_text",
    "reasoning.token_count": "reasoning_uncounted",
    "reasoning.with_tools": "not_split",
    "reasoning.with_schema": "schema_ignored",
    "reasoning.parser_table": "parser_last_tag",
    "reasoning.completions_unsplit": "completions_split",
    "answers.needle": "needle_lost",
    **{f"endpoint.error_{case.name}": "accepts_errors" for case in CASES if not case.framework},
}

MORE_FAULTS: tuple[tuple[str, str], ...] = (
    ("endpoint.sse_framing", "after_done"),
    ("endpoint.sse_framing", "no_blank_line"),
    ("endpoint.sse_framing", "broken_utf8"),
    ("endpoint.sse_framing", "stream_content_type"),
    ("endpoint.sse_framing", "stream_cut"),
    ("endpoint.stream_form", "stream_ids_differ"),
    ("endpoint.stream_form", "wrong_role"),
    ("endpoint.usage_stream", "stream_usage_missing"),
    ("endpoint.usage_continuous", "continuous_missing"),
    ("endpoint.max_tokens", "completion_count_off"),
    ("endpoint.finish_reason", "finish_always_length"),
    ("endpoint.stop", "stop_ignored"),
    ("endpoint.logprobs", "logprobs_missing"),
    ("endpoint.long_context", "truncates"),
    ("endpoint.disconnect", "no_metrics"),
    ("endpoint.dialect", "error_shape"),
    ("endpoint.error_messages_empty", "errors_are_500"),
    ("endpoint.error_messages_empty", "error_shape"),
    ("endpoint.error_messages_empty", "error_silent"),
    ("endpoint.error_messages_empty", "dies_of_errors"),
    ("endpoint.parallel", "completion_count_off"),
    ("endpoint.several_tools", "tools_one_index"),
    ("reasoning.not_fed_back", "history_field_fed_back"),
    ("reasoning.empty", "logit_bias_ignored"),
    ("reasoning.switched_off", "switch_ignored"),
    ("reasoning.switched_off", "not_split"),
)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("check", list(ALL.values()), ids=lambda c: c.id)
def test_right_engine_is_green(check: Listed, engine: str) -> None:
    verdicts = run(check, engine=engine)
    assert worst(v.status for v in verdicts) in (Status.PASS, Status.SKIP), [v.text() for v in verdicts]
    for verdict in verdicts:
        assert verdict.check == check.id
        assert verdict.status is not Status.SKIP or verdict.reason


def _faults() -> Iterator[object]:
    for check, fault in (*FAULTS.items(), *MORE_FAULTS):
        yield pytest.param(ALL[check], fault, id=f"{check}-{fault}")


@pytest.mark.parametrize(("check", "fault"), list(_faults()))
def test_fault_turns_its_check_red(check: Listed, fault: str) -> None:
    engine = "sglang" if check.id in SGLANG_ONLY | {"endpoint.error_unknown_role"} else "vllm"
    verdicts = run(check, frozenset({fault}), engine)
    overall = worst(v.status for v in verdicts)
    assert overall.blocks, [v.text() for v in verdicts]
    assert all(v.reason or v.limit for v in verdicts if v.status.blocks)
    assert all(v.action for v in verdicts if v.status.blocks)


@pytest.mark.parametrize(
    ("faults", "status", "said"),
    [
        ({"thinks_long"}, Status.PASS, ""),
        ({"thinks_long", "mixes_answers"}, Status.FAIL, "got the answer of"),
        ({"thinks_for_ever"}, Status.UNKNOWN, "questions were answered within 512 tokens"),
    ],
)
def test_answers_of_a_model_that_thinks_longer_than_a_short_budget(faults: set[str], status: Status, said: str) -> None:
    """DeepSeek-R1 does: 0 of 32 answers were compared, and that was a pass."""
    (verdict,) = run(ALL["endpoint.parallel"], frozenset(faults))
    assert verdict.status is status, verdict.text()
    assert said in verdict.reason


OF_NO_TEXT = {
    *(f"endpoint.{name}" for name in ("models", "max_model_len", "health", "version", "auth", "max_tokens", "max_completion_tokens")),
    *(f"endpoint.usage_{name}" for name in ("prompt", "sum", "tokenizer", "stream", "continuous")),
    *(f"endpoint.{name}" for name in ("roles", "multi_turn", "finish_reason", "n", "long_context", "needle", "tool_call", "sse_framing")),
    *(f"endpoint.unicode_{name}" for name in ("chinese", "emoji", "right_to_left", "combining", "control")),
    *(f"endpoint.{name}" for name in ("long_line", "huge_body", "slow_client", "disconnect")),
    *("reasoning.not_fed_back", "reasoning.token_count", "reasoning.parser_table"),
    *(f"endpoint.error_{case.name}" for case in CASES),
}
"""Checks of counts, forms, refusals and of text that is sent: what the model says is nothing to them."""


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("check", [c for c in ALL.values() if c.id not in OF_NO_TEXT], ids=lambda c: c.id)
def test_an_engine_that_says_nothing_passes_no_check_of_text(check: Listed, engine: str) -> None:
    """Every text is empty, every count and form is right: equal, whole, in order and without a tag, for nothing was looked at."""
    verdicts = run(check, frozenset({"silent"}), engine)
    assert not [v.text() for v in verdicts if v.status in (Status.PASS, Status.WARN)]


@pytest.mark.parametrize("check", ["reasoning.no_tags", "reasoning.order", "reasoning.include_false", "reasoning.with_tools"])
def test_a_thought_without_an_end_shows_nothing_about_its_end(check: str) -> None:
    verdicts = run(ALL[check], frozenset({"thinks_for_ever"}))
    assert [v.status for v in verdicts] == [Status.UNKNOWN], [v.text() for v in verdicts]
    assert verdicts[0].looked_at == 0


@pytest.mark.parametrize("check", list(ALL.values()), ids=lambda c: c.id)
def test_a_pass_says_how_much_was_looked_at(check: Listed) -> None:
    assert all(v.looked_at for v in run(check) if v.status is Status.PASS)


def test_a_sample_that_came_in_one_lump_tells_no_token_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was held up reads 48 tokens at once: the stream was "about to end" then. Always in one lump, nothing is known."""
    lump, complete = types.SimpleNamespace(deltas=[types.SimpleNamespace(at_s=0.0)]), Api.complete
    for lumps, status in ((2, Status.PASS), (3, Status.UNKNOWN)):
        left = iter([lump] * lumps)

        def sampled(api: Api, *args: Any, **fields: Any) -> Any:
            held_up = next(left, None) if fields.get("max_tokens") == 48 else None  # noqa: B023
            return types.SimpleNamespace(ok=lambda: held_up) if held_up else complete(api, *args, **fields)

        monkeypatch.setattr(Api, "complete", sampled)
        (verdict,) = run(ALL["endpoint.disconnect"])
        assert verdict.status is status, verdict.text()


def test_every_check_has_its_fault() -> None:
    assert set(ALL) - set(FAULTS) == {"endpoint.worker_is_no_head"}, "tested below with two servers"


def test_second_head_is_found() -> None:
    with Engine() as head, Engine() as second:
        api = Api(context(head, worker_health_urls={"node02": second.url, "node03": "http://127.0.0.1:9"}))
        verdicts = {v.subject: v for v in ALL["endpoint.worker_is_no_head"].run(api)}
    assert verdicts["node02"].status is Status.FAIL
    assert verdicts["node03"].status is Status.PASS
    assert verdicts["node03"].details["health_ignored"] == "no port"


@pytest.mark.parametrize(("faults", "status"), [(set(), Status.PASS), ({"stupid"}, Status.FAIL), ({"not_split"}, Status.FAIL)])
def test_graded_set(faults: set[str], status: Status) -> None:
    with Engine(faults=frozenset(faults)) as server:
        verdicts, score = check_accuracy(Api(context(server)))
    assert [v.status for v in verdicts] == [status]
    assert score.n == 64
    if status is Status.PASS:
        assert score.right == 64
        assert verdicts[0].measured == pytest.approx(0.9434)


def test_failed_requests_are_no_wrong_answers() -> None:
    with Engine() as server:
        server.dead = True
        verdicts, _ = check_accuracy(Api(context(server, deadline_s=0.5, parallel=64)))
    assert verdicts[0].status is Status.UNKNOWN
    assert "64 of 64 requests failed" in verdicts[0].reason


def test_an_answer_that_did_not_come_is_marked_and_a_refused_connection_is_not() -> None:
    """A rehearsal may have been too busy to give the first; the second is no question of time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port, marked in ((silent.getsockname()[1], True), (9, False)):
            api = Api(EndpointContext(f"http://127.0.0.1:{port}", "vllm", "0.24.0", "m", deadline_s=0.2))
            (verdict,) = ALL["endpoint.completion"].run(api)
            assert verdict.status is Status.UNKNOWN
            assert verdict.details.get("unanswered") is marked, verdict.reason


def test_engine_that_is_gone_is_unknown_everywhere() -> None:
    for engine, version in (("vllm", "0.32.0"), ("sglang", "0.5.16")):
        api = Api(EndpointContext("http://127.0.0.1:9", engine, version, "m", deadline_s=2))  # type: ignore[arg-type]
        for check in ALL.values():
            verdict = worst(v.status for v in check.run(api))
            skipped = [v.reason for v in check.run(api) if v.status is Status.SKIP]
            assert verdict.blocks or skipped, check.id
            # What is skipped is skipped for the version or the profile, never because nobody answered.
            assert all("0.5.16" in r or "0.32.0" in r or "profile" in r or "no " in r for r in skipped), (check.id, skipped)
            assert not any("does not tell the id" in r or "unsplit" in r for r in skipped), (check.id, skipped)


def test_graded_set_without_a_server_is_unknown() -> None:
    verdicts, score = check_accuracy(Api(EndpointContext("http://127.0.0.1:9", "vllm", "0.32.0", "m", deadline_s=2)))
    assert [v.status for v in verdicts] == [Status.UNKNOWN]
    assert score.n == 0


def test_nothing_harmful_is_sent_to_sglang() -> None:
    """n > 1 and ids outside the vocabulary hurt SGLang 0.5.16: over all checks neither is ever sent."""
    with Engine("sglang", "0.5.16") as server:
        api = Api(context(server))
        for check in ALL.values():
            if check.id not in ("endpoint.disconnect", "endpoint.slow_client"):
                check.run(api)
        bodies = [body for _, body in server.asked if isinstance(body, dict)]
    assert len(bodies) > 100
    assert all(body.get("n", 1) <= 1 for body in bodies)
    ids = [i for body in bodies if isinstance(body.get("prompt"), list) for i in body["prompt"]]
    assert max(ids) < 2048


def test_structured_output_is_never_sent_to_sglang_on_cpu() -> None:
    with Engine("sglang", "0.5.16+cpu") as server:
        api = Api(context(server))
        names = ("endpoint.structured_output", "endpoint.error_bad_schema", "reasoning.with_schema", "endpoint.tool_call")
        verdicts = [v for name in names for v in ALL[name].run(api)]
        assert not server.asked
    assert {v.status for v in verdicts} == {Status.SKIP}


def test_evidence_holds_the_exchange_and_no_key() -> None:
    kept: dict[str, bytes] = {}

    def keep(name: str, data: bytes) -> str:
        kept[name] = data
        return f"evidence/{name}"

    with Engine(api_key="secret-key-1") as server:
        ctx = context(server, headers={"Authorization": "Bearer secret-key-1"}, evidence=keep)
        verdicts = ALL["endpoint.chat"].run(Api(ctx))
    assert verdicts[0].evidence == ("evidence/endpoint.chat.txt",)
    text = kept["endpoint.chat.txt"].decode()
    assert "POST /v1/chat/completions" in text
    assert "HTTP/1.1 200" in text
    assert "secret-key-1" not in text
