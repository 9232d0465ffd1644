"""Gate ``soak``: the engine stays as fast, as right and as small as it was, for as long as ``--h20-soak`` says. Only on request."""

from __future__ import annotations

import pytest

from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.soak import soak
from pytest_h20.run.throughput import Load

pytestmark = pytest.mark.h20_gate("soak")


def test_soak(h20_load: Load, h20_judge: Judge) -> None:
    """Every figure over time, each with the smallest slope that could have been seen; stalls, failures, answers, counters, machines."""
    h20_judge(*soak(h20_load))
