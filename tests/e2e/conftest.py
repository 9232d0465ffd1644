"""End to end: the whole plugin, as a user calls it, against the lab's real sshd, dockerd and engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A finished run of the plugin."""

    rc: int
    output: str
    folder: Path | None

    @property
    def verdict(self) -> dict[str, Any]:
        """verdict.json."""
        assert self.folder is not None, self.output[-3000:]
        found: dict[str, Any] = json.loads((self.folder / "verdict.json").read_text())
        return found


@dataclass(frozen=True)
class Lab:
    """The two nodes, up."""

    inventory: Path
    tmp: Path

    def ssh(self, node: str, *command: str) -> str:
        """Run a command on a node; its output."""
        words = [sys.executable, "-m", "tests.lab", "ssh", node, *command]
        return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False).stdout

    def containers(self, node: str) -> list[str]:
        """Names of all containers of a node."""
        return self.ssh(node, "docker", "ps", "-a", "--format", "'{{.Names}}'").split()

    def pytest(self, *args: str, inventory: Path | None = None, timeout: float = 400) -> Run:
        """Run the acceptance on the lab."""
        runs = self.tmp / f"runs-{len(list(self.tmp.iterdir()))}"
        words = [*PYTEST, f"--nodes={inventory or self.inventory}", f"--h20-run-dir={runs}", *args]
        process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # takes its cluster down, so that one slow run does not fail the tests after it
            out, err = process.communicate(timeout=60)
            pytest.fail(f"the run did not end within {timeout:g} s:\n{(out + err)[-3000:]}")
        folders = sorted(p for p in runs.iterdir() if p.is_dir()) if runs.is_dir() else []
        return Run(process.returncode, out + err, folders[-1] if folders else None)

    def changed(self, name: str, change: Any) -> Path:
        """A copy of the lab's inventory, changed by a function of its data."""
        data = yaml.safe_load(self.inventory.read_text())
        change(data)
        path = self.tmp / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path


PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab, brought up for these tests and taken down after them; one that is up already is used and left up."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    lab_dir = Path(os.environ.get("H20_LAB_DIR", "/var/cache/pytest-h20-lab"))
    if not (lab_dir / "images").is_dir():
        pytest.skip("the lab is not set up: python -m tests.lab setup")
    words = [sys.executable, "-m", "tests.lab"]
    was_up = subprocess.run([*words, "status"], cwd=REPOSITORY, capture_output=True, check=False).returncode == 0
    if not was_up:
        subprocess.run([*words, "down"], cwd=REPOSITORY, check=False, capture_output=True)
        subprocess.run([*words, "up"], cwd=REPOSITORY, check=True, timeout=120)
    inventory = tmp_path_factory.mktemp("lab") / "lab.yaml"
    text = subprocess.run([*words, "inventory"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    inventory.write_text(text)
    try:
        yield Lab(inventory, tmp_path_factory.mktemp("e2e"))
    finally:
        if not was_up:
            subprocess.run([*words, "down"], cwd=REPOSITORY, check=False)
