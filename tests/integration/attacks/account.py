"""An attacker's account: a uid that nobody has, for as long as a test lasts. Nothing is added to /etc/passwd."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 63_519


class Account:
    """Runs programs as the attacker; ``close`` ends them all."""

    def __init__(self) -> None:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("needs root and setpriv: it attacks from the account of another user")
        taken = {user.pw_uid for user in pwd.getpwall()} | {_owner(entry) for entry in Path("/proc").glob("[0-9]*")}
        self.uid = next(uid for uid in range(UID, UID + 1000) if uid not in taken)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, *args: object) -> subprocess.Popen[bytes]:
        """Run a Python program as the attacker; it goes on until ``close``."""
        words = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", sys.executable, "-c", program]
        process = subprocess.Popen([*words, *map(str, args)], cwd="/", env={"PATH": os.environ["PATH"]})
        self._started.append(process)
        return process

    def do(self, program: str, *args: object) -> None:
        """Run a Python program as the attacker to its end."""
        assert self.start(program, *args).wait(30) == 0

    def close(self) -> None:
        """End what was started."""
        for process in self._started:
            process.kill()
            process.wait()


def _owner(entry: Path) -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1
