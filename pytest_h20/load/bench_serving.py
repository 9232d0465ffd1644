"""The forms of the engines' own benchmarks: writing the write-up's files, and reading and running their generators.

Keys and definitions: research note on load generators, section 3 (sglang bench_serving 0.4.4 and 0.5.23, vllm bench
serve 0.32), and recorded outputs of 0.5.16, 0.24 and 0.32.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.load.cells import Cell
from pytest_h20.load.metrics import Rates, RequestRecord, Summary
from pytest_h20.load.result import CellResult, Flight, RequestCounts, TokenCounts, write_json
from pytest_h20.load.sanity import judged

if TYPE_CHECKING:
    from typing import TypeGuard

SUMMARY_HEADER = (
    "concurrency",
    "mean TTFT(ms)",
    "input_throughput(tokens/s)",
    "output_throughput(tokens/s)",
    "mean TPOT(ms)",
    "mean_input_len",
    "mean_output_len",
)
"""The write-up's fieldnames, in its order."""


def file_name(cell: Cell) -> str:
    """`serving_benchmark_{concurrency}_{input}_{output}.json`, the write-up's pattern."""
    return f"serving_benchmark_{cell.concurrency}_{cell.input_len}_{cell.output_len}.json"


def document(result: CellResult, records: Sequence[RequestRecord] = ()) -> dict[str, Any]:
    """The result with bench_serving's keys (0.4.4, and what 0.5 added). With `records` also its per-request lists, which
    the write-up's collecting script reads. A figure that was not measured is null, never 0.

    `max_output_tokens_per_s` is not written: it needs every token's stamp. `output_lens` of failed requests is 0, as
    there; they have no ttft.
    """
    whole = result.whole
    out: dict[str, Any] = {
        "backend": result.generator,
        "dataset_name": result.prompts,
        "request_rate": "inf" if result.arrivals == "closed" else result.arrivals,
        "max_concurrency": result.cell.concurrency,
        "sharegpt_output_len": None,
        "random_input_len": result.cell.input_len,
        "random_output_len": result.cell.output_len,
        "random_range_ratio": 1.0,
        "duration": whole.seconds if whole else None,
        "completed": result.requests.complete,
        "failed": result.requests.failed,
        "total_input_tokens": result.tokens.input,
        "total_output_tokens": result.tokens.output,
        "total_output_tokens_retokenized": None,
        "request_throughput": whole.requests_per_s if whole else None,
        "input_throughput": whole.input_tokens_per_s if whole else None,
        "output_throughput": whole.output_tokens_per_s if whole else None,
        "total_throughput": whole.total_tokens_per_s if whole else None,
        "concurrency": result.flight.mean,
        "accept_length": None,
        "max_concurrent_requests": result.flight.peak,
    }
    for name, summary in (("e2e_latency", result.e2e), ("ttft", result.ttft), ("tpot", result.tpot), ("itl", result.itl)):
        for statistic in ("mean", "median", "std", "p90", "p95", "p99"):
            out[f"{statistic}_{name}_ms"] = getattr(summary, statistic)
    records = [r for r in records if not r.canary]
    if records:
        out["input_lens"] = [r.prompt_tokens if r.prompt_tokens is not None else r.asked_input for r in records]
        out["output_lens"] = [(r.output_tokens or 0) if r.complete else 0 for r in records]
        out["ttfts"] = [r.ttft_s for r in records]
        out["errors"] = ["" if r.complete else f"{r.outcome}: {r.detail}" for r in records]
    out["h20"] = {
        "generator": result.generator,
        "trustworthy": result.trustworthy,
        "time_scale": result.time_scale,
        "seed": result.seed,
        "recipe": result.recipe,
    }
    return out


def write_file(directory: str, result: CellResult, records: Sequence[RequestRecord] = ()) -> str:
    """Write the cell's file, whole or not at all; returns its path. Raises UsageError."""
    path = os.path.join(directory, file_name(result.cell))
    write_json(path, document(result, records))
    return path


def read_records(path: str) -> list[RequestRecord]:
    """Records as `run.write_records` left them. Raises UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            return [RequestRecord(**json.loads(line)) for line in file if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"records {path}: {error}") from None


def summary_csv(results: Sequence[CellResult]) -> str:
    """The write-up's summary.csv: one row per measured cell, by concurrency, longer lengths first as in its table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SUMMARY_HEADER)
    for result in sorted(results, key=lambda r: (r.cell.concurrency, -r.cell.input_len, -r.cell.output_len)):
        if result.whole is None:
            continue
        row = (
            result.mean_ttft_ms,
            result.whole.input_tokens_per_s,
            result.whole.output_tokens_per_s,
            result.mean_tpot_ms,
            result.mean_input_len,
            result.mean_output_len,
        )
        writer.writerow([result.cell.concurrency, *("" if value is None else f"{value:.2f}" for value in row)])
    return buffer.getvalue()


# ---- other generators ------------------------------------------------------------------------------------------
def sglang_argv(
    cell: Cell,
    model_path: str,
    dataset_path: str,
    output_file: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    requests: int | None = None,
    python: str = "python3",
    seed: int = 1,
) -> list[str]:
    """The write-up's command line (it says `--random-input`, which argparse completes; the full names are given here).

    `requests` None = the concurrency, as the write-up. `--flush-cache` is not given: 0.4.4 flushes always and does not
    know the flag, newer releases do so only with it. Without a dataset `random-ids` is asked for (0.5.16 has it; 0.4.4
    refuses it in its usage text): `random` would fetch ShareGPT from the network.
    """
    dataset = ["random", "--dataset-path", dataset_path] if dataset_path else ["random-ids"]
    return [
        python,
        "-m",
        "sglang.bench_serving",
        "--backend",
        "sglang",
        "--dataset-name",
        *dataset,
        "--model",
        model_path,
        "--random-input-len",
        str(cell.input_len),
        "--random-output-len",
        str(cell.output_len),
        "--random-range-ratio",
        "1.0",
        "--num-prompts",
        str(requests or cell.concurrency),
        "--host",
        host,
        "--port",
        str(port),
        "--output-file",
        output_file,
        "--max-concurrency",
        str(cell.concurrency),
        "--seed",
        str(seed),
    ]


def vllm_argv(
    cell: Cell,
    model: str,
    output_file: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    requests: int | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
) -> list[str]:
    """`vllm bench serve` (0.9 and later) on random prompts with exact lengths."""
    directory, name = os.path.split(output_file)
    argv = [
        "vllm",
        "bench",
        "serve",
        "--backend",
        "vllm",
        "--model",
        model,
        "--dataset-name",
        "random",
        "--random-input-len",
        str(cell.input_len),
        "--random-output-len",
        str(cell.output_len),
        "--random-range-ratio",
        "0.0",
        "--num-prompts",
        str(requests or cell.concurrency),
        "--max-concurrency",
        str(cell.concurrency),
        "--host",
        host,
        "--port",
        str(port),
        "--ignore-eos",
        "--temperature",
        "0",
        "--seed",
        str(seed),
        "--num-warmups",
        "1",
        "--percentile-metrics",
        "ttft,tpot,itl,e2el",
        "--metric-percentiles",
        "90,95,99",
        "--save-result",
        "--save-detailed",
        "--result-dir",
        directory or ".",
        "--result-filename",
        name,
    ]
    return argv if tokenizer is None else [*argv, "--tokenizer", tokenizer]


def parse_sglang(text: str, cell: Cell, url: str = "", recipe: str = "blog", notes: Sequence[str] = ()) -> CellResult:
    """A result of `sglang.bench_serving --output-file`: JSON lines, appended run by run; the last one counts.

    There is no count of failed requests in it (sglang #2805): it is num-prompts less `completed`, as far as the
    caller's recipe tells num-prompts. Raises MeasurementError for what is no such file.
    """
    row = _last_object(text, "sglang bench_serving")
    planned = cell.concurrency if recipe == "blog" else None
    out = _foreign(row, cell, "sglang-bench", "sglang", str(row.get("backend", "")), url, recipe, planned, notes)
    inexact = "input lengths are the dataset's intended ones, not the server's count"
    return _noted(out, inexact, row, "random_input_len", "random_output_len")


def parse_vllm(text: str, cell: Cell, url: str = "", recipe: str = "blog", notes: Sequence[str] = ()) -> CellResult:
    """A result of `vllm bench serve --save-result`. Raises MeasurementError for what is no such file."""
    row = _last_object(text, "vllm bench serve")
    planned = _whole_number(row, "num_prompts")
    out = _foreign(row, cell, "vllm-bench", "vllm", str(row.get("model_id", "")), url, recipe, planned, notes)
    return _noted(out, "ITL counts the empty finish event", row)


def _last_object(text: str, what: str) -> dict[str, Any]:
    try:
        whole = json.loads(text)
        rows = [whole]
    except (ValueError, RecursionError):
        rows = []
        for line in text.splitlines():
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError):
                    raise MeasurementError(f"{what}: its output file holds a line that is not JSON: {line[:80]!r}") from None
    if not rows or not isinstance(rows[-1], dict):
        raise MeasurementError(f"{what}: its output file is empty or no JSON object")
    row: dict[str, Any] = rows[-1]
    for key in ("duration", "completed", "total_output_tokens", "output_throughput", "mean_ttft_ms", "mean_tpot_ms"):
        if not _is_number(row.get(key)):
            raise MeasurementError(f"{what}: no number {key!r} in its output (has {', '.join(sorted(row)[:12])}, ...)")
    return row


def _is_number(value: Any) -> TypeGuard[float]:
    """A finite one that a float can hold: neither NaN nor infinity nor an integer of 400 digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _number(row: dict[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = row.get(key)
        if _is_number(value):
            return float(value)
    return None


def _whole_number(row: dict[str, Any], key: str) -> int | None:
    value = _number(row, key)
    return None if value is None else int(value)


def _summary(row: dict[str, Any], *names: str) -> Summary:
    for name in names:
        if _number(row, f"mean_{name}_ms") is not None:

            def of(statistic: str, name: str = name) -> float | None:
                return _number(row, f"{statistic}_{name}_ms")

            return Summary(int(row["completed"]), of("mean"), of("median"), of("std"), None, of("max"), of("p90"), of("p95"), of("p99"))
    return Summary(0)


def _foreign(
    row: dict[str, Any],
    cell: Cell,
    generator: str,
    dialect: str,
    model: str,
    url: str,
    recipe: str,
    planned: int | None,
    notes: Sequence[str],
) -> CellResult:
    complete, duration = int(row["completed"]), float(row["duration"])
    given, output = _whole_number(row, "total_input_tokens") or 0, int(row["total_output_tokens"])
    failed = _whole_number(row, "failed")
    if failed is None:
        failed = max(0, (planned or complete) - complete)
    whole = None
    if complete and duration > 0:
        output_rate = float(row["output_throughput"])
        input_rate = _number(row, "input_throughput")
        input_rate = given / duration if input_rate is None else input_rate
        whole = Rates(duration, input_rate, output_rate, input_rate + output_rate, complete / duration)
    e2e = _summary(row, "e2e_latency", "e2el")
    latencies = row.get("latencies")
    if not e2e.count and isinstance(latencies, list) and latencies:
        e2e = Summary.of_seconds(float(value) for value in latencies if _is_number(value))
    concurrency = _number(row, "concurrency")
    if concurrency is None and e2e.mean is not None and duration > 0:
        concurrency = complete * e2e.mean / 1e3 / duration
    outcomes = {"ok": complete}
    if failed:
        outcomes["failed"] = failed
    told = row.get("errors")
    errors = [str(error) for error in told if error] if isinstance(told, list) else []
    lens = row.get("output_lens")
    wrong_output = (
        sum(1 for n in lens if n != cell.output_len)
        if isinstance(lens, list)
        else (0 if output == complete * cell.output_len else complete)
    )
    return CellResult(
        cell=cell,
        generator=generator,
        url=url,
        dialect=dialect,
        model=model,
        started_at="",
        recipe=recipe,
        arrivals="closed",
        prompts=str(row.get("dataset_name") or "random"),
        seed=0,
        requests=RequestCounts(planned, complete + failed, complete, failed, outcomes, 0, tuple(errors[:5])),
        tokens=TokenCounts(complete * cell.input_len, complete * cell.output_len, given, output, None, None, 0, wrong_output),
        ttft=_summary(row, "ttft"),
        tpot=_summary(row, "tpot"),
        itl=_summary(row, "itl"),
        e2e=e2e,
        connect=Summary(0),
        whole=whole,
        steady=None,
        flight=Flight(concurrency or 0.0, None, _whole_number(row, "max_concurrent_requests") or 0),
        notes=tuple(notes),
    )


def _noted(result: CellResult, note: str, row: dict[str, Any], *lengths: str) -> CellResult:
    from dataclasses import replace

    for key, wanted in zip(lengths, (result.cell.input_len, result.cell.output_len)):  # noqa: B905 (Python 3.8)
        if _whole_number(row, key) != wanted:
            raise MeasurementError(f"{result.generator}: its output is of {key} {row.get(key)}, the cell is {result.cell}")
    return judged(replace(result, notes=(*result.notes, note)))


def compare(ours: CellResult, other: CellResult) -> tuple[tuple[str, float | None, float | None, float | None], ...]:
    """(figure, ours, the other's, relative difference of the other to ours) for the cross-check."""

    def rate(result: CellResult) -> float | None:
        return result.output_throughput

    pairs = (
        ("mean TTFT ms", ours.ttft.mean, other.ttft.mean),
        ("mean TPOT ms", ours.tpot.mean, other.tpot.mean),
        ("mean E2E ms", ours.e2e.mean, other.e2e.mean),
        ("output tokens/s", rate(ours), rate(other)),
    )
    return tuple((name, a, b, None if a is None or b is None or not a else b / a - 1) for name, a, b in pairs)


def why_different(ours: CellResult, other: CellResult) -> str:
    """Known reasons for the differences of `compare`, by what the two generators count."""
    reasons = ["its TTFT contains opening the connection and the turns of its event loop"]
    if other.generator == "sglang-bench":
        reasons += ["its duration contains the closing GET /server_info", "a late TTFT makes its TPOT too short"]
    if other.generator == "vllm-bench":
        reasons += ["its TTFT is the first event with choices, whatever it holds"]
    if ours.requests.sent != other.requests.sent:
        reasons.append(f"{other.requests.sent} requests against our {ours.requests.sent}")
    return "; ".join(reasons)
