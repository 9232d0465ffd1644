from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.core.errors import MeasurementError
from pytest_h20.report.requests import RequestRow, figures, intervals, read_requests, requests_file, windows


def closed_loop(streams: int, waves: int, ttft: float = 0.5, tpot: float = 0.1, tokens: int = 11) -> list[RequestRow]:
    """Streams that start 10 ms apart and send the next request when the last one ends."""
    length = ttft + tpot * (tokens - 1)
    return [
        RequestRow(ttft, tpot, tokens, sent=0.01 * s + w * length, end=0.01 * s + (w + 1) * length)
        for s in range(streams)
        for w in range(waves)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def row(**changes: Any) -> dict[str, Any]:
    data = {"outcome": "ok", "ttft_s": 0.2, "tpot_s": 0.05, "output_tokens": 11, "sent_s": 0.0, "end_s": 0.7}
    return {**data, **changes}


def test_our_own_records(tmp_path: Path) -> None:
    rows = [row(), row(ttft_s=0.4, sent_s=0.7, end_s=1.6), row(outcome="timeout", ttft_s=9.0), row(ttft_s=None)]
    found = figures(read_requests(write(tmp_path / "c.requests.jsonl", rows)))
    assert found["mean_ttft_ms"] == pytest.approx(300.0)
    assert found["mean_tpot_ms"] == pytest.approx(50.0)
    assert found["output_throughput"] == pytest.approx(22 / 1.6)


def test_our_own_records_are_preferred(tmp_path: Path) -> None:
    cell = tmp_path / "in1-out1-c1.json"
    assert requests_file(cell) == cell
    own = write(tmp_path / "in1-out1-c1.requests.jsonl", [row()])
    assert requests_file(cell) == own


@pytest.mark.parametrize(
    ("data", "tpot"),
    [
        ({"ttfts": [0.2, 0.4], "output_lens": [11, 11], "latencies": [0.7, 0.9]}, 50.0),
        ({"ttfts": [0.2], "output_lens": [3], "itls": [[0.05, 0.07]]}, 60.0),
        ({"ttfts": [0.2, 5.0], "output_lens": [11, 0], "latencies": [0.7, 0.0]}, 50.0),
    ],
)
def test_lists_of_bench_serving(tmp_path: Path, data: dict[str, Any], tpot: float) -> None:
    (tmp_path / "c.json").write_text(json.dumps(data))
    assert figures(read_requests(tmp_path / "c.json"))["mean_tpot_ms"] == pytest.approx(tpot)


@pytest.mark.parametrize("data", [{}, [], {"ttfts": "x"}, {"ttfts": [1.0]}, {"ttfts": [None], "output_lens": [None]}])
def test_files_without_requests_give_none(tmp_path: Path, data: object) -> None:
    (tmp_path / "c.json").write_text(json.dumps(data))
    assert read_requests(tmp_path / "c.json") == []
    assert figures([]) == {}


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}\n{'])
def test_what_cannot_be_read_is_an_error_of_ours(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "c.requests.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MeasurementError, match=r"c\.requests\.jsonl"):
        read_requests(path)


def test_windows_of_a_steady_load_show_its_rate() -> None:
    requests = closed_loop(streams=8, waves=6)
    found = windows(requests, 8)
    assert len(found) == 40
    true = 8 * 11 / 1.5
    assert sum(found) / len(found) == pytest.approx(true, rel=0.1)


def test_a_single_wave_has_no_steady_part() -> None:
    assert windows(closed_loop(streams=8, waves=1), 8) == ()


@given(st.integers(1, 20), st.integers(2, 5), st.floats(0.01, 2), st.floats(0.001, 0.5), st.integers(1, 50))
def test_windows_never_hold_more_tokens_than_there_were(streams: int, waves: int, ttft: float, tpot: float, tokens: int) -> None:
    requests = closed_loop(streams, waves, ttft, tpot, tokens)
    found = windows(requests, streams)
    sent = sorted(r.sent or 0.0 for r in requests)
    width = (sent[-1] - sent[streams - 1]) / 40
    assert all(value >= 0 for value in found)
    assert sum(found) * width <= sum(r.tokens for r in requests) * 1.0001


def test_intervals_need_some_requests() -> None:
    assert intervals(closed_loop(1, 3)) == {}
    low, high = intervals([RequestRow(0.1 + 0.01 * i, None, 1) for i in range(20)])["mean_ttft_ms"]
    assert 100 < low < 195 < high < 290
