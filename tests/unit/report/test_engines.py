"""Several engines of one run: whose verdict, gates of each, who is faster, in sentence, columns and terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_h20.core.verdict import GateName, Status, Verdict
from pytest_h20.report.compare import Comparison, Side, compare
from pytest_h20.report.engines import comparisons, engine_of, gates_by_engine, network, sentence
from pytest_h20.report.github import step_summary
from pytest_h20.report.html.page import run_page
from pytest_h20.report.model import CellRow, CheckRow, Fingerprint, RunView
from pytest_h20.report.run import RunFolder
from pytest_h20.report.terminal import terminal_lines
from tests.unit.conftest import Sample
from tests.unit.report import samples
from tests.unit.report.pages import Page, read

TWINS = ("sglang", "sglang:tuned", "vllm")


def check(test_id: str = "", subject: str = "", **details: str) -> CheckRow:
    return CheckRow(check="rdma.x", status=Status.PASS, title="x", test_id=test_id, subject=subject, details=dict(details))


@pytest.mark.parametrize(
    ("found", "owner"),
    [
        (check("t.py::test_a[vllm]"), "vllm"),
        (check("t.py::test_a[vllm-node01]"), "vllm"),
        (check("t.py::test_a[sglang:tuned-node01-mlx5_1]"), "sglang:tuned"),
        (check("t.py::test_a[sglang-tuned-node01]"), "sglang"),
        (check("t.py::test_a[in128-vllm]"), ""),
        (check("t.py::test_vllm"), ""),
        (check("session::tear-down", "sglang:tuned"), "sglang:tuned"),
        (check("", "sglang in128-out128-c1"), "sglang"),
        (check("t.py::test_a[x]", engine="vllm"), "vllm"),
        (check("t.py::test_a[node01]", "node01"), ""),
    ],
)
def test_a_verdict_is_the_engines_that_its_test_names(found: CheckRow, owner: str) -> None:
    assert engine_of(found, TWINS) == owner


def made(base: Path, *more: tuple[Verdict, str]) -> RunView:
    run: RunFolder = samples.start(base, TWINS[1:], required=(GateName.ENVIRONMENT, GateName.RDMA))
    for engine in TWINS[1:]:
        run.record(Verdict(check="environment.x", status=Status.PASS, title="x"), f"t.py::test_e[{engine}]")
        run.record(Verdict(check="rdma.x", status=Status.PASS, title="x"), f"t.py::test_x[{engine}-node01]")
    for verdict, test_id in more:
        run.record(verdict, test_id)
    return run.finish()


def test_a_gate_is_red_for_the_engine_that_failed_it_only(tmp_path: Path) -> None:
    view = made(tmp_path, (Verdict(check="rdma.y", status=Status.FAIL, title="y", reason="sockets"), "t.py::test_y[vllm]"))
    found = gates_by_engine(view)
    assert {e: g.status for e, g in found[GateName.RDMA].items()} == {"sglang:tuned": Status.PASS, "vllm": Status.FAIL}
    assert {e: g.status for e, g in found[GateName.ENVIRONMENT].items()} == dict.fromkeys(TWINS[1:], Status.PASS)
    line = next(line.text for line in terminal_lines(view) if line.text.startswith("rdma"))
    assert "FAILED (sglang:tuned passed, vllm FAILED): sockets" in line
    assert any(line.text.startswith("environment  passed (all 2 engines)") for line in terminal_lines(view))
    assert "Gate sglang:tuned vllm" in read(view).text
    assert "✗ fails vllm sockets" in read(view).text, "and whose the check is"


def test_what_is_about_no_engine_counts_for_all(tmp_path: Path) -> None:
    view = made(tmp_path, (Verdict(check="environment.y", status=Status.FAIL, title="y", subject="node01"), "t.py::test_own"))
    assert {g.status for g in gates_by_engine(view)[GateName.ENVIRONMENT].values()} == {Status.FAIL}


def test_a_required_gate_without_verdicts_of_an_engine_is_not_passed(tmp_path: Path) -> None:
    run = samples.start(tmp_path, TWINS[1:], required=(GateName.RDMA,))
    run.record(Verdict(check="rdma.x", status=Status.PASS, title="x"), "t.py::test_x[vllm]")
    found = gates_by_engine(run.finish())[GateName.RDMA]
    assert {e: g.status for e, g in found.items()} == {"sglang:tuned": Status.UNKNOWN, "vllm": Status.PASS}


def test_an_engine_on_one_node_has_no_rdma_gate(tmp_path: Path) -> None:
    """``--engine=sglang:single --engine=sglang:default``: of the first every check of RDMA is skipped."""
    run = samples.start(tmp_path, TWINS[1:], required=(GateName.RDMA,))
    run.record(Verdict(check="rdma.x", status=Status.PASS, title="x"), "t.py::test_x[vllm]")
    run.record(Verdict(check="rdma.x", status=Status.SKIP, title="x", reason="one node"), "t.py::test_x[sglang:tuned]")
    view = run.finish()
    assert {e: g.status for e, g in gates_by_engine(view)[GateName.RDMA].items()} == {"vllm": Status.PASS}
    assert "not run" in read(view).text


def test_one_engine_has_no_columns(sample: Sample) -> None:
    assert gates_by_engine(sample("clean")) == {}
    assert "Engine against engine" not in read(sample("clean")).text
    assert not any("faster" in line.text for line in terminal_lines(sample("clean")))


# ---------------------------------------------------------------- what the network costs


def one_and_two(tmp_path: Path, *, cost: Mapping[str, float] | None, single: float = 38.9, nodes: str = "1") -> RunView:
    """``sglang:single`` and ``sglang:default`` in one cell of one stream; the second takes 55.6 ms a token."""
    labels = ("sglang:single", "sglang:default")
    run = samples.start(tmp_path, labels)
    for label, tpot in zip(labels, (single, 55.6), strict=True):
        figures = {"output_throughput": 1e3 / tpot, "mean_tpot_ms": tpot, "status": Status.PASS}
        run.add(CellRow.model_validate({"engine": label, "input_len": 128, "output_len": 128, "concurrency": 1, **figures}))
    if cost is not None:
        told = Verdict(check="fabric.tpot_cost", title="x", status=Status.PASS, measured=4.7, details={"by_batch_ms": dict(cost)})
        run.record(told, "t.py::test_all_reduce[sglang:default]")
    known = Fingerprint(engines={labels[0]: {"nodes": nodes}, labels[1]: {"nodes": "2"}})
    run.fingerprint(known)
    return run.finish()


def said(view: RunView) -> str:
    (pair,) = comparisons(view)
    return network(view, pair)


def test_the_network_s_part_of_the_difference(tmp_path: Path) -> None:
    text = said(one_and_two(tmp_path, cost={"1": 4.7, "8": 5.2}))
    assert text == (
        "all-reduces over 2 nodes cost sglang:default 4.7 of 55.6 ms a token in in128-out128-c1 (8 %), where sglang:default is "
        "16.7 ms slower than sglang:single: the network is 28 % of that"
    )


@pytest.mark.parametrize(
    ("cost", "single", "words"),
    [
        ({"1": 20.0}, 38.9, "the network is 100 % of that"),
        ({"1": 4.7}, 60.0, "is 4.4 ms faster than sglang:single all the same"),
        ({"8": 4.7}, 38.9, "was not measured"),
        ({}, 38.9, "was not measured"),
        (None, 38.9, "what the network costs sglang:default was not measured: fabric.tpot_cost and the same cell"),
    ],
)
def test_more_than_all_nothing_and_not_measured(tmp_path: Path, cost: dict[str, float] | None, single: float, words: str) -> None:
    assert words in said(one_and_two(tmp_path, cost=cost, single=single))


def test_engines_on_as_many_nodes_differ_by_something_else(tmp_path: Path) -> None:
    view = one_and_two(tmp_path, cost={"1": 4.7}, nodes="2")
    assert said(view) == ""
    assert not any("all-reduces over" in line.text for line in terminal_lines(view))


# ---------------------------------------------------------------- the sentence


def held(one: Mapping[int, float | None], other: Mapping[int, float | None], doubt: int = 0) -> Comparison:
    """Two engines with tok/s by concurrency; ``doubt``: a level that the second could not measure."""

    def of(name: str, figures: Mapping[int, float | None]) -> Side:
        cells = [
            CellRow(
                engine=name,
                input_len=128,
                output_len=128,
                concurrency=at,
                output_throughput=figure,
                status=Status.UNKNOWN if at == doubt and name == "b" else Status.PASS,
            )
            for at, figure in figures.items()
        ]
        return Side(name, {c.name: c for c in cells}, {})

    return compare(of("a", one), of("b", other))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            {1: 20.5, 8: 100.0, 64: 500.0},
            {1: 7.35, 8: 85.0, 64: 501.0},
            "a is faster than b in 2 of 3 cells by more than noise, most in in128-out128-c1: 20.5 against 7.35 tok/s, 2.8 times; "
            "in 1 the difference is noise",
        ),
        (
            {1: 10.0, 8: 100.0},
            {1: 12.0, 8: 60.0},
            "b is faster than a in 1 of 2 cells by more than noise, most in in128-out128-c1: 12 against 10 tok/s, 20 % more; "
            "a in 1, most in in128-out128-c8: 100 against 60 tok/s, 67 % more",
        ),
        (
            {1: 10.0},
            {1: 10.1},
            "a and b are equally fast: no difference beyond noise in 1 cell (largest: b +1.0 % in in128-out128-c1)",
        ),
        ({1: 10.0}, {8: 10.0}, "a and b have no cell that both measured: their speed cannot be compared"),
        ({1: 10.0}, {1: None}, "a and b have no cell that both measured: their speed cannot be compared"),
    ],
)
def test_who_is_faster_where_and_by_how_much(one: Mapping[int, float | None], other: Mapping[int, float | None], said: str) -> None:
    assert sentence(held(one, other)) == said


def test_a_cell_that_could_not_be_measured_makes_nobody_faster() -> None:
    said = sentence(held({1: 10.0, 8: 100.0}, {1: 10.0, 8: 30.0}, doubt=8))
    assert "equally fast" in said
    assert said.endswith("; 1 cell not measured on both")


def test_engines_are_columns_with_their_names(sample: Sample) -> None:
    view = sample("two_engines")
    text = read(view).text
    assert "sglang is faster than vllm in 18 of 26 cells by more than noise" in text
    assert "Cell sglang vllm in128-out128-c1 18.25 tok/s" in text
    assert "Old" not in Page(run_page(view)).text.split("Engine against engine")[1].split("Throughput and latency")[0]
    assert any("sglang is faster than vllm" in line.text for line in terminal_lines(view))
    assert "\nsglang is faster than vllm in 18 of 26 cells" in step_summary(view)
