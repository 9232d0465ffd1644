from __future__ import annotations

import itertools
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.core.errors import UsageError
from pytest_h20.engines import VERSION_COMMANDS, ImageVersions, Version, dialect_for, parse_versions

ORDER = [
    "0.4.4",
    "0.5.10rc0",
    "0.5.10",
    "0.5.10.post1",
    "0.7.2",
    "0.8.2",
    "0.9.0.dev3+gabc",
    "0.9.0rc1",
    "0.9.0",
    "0.10.0",
    "0.10.1.1",
    "0.11.1",
    "0.32.0",
]


def test_versions_are_ordered_as_released() -> None:
    parsed = [Version.parse(text) for text in ORDER]
    assert [a < b and not b < a for a, b in itertools.pairwise(parsed)] == [True] * (len(parsed) - 1)
    assert [str(v) for v in parsed][3] == "0.5.10.post1"


def test_a_build_is_not_newer_than_its_release() -> None:
    cpu = Version.parse("0.32.0+cpu")
    assert cpu.is_cpu_build
    assert not Version.parse("0.32.0+cu129").is_cpu_build
    assert cpu.at_least("0.32.0")
    assert cpu.within("0.32.0", "0.33.0")
    assert cpu.below("0.32.1")
    assert cpu != Version.parse("0.32.0")
    assert Version.parse("v0.8") == Version.parse("0.8.0")


@pytest.mark.parametrize("text", ["", "latest", "0.8.2-cuda", "1..2", "ea52b45be1a7"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a version number"):
        Version.parse(text)


@given(st.text(max_size=40))
def test_foreign_text_gives_a_version_or_a_usage_error(text: str) -> None:
    try:
        version = Version.parse(text)
    except UsageError:
        return
    assert Version.parse(str(version)) == version


def test_version_command_runs_without_engine_and_is_read_back() -> None:
    done = subprocess.run(VERSION_COMMANDS, capture_output=True, text=True, timeout=60, check=True)
    versions = parse_versions("noise from an entrypoint\n" + done.stdout)
    assert versions.python is not None
    assert versions.engine("vllm") == versions.vllm


def test_versions_of_a_cpu_image() -> None:
    text = (
        'H20VERSIONS {"python": "3.11.7", "vllm": "0.32.0", "torch": "2.13.0+cpu", "cuda": null, "ray_importable": true, "ray": "2.60.0"}'
    )
    versions = parse_versions(text)
    assert versions == ImageVersions(vllm="0.32.0", torch="2.13.0+cpu", python="3.11.7", ray="2.60.0", ray_importable=True)
    assert versions.engine("vllm") == "0.32.0+cpu"
    assert versions.engine("sglang") is None


@pytest.mark.parametrize("text", ["", "sh: python3: not found", "H20VERSIONS {broken", "H20VERSIONS []"])
def test_no_versions_is_one_clear_error(text: str) -> None:
    with pytest.raises(UsageError, match="did not tell its versions"):
        parse_versions(text)


@pytest.mark.parametrize(
    ("engine", "version", "mode", "what"),
    [
        ("trtllm", "1.0", None, "trtllm"),
        ("vllm", "0.8.2", "mpi", "mpi"),
        ("sglang", "0.5.1", "ray", "SGLang"),
        ("vllm", "x", None, "version"),
    ],
)
def test_unknown_dialects_are_refused_with_what_is_accepted(engine: str, version: str, mode: str | None, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        dialect_for(engine, version, mode)
