"""The client's self-check: the same code, in the same process, at the same concurrency, against a known truth.

The built-in reference server runs as a child process and streams on a schedule of about the speed expected of the
engine; its own stamps are the truth. An error above 2 % in TTFT, TPOT or output throughput means that this client on
this machine cannot measure that concurrency: the cells it concerns are "could not measure: client saturated".
"""

from __future__ import annotations

from dataclasses import replace

from pytest_h20.core.errors import MeasurementError
from pytest_h20.load.cells import Cell
from pytest_h20.load.plan import LoadPlan
from pytest_h20.load.reference import ReferenceConfig, ReferenceProcess
from pytest_h20.load.result import CellResult
from pytest_h20.load.run import run_cell
from pytest_h20.load.selfcheck_types import LIMIT, SelfCheck
from pytest_h20.load.target import Target, Vocabulary

__all__ = ["LIMIT", "SelfCheck", "errors_against_truth", "self_check"]


def self_check(
    concurrency: int,
    dialect: str = "vllm",
    plan: LoadPlan | None = None,
    output_len: int = 40,
    input_len: int = 128,
    ttft_s: float = 0.2,
    tpot_s: float = 0.02,
    limit: float = LIMIT,
) -> SelfCheck:
    """Measure this client's error at `concurrency` streams; takes about ttft + output_len x tpot (1 s by default).

    The default speed, 50 tokens/s and stream, is above what the hardware in question gives from 8 streams on
    (`roofline.py`), so the check is harder than the cell. Times are wall-clock seconds. `plan`: processes and stamps
    are taken from it. Never raises for a check that could not be made: its `note` says why and it counts as saturated.
    """
    base = plan or LoadPlan()
    own = LoadPlan(
        requests=concurrency,
        warmup=0,
        processes=base.processes,
        kernel_stamps=base.kernel_stamps,
        seed=base.seed,
        request_timeout_s=60.0 + 10 * (ttft_s + output_len * tpot_s),
    )
    try:
        with ReferenceProcess(ReferenceConfig(ttft=0.0, tpot=0.0, metrics=False)) as server:
            # Chat prompts are calibrated first, and the first request of a connection path is never the fastest.
            target = Target(server.url, dialect, "reference", vocabulary=Vocabulary(1000, 30000), metrics_url="")
            run_cell(target, Cell(16, 2, 1), replace(own, requests=1))
            server.configure(ttft=ttft_s, tpot=tpot_s)
            server.reset()
            result = run_cell(target, Cell(input_len, output_len, concurrency), own)
            truth = server.truth()
    except MeasurementError as error:
        return SelfCheck(concurrency, None, None, None, 0.0, 0.0, limit=limit, note=str(error))
    return errors_against_truth(result, truth, concurrency, limit)


def errors_against_truth(result: CellResult, truth: dict[str, object], concurrency: int, limit: float = LIMIT) -> SelfCheck:
    """Relative errors of a result against `ReferenceServer.truth` of the same run. Pure."""
    rows = truth.get("rows")
    rows = rows if isinstance(rows, list) else []
    # What preceded the cell (the calibration of the chat template) has other lengths.
    own = [row for row in rows if row["asked"] == result.cell.output_len and row["sent"] and not row["fault"]]
    cpu = result.client.cpu_s_per_1000_tokens if result.client else None
    rate = result.whole.output_tokens_per_s if result.whole else 0.0
    summary = truth.get("summary")
    lag = float(summary["max_send_lag"]) if isinstance(summary, dict) else 0.0
    if not own or result.requests.complete != len(own):
        note = f"{result.requests.complete} answers read, {len(own)} given"
        if result.requests.first_failures:
            note += f"; {result.requests.first_failures[0]}"
        return SelfCheck(concurrency, None, None, None, rate, cpu or 0.0, lag, limit, note)
    span = max(row["last"] for row in own) - min(row["received"] for row in own)
    tpots = [row["tpot"] for row in own if row["tpot"] is not None]
    return SelfCheck(
        concurrency=concurrency,
        ttft_error=_error(result.ttft.mean, sum(row["ttft"] for row in own) / len(own)),
        tpot_error=_error(result.tpot.mean, sum(tpots) / len(tpots)) if tpots else None,
        throughput_error=_error(rate, sum(row["sent"] for row in own) / span, 1.0),
        tokens_per_s=rate,
        cpu_s_per_1000_tokens=cpu or 0.0,
        server_lag_s=lag,
        limit=limit,
    )


def _error(measured: float | None, true_value: float, unit: float = 1e3) -> float | None:
    if measured is None or true_value <= 0:
        return None
    return measured / unit / true_value - 1
