"""What other repositories may extend. Implement these in a ``conftest.py`` or a plugin of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_h20.cluster.state import ClusterState
    from pytest_h20.config.inventory import Inventory
    from pytest_h20.core.verdict import Verdict


def pytest_h20_inventory(inventory: Inventory) -> Inventory | None:
    """Change the inventory after it was read, for example to add engines or expectations. Return it, or None to leave it.

    Called once per process, before anything is started.
    """


def pytest_h20_checks(inventory: Inventory, state: ClusterState) -> Sequence[Verdict] | None:
    """Checks of your own, run once when the cluster is ready. Their verdicts enter the gates and the report.

    A check id begins with the gate it counts for, for example ``endpoint.my_company_header``.
    """


@pytest.hookspec(firstresult=True)
def pytest_h20_limits(inventory: Inventory, engine: str, profile: str) -> str | None:
    """Path of the limits file for a profile; the first answer that is not None wins over the inventory's."""


def pytest_h20_redact() -> Sequence[str] | None:
    """Regular expressions whose matches never reach a log, a report or the evidence."""


def pytest_h20_report(run_dir: str, decision: str, accepted: bool) -> None:
    """Called on the controller when the run folder is complete: upload it, post it, keep it."""
