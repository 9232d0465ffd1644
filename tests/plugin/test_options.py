"""Options that change what a run does: each works, and wrong use is told before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.acceptance import test_answers, test_environment, test_fabric, test_throughput, test_weights
from pytest_h20.checks.endpoint import questions
from tests.plugin.foreign import REHEARSAL, pytest_in, write

REPOSITORY = Path(__file__).parents[2]
QUICK_LIMITS = REPOSITORY / "environments" / "thresholds" / "rehearsal-quick-sglang.yaml"
THROUGHPUT = str(test_throughput.__file__)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes="], "--nodes: is given without a value"),
        (["--h20-replay="], "--h20-replay: is given without a value"),
        (["--h20-limits=nofile.yaml"], "no such limits file"),
        (["--h20-repeats=3"], "only with --h20-calibrate"),
        (["--h20-seed=seven"], "a whole number from 0 is needed"),
        (["--h20-calibrate=x.yaml", "--h20-repeats=2"], "a whole number from 3 is needed"),
        (["--h20-calibrate=nodir/x.yaml"], "a file in a folder that exists is needed"),
        (["--h20-load=sglang-bench"], "the rehearsal's containers hold none"),
        (["--h20-load-crosscheck"], "the rehearsal's containers hold none"),
        (["--h20-load-from=node01"], "the rehearsal's containers hold none"),
        (["--h20-load-from=node09"], "no such node; nodes are node01, node02"),
        (["--h20-accuracy=nofile.jsonl"], "cannot be read"),
        (["--h20-history=."], "is a folder"),
        (["--h20-attach=foo"], "give a URL such as"),
        (["--h20-attach=http://127.0.0.1:1"], "lives and ends with its run"),
        (["-o", "h20_weights=some"], "choose from fast, full, skip"),
    ],
)
def test_wrong_use_is_told_at_once(tmp_path: Path, options: list[str], said: str) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, *options)
    assert done.status == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in done.output.splitlines() if line.strip()]
    assert len(lines) == 1, done.output
    assert said in lines[0]
    assert not done.runs


def test_the_benchmark_of_the_other_engine(tmp_path: Path) -> None:
    write(tmp_path)
    inventory = REPOSITORY / "environments" / "h20-2node.yaml"
    done = pytest_in(tmp_path, f"--nodes={inventory}", "--engine=sglang", "--h20-load=vllm-bench")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "give --h20-load=sglang-bench or --h20-load=own" in done.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("engine: sglang", "engine: vllm", "mine.yaml: engine = 'vllm'"),
        ("[default, tuned, dp-attention, torch-compile]", "mine", "mine.yaml: profile = 'mine'"),
        ("kind: hardware", "kind: lab", "mine.yaml: kind = 'lab'"),
        ("{kind: min, unit: tok/s", "{kind: max, unit: tok/s", 'metrics: output_throughput: kind = "max": higher is better here'),
        ("concurrency: 200,", "concurrency: 100,", "limits without a cell: in128-out128-c100"),
        ("  - {input: 128, output: 128, concurrency: 200,", "  # - {", "cells without a judged limit: in128-out128-c200"),
    ],
)
def test_limits_that_do_not_fit_the_cells(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Known before the engine is brought up, not an hour after."""
    write(tmp_path)
    text = QUICK_LIMITS.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new), encoding="utf-8")
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-limits=mine.yaml")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert said in done.output
    assert not done.runs


def test_checks_and_gpu_models_of_a_limits_file_are_applied(tmp_path: Path) -> None:
    write(tmp_path)
    more = """
checks: {environment.run_disk: {kind: min, value: 1000000, unit: GiB}}
skus: {'10de:2329': {name: H20, checks: {environment.gpu_memory: {kind: min, value: 200000, unit: MiB}}}}
"""
    (tmp_path / "mine.yaml").write_text(QUICK_LIMITS.read_text(encoding="utf-8") + more, encoding="utf-8")
    chosen = [str(test_environment.__file__), "-k", "run_disk or gpu_memory or docker_disk"]
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-limits=mine.yaml", *chosen)
    assert done.status == pytest.ExitCode.TESTS_FAILED
    for check, wanted in (("environment.run_disk", 1000000), ("environment.gpu_memory", 200000)):
        assert [(c["status"], c["limit"]["value"]) for c in done.check(check)] == [("fail", wanted)] * 2
    assert {c["status"] for c in done.check("environment.docker_disk")} == {"pass"}


def test_limits_by_gpu_that_have_no_row_for_these_are_no_limits(tmp_path: Path) -> None:
    write(tmp_path)
    text = QUICK_LIMITS.read_text(encoding="utf-8")
    other = "skus: {'10de:2330': {name: H100, checks: {environment.gpu_memory: {value: 100}}}}\n"
    (tmp_path / "other.yaml").write_text(text + other, encoding="utf-8")
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-limits=other.yaml", str(test_environment.__file__), "-k", "gpu_memory")
    assert {c["status"] for c in done.check("environment.gpu_memory")} == {"unknown"}
    assert "have no row for GPU 10de:2329" in done.output


def test_a_set_of_questions_too_small_to_tell(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "few.jsonl").write_text('{"question": "What is 6 times 7?", "answer": "#### 42"}\n', encoding="utf-8")
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-accuracy=few.jsonl")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "1 questions are too few" in done.output
    assert "give 14 or more" in done.output


def test_a_users_questions_are_graded(tmp_path: Path) -> None:
    write(tmp_path)
    data = Path(questions.__file__).parent / "data" / "answers.jsonl"
    done = pytest_in(tmp_path, *REHEARSAL, f"--h20-accuracy={data}", str(test_answers.__file__), "-k", "dataset")
    assert done.status == 0, done.output
    assert [(c["subject"], c["status"]) for c in done.check("answers.dataset")] == [("answers.jsonl", "pass")]


@pytest.mark.parametrize(("how", "status"), [("fast", "skip"), ("full", "pass")])
def test_weights_are_hashed_when_asked_for(tmp_path: Path, how: str, status: str) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, f"--h20-weights={how}", str(test_weights.__file__), "-k", "sha256 or sizes")
    assert done.status == 0, done.output
    assert {c["status"] for c in done.check("weights.sha256")} == {status}
    assert {c["status"] for c in done.check("weights.sizes")} == {"pass"}


def test_weights_that_are_not_looked_at_keep_a_run_from_acceptance(tmp_path: Path) -> None:
    write(tmp_path)
    chosen = [str(test_weights.__file__), str(test_fabric.__file__), "-k", "names or hcas"]
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-weights=skip", *chosen)
    assert done.status == 0, done.output
    assert {c["status"] for c in done.check("weights.names")} == {"skip"}
    assert "the weights were not looked at" in json.dumps(done.verdict["header"]["cannot_accept"])


def test_calibration_writes_limits_and_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    options = [*REHEARSAL, "-k", "c1] or crosscheck", THROUGHPUT]
    done = pytest_in(tmp_path, "--h20-calibrate=mine.yaml", "--h20-repeats=3", *options)
    # Cells that were not selected are no calibration of the profile, but what was measured is kept.
    (verdict,) = done.check("throughput.calibrated")
    assert verdict["measured"] == "mine.yaml"
    assert verdict["status"] in ("pass", "warn"), done.output
    assert "n: 3" in (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert "--h20-calibrate=mine.yaml" in done.output


def test_the_first_engine_is_down_before_the_machines_of_the_second_are_looked_at(tmp_path: Path) -> None:
    """Its port would be in the way of the second engine's own check of free ports."""
    write(tmp_path)
    arguments = ["--nodes=rehearsal:quick", "--engine=vllm", "--engine=sglang", "--h20-history=none"]
    chosen = [str(test_environment.__file__), str(Path(test_throughput.__file__).with_name("test_bringup.py")), "-k", "ports or ready"]
    done = pytest_in(tmp_path, *arguments, *chosen)
    assert done.status == 0, done.output
    ready = {(c["subject"], c["status"]) for c in done.check("bringup.ready")}
    assert ready == {("vllm", "pass"), ("sglang", "pass")}
    assert done.output.index("h20: down: stopping vllm") < done.output.index("h20: preflight: sglang")
    told = {(c["subject"].partition(" ")[0], c["status"]) for c in done.check("environment.ports")}
    assert told == {("node01", "pass"), ("node02", "pass"), ("node02", "skip")}, "Ray's worker binds none"
