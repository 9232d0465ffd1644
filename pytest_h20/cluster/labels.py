"""The labels by which our containers are found again: never by a name pattern, never by an image."""

from __future__ import annotations

OWNER = "io.pytest-h20"
RUN = "io.pytest-h20.run"
ROLE = "io.pytest-h20.role"
NODE = "io.pytest-h20.node"
STARTED_BY = "io.pytest-h20.started-by"
RUN_DIR = "io.pytest-h20.run-dir"


def of_run(run_id: str, role: str, node: str, started_by: str, run_dir: str) -> dict[str, str]:
    """The labels of one container."""
    return {OWNER: "1", RUN: run_id, ROLE: role, NODE: node, STARTED_BY: started_by, RUN_DIR: run_dir}
