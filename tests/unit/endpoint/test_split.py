"""A router in front of prefill and decode servers: what it tells, and what the checks make of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h20.cluster.http import HttpAnswer
from pytest_h20.core.errors import BringUpError
from pytest_h20.core.verdict import Status
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.split import told_version, versions_behind
from pytest_h20.load.reference import Generation, ReferenceReply, ReferenceRequest
from pytest_h20.rehearsal.server import EngineServer
from pytest_h20.run import bringup
from pytest_h20.run.bringup import running_version
from pytest_h20.run.kept import Kept
from tests.unit.checks.endpoint.running import ALL, context, run
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


GATEWAY = {"router_manager": True, "routers_count": 1, "workers_count": 2}
"""``/get_server_info`` of sglang_router 0.3.2 without ``--mini-lb``, before two engines; no ``/version``, no ``/server_info``."""
NO_IDS = "Failed to deserialize the JSON body into the target type: prompt: data did not match any variant of untagged enum StringOrArray"


def gateway(monkeypatch: pytest.MonkeyPatch, only: Callable[[EngineServer], bool] = lambda _: True) -> None:
    """Answers as that gateway gave them: of itself, to prompts of token ids, to paths and methods that it does not have."""
    handled = EngineServer._handled

    def other(self: EngineServer, request: ReferenceRequest) -> ReferenceReply | Generation | None:
        if not only(self):
            return handled(self, request)
        if request.path in ("/version", "/server_info", "/metrics"):
            return ReferenceReply(status=404)
        if request.path == "/get_server_info":
            return ReferenceReply(GATEWAY)
        if request.path == "/v1/models":
            return ReferenceReply({"object": "list", "data": [{"id": self.replies.model, "object": "model", "owned_by": "local"}]})
        if request.path == "/v1/completions" and b'"prompt": [' in request.body:
            return ReferenceReply(f"{NO_IDS} at line 1 column 96", 422, "text/plain; charset=utf-8")
        told = handled(self, request)
        status = getattr(told, "status", 200)
        return ReferenceReply(status=status) if status in (404, 405) and request.path != "/v1/chat/completions" else told

    monkeypatch.setattr(EngineServer, "_handled", other)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("check", "status", "why"),
    [
        ("endpoint.max_tokens", Status.SKIP, "takes no prompt of token ids"),
        ("endpoint.parallel", Status.SKIP, "takes no prompt of token ids"),
        ("endpoint.error_malformed_json", Status.PASS, ""),
        ("endpoint.error_unknown_path", Status.PASS, ""),
        ("endpoint.sse_framing", Status.PASS, ""),
        ("endpoint.version", Status.UNKNOWN, "passes no version on: the inventory's"),
        ("endpoint.models", Status.PASS, ""),
        ("endpoint.dialect", Status.PASS, ""),
        ("reasoning.empty", Status.SKIP, "takes no prompt of token ids"),
        ("endpoint.max_model_len", Status.UNKNOWN, "passes no max_model_len on"),
        ("reasoning.completions_unsplit", Status.PASS, ""),
    ],
)
def test_what_the_gateway_does_not_pass_on_is_told_as_that(
    engine: str, check: str, status: Status, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 46 checks told it as a fault of the engine, one as answers that are mixed up."""
    gateway(monkeypatch)
    (verdict,) = run(ALL[check], engine=engine)
    assert (verdict.status, why in verdict.reason) == (status, True), verdict.reason


def behind(check: str, *servers: Engine | str, **more: object) -> list[tuple[Status, str]]:
    """A check through that gateway, whose servers are named."""
    with Engine("sglang", "0.5.16", max_len=4096, faults=frozenset({"gateway"})) as front:
        ctx = context(front, servers=tuple(s if isinstance(s, str) else s.url for s in servers), **more)
        return [(v.status, v.subject + ": " + v.reason) for v in ALL[check].run(Api(ctx))]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """A gateway in front, and engines that answer as engines do."""
    gateway(monkeypatch, only=lambda self: self.replies.has("gateway"))
    with contextlib.ExitStack() as stack:
        yield lambda *version, **how: stack.enter_context(
            Engine("sglang", *version or ("0.5.16",), max_len=how.pop("max_len", 4096), **how)
        )


@pytest.mark.parametrize("check", ["endpoint.version", "endpoint.max_model_len"])
def test_what_the_gateway_does_not_tell_its_servers_do(check: str, engines: Callable[..., Engine]) -> None:
    assert [status for status, _ in behind(check, engines(), engines())] == [Status.PASS] * 2
    assert [status for status, _ in behind(check)] == [Status.UNKNOWN], "nobody was asked"
    other = engines("0.5.15") if check == "endpoint.version" else engines(max_len=2048)
    assert [status for status, _ in behind(check, engines(), other)] == [Status.PASS, Status.FAIL]
    ((status, why),) = behind(check, "http://127.0.0.1:9")
    assert status is Status.UNKNOWN
    assert why.startswith("127.0.0.1:9: ")
    ((status, why),) = behind(check, unmeasured_ok=("endpoint.*",))
    assert status is Status.SKIP
    assert "expect.unmeasured_ok" in why


def test_a_context_that_nobody_promises_is_not_asked_of_a_gateway(engines: Callable[..., Engine]) -> None:
    assert [status for status, _ in behind("endpoint.max_model_len", max_model_len=None)] == [Status.SKIP]
    assert [status for status, _ in behind("endpoint.max_model_len", engines(), max_model_len=None)] == [Status.PASS]


def test_ids_that_an_engine_refuses_are_no_gateways_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineServer, "_handled", lambda *_: ReferenceReply({"detail": [{"msg": "no ids"}]}, 422))
    (verdict,) = run(ALL["endpoint.max_tokens"])
    assert verdict.status is Status.FAIL


def test_behind_a_router_that_tells_nothing_the_inventory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a version every check was an error of its own, and the one in the inventory, to which it pointed, was not read."""

    def attached(
        version: str | None, inventory: str = "mine.yaml", servers: tuple[str, ...] = (), url: str = "http://router:3000/"
    ) -> tuple[str, str]:
        profile = SimpleNamespace(version=version, http_port=8000)
        head = SimpleNamespace(name="node01")
        target = SimpleNamespace(profile=profile, profile_name="tp16", engine="sglang", head=head, nodes=(head,), served_model="/m/R1")
        settings = SimpleNamespace(nodes=inventory, attach="http://router:3000")
        attach = SimpleNamespace(url=url, servers=servers, api_key_env=None) if servers else None
        known = SimpleNamespace(attach=attach, run_dir_on_node="/tmp")
        folder = SimpleNamespace(event=lambda *_, **__: None)
        session: Any = SimpleNamespace(inventory=known, settings=settings, folder=folder, target=lambda _: target)
        state = bringup.attach(session, "sglang")
        return state.model, state.versions.engine

    card = HttpAnswer(200, b'{"object":"list","data":[{"id":"unknown","object":"model","owned_by":"local"}]}')
    monkeypatch.setattr(bringup, "ask", lambda *_, **__: card)
    monkeypatch.setattr(bringup, "kept", lambda *_: Kept())
    monkeypatch.setattr(bringup, "nodes_of", lambda *_: {})
    monkeypatch.setattr(bringup, "run_id_of", lambda *_: "r")
    assert attached("0.5.23") == ("/m/R1", "0.5.23")
    assert attached("0.5.23", inventory="") == ("unknown", "0.5.23")
    with pytest.raises(BringUpError, match=r"http://router:3000 tells no engine version.*engines\.sglang\.profiles\.NAME\.version"):
        attached(None)
    monkeypatch.setattr(bringup, "running_version", lambda url, _: "0.5.16" if "server" in url else "")
    assert attached(None, servers=("http://down:1", "http://server:1")) == ("/m/R1", "0.5.16"), "the servers behind it tell"
    with pytest.raises(BringUpError, match="tells no engine version"):
        attached(None, servers=("http://server:1",), url="http://another:3000")
    monkeypatch.setattr(bringup, "running_version", lambda *_: "0.5.16")
    assert attached("0.5.10") == ("/m/R1", "0.5.16"), "what the server tells of itself holds"
    assert attached(None) == ("/m/R1", "0.5.16")
