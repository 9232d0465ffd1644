"""The stored parsers against facts known from elsewhere: usage texts of real servers and the catalogue's version table."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from pytest_h20.engines import EngineName, Version
from pytest_h20.engines.flags import load, neighbours, stored_versions, table_for, unknown

V = Version.parse


def test_a_good_spread_of_versions_is_stored() -> None:
    assert {"0.7.2", "0.8.2", "0.11.1", "0.24.0", "0.33.0"} <= {str(v) for v in stored_versions("vllm")}
    assert {"0.4.4", "0.4.10", "0.5.10", "0.5.16", "0.5.23"} <= {str(v) for v in stored_versions("sglang")}
    assert len(stored_versions("vllm")) > 30
    assert len(stored_versions("sglang")) > 20


@pytest.mark.parametrize(
    ("engine", "flag", "first", "gone"),
    [
        ("vllm", "enable-reasoning", "0.7.2", "0.10.0"),
        ("vllm", "max-seq-len-to-capture", "0.7.2", "0.11.0"),
        ("vllm", "headless", "0.9.0", None),
        ("vllm", "nnodes", "0.11.1", None),
        ("vllm", "swap-space", "0.7.2", "0.18.1"),
        ("vllm", "num-scheduler-steps", "0.7.2", "0.10.1"),
        ("vllm", "device", "0.7.2", "0.10.0"),
        ("vllm", "disable-log-requests", "0.7.2", "0.17.1"),
        ("vllm", "enable-log-requests", "0.10.1", None),
        ("vllm", "attention-backend", "0.13.0", None),
        ("vllm", "disable-custom-all-reduce", "0.7.2", None),
        ("vllm", "port", "0.7.2", None),
        ("sglang", "reasoning-parser", "0.4.4", None),
        ("sglang", "disable-mla", "0.4.4", "0.4.6"),
        ("sglang", "skip-server-warmup", "0.4.10", None),
        ("sglang", "attn-dp-size", "0.5.22", None),
        ("sglang", "cuda-graph-max-bs-decode", "0.5.14", None),
        ("sglang", "enable-metrics", "0.4.4", None),
    ],
)
def test_options_come_and_go_where_the_sources_say(engine: EngineName, flag: str, first: str, gone: str | None) -> None:
    for version in stored_versions(engine):
        expected = version.at_least(first) and (gone is None or version.below(gone))
        assert (flag in load(engine, version).flags) is expected, f"{engine} {version}"


@pytest.mark.parametrize(
    ("engine", "version", "flag", "kind"),
    [
        ("vllm", "0.8.2", "enable-chunked-prefill", "boolean"),
        ("vllm", "0.8.5", "enable-chunked-prefill", "negatable"),
        ("vllm", "0.24.0", "enable-chunked-prefill", "negatable"),
        ("vllm", "0.7.2", "enforce-eager", "switch"),
        ("vllm", "0.24.0", "enforce-eager", "negatable"),
        ("vllm", "0.24.0", "max_model_len", "value"),
        ("vllm", "0.24.0", "no-enable-chunked-prefill", "negatable"),
        ("sglang", "0.5.16", "trust-remote-code", "switch"),
        ("sglang", "0.5.16", "tp", "value"),
        ("sglang", "0.5.16", "disable-cuda-graph", "switch"),
        ("sglang", "0.5.3", "enable-ep-moe", "removed"),
        ("sglang", "0.5.22", "enable-dp-attention", "switch"),
    ],
)
def test_kinds(engine: EngineName, version: str, flag: str, kind: str) -> None:
    assert load(engine, V(version)).kind(flag) == kind


def test_reasoning_parsers_are_known() -> None:
    assert all("deepseek_r1" in load("vllm", v).reasoning_parsers for v in stored_versions("vllm"))
    assert all("deepseek-r1" in load("sglang", v).reasoning_parsers for v in stored_versions("sglang"))


@pytest.mark.parametrize(
    ("engine", "version", "options", "aliases", "parsers", "digest"),
    [
        ("vllm", "0.7.2", 130, 5, 1, "940e9eca163c6149"),
        ("vllm", "0.10.1", 169, 12, 8, "fb297e83eaa9baa9"),
        ("vllm", "0.24.0", 266, 23, 27, "89ed341c941b1b7a"),
        ("vllm", "0.33.0", 320, 24, 42, "e002d7b79460131e"),
        ("sglang", "0.4.4", 108, 4, 1, "a0590ad4613ae8ee"),
        ("sglang", "0.5.3", 246, 8, 8, "5ec3e9c72b506805"),
        ("sglang", "0.5.16", 460, 13, 24, "322c70d1563d957f"),
        ("sglang", "0.5.23", 531, 16, 36, "bc0a72d89ee181d4"),
    ],
)
def test_the_bands_give_the_list_that_was_read_from_the_wheel(
    engine: EngineName, version: str, options: int, aliases: int, parsers: int, digest: str
) -> None:
    table = load(engine, V(version))
    assert (len(table.flags), len(table.aliases), len(table.reasoning_parsers)) == (options, aliases, parsers)
    said = json.dumps([dict(table.flags), dict(table.aliases), table.reasoning_parsers])
    assert hashlib.sha256(said.encode()).hexdigest().startswith(digest)


def test_an_option_may_change_its_kind_and_go() -> None:
    kinds = [load("sglang", V(version)).kind("enable-ep-moe") for version in ("0.4.4", "0.5.2", "0.5.3", "0.5.4", "0.5.5")]
    assert kinds == ["switch", "switch", "removed", "removed", None]


def test_only_versions_that_were_read_have_a_list_of_their_own() -> None:
    with pytest.raises(KeyError):
        load("vllm", V("0.10.1.1"))


def test_neighbours_decide_for_versions_in_between_and_never_beyond() -> None:
    below, above = neighbours("vllm", V("0.10.1.1"))
    assert below is not None
    assert above is not None
    assert (str(below.version), str(above.version)) == ("0.10.1", "0.10.2")
    assert unknown("vllm", V("0.10.1.1"), "no-such-flag")
    assert not unknown("vllm", V("0.99.0"), "no-such-flag")
    assert not unknown("vllm", V("0.5.0"), "no-such-flag")
    newest = table_for("vllm", V("0.99.0"))
    assert newest is not None
    assert newest.version == stored_versions("vllm")[-1]


def test_cpu_builds_and_post_releases_read_their_release() -> None:
    table = table_for("vllm", V("0.32.0+cpu"))
    assert table is not None
    assert str(table.version) == "0.32.0"


def shared() -> Path:
    return Path(os.environ.get("H20_SHARED", Path(__file__).resolve().parents[4] / "shared"))


def test_every_option_of_a_real_usage_text_is_stored() -> None:
    log = shared() / "transcripts" / "sglang-0.5.16-h200" / "bad-start" / "unknown-flag.server.log"
    if not log.exists():
        pytest.skip(f"no recorded usage text at {log}")
    usage = log.read_text(encoding="utf-8", errors="replace").split("sglang serve: error")[0]
    printed = set(re.findall(r"--([a-z0-9][\w-]*)", usage[usage.index("usage:") :]))
    table = load("sglang", V("0.5.16"))
    missing = {option for option in printed if table.name(option) is None}
    assert len(printed) > 400
    assert missing == set()
