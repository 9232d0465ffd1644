from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_h20.config.limits import parse_limits
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import GateName, Limit, Origin, Status, Verdict, decide
from pytest_h20.report.model import CellRow, CheckRow, Mode, Warning_
from pytest_h20.report.run import RunFolder, load_run
from pytest_h20.run.rejudge import again, recompute, rejudge_run, replay_cells, told
from tests.unit.conftest import Sample
from tests.unit.report import samples

HARD = """
name: hard
origin: {kind: file, detail: twice the write-up}
metrics: {output_throughput: {kind: min, unit: tok/s}}
cells: [{input: 128, output: 128, concurrency: 1, output_throughput: 40}]
"""


@pytest.mark.parametrize("name", ["clean", "faulty", "aborted", "two_engines", "rehearsal"])
def test_a_replay_gives_the_same_verdicts(sample: Sample, name: str) -> None:
    view = sample(name)
    again = rejudge_run(view)
    assert [(t, v.check, v.subject, v.status) for t, v in again] == [(c.test_id, c.check, c.subject, c.status) for c in view.checks]


def test_other_limits_give_other_verdicts(sample: Sample) -> None:
    view = sample("clean")
    judged = {(v.check, v.subject): v for _, v in rejudge_run(view, parse_limits(HARD, "hard.yaml"))}
    first = judged[("throughput.output_throughput", "sglang in128-out128-c1")]
    assert first.status is Status.FAIL
    assert first.limit is not None
    assert "twice the write-up" in str(first.limit.origin)
    assert judged[("throughput.limit", "in128-out128-c2")].status is Status.UNKNOWN, "a cell the new file leaves out proves nothing"
    assert not decide([v for _, v in rejudge_run(view, parse_limits(HARD, "h.yaml"))], tuple(GateName)).green


def test_other_limits_of_checks_apply_too(sample: Sample) -> None:
    text = "{name: x, origin: {kind: file}, checks: {bringup.ready: {kind: max, value: 60, unit: s}}}"
    judged = {v.check: v for _, v in rejudge_run(sample("clean"), parse_limits(text, "x.yaml"))}
    assert judged["bringup.ready"].status is Status.FAIL


def test_limits_of_another_engine_model_or_kind_of_run_are_refused(sample: Sample) -> None:
    for field in ("engine: vllm", "profile: other", "model: qwen", "kind: rehearsal"):
        with pytest.raises(UsageError, match=f"limits 'hard': {field.partition(':')[0]} = "):
            rejudge_run(sample("clean"), parse_limits(f"{HARD}{field}\n", "hard.yaml"))


def test_limits_by_gpu_need_a_record_that_tells_the_gpu(sample: Sample) -> None:
    text = HARD + "skus: {'10de:2329': {name: H20, checks: {environment.gpu_memory: {value: 200}}}}"
    with pytest.raises(UsageError, match="does not tell the PCI ids"):
        rejudge_run(sample("clean"), parse_limits(text, "hard.yaml"))


def test_of_two_engines_a_file_judges_the_one_it_was_written_for(sample: Sample) -> None:
    view = sample("two_engines")
    judged = rejudge_run(view, parse_limits(f"{HARD}engine: sglang\n", "hard.yaml"))
    by_hard = {v.details["engine"] for _, v in judged if v.limit and v.limit.origin.detail == "twice the write-up"}
    assert by_hard == {"sglang"}
    own = {v.details["engine"] for _, v in judged if v.check == "throughput.output_throughput" and v.limit} - by_hard
    assert own == {"vllm"}


def test_cells_that_were_only_recorded_are_judged_by_new_limits(sample: Sample) -> None:
    judged = rejudge_run(sample("calibration"), samples.sglang_limits())
    cells = [v for _, v in judged if v.check == "throughput.output_throughput"]
    assert len(cells) == 26, "the mean of the repeats"
    assert all(v.status is Status.PASS for v in cells)


def test_a_limit_whose_cell_was_not_measured_blocks(sample: Sample) -> None:
    judged = rejudge_run(sample("aborted"), samples.sglang_limits())
    unmet = [v for _, v in judged if v.check == "throughput.coverage"]
    assert [v.measured for v in unmet] == [26]
    assert unmet[0].status is Status.UNKNOWN


INFO = Limit(kind="info", origin=Origin(kind="builtin"))
AT_LEAST = Limit(kind="min", value=10.0, origin=Origin(kind="file"))


@pytest.mark.parametrize(
    ("recorded", "own", "other", "now"),
    [
        (Status.UNKNOWN, INFO, None, Status.UNKNOWN),  # "no limit judged this": recording it again makes it no pass
        (Status.FAIL, INFO, AT_LEAST, Status.FAIL),
        (Status.UNKNOWN, AT_LEAST, AT_LEAST, Status.UNKNOWN),  # in doubt although its figure is good
        (Status.WARN, AT_LEAST, None, Status.WARN),
        (Status.WARN, INFO, AT_LEAST, Status.WARN),
        (Status.PASS, INFO, AT_LEAST, Status.PASS),
        (Status.SKIP, None, AT_LEAST, Status.SKIP),
        (Status.PASS, None, None, Status.PASS),
    ],
)
def test_replay_does_not_undo_what_the_limit_did_not_decide(recorded: Status, own: Limit | None, other: Limit | None, now: Status) -> None:
    verdict = Verdict(check="rdma.x", status=recorded, title="x", measured=12.0, limit=own)
    assert again(verdict, other).status is now


def test_a_harder_limit_fails_a_warning() -> None:
    verdict = Verdict(check="rdma.x", status=Status.WARN, title="x", measured=9.0, limit=INFO)
    assert again(verdict, AT_LEAST).status is Status.FAIL


def test_a_killed_run_replays_to_no_pass(sample: Sample) -> None:
    last = rejudge_run(sample("killed"))[-1][1]
    assert last.status is Status.UNKNOWN
    assert "did not finish" in last.reason


def test_changed_evidence_blocks(sample: Sample, tmp_path: Path) -> None:
    shutil.copytree(sample("clean").path, tmp_path / "run")
    (tmp_path / "run/evidence/node01/nvidia-smi.txt").write_text("Driver Version: 999")
    last = rejudge_run(load_run(tmp_path / "run"))[-1][1]
    assert last.status is Status.UNKNOWN
    assert "evidence/node01/nvidia-smi.txt: changed" in last.reason


def edited(line: str) -> str:
    """A red verdict turned green by hand, consistently."""
    record = json.loads(line)
    record["verdict"] |= {"status": "pass", "limit": None}
    return json.dumps(record)


def test_a_verdict_turned_green_by_hand_is_found(sample: Sample, tmp_path: Path) -> None:
    path = Path(shutil.copytree(sample("faulty").path, tmp_path / "run"))
    lines = (path / "verdicts.jsonl").read_text().splitlines()
    (path / "verdicts.jsonl").write_text("".join(f"{edited(line)}\n" for line in lines))
    view = load_run(path)
    assert "verdicts.jsonl: changed since the run" in view.damage
    assert "verdict.json: its checks are not those of verdicts.jsonl" in view.damage
    judged = [v for _, v in rejudge_run(view)]
    assert judged[-1].status is Status.UNKNOWN
    assert "verdicts.jsonl: changed since the run" in judged[-1].reason
    assert not decide(judged, tuple(GateName)).green


@pytest.mark.parametrize("name", ["events.jsonl", "fingerprint.json", "evidence/index.json", "load/more.json", "verdicts.gw9.jsonl"])
def test_every_record_is_held_against_its_hash(sample: Sample, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(sample("clean").path, tmp_path / "run"))
    assert load_run(path).damage == ()
    (path / name).parent.mkdir(exist_ok=True)
    with (path / name).open("a") as file:
        file.write("\n")
    (problem,) = load_run(path).damage
    assert problem.startswith(f"{name}: ")


def test_a_run_without_hashes_is_not_taken_for_unchanged(sample: Sample, tmp_path: Path) -> None:
    path = Path(shutil.copytree(sample("clean").path, tmp_path / "run"))
    document = json.loads((path / "verdict.json").read_text())
    (path / "verdict.json").write_text(json.dumps({**document, "records": {}}))
    assert any("whether they were changed cannot be told" in problem for problem in load_run(path).damage)


def test_what_is_said_after_the_decision_is_sealed_too(tmp_path: Path) -> None:
    run = samples.start(tmp_path, mode=Mode.FULL)
    run.finish()
    run.add(Warning_(text="the history store cannot be reached"))
    view = run.view()
    assert (view.damage, view.complete, view.warnings) == ((), True, ("the history store cannot be reached",))


def test_a_replay_says_what_it_could_only_read_again(sample: Sample) -> None:
    view = sample("clean")
    plain = CheckRow(check="weights.x", status=Status.PASS, title="x", test_id="t")
    judged = [v for _, v in rejudge_run(view.model_copy(update={"checks": (*view.checks, plain)}))]
    lines = told(judged)
    assert sum(int(line.split(" ", 1)[0]) for line in lines) == len(judged)
    assert lines[-1].endswith("(throughput.mean_ttft_ms, weights.x)")
    assert not any(line.startswith("0 ") for line in lines)


def with_requests(base: Path, recorded_tpot: float) -> tuple[CellRow, Path]:
    run = samples.start(base, mode=Mode.FULL)
    (run.path / "load").mkdir()
    data = {"ttfts": [0.2, 0.4], "output_lens": [11, 11], "latencies": [0.7, 0.9]}
    (run.path / "load/c1.json").write_text(json.dumps(data))
    cell = CellRow(
        engine="sglang",
        input_len=1,
        output_len=11,
        concurrency=1,
        mean_ttft_ms=300.0,
        mean_tpot_ms=recorded_tpot,
        file="load/c1.json",
    )
    return cell, run.path


def test_figures_are_derived_from_the_requests(tmp_path: Path) -> None:
    cell, problem = recompute(*with_requests(tmp_path, 50.01))
    assert problem == ""
    assert cell.mean_tpot_ms == pytest.approx(50.0)
    assert cell.mean_ttft_ms == pytest.approx(300.0)


def test_a_percentile_that_the_requests_contradict_is_no_figure(tmp_path: Path) -> None:
    cell, path = with_requests(tmp_path, 50.0)
    assert recompute(cell.model_copy(update={"more": {"p50_ttft_ms": 300.0, "p99_itl_ms": 7.0}}), path)[1] == ""
    assert "p99_ttft_ms is 398 by its requests" in recompute(cell.model_copy(update={"more": {"p99_ttft_ms": 250.0}}), path)[1]


def test_a_figure_its_own_requests_contradict_is_no_figure(tmp_path: Path) -> None:
    _, problem = recompute(*with_requests(tmp_path, 40.0))
    assert "mean_tpot_ms is 50 by its requests but 40 was recorded" in problem


def test_a_lost_request_file_is_told(tmp_path: Path) -> None:
    cell, path = with_requests(tmp_path, 50.0)
    (path / cell.file).unlink()
    assert "missing" in recompute(cell, path)[1]


def test_replayed_cells_carry_the_new_limits(sample: Sample) -> None:
    cells = {c.name: c for c in replay_cells(sample("clean"), parse_limits(HARD, "hard.yaml"))}
    assert cells["in128-out128-c1"].status is Status.FAIL
    assert cells["in128-out128-c1"].limits["output_throughput"].value == 40
    assert cells["in128-out128-c2"].status is Status.UNKNOWN
    assert [c.status for c in replay_cells(sample("clean"))] == [c.status for c in sample("clean").cells]


def test_replaying_into_a_new_folder_is_never_an_acceptance(sample: Sample, tmp_path: Path) -> None:
    view = sample("clean")
    run = RunFolder.create(tmp_path, view.header.engines, view.header.name, Mode.REPLAY, replay_of=view.header.run)
    for test_id, verdict in rejudge_run(view):
        run.record(verdict, test_id)
    again = run.finish()
    assert again.decision.green
    assert not again.decision.accepted
