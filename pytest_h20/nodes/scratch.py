"""Private folders of this process on this machine, named so that a later one finds what a killed process left."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

_NAME = re.compile(r"h20-(?P<pid>\d+)-(?P<start>\d+)-\w+")


def _root() -> str:
    return "/tmp" if len(tempfile.gettempdir()) > 60 else tempfile.gettempdir()


def folder() -> str:
    """A new folder, 0700; its path is short enough for a socket in it. Sweeps first."""
    sweep()
    return tempfile.mkdtemp(prefix=f"h20-{os.getpid()}-{_started(os.getpid())}-", dir=_root())


def sweep() -> None:
    """Remove the sockets of this user's processes that have ended. Only sockets, and only in folders with such a name."""
    for path in Path(_root()).glob("h20-*"):
        match = _NAME.fullmatch(path.name)
        if match is None or _started(int(match["pid"])) == match["start"]:
            continue
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.lstat().st_uid != os.geteuid():
                continue
            for file in path.iterdir():
                if file.is_socket():
                    file.unlink()
            path.rmdir()


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "0" if fields[0] in "ZX" else fields[19]  # of what has ended only the exit status is left: nobody has fetched it
    except (OSError, IndexError):
        return "0"
