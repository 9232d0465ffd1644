"""How the acceptance suite is itself accepted: every fault turns exactly its checks red and is told with its cause.

One fault, one pytest of its own (``kill_table.run``). Everything that fails here is a defect of the suite or of the rehearsal.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h20.cli.faults import page
from pytest_h20.core.verdict import GateName
from pytest_h20.rehearsal.faults import CATALOGUE, Fault
from tests.plugin.kill_table import ALL_GATES, run

NEVER_RED = {
    "environment.nccl_left": "a warning only: memory that a killed job keeps, and that can be freed while an engine runs",
    "fabric.route": "a warning only: RoCE follows the GID's device, whatever the routing table says",
    "fabric.peermem_and_nccl": "a warning only: rdma.channels_gdr judges what NCCL really does",
    "fabric.tpot_cost": "recorded only: what the fabric costs per token, beside the measured TPOT",
    "throughput.mean_ttft_ms": "recorded only: in one wave it says how the first requests queued",
}
"""Checks that pass in a healthy rehearsal and that no fault can turn red, and why."""

NO_FAULT = (
    ("quick", "sglang"),
    ("sglang-0.5.16", "sglang"),
    ("quick", "vllm"),
    ("vllm-0.24", "vllm"),
    ("vllm-0.32", "vllm"),
    ("vllm-native", "vllm"),
)
"""Every dialect: scenario and engine."""

ALONE = {
    "one-cell-12-percent-slow": "its neighbours must stay inside a margin of a tenth",
    "own-machine-too-busy": "judges how busy this very machine is",
}
"""Faults whose verdict a second rehearsal on the same machine could change, and why."""
FAULTS = [pytest.param(f, id=f"{f.gate}-{f.name}", marks=[pytest.mark.alone] if f.name in ALONE else []) for f in CATALOGUE.values()]


@pytest.mark.parametrize(("scenario", "engine"), NO_FAULT, ids=lambda value: value)
def test_no_fault(scenario: str, engine: str, tmp_path: Path) -> None:
    """Without a fault everything is green, is no acceptance all the same, and each check that passed has a fault of its own."""
    ended = run(tmp_path, engine=engine, scenario=scenario)
    assert ended.red == set(), ended.said()
    assert ended.status == 0, ended.output[-3000:]
    assert ended.verdict["green"] is True
    assert ended.verdict["accepted"] is False
    assert ended.verdict["mode"] == "rehearsal"
    assert {g["name"] for g in ended.verdict["gates"]} == set(ALL_GATES)
    assert ended.left == ()
    assert not [text for text in ended.verdict["header"]["cannot_accept"] if "no verdict" in text], "the whole suite reported"
    named = {check for fault in CATALOGUE.values() for check in fault.red}
    assert ended.recorded() - named - set(NEVER_RED) == set(), "no fault turns these red"


def test_catalogue_covers_every_gate() -> None:
    """At least 40 faults over all gates, each told in words."""
    assert len(CATALOGUE) >= 40
    assert set(ALONE) <= set(CATALOGUE)
    assert {f.gate for f in CATALOGUE.values()} == {g.value for g in GateName}
    for fault in CATALOGUE.values():
        assert fault.red, fault.name
        assert fault.phrase, fault.name
        assert fault.sentence.endswith("."), fault.name
        assert fault.source, fault.name


def test_documentation_is_generated() -> None:
    """docs/faults.md is what the catalogue says."""
    path = Path(__file__).parents[2] / "docs" / "faults.md"
    assert path.read_text(encoding="utf-8") == page(), "run: python -m pytest_h20.cli.faults > docs/faults.md"


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: Fault, tmp_path: Path) -> None:
    """Exactly the named checks are red, one of them says why, and the run fails."""
    ended = run(tmp_path, engine=fault.engine, scenario=fault.scenario, faults=[fault.name], gates=fault.modules, options=fault.options)
    assert not ended.difference(fault.red), f"{ended.difference(fault.red)}\n{ended.said()}"
    assert fault.phrase in ended.said()
    assert ended.status != 0
    assert ended.verdict["mode"] == "rehearsal"
    assert ended.verdict["accepted"] is False
    assert ended.verdict["green"] is False
    assert ended.left == ()
