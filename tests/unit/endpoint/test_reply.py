"""Recorded answers of real servers, normalised: every surprise of the recordings is an expectation here."""

from __future__ import annotations

import pytest

from pytest_h20.checks.endpoint.reasoning import order_problems, tag_problems
from pytest_h20.checks.endpoint.wire import stream_problems
from pytest_h20.endpoint.client import load_sum
from pytest_h20.endpoint.reply import UnexpectedAnswer, read_error, read_reply, read_usage
from pytest_h20.engines.api import shape_for
from pytest_h20.engines.base import Version
from tests.unit.endpoint.recorded import SERVERS, everything, exchange, recorded

REASONING = "Compare the tenths digit: 9.8 has 8, 9.11 has 1. So 9.8 is larger.\n"
CONTENT = "\n\n9.8 is larger."


def _shape(server: str):  # type: ignore[no-untyped-def]
    engine, _, version = server.partition("-")
    return shape_for("sglang" if engine == "sglang" else "vllm", Version.parse(version))


@pytest.mark.parametrize("server", SERVERS)
class TestEveryServer:
    def test_split_and_its_field(self, server: str) -> None:
        reply = read_reply(recorded(server, "chat-basic")).ok()
        assert (reply.choice.reasoning, reply.choice.content, reply.choice.finish) == (REASONING, CONTENT, "stop")
        assert reply.seen.reasoning_fields == set(_shape(server).reasoning_fields)
        assert reply.seen.tool_calls == {_shape(server).tool_calls_when_empty}
        assert (reply.counts.prompt, reply.counts.completion, reply.counts.total) == (18, 36, 54)

    def test_cut_while_reasoning(self, server: str) -> None:
        choice = read_reply(recorded(server, "chat-cut-in-reasoning")).choice
        assert (choice.reasoning, choice.finish) == ("Compare the tenths digit: 9.", "length")
        assert choice.content == (None if _shape(server).truncated_content == "null" else "")

    def test_stream_adds_up_and_is_framed(self, server: str) -> None:
        reply = read_reply(recorded(server, "chat-stream-usage")).ok()
        assert (reply.choice.reasoning, reply.choice.content, reply.choice.finish) == (REASONING, CONTENT, "stop")
        assert reply.choice.role == "assistant"
        assert [u.completion for u in reply.usage_chunks] == [36]
        assert reply.seen.reasoning_fields == set(_shape(server).reasoning_fields)
        assert not stream_problems(reply.exchange)
        assert not order_problems(reply)
        assert not tag_problems(reply.choice)
        assert len(reply.ids) == 1

    def test_stream_cut_while_reasoning(self, server: str) -> None:
        reply = read_reply(recorded(server, "chat-stream-cut-in-reasoning")).ok()
        assert reply.choice.reasoning == "Compare the tenths digit: 9."
        assert not reply.choice.content
        assert reply.choice.finish == "length"

    def test_two_choices(self, server: str) -> None:
        reply = read_reply(recorded(server, "chat-n2")).ok()
        assert [c.index for c in reply.choices] == [0, 1]
        assert reply.counts.completion == 72

    def test_logprobs(self, server: str) -> None:
        choice = read_reply(recorded(server, "chat-logprobs")).choice
        assert choice.logprobs is not None
        assert "".join(t.token for t in choice.logprobs) == choice.said == "Compare the tenths digit:"
        assert all(len(t.top) == 3 and t.logprob == t.top[0][1] for t in choice.logprobs)

    def test_continuous_usage_rises(self, server: str) -> None:
        reply = read_reply(recorded(server, "chat-stream-continuous-usage")).ok()
        counts = [d.usage.completion for d in reply.deltas if d.usage is not None and d.usage.completion is not None]
        assert counts == sorted(counts)
        assert counts[-1] in (35, 36)

    @pytest.mark.parametrize("name", ["err-messages-not-list", "err-empty-messages"])
    def test_refusals_have_the_shape_of_the_version(self, server: str, name: str) -> None:
        reply = read_reply(recorded(server, name))
        assert reply.error is not None
        assert reply.error.status == 400
        assert reply.error.message
        assert reply.error.style == _shape(server).error_style
        with pytest.raises(UnexpectedAnswer, match="400"):
            reply.ok()

    def test_unknown_model(self, server: str) -> None:
        reply = read_reply(recorded(server, "err-wrong-model"))
        assert (reply.error is not None) is _shape(server).unknown_model_refused

    def test_array_as_body(self, server: str) -> None:
        assert recorded(server, "err-json-not-object").status == _shape(server).array_body_status

    def test_wrong_method_is_the_framework_speaking(self, server: str) -> None:
        answer = recorded(server, "err-get-chat")
        assert (answer.status, read_error(answer.status, answer.body).style) == (405, "detail")


def test_separate_reasoning_false_is_sglangs() -> None:
    joined = read_reply(recorded("sglang-0.5.16", "chat-separate-reasoning-false")).choice
    assert joined.reasoning is None
    assert joined.content == f"{REASONING}</think>{CONTENT}"
    assert len(tag_problems(joined)) == 1
    assert read_reply(recorded("vllm-0.32.0", "chat-separate-reasoning-false")).choice.reasoning == REASONING


def test_include_reasoning_false_is_vllms() -> None:
    assert read_reply(recorded("vllm-0.32.0", "chat-include-reasoning-false")).choice.reasoning is None
    assert read_reply(recorded("sglang-0.5.16", "chat-include-reasoning-false")).choice.reasoning == REASONING


def test_reasoning_tokens_at_both_places() -> None:
    assert read_reply(recorded("sglang-0.5.16", "chat-basic")).counts.reasoning == 27
    assert read_reply(recorded("sglang-0.5.16", "chat-cut-in-reasoning")).counts.reasoning == 8
    assert read_reply(recorded("vllm-0.32.0", "chat-basic")).counts.reasoning == 0
    assert read_reply(recorded("vllm-0.24.0", "chat-basic")).counts.reasoning is None


def test_sglang_finish_chunk_stands_apart() -> None:
    assert read_reply(recorded("sglang-0.5.16", "chat-stream-usage")).seen.finish_on == {"own-chunk"}
    assert read_reply(recorded("vllm-0.32.0", "chat-stream-cut-in-reasoning")).seen.finish_on == {"text-chunk"}


def test_matched_stop_under_both_names() -> None:
    assert read_reply(recorded("sglang-0.5.16", "chat-basic")).choice.matched_stop == 2
    assert read_reply(recorded("sglang-0.5.16", "chat-stop-string")).choice.matched_stop == "larger"
    assert read_reply(recorded("vllm-0.32.0", "chat-stop-string")).choice.matched_stop == "larger"


def test_completion_logprobs_are_parallel_lists() -> None:
    choice = read_reply(recorded("sglang-0.5.16", "completion-logprobs-echo")).choice
    assert choice.logprobs is not None
    assert choice.logprobs[0].logprob is None
    assert choice.logprobs[-1].token == "*"


def test_error_inside_a_stream_with_status_200() -> None:
    reply = read_reply(recorded("sglang-0.5.16", "generate-stream-err-too-long"))
    assert reply.status == 200
    assert reply.error is not None
    assert "longer than the model's context" in reply.error.message
    with pytest.raises(UnexpectedAnswer, match="context"):
        reply.ok()


@pytest.mark.parametrize(
    ("name", "style", "message"),
    [
        ("nokey-chat", "string", "Unauthorized"),
        ("get-v1_models_no-such-model", "nested", "does not exist"),
        ("get-no-such-path", "detail", "Not Found"),
        ("err-json-not-object", "text", "Internal Server Error"),
        ("tokenize", "text", "Internal Server Error"),
    ],
)
def test_sglangs_other_error_bodies(name: str, style: str, message: str) -> None:
    answer = recorded("sglang-0.5.16", name)
    error = read_error(answer.status, answer.body)
    assert (error.style, message in error.message) == (style, True)


def test_load_routes() -> None:
    import json

    assert load_sum(json.loads(recorded("sglang-0.5.16", "get-load-during-16").body)) == 17
    assert load_sum(json.loads(recorded("sglang-0.5.16", "get-v1_loads-during-16").body)) == 17
    assert load_sum({"loads": []}) is None
    assert load_sum([{"num_reqs": None}]) is None


def test_both_reasoning_fields_are_seen() -> None:
    body = b'{"choices":[{"message":{"role":"assistant","content":"c","reasoning":"r","reasoning_content":"r"}}]}'
    assert read_reply(exchange(200, "application/json", body)).seen.reasoning_fields == {"reasoning", "reasoning_content"}


def test_tool_calls_of_a_stream_are_put_together() -> None:
    parts = [
        '{"index":0,"id":"a","function":{"name":"f","arguments":""}}',
        '{"index":0,"function":{"arguments":"{\\"x\\""}}',
        '{"index":0,"function":{"arguments":":1}"}}',
    ]
    body = "".join(f'data: {{"choices":[{{"index":0,"delta":{{"tool_calls":[{p}]}}}}]}}\n\n' for p in parts) + "data: [DONE]\n\n"
    choice = read_reply(exchange(200, "text/event-stream", body.encode())).choice
    assert [(c.name, c.arguments, c.id) for c in choice.tool_calls] == [("f", '{"x":1}', "a")]


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"null", b"3"])
def test_a_200_without_an_object_is_unexpected(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_reply(exchange(200, "application/json", body)).ok()


def test_usage_of_other_kinds_is_none() -> None:
    assert read_usage(None) is None
    usage = read_usage({"prompt_tokens": True, "completion_tokens": "3"})
    assert usage is not None
    assert (usage.prompt, usage.completion) == (None, None)


def test_all_recordings_can_be_read() -> None:
    count = 0
    for name, item, answer in everything():
        if name.endswith("client-disconnect"):
            continue
        try:
            reply = read_reply(answer)
        except UnexpectedAnswer as error:
            pytest.fail(f"{name}: {error}")
        count += 1
        assert (reply.error is None) == (answer.status == 200), name
        if reply.stream is not None:
            assert not stream_problems(answer), name
        body = item["request"].get("body")
        natural = isinstance(body, dict) and not body.get("ignore_eos") and body.get("separate_reasoning", True)
        if reply.error is None and natural and "chat" in item["request"]["path"] and reply.exchange.status == 200:
            assert not order_problems(reply), name
    if not count:
        pytest.skip("the recordings are not here (H20_SHARED)")
    assert count > 200
