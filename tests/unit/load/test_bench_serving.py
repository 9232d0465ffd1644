from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load import Cell
from pytest_h20.load.bench_serving import (
    SUMMARY_HEADER,
    compare,
    document,
    file_name,
    parse_sglang,
    parse_vllm,
    read_records,
    sglang_argv,
    summary_csv,
    vllm_argv,
    why_different,
    write_file,
)
from pytest_h20.load.metrics import tally
from pytest_h20.load.run import write_records
from tests.unit.load.records import recorded
from tests.unit.load.results import GOOD

KEYS_0_4_4 = (
    "backend dataset_name request_rate max_concurrency sharegpt_output_len random_input_len random_output_len "
    "random_range_ratio duration completed total_input_tokens total_output_tokens total_output_tokens_retokenized "
    "request_throughput input_throughput output_throughput mean_e2e_latency_ms median_e2e_latency_ms std_e2e_latency_ms "
    "p99_e2e_latency_ms mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms median_tpot_ms std_tpot_ms "
    "p99_tpot_ms mean_itl_ms median_itl_ms std_itl_ms p95_itl_ms p99_itl_ms concurrency accept_length"
)


def test_our_file_has_the_keys_of_bench_serving(tmp_path: Path) -> None:
    records = tally([recorded(), recorded()], "completions", 100.0, 1.0, None).records
    records[1].outcome = "reset"
    path = write_file(str(tmp_path), GOOD, records)
    assert path.endswith("serving_benchmark_64_128_128.json")
    row = json.loads(Path(path).read_text())
    assert set(KEYS_0_4_4.split()) <= set(row)
    assert row["output_throughput"] == 310.3
    assert (row["input_lens"], row["output_lens"]) == ([7, 7], [5, 0])
    assert row["total_output_tokens_retokenized"] is None
    assert "input_lens" not in document(GOOD)


def test_the_write_ups_collecting_script_can_read_it(tmp_path: Path) -> None:
    records = tally([recorded()], "completions", 100.0, 1.0, None).records
    write_file(str(tmp_path), GOOD, records)
    result = json.loads((tmp_path / file_name(GOOD.cell)).read_text())
    needed = ("mean_ttft_ms", "input_throughput", "output_throughput", "mean_tpot_ms", "input_lens", "output_lens")
    assert all(key in result for key in needed)


def test_summary_csv_is_the_write_ups() -> None:
    small = replace(GOOD, cell=Cell(256, 256, 1))
    unmeasured = replace(GOOD, whole=None)
    rows = list(csv.reader(io.StringIO(summary_csv([GOOD, unmeasured, small]))))
    assert tuple(rows[0]) == SUMMARY_HEADER
    assert rows[1][0] == "1"
    assert rows[2] == ["64", "1000.00", "310.30", "310.30", "200.00", "128.00", "128.00"]
    assert len(rows) == 3


def test_records_are_read_back(tmp_path: Path) -> None:
    records = tally([recorded()], "completions", 100.0, 1.0, None).records
    write_records(str(tmp_path / "r"), records)
    assert read_records(str(tmp_path / "r")) == records
    (tmp_path / "bad").write_text("{}\n")
    for name in ("bad", "none"):
        with pytest.raises(UsageError, match="records"):
            read_records(str(tmp_path / name))


@pytest.mark.parametrize("streams", [1, 8, 64, 256])
def test_recorded_sglang_runs(transcripts: Path, streams: int) -> None:
    text = (transcripts / f"sglang-0.5.16-h200/bench/random-c{streams}.jsonl").read_text()
    result = parse_sglang(text, Cell(128, 128, streams))
    row = json.loads(text.splitlines()[-1])
    assert result.output_throughput == row["output_throughput"]
    assert result.ttft.mean == row["mean_ttft_ms"]
    assert result.tokens.output == 128 * streams
    assert (result.requests.complete, result.requests.failed) == (streams, 0)
    assert {f.rule for f in result.sanity if f.status == "failed"} <= {"littles_law"}
    assert not result.trustworthy  # nobody checked that client
    with pytest.raises(MeasurementError, match="the cell is"):
        parse_sglang(text, Cell(256, 256, streams))
    twice = parse_sglang(text + text, Cell(128, 128, streams))
    assert twice.output_throughput == result.output_throughput
    assert parse_sglang(text, Cell(128, 128, streams * 2)).requests.failed == streams


@pytest.mark.parametrize(
    "run",
    [
        "vllm-0.24.0-h200/bench/random-c1",
        "vllm-0.24.0-h200/bench/random-c64",
        "vllm-0.32.0-cpu/bench/random-c8",
        "vllm-0.32.0-cpu/bench/random-c64",
    ],
)
def test_recorded_vllm_runs(transcripts: Path, run: str) -> None:
    text = (transcripts / f"{run}.json").read_text()
    streams = int(run.rpartition("-c")[2])
    result = parse_vllm(text, Cell(128, 128, streams))
    assert result.tokens.output == 128 * streams
    assert result.tokens.wrong_output == 0
    assert result.tpot.mean == json.loads(text)["mean_tpot_ms"]
    assert (result.e2e.count > 0) == ("0.32" in run)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"duration": 1, "completed": "x"}', "3"])
def test_what_is_no_result_is_said(text: str) -> None:
    for parse in (parse_sglang, parse_vllm):
        with pytest.raises(MeasurementError, match="output"):
            parse(text, Cell(1, 1, 1))


@example(10**400)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    )
)
def test_any_value_of_a_key_is_a_number_or_refused(value: object) -> None:
    row = {
        "duration": 1.0,
        "completed": 1,
        "total_output_tokens": 1,
        "output_throughput": 1.0,
        "mean_ttft_ms": 1.0,
        "mean_tpot_ms": value,
        "random_input_len": 1,
        "random_output_len": 1,
        "errors": value,
        "failed": value,
        "latencies": value,
        "output_lens": value,
        "std_ttft_ms": value,
    }
    text = json.dumps(row)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        assert parse_sglang(text, Cell(1, 1, 1)).tpot.mean == float(value)
    else:
        with pytest.raises(MeasurementError, match="mean_tpot_ms"):
            parse_sglang(text, Cell(1, 1, 1))


def test_command_lines_ask_for_exact_lengths() -> None:
    argv = sglang_argv(Cell(128, 256, 64), "/m", "/d.json", "/o.json")
    pairs = dict(zip(argv[3::2], argv[4::2], strict=False))
    assert (pairs["--random-input-len"], pairs["--random-output-len"], pairs["--num-prompts"]) == ("128", "256", "64")
    assert pairs["--random-range-ratio"] == "1.0"
    assert pairs["--dataset-path"] == "/d.json"
    assert "random-ids" in sglang_argv(Cell(128, 256, 64), "/m", "", "/o.json")  # nothing is fetched from the network
    vllm = vllm_argv(Cell(128, 256, 64), "m", "/out/o.json", requests=9, tokenizer="/t")
    assert vllm[vllm.index("--random-range-ratio") + 1] == "0.0"  # vLLM's ratio is a spread around the length
    assert vllm[vllm.index("--result-dir") + 1] == "/out"
    assert vllm[-2:] == ["--tokenizer", "/t"]
    assert "--ignore-eos" in vllm


def test_the_crosscheck_compares_and_explains() -> None:
    other = replace(GOOD, generator="sglang-bench", ttft=replace(GOOD.ttft, mean=1100.0), tpot=replace(GOOD.tpot, mean=None))
    table = {name: difference for name, _, _, difference in compare(GOOD, other)}
    assert table["mean TTFT ms"] == pytest.approx(0.1)
    assert table["mean TPOT ms"] is None
    assert table["output tokens/s"] == 0
    assert "server_info" in why_different(GOOD, other)
    assert "choices" in why_different(GOOD, replace(GOOD, generator="vllm-bench"))
