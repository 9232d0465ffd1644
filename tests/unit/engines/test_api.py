from __future__ import annotations

import pytest

from pytest_h20.engines import Version
from pytest_h20.engines.api import ApiShape, shape_for


def vllm(version: str) -> ApiShape:
    return shape_for("vllm", Version.parse(version))


def sglang(version: str) -> ApiShape:
    return shape_for("sglang", Version.parse(version))


@pytest.mark.parametrize(
    ("version", "fields", "errors", "tools", "health"),
    [
        ("0.7.2", ("reasoning_content",), "flat", "empty-list", "engine-alive"),
        ("0.8.2", ("reasoning_content",), "flat", "empty-list", "constant"),
        ("0.10.0", ("reasoning_content",), "flat", "empty-list", "engine-alive"),
        ("0.10.1", ("reasoning_content",), "nested", "empty-list", "engine-alive"),
        ("0.11.1", ("reasoning", "reasoning_content"), "nested", "empty-list", "engine-alive"),
        ("0.15.1", ("reasoning", "reasoning_content"), "nested", "empty-list", "engine-alive"),
        ("0.16.0", ("reasoning",), "nested", "empty-list", "engine-alive"),
        ("0.24.0", ("reasoning",), "nested", "omitted", "engine-alive"),
        ("0.33.0", ("reasoning",), "nested", "omitted", "engine-alive"),
    ],
)
def test_vllm_over_versions(version: str, fields: tuple[str, ...], errors: str, tools: str, health: str) -> None:
    shape = vllm(version)
    assert (shape.reasoning_fields, shape.error_style, shape.tool_calls_when_empty, shape.health) == (
        fields,
        errors,
        tools,
        health,
    )
    assert shape.unknown_model_refused
    assert shape.version_route == "/version"


def test_sglang_over_versions() -> None:
    old, new = sglang("0.4.4"), sglang("0.5.16")
    assert old.reasoning_fields == new.reasoning_fields == ("reasoning_content",)
    assert (old.health, new.health) == ("constant", "forward-pass")
    assert (old.version_route, new.version_route) == ("/get_server_info", "/server_info")
    assert (old.models_has_max_model_len, new.models_has_max_model_len) == (False, True)
    assert (old.tokenize_route, new.tokenize_route) == (None, "/v1/tokenize")
    assert (500 in old.malformed_status, 500 in new.malformed_status) == (True, False)
    assert not new.unknown_model_refused
    assert new.reasoning_tokens_path == ("reasoning_tokens",)
