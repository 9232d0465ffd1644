"""A repository of somebody else, with pytest run in it as its people would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEIGHBOURS = ("flask", "django")
"""Plugins of this environment that have fixtures with our short names. They take part where a test asks for them."""

REHEARSAL = ("--nodes=rehearsal:quick", "--engine=sglang", "--h20-history=none")


@dataclass(frozen=True)
class Done:
    """A pytest that ended. ``runs``: its run folders, oldest first."""

    status: int
    output: str
    runs: tuple[Path, ...]

    @property
    def run(self) -> Path:
        """The only run folder."""
        assert len(self.runs) == 1, self.output
        return self.runs[0]

    @property
    def verdict(self) -> dict[str, Any]:
        """``verdict.json`` of the only run."""
        data: dict[str, Any] = json.loads((self.run / "verdict.json").read_text(encoding="utf-8"))
        return data

    def check(self, name: str) -> list[dict[str, Any]]:
        """All records of a check."""
        return [c for c in self.verdict["checks"] if c["check"] == name]

    @property
    def statuses(self) -> dict[tuple[str, str], str]:
        """(check, subject) → status."""
        return {(c["check"], c["subject"]): c["status"] for c in self.verdict["checks"]}

    @property
    def counts(self) -> dict[str, int]:
        """pytest's own counts: ``{"passed": 3}``."""
        (line,) = re.findall(r"^=* ?(\d+ [a-z].*) in [\d.]+s", self.output, re.M)
        return {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", line)}


def write(folder: Path, **files: str) -> None:
    """``conftest="..."`` becomes conftest.py. A pytest.ini keeps settings of folders above away."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def pytest_in(folder: Path, *args: str, timeout: float = 300.0, beside: tuple[str, ...] = (), **env: str) -> Done:
    """Run pytest in a folder, beside these of the ``NEIGHBOURS``. Run folders go to ``h20-runs`` in it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "GITHUB_", "H20_"))}
    alone = [word for name in NEIGHBOURS if name not in beside for word in ("-p", f"no:{name}")]
    before = set(folder.glob("h20-runs/2*"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *alone, *args],
        cwd=folder,
        env={**clean, "PYTHONPYCACHEPREFIX": str(folder.parent / "pyc"), **env},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    output = done.stdout + done.stderr
    assert "INTERNALERROR" not in output, output
    return Done(done.returncode, output, tuple(sorted(set(folder.glob("h20-runs/2*")) - before)))
