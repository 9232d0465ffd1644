from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.errors import UsageError
from pytest_h20.limits import coverage, limits_hash, load_limits, parse_limits, require_coverage
from pytest_h20.load.cells import matrix

ROOT = Path(__file__).parents[2]
THRESHOLDS = ROOT / "environments" / "thresholds"
SHARED = Path(os.environ.get("H20_SHARED", str(ROOT.parent / "shared")))
MATRIX = [cell.id for cell in matrix()]
HEAD = "name: x\norigin: {kind: file}\nmetrics: {output_throughput: {kind: min, unit: tok/s}}\n"
ROW = "cells: [{input: 128, output: 128, concurrency: 1, output_throughput: 17}]\n"


@pytest.mark.parametrize("name", ["sglang-default", "vllm-blog"])
def test_shipped_limits_fit_the_default_matrix(name: str) -> None:
    limits = load_limits(THRESHOLDS / f"{name}.yaml")
    assert len(limits.cells) == 26
    assert coverage(MATRIX, limits).problems == []
    for cell in MATRIX:
        limit = limits.cell(cell)["output_throughput"]
        assert limit.kind == "min"
        assert limit.origin.detail


def test_the_write_ups_rows_are_the_write_ups() -> None:
    source = SHARED / "seed" / "blog-2h20-deepseek-r1.md"
    if not source.exists():
        pytest.skip("the write-up is not in this checkout (shared/seed)")
    pattern = re.compile(
        r"^\|\s*(\d+)\s*\|\s*([\d.]+)\s*\|\s*[\d.]+\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|", re.M
    )
    rows = pattern.findall(source.read_text(encoding="utf-8"))
    assert len(rows) == 26
    limits = load_limits(THRESHOLDS / "sglang-default.yaml")
    for concurrency, ttft, throughput, tpot, input_len, output_len in rows:
        cell = f"in{input_len}-out{output_len}-c{concurrency}"
        assert limits.written(cell, "output_throughput") == float(throughput)
        assert limits.written(cell, "mean_tpot_ms") == float(tpot)
        assert limits.written(cell, "mean_ttft_ms") == float(ttft)


def test_gpus_are_found_by_pci_id() -> None:
    limits = load_limits(THRESHOLDS / "h20-skus.yaml")
    h20 = limits.check("environment.memory_bandwidth", "10DE:2329")
    assert h20 is not None
    assert h20.value == 1507000
    assert h20.origin.kind == "vendor"
    assert limits.check("environment.memory_bandwidth", "10de:ffff") is None
    assert limits.check("environment.memory_bandwidth") is None


def test_a_gpus_own_row_comes_before_the_common_one() -> None:
    text = (
        HEAD
        + "checks: {environment.x: {kind: min, value: 1}}\n"
        + "skus: {'10de:2329': {name: H20, checks: {environment.x: {kind: min, value: 2}}}}"
    )
    limits = parse_limits(text, "x.yaml")
    values = [limit.value for limit in (limits.check("environment.x", pci) for pci in (None, "10de:0000", "10de:2329")) if limit]
    assert values == [1, 1, 2]


@pytest.mark.parametrize(
    ("spec", "accepted", "refused"),
    [
        ("{kind: min, value: 10}", 10, 9.9),
        ("{kind: min, value: 10, tolerance: 0.1}", 9.0, 8.9),
        ("{kind: max, value: 10, tolerance: 0.2}", 12.0, 12.1),
        ("{kind: within, value: 10, tolerance: 0.1}", 10.9, 11.1),
        ("{kind: ratio, value: 0.9, reference: 100}", 90, 89),
        ("{kind: equal, value: ACTIVE}", "ACTIVE", "DOWN"),
        ("{kind: one_of, value: [3, 5]}", 5, 4),
        ("{kind: min, value: 100, n: 5, spread: 0.01, drop: 0.1}", 95, 94.9),
    ],
)
def test_kinds(spec: str, accepted: object, refused: object) -> None:
    limit = parse_limits(HEAD + f"checks: {{a.b: {spec}}}", "x.yaml").check("a.b")
    assert limit is not None
    assert limit.accepts(accepted) is True
    assert limit.accepts(refused) is False
    assert limit.accepts(None) is None


def test_a_cell_may_override_its_metric() -> None:
    text = (
        HEAD
        + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: {value: 5, tolerance: 0.5, origin: {kind: vendor}}}]"
    )
    limit = parse_limits(text, "x.yaml").cell("in1-out1-c1")["output_throughput"]
    assert (limit.kind, limit.value, limit.unit, limit.origin.kind) == ("min", 2.5, "tok/s", "vendor")


def test_a_calibrated_value_has_a_baseline_and_a_plain_one_has_none() -> None:
    text = HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: {value: 5, n: 4, spread: 0.02, drop: 0.1}}]"
    baseline = parse_limits(text, "x.yaml").baseline("in1-out1-c1", "output_throughput")
    assert baseline is not None
    assert (baseline.mean, baseline.n, baseline.spread, baseline.drop) == (5.0, 4, 0.02, 0.1)
    assert parse_limits(HEAD + ROW, "x.yaml").baseline("in128-out128-c1", "output_throughput") is None


def test_both_sides_of_coverage_are_errors() -> None:
    limits = parse_limits(HEAD + ROW, "x.yaml")
    found = coverage(["in128-out128-c2"], limits)
    assert found.without_limit == ("in128-out128-c2",)
    assert found.without_cell == ("in128-out128-c1",)
    with pytest.raises(UsageError, match=r"x\.yaml: cells without a judged limit: in128-out128-c2; limits without a cell"):
        require_coverage(["in128-out128-c2"], limits, "x.yaml")
    require_coverage(["in128-out128-c1"], limits, "x.yaml")


def test_a_cell_that_is_only_recorded_is_not_covered() -> None:
    limits = parse_limits(HEAD.replace("kind: min", "kind: info") + ROW, "x.yaml")
    assert coverage(["in128-out128-c1"], limits).without_limit == ("in128-out128-c1",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a limits file is a mapping"),
        ("[1]", "a limits file is a mapping"),
        ("a: [", "not valid YAML"),
        ("name: x\nname: y", "key 'name' is given twice"),
        ("name: x\norigin: {kind: file}", "no limit in it"),
        ("name: x\n" + ROW, "origin: missing"),
        (HEAD + "cells: [{input: 128, output: 128, concurrency: 1}]", "in128-out128-c1 has no limit"),
        (HEAD + "cells: [{input: 128, output: 128, concurrency: 0, output_throughput: 1}]", "concurrency = 0"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, ttft: 5}]", "ttft: its kind is not known"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: fast}]", '"fast": kind min needs a number'),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: 0}]", "accepts anything"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: {value: 5, n: 5}}]", "n without the rest"),
        (HEAD + ROW + "speed: 1", "speed: unknown field"),
        (
            HEAD + ROW.replace("]", ", {input: 128, output: 128, concurrency: 1, output_throughput: 9}]"),
            "in128-out128-c1 is given twice",
        ),
        (HEAD + "checks: {a.b: {kind: ratio, value: 0.9}}", "needs reference"),
        (HEAD + "checks: {a.b: {kind: one_of, value: 3}}", "needs a list"),
        (HEAD + "checks: {a.b: {kind: atleast, value: 3}}", 'kind = "atleast"'),
        (HEAD + "checks: {a.b: {kind: equal}}", "needs a value"),
        (HEAD + "skus: {H20: {name: H20, checks: {}}}", "skus.H20"),
        ("schema_version: 2\n" + HEAD + ROW, "schema_version = 2"),
    ],
)
def test_wrong_files_are_refused_with_file_field_and_value(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_limits(text, "x.yaml")
    lines = str(error.value).splitlines()
    assert any(said in line for line in lines), lines
    assert all(line.startswith("x.yaml") for line in lines)


def test_json_is_taken_too(tmp_path: Path) -> None:
    data = {"name": "x", "origin": {"kind": "file"}, "checks": {"a.b": {"kind": "min", "value": 1}}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    assert load_limits(path).check("a.b") is not None
    path.write_text('{"name": "x", "name": "y"}')
    with pytest.raises(UsageError, match="given twice"):
        load_limits(path)
    path.write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        load_limits(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such limits file"):
        load_limits(tmp_path / "none.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_limits(tmp_path / "bin.yaml")


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert limits_hash(tmp_path / "a").startswith("e3b0c44298fc1c14")


def refusal(text: str, source: str) -> str:
    """What is said about a text; its source when it is taken. Anything but our own error escapes."""
    try:
        parse_limits(text, source)
    except UsageError as error:
        return str(error)
    return source


@given(st.text(max_size=200))
def test_no_text_gives_a_traceback(text: str) -> None:
    for source in ("x.yaml", "x.json"):
        assert refusal(text, source).startswith(source)


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["metrics", "cells", "checks", "skus", "origin", "name"]), YAML_VALUES)
def test_no_shape_gives_a_traceback(field: str, value: object) -> None:
    data = {"name": "x", "origin": {"kind": "file"}, "checks": {"a.b": {"kind": "min", "value": 1}}, field: value}
    assert refusal(json.dumps(data), "x.json").startswith("x.json")
