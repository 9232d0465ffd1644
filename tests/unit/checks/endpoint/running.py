"""Every check of the API, and one of them against an engine with faults."""

from __future__ import annotations

from pytest_h20.checks.endpoint.catalog import ANSWERS, ENDPOINT, REASONING
from pytest_h20.checks.endpoint.frame import Listed
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from tests.unit.endpoint.engine import Engine

ALL = {listed.id: listed for listed in (*ENDPOINT, *REASONING, *ANSWERS)}


LONG = {"answers.needle"}


SLOW_TOKENS = {"endpoint.disconnect"}


WITH_SWITCH = {"reasoning.switched_off", "reasoning.switched_off_stream"}


WITH_TOOLS = {"endpoint.tool_call", "endpoint.several_tools", "reasoning.with_tools"}


def context(server: Engine, **more: object) -> EndpointContext:
    replies = server.replies
    given: dict[str, object] = {"max_model_len": replies.max_len, "deadline_s": 10.0, "answer_tokens": 512, **more}
    return EndpointContext(server.url, replies.engine, replies.version, replies.model, **given)  # type: ignore[arg-type]


def run(check: Listed, faults: frozenset[str] = frozenset(), engine: str = "vllm") -> list[Verdict]:
    """One check against an engine with these faults."""
    slow, key = check.id in SLOW_TOKENS, "secret" if check.id == "endpoint.auth" else ""
    server = Engine(
        engine,
        "0.5.16" if engine == "sglang" else "0.32.0",
        faults=faults,
        max_len=16_384 if check.id in LONG else 2048,
        token_s=0.001 if slow else 0.0,
        api_key=key,
        tool_parser=check.id in WITH_TOOLS,
        thinking_switch="thinking" if check.id in WITH_SWITCH else "",
    )
    with server:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        deadline_s = 1.0 if "dies_of_errors" in faults else 10.0
        ctx = context(
            server,
            headers=headers,
            tool_parser=server.replies.tool_parser,
            thinking_switch=server.replies.thinking_switch or None,
            deadline_s=deadline_s,
            time_scale=0.1 if slow else 1.0,
        )
        return check.run(Api(ctx))
