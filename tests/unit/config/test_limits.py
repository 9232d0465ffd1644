from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.config.figures import CHECK_FIGURES, METRIC_FIGURES
from pytest_h20.config.limits import coverage, load_limits, parse_limits, require_coverage, require_fit, stricter
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.load.cells import matrix

ROOT = Path(__file__).parents[3]
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
    pattern = re.compile(r"^\|\s*(\d+)\s*\|\s*([\d.]+)\s*\|\s*[\d.]+\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|", re.M)
    rows = pattern.findall(source.read_text(encoding="utf-8"))
    assert len(rows) == 26
    limits = load_limits(THRESHOLDS / "sglang-default.yaml")
    for concurrency, ttft, throughput, tpot, input_len, output_len in rows:
        cell = f"in{input_len}-out{output_len}-c{concurrency}"
        assert limits.written(cell, "output_throughput") == float(throughput)
        assert limits.written(cell, "mean_tpot_ms") == float(tpot)
        assert limits.written(cell, "mean_ttft_ms") == float(ttft)


def test_floors_of_checks_that_do_not_exist_are_refused() -> None:
    text = HEAD + "skus: {'10de:2329': {name: H20, checks: {environment.sm_stress: {kind: min, value: 17700}}}}"
    with pytest.raises(UsageError, match=r"skus: 10de:2329: environment\.sm_stress: there is no such figure to limit; there are"):
        parse_limits(text, "x.yaml")


def test_every_shipped_floor_is_of_a_check_that_exists() -> None:
    limits = load_limits(THRESHOLDS / "h20-skus.yaml")
    assert list(limits.checks_limited) == ["compute.gemm_fp32", "compute.hbm", "compute.power"]
    found = limits.check("compute.hbm", "10de:2329")
    assert found is not None
    assert (found.value, found.unit) == (1580, "GB/s")


def test_a_gpus_own_row_comes_before_the_common_one() -> None:
    text = (
        HEAD
        + "checks: {environment.gpu_memory: {kind: min, value: 100}}\n"
        + "skus: {'10de:2329': {name: H20, checks: {environment.gpu_memory: {kind: min, value: 200}}}}"
    )
    limits = parse_limits(text, "x.yaml")
    found = (limits.check("environment.gpu_memory", pci) for pci in (None, "10de:0000", "10DE:2329"))
    assert [limit.value for limit in found if limit] == [100, 100, 200]


def test_a_gpu_without_a_row_is_told() -> None:
    limits = parse_limits(HEAD + "skus: {'10de:2329': {name: H20, checks: {environment.gpu_memory: {value: 200}}}}", "x.yaml")
    assert limits.without_row("environment.gpu_memory", "10de:2329") == ""
    assert limits.without_row("environment.swap", None) == ""
    assert limits.without_row("environment.gpu_memory", "10de:2330") == "limits 'x' have no row for GPU 10de:2330; they have 10de:2329"
    assert list(limits.checks_limited) == ["environment.gpu_memory"]


@pytest.mark.parametrize(
    ("check", "spec", "accepted", "refused"),
    [
        ("fabric.all_reduce", "{value: 10}", 10, 9.9),
        ("fabric.all_reduce", "{kind: min, value: 10, tolerance: 0.1}", 9.0, 8.9),
        ("environment.swap", "{value: 10}", 10, 10.1),
        ("environment.swap", "{kind: max, value: 10, tolerance: 0.2}", 12.0, 12.1),
        ("fabric.rate", "{kind: within, value: 10, tolerance: 0.1}", 10.9, 11.1),
        ("fabric.rate", "{kind: ratio, value: 0.9, reference: 100}", 90, 89),
        ("fabric.rate", "{kind: min, value: 100, n: 5, spread: 0.01, drop: 0.1}", 95, 94.9),
    ],
)
def test_kinds(check: str, spec: str, accepted: object, refused: object) -> None:
    limit = parse_limits(HEAD + f"checks: {{{check}: {spec}}}", "x.yaml").check(check)
    assert limit is not None
    assert limit.accepts(accepted) is True
    assert limit.accepts(refused) is False
    assert limit.accepts(None) is None


@pytest.mark.parametrize("metric", METRIC_FIGURES)
def test_the_direction_is_the_figures_and_not_the_files(metric: str) -> None:
    figure = METRIC_FIGURES[metric]
    opposite = "max" if figure.bound == "min" else "min"
    head = "name: x\norigin: {kind: file}\ncells: [{input: 1, output: 1, concurrency: 1, "
    limit = parse_limits(head + f"{metric}: 50}}]", "x.yaml").cell("in1-out1-c1")[metric]
    assert (limit.kind, limit.unit) == (figure.bound, figure.unit)
    for wrong in (f"{{kind: {opposite}, value: 50}}", "{value: 50, unit: us}", "{value: 50, tolerance: 0.99}", "{value: 1.0e12}"):
        with pytest.raises(UsageError, match=r"x\.yaml"):
            parse_limits(head + f"{metric}: {wrong}}}]", "x.yaml")
    for rule in (f"{{kind: {opposite}}}", f"{{kind: {figure.bound}, unit: us}}", f"{{kind: {figure.bound}, tolerance: 0.99}}"):
        with pytest.raises(UsageError, match=r"x\.yaml"):
            parse_limits(f"metrics: {{{metric}: {rule}}}\n{head}{metric}: 50}}]", "x.yaml")


@pytest.mark.parametrize("check", CHECK_FIGURES)
def test_a_check_cannot_be_limited_the_wrong_way_round(check: str) -> None:
    figure = CHECK_FIGURES[check]
    opposite = "max" if figure.bound == "min" else "min"
    high = figure.high
    for wrong in (f"{{kind: {opposite}, value: {high}}}", f"{{value: {high}, unit: parsec}}", f"{{value: {2 * high}}}"):
        with pytest.raises(UsageError, match=f"checks: {check}"):
            parse_limits(HEAD + f"checks: {{{check}: {wrong}}}", "x.yaml")


FOR = HEAD + "engine: sglang\nprofile: [default, tuned]\nmodel: deepseek-r1\nkind: lab\n" + ROW


def test_a_file_written_for_something_else_is_refused_with_field_value_and_what_is_accepted() -> None:
    limits = parse_limits(FOR, "x.yaml")
    require_fit(limits, "x.yaml", engine="sglang", profile="tuned", model=("deepseek-r1",), kind="lab")
    require_fit(limits, "x.yaml", engine="sglang", profile="", model=("", "/m/DeepSeek-R1-0528"), kind="")
    with pytest.raises(UsageError) as error:
        require_fit(limits, "x.yaml", engine="vllm", profile="blog", model=("other", "/m/qwen"), kind="hardware")
    said = str(error.value).splitlines()
    assert [line.split(":")[1].split("=")[0].strip() for line in said] == ["engine", "profile", "model", "kind"]
    assert "add it: profile: [default, tuned, blog]" in said[1]
    assert all(line.startswith("x.yaml: ") for line in said)


def test_figures_of_hardware_may_judge_its_stand_in_and_never_the_other_way_round() -> None:
    for written, run, fits in (("hardware", "rehearsal", True), ("hardware", "lab", False), ("rehearsal", "hardware", False)):
        limits = parse_limits(HEAD + f"kind: {written}\n" + ROW, "x.yaml")
        assert (not limits.unfit(engine="sglang", profile="p", kind=run)) is fits


AT_LEAST = Limit(kind="min", value=150, unit="GB/s", origin=Origin(kind="file"))


def bandwidth(status: Status, measured: float | None, limit: Limit | None = None) -> Verdict:
    return Verdict(check="fabric.all_reduce", status=status, title="t", measured=measured, limit=limit, reason="why")


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (bandwidth(Status.PASS, 160.0, AT_LEAST.model_copy(update={"value": 100})), Status.PASS),
        (bandwidth(Status.PASS, 120.0, AT_LEAST.model_copy(update={"value": 100})), Status.FAIL),
        (bandwidth(Status.FAIL, 160.0, AT_LEAST.model_copy(update={"value": 170})), Status.FAIL),  # never better
        (bandwidth(Status.WARN, 160.0), Status.WARN),
        (bandwidth(Status.SKIP, 160.0), Status.PASS),  # "recorded only" is judged now
        (bandwidth(Status.SKIP, 120.0), Status.FAIL),
        (bandwidth(Status.SKIP, None), Status.UNKNOWN),  # a limit that nothing is held against
        (bandwidth(Status.PASS, 2.0, Limit(kind="max", value=3, unit="links", origin=AT_LEAST.origin)), Status.PASS),
    ],
)
def test_a_file_makes_a_check_stricter_and_never_laxer(verdict: Verdict, status: Status) -> None:
    assert stricter(verdict, AT_LEAST).status is status
    assert stricter(verdict, None) is verdict


def test_a_cell_may_override_its_metric() -> None:
    text = HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: {value: 5, tolerance: 0.5, origin: {kind: vendor}}}]"
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
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, ttft: 5}]", "ttft: there is no such figure to limit"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: fast}]", '"fast": kind min needs a number'),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: 0}]", "accepts anything"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, output_throughput: {value: 5, n: 5}}]", "n without the rest"),
        (HEAD + ROW + "speed: 1", "speed: unknown field"),
        (
            HEAD + ROW.replace("]", ", {input: 128, output: 128, concurrency: 1, output_throughput: 9}]"),
            "in128-out128-c1 is given twice",
        ),
        (HEAD + "checks: {fabric.rate: {kind: ratio, value: 0.9}}", "needs reference"),
        (HEAD + "checks: {fabric.rate: {kind: one_of, value: 3}}", 'kind = "one_of"'),
        (HEAD + "checks: {fabric.rate: {kind: atleast, value: 3}}", 'kind = "atleast"'),
        (HEAD + "checks: {fabric.rat: {kind: min, value: 3}}", "fabric.rat: there is no such figure to limit; there are answers.accuracy"),
        (HEAD + "cells: [{input: 1, output: 1, concurrency: 1, mean_tpot_ms: 55600}]", "is it in another unit?"),
        (HEAD + "skus: {H20: {name: H20, checks: {}}}", "skus.H20"),
        ("schema_version: 2\n" + HEAD + ROW, "schema_version = 2"),
    ],
)
def test_wrong_files_are_refused_with_file_field_and_value(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_limits(text, "x.yaml")
    lines = str(error.value).splitlines()
    assert any(said in line for line in lines), lines
    assert lines[0].startswith("x.yaml")
    assert all(line.startswith(("x.yaml", "    ")) for line in lines)  # indented: the line itself, a caret, a hint


def test_json_is_taken_too(tmp_path: Path) -> None:
    data = {"name": "x", "origin": {"kind": "file"}, "checks": {"fabric.rate": {"kind": "min", "value": 1}}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    assert load_limits(path).check("fabric.rate") is not None
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
    data = {"name": "x", "origin": {"kind": "file"}, "checks": {"fabric.rate": {"kind": "min", "value": 1}}, field: value}
    assert refusal(json.dumps(data), "x.json").startswith("x.json")


def test_any_percentile_can_be_limited_and_asked_for() -> None:
    limits = parse_limits(HEAD + "cells: [{input: 1, output: 1, concurrency: 1, p75_ttft_ms: 5, p99.9_itl_ms: 9}]", "x.yaml")
    assert limits.percentiles == (75.0, 99.9)
    assert {m: (found.kind, found.value) for m, found in limits.cell("in1-out1-c1").items()} == {
        "p75_ttft_ms": ("max", 5),
        "p99.9_itl_ms": ("max", 9),
    }
    for wrong in ("p0_ttft_ms", "p100_ttft_ms", "p99.5_ttft_ms", "p75_throughput"):
        with pytest.raises(UsageError, match="any percentile of a time, as p75_ttft_ms"):
            parse_limits(HEAD + f"cells: [{{input: 1, output: 1, concurrency: 1, {wrong}: 5}}]", "x.yaml")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{of: mean_ttft_ms}", "of and factor belong together"),
        ("{unit: ms}", "kind is missing"),
        ("{of: mean_nothing_ms, factor: 10}", "no such figure"),
        ("{kind: min, of: mean_ttft_ms, factor: 10}", "lower is better"),
    ],
)
def test_a_derived_limit_names_a_figure_and_a_factor(rule: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_limits(f"name: x\norigin: {{kind: file}}\nmetrics: {{p99_ttft_ms: {rule}}}\n{ROW}", "x.yaml")


def test_every_row_of_the_write_up_has_its_tails() -> None:
    limits = load_limits(THRESHOLDS / "sglang-default.yaml")
    for name in limits.cell_ids:
        assert {"p99_ttft_ms", "p99_itl_ms"} <= limits.cell(name).keys()
        assert limits.cell(name)["p99_itl_ms"].origin.kind == "derived"
