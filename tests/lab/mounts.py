"""mount(8) and programs that must succeed, for process 1 of a node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def run(*command: object) -> None:
    """Run a program that must succeed."""
    subprocess.run([str(word) for word in command], check=True)


def mount(*arguments: object) -> None:
    """mount(8)."""
    run("mount", *arguments)


def install(source: Path, target: Path) -> None:
    """Copy a program."""
    shutil.copyfile(source, target)
    target.chmod(0o755)
