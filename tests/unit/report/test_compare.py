from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.cli.compare import main
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.report.compare import Side, compare, of_figure, side, text, words
from pytest_h20.report.model import CellRow, Late
from pytest_h20.report.stats import Change
from tests.unit.conftest import Sample
from tests.unit.report import samples


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Accepted, not accepted, and a tenth slower, in this order of time."""
    base = tmp_path_factory.mktemp("runs")
    first = samples.clean(base, seed=31)
    second = samples.faulty(base)
    third = samples.clean(base, level=0.95, seed=32)
    return [first.path, second.path, third.path]


def test_a_run_against_itself_shows_nothing(sample: Sample) -> None:
    one = side(sample("clean"))
    result = compare(one, one)
    assert result.slower == result.faster == ()
    assert result.differences == ()
    assert all(not o.change.significant for o in result.overall)


def test_a_tenth_less_is_seen_in_every_figure(runs: list[Path], sample: Sample) -> None:
    from pytest_h20.report.run import load_run

    result = compare(side(load_run(runs[0])), side(load_run(runs[2])), run_spread=0.01)
    assert [o.change.high < 1 for o in result.overall] == [True, True, False], "of TTFT a tenth is noise"
    assert result.slower
    assert result.faster == ()
    assert "lower, worse" in "\n".join(text(result))


def test_an_assumed_spread_is_told(sample: Sample) -> None:
    one = side(sample("clean"))
    assert "ASSUMED" in text(compare(one, one))[-1]
    assert "ASSUMED" not in text(compare(one, one, run_spread=0.01))[-1]


def test_a_shorter_time_is_lower_and_better() -> None:
    seen = Change(1.25, 1.2, 1.3)
    assert of_figure(seen, "mean_tpot_ms")[0] == pytest.approx(-20.0)
    assert words(seen, "mean_tpot_ms").startswith("20.0 % lower, better")
    assert words(seen, "output_throughput").startswith("25.0 % higher, better")


def test_engines_of_one_run_differ_by_what_they_are(sample: Sample) -> None:
    view = sample("two_engines")
    result = compare(side(view, "sglang"), side(view, "vllm"))
    facts = {d.fact: (d.old, d.new) for d in result.differences}
    assert facts["engine"] == ("sglang", "vllm")
    assert facts["engine version"] == ("0.4.4", "0.8.2")
    assert len(result.cells) == 78


def test_an_engine_must_be_named_when_there_are_several(sample: Sample) -> None:
    with pytest.raises(UsageError, match="@sglang"):
        side(sample("two_engines"))
    with pytest.raises(UsageError, match="'trtllm' is not in this run"):
        side(sample("two_engines"), "trtllm")


def test_figures_missing_on_one_side_are_left_out_not_guessed(sample: Sample) -> None:
    result = compare(side(sample("clean")), side(sample("faulty")))
    missing = [c for c in result.cells if c.change is None]
    assert {c.cell for c in missing} == {"in128-out128-c32"}
    assert ("weights", "pass") not in [(g, a) for g, a, b in result.gates if a != b]


def test_nothing_in_common_is_said(sample: Sample) -> None:
    result = compare(side(sample("clean")), side(sample("aborted")))
    assert any("cannot be compared" in line for line in text(result))


def changed(one: Side, cell: str, **fields: object) -> Side:
    """A side with fields of one cell replaced."""
    return replace(one, cells={**one.cells, cell: one.cells[cell].model_copy(update=fields)})


def three(sample: Sample) -> Side:
    one = side(sample("clean"))
    return replace(one, cells={name: one.cells[name] for name in list(one.cells)[:3]})


def test_a_clear_drop_in_one_cell_of_three_is_the_headline(sample: Sample) -> None:
    old = three(sample)
    name, cell = list(old.cells.items())[1]
    assert cell.output_throughput is not None
    result = compare(old, changed(old, name, output_throughput=0.7 * cell.output_throughput, windows=()))
    assert not any(o.change.significant for o in result.overall), "the mean hides it"
    assert result.headline.startswith(f"WORSE in 1 of 3 cells, most in {name}: Output throughput")
    assert "30.0 % lower, worse" in result.headline
    assert result.headline in text(result)


def test_what_is_better_is_named_with_its_cell_and_figure(sample: Sample) -> None:
    """The table shows the throughput only: a cell that is better in another figure stands nowhere else."""
    old = three(sample)
    name, cell = list(old.cells.items())[1]
    assert cell.mean_tpot_ms is not None
    found = compare(old, changed(old, name, mean_tpot_ms=0.5 * cell.mean_tpot_ms)).headline
    assert found.startswith(f"better in 1 of 3 cells, worse in none, most in {name}: Mean TPOT")
    assert "50.0 % lower, better" in found


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": Status.UNKNOWN, "reason": "little: off by 40 %"}, "could not be measured: little: off by 40 %"),
        ({"status": Status.FAIL}, "does not hold its limits"),
        ({"mean_tpot_ms": None}, "has no Mean TPOT any more"),
    ],
)
def test_a_cell_that_failed_or_is_in_doubt_is_a_drop(sample: Sample, fields: dict[str, object], said: str) -> None:
    old = three(sample)
    name = next(iter(old.cells))
    assert compare(old, old).problems == ()
    problems = compare(old, changed(old, name, **fields)).problems
    assert problems == (f"{name}: {said}",)
    assert f"  {problems[0]}" in text(compare(old, changed(old, name, **fields)))


def test_what_the_old_run_could_not_measure_makes_nothing_worse(sample: Sample) -> None:
    new = three(sample)
    name, cell = next(iter(new.cells.items()))
    assert cell.mean_tpot_ms is not None
    doubted = changed(new, name, status=Status.UNKNOWN, reason="too busy", mean_tpot_ms=0.5 * cell.mean_tpot_ms)
    result = compare(doubted, new)
    assert result.slower == ()
    assert result.problems == (f"{name}: nothing to hold it against, the old run could not measure it: too busy",)


def late(one: Side, name: str, ms: float, **figures: object) -> Side:
    """The side, its machine late with each answer by ``ms``."""
    return changed(one, name, late=Late(last_ms=ms, most_ms=ms, answer_ms=10_000.0), windows=(), intervals={}, **figures)


def test_what_a_late_machine_may_have_done_is_no_regression_and_more_than_that_is(sample: Sample) -> None:
    old = three(sample)
    name, cell = next(iter(old.cells.items()))
    assert cell.mean_tpot_ms is not None
    slower = changed(old, name, mean_tpot_ms=1.15 * cell.mean_tpot_ms, windows=(), intervals={})
    assert compare(old, slower).headline.startswith("WORSE"), "both kept their time"
    assert compare(late(old, name, 1_000.0), slower).problems == (), "a tenth of the old answers' time is its machine's"
    collapsed = changed(old, name, mean_tpot_ms=1.6 * cell.mean_tpot_ms, windows=(), intervals={})
    assert compare(late(old, name, 1_000.0), collapsed).headline.startswith(f"WORSE in 1 of 3 cells, most in {name}: Mean TPOT")
    assert compare(late(old, name, 9_900.0), changed(old, name, mean_tpot_ms=1e4 * cell.mean_tpot_ms)).worse, "no lateness hides a collapse"


def test_what_could_not_be_compared_is_not_called_worse_and_is_no_pass(sample: Sample) -> None:
    old = three(sample)
    result = compare(old, changed(old, next(iter(old.cells)), status=Status.UNKNOWN, reason="this machine is too busy to measure"))
    assert result.worse == ()
    assert result.headline.startswith("NOT EVERYTHING COULD BE COMPARED: ")
    assert result.problems
    assert compare(old, replace(old, gates={**old.gates, "rdma": Status.FAIL})).headline == "WORSE: gate rdma: passed -> FAILED"


def test_missing_cells_worse_gates_and_damage_are_drops(sample: Sample) -> None:
    old = three(sample)
    fewer = replace(old, cells=dict(list(old.cells.items())[1:]))
    assert compare(old, fewer).problems == (f"{next(iter(old.cells))}: not measured any more",)
    assert compare(fewer, old).problems == ()
    red = replace(old, gates={**old.gates, "rdma": Status.FAIL})
    assert compare(old, red).problems == ("gate rdma: passed -> FAILED",)
    assert compare(red, old).problems == ()
    assert compare(old, replace(old, damage=("events.jsonl: changed since the run",))).problems == (
        "new: events.jsonl: changed since the run",
    )


def test_ttft_of_healthy_runs_is_noise_and_a_gross_change_is_not(sample: Sample) -> None:
    rng = random.Random(7)
    one = side(sample("clean"))

    def again() -> Side:
        def noisy(cell: CellRow) -> CellRow:
            return cell.model_copy(update={"mean_ttft_ms": (cell.mean_ttft_ms or 1) * rng.lognormvariate(0, 0.25)})

        return replace(one, cells={name: noisy(cell) for name, cell in one.cells.items()})

    assert [compare(again(), again()).problems for _ in range(12)] == [()] * 12
    name = "in128-out128-c64"
    slow = changed(one, name, mean_ttft_ms=10 * (one.cells[name].mean_ttft_ms or 1))
    assert compare(one, slow).problems[0].startswith(f"{name}: Mean TTFT")


# ---------------------------------------------------------------- the command


def test_two_runs(runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    assert main([str(runs[0]), str(runs[2]), "--spread", "1", "--html", str(page)]) == 0
    assert "Output throughput" in capsys.readouterr().out
    assert "<svg" in page.read_text()


def test_a_drop_can_fail_a_job(runs: list[Path]) -> None:
    assert main([str(runs[0]), str(runs[2]), "--spread", "1", "--fail-on-drop"]) == 1
    assert main([str(runs[0]), str(runs[0]), "--fail-on-drop"]) == 0


def test_nothing_to_compare_is_no_pass(sample: Sample) -> None:
    clean, aborted = str(sample("clean").path), str(sample("aborted").path)
    assert main([clean, aborted]) == 0
    assert main([clean, aborted, "--fail-on-drop"]) == 1


def test_the_last_accepted_run_is_found(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["last-accepted", str(runs[2])]) == 0
    assert f"old: {runs[0].name}" in capsys.readouterr().out


def test_two_engines_of_one_run(sample: Sample, capsys: pytest.CaptureFixture[str]) -> None:
    path = sample("two_engines").path
    assert main([str(path)]) == 0
    assert "engine: sglang -> vllm" in capsys.readouterr().out
    assert main([f"{path}@vllm", f"{path}@sglang"]) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere", "there"], "nowhere: no run here"),
        (["{clean}"], "two engines; it has sglang"),
        (["last-accepted", "{clean}"], "no accepted run before"),
        (["{clean}", "{clean}", "--spread", "-1"], "--spread -1"),
        (["{clean}", "{clean}", "--html", "{clean}/verdict.json/x.html"], "cannot be written"),
        (["{two}", "{clean}"], "say which one"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(sample: Sample, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    paths = {"clean": sample("clean").path, "two": sample("two_engines").path}
    assert main([a.format(**paths) for a in argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
