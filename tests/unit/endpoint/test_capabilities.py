"""Which version is asked for what; the catalogue; the context; the docs list every check."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.checks.endpoint.catalog import ALONE, ANSWERS, ENDPOINT, REASONING, all_ids
from pytest_h20.checks.endpoint.reasoning import ROWS
from pytest_h20.checks.endpoint.serving import with_served_version
from pytest_h20.core.errors import UsageError
from pytest_h20.endpoint.capabilities import TABLE, capability, skip_reason
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.engines.base import Version
from tests.unit.endpoint.engine import Engine


@pytest.mark.parametrize(
    ("engine", "version", "name", "outcome"),
    [
        ("sglang", "0.5.16", "n", "harmful"),
        ("vllm", "0.32.0", "n", "supported"),
        ("sglang", "0.5.16", "out_of_vocabulary", "harmful"),
        ("vllm", "0.32.0+cpu", "out_of_vocabulary", "refused"),
        ("vllm", "0.8.2", "out_of_vocabulary", "harmful"),
        ("sglang", "0.5.16", "structured_output", "supported"),
        ("sglang", "0.5.16+cpu", "structured_output", "harmful"),
        ("vllm", "0.32.0+cpu", "structured_output", "supported"),
        ("vllm", "0.10.0", "include_reasoning", "accepted_silently"),
        ("vllm", "0.10.1", "include_reasoning", "supported"),
        ("sglang", "0.4.4", "logit_bias", "accepted_silently"),
        ("sglang", "0.5.16", "logit_bias", "supported"),
        ("vllm", "0.24.0", "unknown_role", "accepted_silently"),
    ],
)
def test_rows(engine: str, version: str, name: str, outcome: str) -> None:
    row = capability(engine, Version.parse(version), name)  # type: ignore[arg-type]
    assert row.outcome == outcome


def test_no_two_rows_speak_about_the_same_version() -> None:
    versions = [Version.parse(v) for v in ("0.4.4", "0.5.16", "0.5.16+cpu", "0.7.2", "0.10.0", "0.24.0", "0.32.0+cpu", "0.33.0")]
    for engine in ("vllm", "sglang"):
        for version in versions:
            names = [row.name for row in TABLE if row.applies(engine, version)]
            assert len(names) == len(set(names)), (engine, str(version))


def test_every_reason_names_version_and_source() -> None:
    for row in TABLE:
        assert row.source
        if row.outcome in ("harmful", "accepted_silently"):
            assert row.note
    reason = skip_reason("sglang", Version.parse("0.5.16"), "n")
    assert reason is not None
    assert "sglang 0.5.16" in reason
    assert "SIGTERM" in reason
    assert skip_reason("vllm", Version.parse("0.32.0"), "out_of_vocabulary", "refused") is None
    assert skip_reason("vllm", Version.parse("0.32.0"), "parse_route") is not None


def test_ids_are_unique_and_belong_to_their_gate() -> None:
    ids = all_ids()
    assert len(set(ids)) == len(ids)
    assert all(c.id.startswith("endpoint.") for c in ENDPOINT)
    assert all(c.id.startswith("reasoning.") for c in REASONING)
    assert all(c.id.startswith("answers.") for c in ANSWERS)
    assert set(ids) >= ALONE
    assert ENDPOINT[-1].id == "endpoint.dialect"


def test_docs_list_every_check() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "checks-endpoint.md").read_text(encoding="utf-8")
    missing = [check for check in all_ids() if f"`{check}`" not in text]
    assert not missing
    assert not [row.id for row in ROWS if f"`{row.id}`" not in text]


@pytest.mark.parametrize("url", ["", "10.0.0.1:8000", "ftp://x", "http://"])
def test_context_refuses_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="endpoint URL"):
        EndpointContext(url, "vllm", "0.32.0", "m")


@pytest.mark.parametrize(("engine", "version"), [("vllm", "0.32.0"), ("sglang", "0.5.16")])
def test_unknown_version_is_asked_of_the_server(engine: str, version: str) -> None:
    with Engine(engine, version) as server:
        for unknown in ("", "0"):
            ctx = EndpointContext(server.url, engine, unknown, server.replies.model, deadline_s=5)  # type: ignore[arg-type]
            assert with_served_version(ctx).version == version
        kept = EndpointContext(server.url, engine, "0.11.0", server.replies.model)  # type: ignore[arg-type]
        assert with_served_version(kept) is kept


def test_version_nobody_tells_is_a_usage_error() -> None:
    ctx = EndpointContext("http://127.0.0.1:9", "vllm", "0", "m", deadline_s=1)
    with pytest.raises(UsageError, match="tells no version"):
        with_served_version(ctx)
