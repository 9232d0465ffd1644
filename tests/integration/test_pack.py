"""A packed folder installs without a network, and what it installs runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_h20.__main__ import main


def test_packed_here_and_installed_without_a_network(tmp_path: Path) -> None:
    folder, venv = tmp_path / "pack", tmp_path / "venv"
    assert main(["pack", str(folder)]) == 0
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare here to take the network away")
    subprocess.run([unshare, "-n", "sh", str(folder / "install.sh"), str(venv)], check=True, cwd=tmp_path)
    run = subprocess.run([venv / "bin/python", "-m", "pytest_h20", "example"], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "nodes:" in run.stdout
    with (folder / "install.sh").open("a") as file:
        file.write("# changed on the way\n")
    again = subprocess.run(["sh", str(folder / "install.sh")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "install.sh: FAILED" in again.stdout + again.stderr
