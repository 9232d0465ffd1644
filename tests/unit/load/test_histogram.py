from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.core.errors import UsageError
from pytest_h20.load.histogram import Histogram

DURATIONS = st.lists(st.floats(1e-6, 5e3), min_size=1, max_size=60)


@given(DURATIONS, st.floats(0.1, 100))
def test_percentiles_are_within_the_stated_error(values: list[float], percent: float) -> None:
    got = Histogram.of(values).percentile(percent)
    rank = max(1, math.ceil(len(values) * percent / 100))
    assert got == pytest.approx(sorted(values)[rank - 1], rel=1 / 256 + 1e-9)


@given(DURATIONS, DURATIONS)
def test_merging_is_the_same_as_counting_together(left: list[float], right: list[float]) -> None:
    merged = Histogram.of(left)
    merged.merge(Histogram.of(right))
    together = Histogram.of(left + right)
    assert merged.counts == together.counts
    assert (merged.count, merged.least, merged.most) == (together.count, together.least, together.most)
    assert merged.mean == pytest.approx(together.mean)


@given(DURATIONS)
def test_json_keeps_everything(values: list[float]) -> None:
    before = Histogram.of(values)
    after = Histogram.from_json(json.loads(json.dumps(before.to_json())))
    assert vars(after) == vars(before)


def test_empty_and_wrong_input() -> None:
    empty = Histogram()
    assert empty.percentile(50) is None
    assert empty.mean is None
    assert empty.std() is None
    assert Histogram.from_json(empty.to_json()).count == 0
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="cannot be counted"):
            empty.add(bad)
    for document in ({}, {"counts": {"1": 2}, "count": 3, "total": 1, "least": 0, "most": 1}, {"counts": 3}):
        with pytest.raises(UsageError, match="not a histogram"):
            Histogram.from_json(document)


@given(st.lists(st.floats(0, 5e3), max_size=40))
def test_many_at_once_are_counted_as_one_by_one(values: list[float]) -> None:
    single = Histogram()
    for value in values:
        single.add(value)
    together = Histogram()
    together.add_many(values)
    assert together.counts == single.counts
    assert (together.count, together.least, together.most) == (single.count, single.least, single.most)
    with pytest.raises(ValueError, match="cannot be counted"):
        together.add_many([1.0, math.inf])
