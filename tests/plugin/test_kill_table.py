"""How the acceptance suite is itself accepted: every fault turns exactly its checks red and is told with its cause.

One fault, one pytest of its own (``kill_table.run``). Everything that fails here is a defect of the suite or of the rehearsal.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.rehearsal.faults import CATALOGUE, Fault
from tests.plugin.kill_table import run


@pytest.mark.parametrize("fault", CATALOGUE.values(), ids=lambda fault: f"{fault.gate}-{fault.name}")
def test_fault(fault: Fault, tmp_path: Path) -> None:
    """Exactly the named checks are red, one of them says why, and the run fails."""
    ended = run(
        tmp_path, engine=fault.engine, scenario=fault.scenario, faults=[fault.name], gates=fault.modules, options=fault.options
    )
    assert not ended.difference(fault.red), f"{ended.difference(fault.red)}\n{ended.said()}"
    assert fault.phrase in ended.said()
    assert ended.status != 0
    assert ended.verdict["mode"] == "rehearsal"
    assert ended.verdict["accepted"] is False
    assert ended.verdict["green"] is False
    assert ended.left == ()
