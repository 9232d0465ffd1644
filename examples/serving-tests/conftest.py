"""The hooks of pytest-h20 that this team uses. None of them costs anything in a run without a cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_h20.cluster.state import ClusterState
    from pytest_h20.config.inventory import Inventory
    from pytest_h20.core.verdict import Verdict


def pytest_h20_inventory(inventory: Inventory) -> Inventory:
    """Our users send one request or eight at a time: these two cells are measured, not the 26 of the acceptance."""
    load = inventory.load.model_copy(update={"concurrency": (1, 8), "lengths": ((128, 128),)})
    return inventory.model_copy(update={"load": load})


def pytest_h20_limits(engine: str) -> str | None:
    """What we promised to them, for SGLang. Relative to this repository's root."""
    return "limits/promised.yaml" if engine == "sglang" else None


def pytest_h20_checks(inventory: Inventory, state: ClusterState) -> Sequence[Verdict]:
    """Our router finds the model by its name: the cluster must serve the name that the inventory promises."""
    from pytest_h20.core.verdict import Limit, Origin, judge

    promised = inventory.model.served_name or inventory.model.path
    limit = Limit(kind="equal", value=promised, origin=Origin(kind="inventory", detail="model"))
    return [judge("endpoint.router_name", "The router finds the model by its name", state.model, limit, action="set served_name")]


def pytest_h20_redact() -> Sequence[str]:
    """Tenants are nobody's business but ours: their ids stay out of every log, report and piece of evidence."""
    return [r"tenant-[0-9a-f]{8}"]


def pytest_h20_report(run_dir: str, decision: str, accepted: bool) -> None:
    """Keep the verdict where the team looks for it."""
    archive = os.environ.get("VERDICT_ARCHIVE")
    if archive:
        name = f"{Path(run_dir).name}-{'accepted' if accepted else 'not-accepted'}.json"
        shutil.copy(Path(run_dir) / "verdict.json", Path(archive) / name)
