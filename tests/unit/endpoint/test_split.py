"""A router in front of prefill and decode servers: what it tells, and what the checks make of it."""

from __future__ import annotations

import pytest

from pytest_h20.core.verdict import Status
from pytest_h20.endpoint.split import told_version, versions_behind
from pytest_h20.load.reference import Generation, ReferenceReply, ReferenceRequest
from pytest_h20.rehearsal.server import EngineServer
from pytest_h20.run.bringup import running_version
from tests.unit.checks.endpoint.running import ALL, run
from tests.unit.endpoint.engine import Engine

ROUTER = {"internal_states": [{"last_gen_throughput": 0.0}], "prefill": [{"version": "0.5.23"}], "decode": [{"version": "0.5.23"}]}
"""As sglang_router 0.3.2 answered (its mini_lb)."""


@pytest.mark.parametrize(
    ("info", "version"),
    [
        (ROUTER, "0.5.23"),
        ({"version": "0.5.16", "model_path": "/m"}, "0.5.16"),
        ({**ROUTER, "decode": [{"version": "0.5.24"}]}, "0.5.24"),
        ({"prefill": [{"version": "0.5.23"}], "decode": []}, "0.5.23"),
        ({"prefill": [], "decode": []}, ""),
        ({"prefill": [None, {"version": 5}], "decode": "x"}, ""),
        ({}, ""),
        (None, ""),
        ([ROUTER], ""),
    ],
)
def test_the_version_is_its_own_or_that_of_the_servers_behind(info: object, version: str) -> None:
    assert told_version(info) == version


def test_servers_of_several_versions_are_named() -> None:
    behind = versions_behind({**ROUTER, "decode": [{"version": "0.5.23"}, {"version": "0.5.22"}]})
    assert behind is not None
    assert behind.differ == "prefill 0.5.23, decode 0.5.23, decode 0.5.22"
    same = versions_behind(ROUTER)
    assert same is not None
    assert not same.differ
    assert versions_behind({"version": "0.5.23"}) is None


def test_an_attached_router_has_a_version() -> None:
    with Engine("sglang", "0.5.16", faults=frozenset({"router"})) as server:
        assert running_version(server.url, {}) == "0.5.16"


@pytest.mark.parametrize(
    ("check", "status", "why"),
    [
        ("endpoint.version", Status.PASS, ""),
        ("endpoint.disconnect", Status.SKIP, "the router in front of prefill and decode has no /metrics"),
        ("reasoning.parser_table", Status.SKIP, "the router in front of prefill and decode has no /separate_reasoning"),
        ("reasoning.split", Status.PASS, ""),
        ("endpoint.usage_tokenizer", Status.PASS, ""),
        ("endpoint.error_prompt_too_long", Status.PASS, ""),
        ("endpoint.error_prompt_too_long_stream", Status.WARN, "the router answered 200 before its servers had"),
    ],
)
def test_what_a_router_cannot_show_is_skipped_with_the_reason(check: str, status: Status, why: str) -> None:
    verdicts = run(ALL[check], frozenset({"router"}), "sglang")
    assert [v.status for v in verdicts] == [status] * len(verdicts)
    assert all(why in v.reason for v in verdicts)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"object": "error", "message": "too long", "code": 400}', Status.WARN, "passed their refusal on as the stream"),
        (b'data: {"error": {"message": "too long", "code": 400}}\n\ndata: [DONE]\n\n', Status.WARN, "passed their refusal on"),
        (b"", Status.FAIL, "status 200 instead of a 4xx"),
        (b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\n', Status.FAIL, "status 200 instead of a 4xx"),
        (b'{"object": "error", "message": "dead", "code": 500}', Status.FAIL, "status 200 instead of a 4xx"),
        (b'{"object": "error", "message": "", "code": 400}', Status.FAIL, "status 200 instead of a 4xx"),
    ],
)
def test_a_refusal_that_a_router_hides_in_a_stream(body: bytes, status: Status, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is swallowed, or is an answer, or is the death of a server, is no refusal."""
    answer_the_stream(monkeypatch, 200, body)
    (verdict,) = run(ALL["endpoint.error_prompt_too_long_stream"], frozenset({"router"}), "sglang")
    assert verdict.status is status
    assert says in verdict.reason


def test_the_same_from_an_engine_without_a_router_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_the_stream(monkeypatch, 200, b'{"object": "error", "message": "too long", "code": 400}')
    (verdict,) = run(ALL["endpoint.error_prompt_too_long_stream"], frozenset(), "sglang")
    assert (verdict.status, "status 200 instead of a 4xx" in verdict.reason) == (Status.FAIL, True)


@pytest.mark.parametrize(("faults", "status"), [({"router"}, Status.PASS), (set(), Status.FAIL)])
def test_the_gateway_words_refusals_anew(faults: set[str], status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """sglang-model-gateway, pd_router.rs: the status is kept, the body is its own and in a stream no JSON."""
    answer_the_stream(monkeypatch, 400, b'data: {\'error\': {"message": {"message": "too long"}, "status": 400}}')
    (verdict,) = run(ALL["endpoint.error_prompt_too_long_stream"], frozenset(faults), "sglang")
    assert verdict.status is status


def answer_the_stream(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    """To a streamed request whose prompt is refused: this."""
    handled = EngineServer._handled

    def other(self: EngineServer, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        told = handled(self, request)
        refused = isinstance(told, ReferenceReply) and b'"stream": true' in request.body and b"error" in told.encode()
        return ReferenceReply(body, status, "text/event-stream") if refused else told

    monkeypatch.setattr(EngineServer, "_handled", other)
