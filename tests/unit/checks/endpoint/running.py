"""Every check of the API, and one of them against an engine with faults."""

from __future__ import annotations

import dataclasses

from pytest_h20.checks.endpoint.catalog import ANSWERS, ENDPOINT, REASONING
from pytest_h20.checks.endpoint.checking import Listed
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from tests.unit.endpoint.fake_engine import FakeEngine

ALL = {listed.id: listed for listed in (*ENDPOINT, *REASONING, *ANSWERS)}


LONG = {"answers.needle"}


SLOW_TOKENS = {"endpoint.disconnect"}


WITH_TOOLS = {"endpoint.tool_call", "reasoning.with_tools"}


def context(fake: FakeEngine, **more: object) -> EndpointContext:
    given: dict[str, object] = {"max_model_len": fake.max_len, "deadline_s": 10.0, "time_scale": 0.1, "answer_tokens": 512, **more}
    given["time_scale"] = 1.0
    return EndpointContext(fake.url, fake.engine, fake.version, fake.model, **given)  # type: ignore[arg-type]


def run(check: Listed, faults: frozenset[str] = frozenset(), engine: str = "vllm") -> list[Verdict]:
    """One check against an engine with these faults."""
    fake = FakeEngine(
        engine=engine,
        version="0.5.16" if engine == "sglang" else "0.32.0",
        faults=faults,
        max_len=16_384 if check.id in LONG else 2048,
        token_s=0.001 if check.id in SLOW_TOKENS else 0.0,
        api_key="secret" if check.id == "endpoint.auth" else "",
        tool_parser=check.id in WITH_TOOLS,
    )
    with fake:
        headers = {"Authorization": "Bearer secret"} if fake.api_key else {}
        slots = {"time_scale": 0.1} if check.id in SLOW_TOKENS else {}
        ctx = dataclasses.replace(context(fake, headers=headers, tool_parser=fake.tool_parser), **slots)  # type: ignore[arg-type]
        return check.run(Api(ctx))
