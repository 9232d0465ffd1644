"""Reading the engine's output from the nodes, by offset: complete, resumable after a dropped connection, cheap to repeat."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

from pytest_h20.cluster import regular
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes import Node

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CHUNK = 4 << 20

_WARNINGS_MOST = 262_144
_TAIL = 1 << 20


def log_tail(node: Node, path: str) -> str:
    """The last MiB of a process's log, without colours. Empty when there is none, or when the node does not answer."""
    try:
        return _ANSI.sub("", regular.read(node, path, -_TAIL).decode("utf-8", "replace"))
    except (FileNotFoundError, H20Error):
        return ""


def nccl_warnings(node: Node, folder: str) -> str:
    """NCCL's own WARN lines of every rank on a node. ``NCCL_DEBUG_FILE`` keeps them out of the engine's log, where one reads only
    that NCCL failed. Empty when there are none, or when the node does not answer: this explains a failure that is told anyway."""
    found: list[bytes] = []
    with contextlib.suppress(H20Error):
        for name in regular.names(node, folder, "nccl.*"):
            with contextlib.suppress(FileNotFoundError):
                found.append(regular.read(node, f"{folder}/{name}", 0, _WARNINGS_MOST, only="NCCL WARN"))
            if sum(map(len, found)) >= _WARNINGS_MOST:
                break
    return b"".join(found)[:_WARNINGS_MOST].decode("utf-8", "replace")


@dataclass
class Follower:
    """The growing log of one role. ``poll`` returns the whole lines that are new; ``text`` keeps everything read so far."""

    node: Node
    role: RoleRef
    offset: int = 0
    text: str = ""
    _rest: bytes = field(default=b"", repr=False)

    def poll(self) -> list[str]:
        """New complete lines, without colours. A progress bar's carriage returns end lines too."""
        try:
            data = regular.read(self.node, self.role.log_path, self.offset, _CHUNK)
        except FileNotFoundError:
            return []
        self.offset += len(data)
        whole = self._rest + data
        cut = max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1
        self._rest = whole[cut:]
        fresh = _ANSI.sub("", whole[:cut].decode("utf-8", "replace"))
        self.text += fresh
        return [line for line in re.split(r"[\r\n]+", fresh) if line]

    def rest(self) -> list[str]:
        """Everything up to now, an unfinished last line included."""
        lines = self.poll()
        if self._rest:
            tail = _ANSI.sub("", self._rest.decode("utf-8", "replace"))
            self.text += tail
            self._rest = b""
            lines.append(tail)
        return lines

    def tail(self, lines: int = 15) -> str:
        """The last lines, for an error message."""
        return "\n".join([line for line in re.split(r"[\r\n]+", self.text) if line.strip()][-lines:])
