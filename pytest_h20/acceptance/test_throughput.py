"""Gate ``throughput``: every cell of input length × output length × concurrency holds its limits, and can be believed."""

from __future__ import annotations

import pytest

from pytest_h20.load.cells import Cell
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run import beyond, drafts
from pytest_h20.run.replicas import replicas
from pytest_h20.run.throughput import Load

pytestmark = pytest.mark.h20_gate("throughput")


def test_throughput(h20_load: Load, cell: Cell, h20_judge: Judge) -> None:
    """Output tokens per second, TTFT and TPOT of one cell against its limits; sanity before judgement."""
    if cell not in h20_load.cells:
        pytest.skip(f"{h20_load.label} does not measure {cell.id} (its profile names other cells)")
    h20_judge(*(verdict for result, repeat in h20_load.results(cell) for verdict in h20_load.judge(result, repeat)))


def test_crosscheck(h20_load: Load, h20_judge: Judge) -> None:
    """The engine's own benchmark agrees on one cell (``--h20-load-crosscheck``)."""
    if not h20_load.session.settings.load_crosscheck:
        pytest.skip("only with --h20-load-crosscheck")
    from pytest_h20.run.crosscheck import crosscheck

    h20_judge(*crosscheck(h20_load))


def test_answers(h20_load: Load, h20_judge: Judge) -> None:
    """What the canaries in all cells said: right, alike, nobody else's, and to an end."""
    h20_judge(*h20_load.answers_of_all())


def test_drafts(h20_load: Load, h20_judge: Judge) -> None:
    """Drafts of speculative decoding are accepted, and what they gain over a profile without."""
    if h20_load.foreign or h20_load.session.settings.calibrate:
        pytest.skip("figures of cells alone are wanted (--h20-load, --h20-calibrate)")
    h20_judge(*drafts.judged(h20_load))


def test_overload(h20_load: Load, h20_judge: Judge) -> None:
    """Past its KV cache the engine puts requests back, answers them all, and is as fast as before once that is over."""
    if why := beyond.chosen(h20_load, "overload"):
        pytest.skip(why)
    h20_judge(*beyond.overload(h20_load))


def test_shapes(h20_load: Load, h20_judge: Judge) -> None:
    """Requests of many lengths, the same lengths twice: the second time nobody waits for a kernel."""
    if why := beyond.chosen(h20_load, "shapes"):
        pytest.skip(why)
    h20_judge(*beyond.shapes(h20_load))


def test_chat_route(h20_load: Load, h20_judge: Judge) -> None:
    """A cell through the chat route is as fast as through the engine's own."""
    if why := beyond.chosen(h20_load, "chat"):
        pytest.skip(why)
    h20_judge(*beyond.chat(h20_load))


def test_long_work(h20_load: Load, h20_judge: Judge) -> None:
    """A prompt of nearly the whole context, several long ones at once, and a long answer."""
    if why := beyond.chosen(h20_load, "long"):
        pytest.skip(why)
    h20_judge(*beyond.long_work(h20_load))


def test_largest_concurrency(h20_load: Load, h20_judge: Judge) -> None:
    """The largest concurrency that keeps the service level asked for (``--h20-slo``)."""
    promised = h20_load.session.settings.slo
    if not promised:
        pytest.skip("only with --h20-slo")
    if h20_load.foreign:
        pytest.skip("another generator sends the load (--h20-load)")
    h20_judge(*beyond.largest(h20_load, promised))


def test_replicas(h20_load: Load, h20_judge: Judge) -> None:
    """Every data-parallel rank or worker behind the address answers rightly: each by itself where one can be named."""
    h20_judge(*replicas(h20_load))


def test_after_load(h20_load: Load, h20_judge: Judge) -> None:
    """After the last cell the graded questions are answered as before it."""
    h20_judge(*h20_load.after_load())
