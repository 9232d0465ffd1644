"""Gate ``drill``, only with ``--h20-drill``: a fault is told to the clients, is survived or recovered from, and is taken back."""

from __future__ import annotations

import pytest

from pytest_h20.cluster.drills import Drill
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.throughput import Load

pytestmark = pytest.mark.h20_gate("drill")


def test_drill(h20_load: Load, drill: Drill, h20_judge: Judge) -> None:
    """Break the cluster in this way while clients ask, and judge what they saw and how it came back."""
    from pytest_h20.run.drills import run_drill

    h20_load.close()
    h20_judge(*run_drill(h20_load.session, h20_load.label, drill, h20_load.write))
