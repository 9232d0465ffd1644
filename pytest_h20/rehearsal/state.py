"""What the processes of a rehearsal share: containers, their processes, files of the nodes, tokens served. A folder on disk."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_h20.core.whole import write_whole
from pytest_h20.engines.layout import Layout


@dataclass(frozen=True)
class Held:
    """A container as it is kept on disk. ``pids``: its main process and those exec'd into it."""

    id: str
    name: str
    image: str
    node: str
    labels: dict[str, str]
    created: str
    pids: tuple[int, ...] = ()
    exit_code: int | None = None
    oom_killed: bool = False
    env: dict[str, str] = field(default_factory=dict)


class State:
    """The shared folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("containers", "nodes", "ports"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.owner = self._owner()
        self.began = (folder / "owner").stat().st_mtime

    def _owner(self) -> int:
        """The process with which everything here ends: the first that used the folder (xdist's controller, not its workers)."""
        path = self.folder / "owner"
        with self.locked():
            known = int(path.read_text()) if path.exists() else 0
            if not alive(known):
                path.write_text(str(os.getpid()))
                return os.getpid()
        return known

    def path(self, node: str, path: str) -> Path:
        """A file of a node in its sandbox; a path can never leave it."""
        root = self.folder / "nodes" / node
        clean = os.path.normpath("/" + path).lstrip("/")
        return root / clean

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time changes containers."""
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def save(self, held: Held) -> None:
        """Write a container down."""
        write_whole(self.folder / "containers" / f"{held.id}.json", json.dumps(asdict(held)))

    def load(self, container_id: str) -> Held | None:
        """Read a container, its state as its process tells it."""
        try:
            data: dict[str, Any] = json.loads((self.folder / "containers" / f"{container_id}.json").read_text())
        except FileNotFoundError:
            return None
        return Held(**{**data, "pids": tuple(data["pids"])})

    def all(self) -> list[Held]:
        """Every container of every node."""
        found = [self.load(p.stem) for p in sorted((self.folder / "containers").glob("*.json"))]
        return [h for h in found if h is not None]

    def forget(self, container_id: str) -> None:
        """Remove a container."""
        (self.folder / "containers" / f"{container_id}.json").unlink(missing_ok=True)

    def add_pid(self, held: Held, pid: int) -> Held:
        """A further process in a container."""
        changed = replace(held, pids=(*held.pids, pid))
        self.save(changed)
        return changed

    # ------------------------------------------------------------------ what actors leave
    def exit_status(self, pid: int) -> dict[str, Any] | None:
        """What an actor wrote when it ended: code, oom. None while it lives."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "ports" / f"exit-{pid}.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found

    def ports(self, node: str) -> dict[int, dict[str, Any]]:
        """Ports of a node that something serves: number → where it really listens, which container."""
        found = {}
        for path in (self.folder / "ports").glob(f"{node}-*.json"):
            with contextlib.suppress(ValueError, OSError):
                data = json.loads(path.read_text())
                if alive(int(data["pid"])):
                    found[int(data["port"])] = data
        return found

    def loads(self, node: str, more: bool = False) -> int:
        """How often ``ib_write_bw`` ran on this node; ``more``: once more now."""
        path = self.folder / f"loads-{node}"
        if more:
            with path.open("ab") as file:
                file.write(b".")
        return path.stat().st_size if path.exists() else 0

    def met(self, meeting: str, node: str, count: int) -> list[str]:
        """Come to a meeting of so many nodes, and wait (5 s at most) until all are there: who is."""
        folder = self.folder / "meetings" / meeting
        folder.mkdir(parents=True, exist_ok=True)
        (folder / node).touch()
        end = time.monotonic() + 5.0
        while len(here := sorted(path.name for path in folder.iterdir())) < count and time.monotonic() < end:
            time.sleep(0.005)
        return here

    def lates(self, seen: Mapping[str, int]) -> tuple[list[tuple[float, float, float]], dict[str, int]]:
        """How late (s) the first, the last and the latest token of each request left since ``seen``; what is seen now (bytes by file)."""
        found, now = [], dict(seen)
        for path in sorted(self.folder.glob("late-*")):
            with path.open("rb") as file:
                file.seek(seen.get(path.name, 0))
                lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            now[path.name] = seen.get(path.name, 0) + len(lines)
            found += [(float(first), float(last), float(most)) for first, last, most in map(bytes.split, lines.splitlines())]
        return found, now

    def load_begins(self) -> None:
        """The load begins, unless it has."""
        with contextlib.suppress(FileExistsError):
            (self.folder / "load-began").touch(exist_ok=False)

    def load_began(self) -> float | None:
        """When the load began (time of day), None before it."""
        path = self.folder / "load-began"
        return path.stat().st_mtime if path.exists() else None

    def soak_begins(self, hours_per_s: float) -> None:
        """The soak begins: from now on so many of its hours pass in a second."""
        (self.folder / "soak-began").write_text(f"{hours_per_s!r}")

    def soak_reaches(self, hours: float) -> float | None:
        """When (time of day) the soak is so many hours old; None before it began."""
        path = self.folder / "soak-began"
        return path.stat().st_mtime + hours / float(path.read_text()) if path.exists() else None

    def soak_hours(self) -> float | None:
        """Hours of the soak that have passed, None before it."""
        return soak_hours(self.folder)

    def burns(self, node: str) -> None:
        """The GPUs of a node are burned now."""
        (self.folder / f"burned-{node}").touch()

    def burned_at(self, node: str) -> float | None:
        """When they were (time of day); None before it."""
        path = self.folder / f"burned-{node}"
        return path.stat().st_mtime if path.exists() else None

    def ready_at(self, node: str) -> float | None:
        """When something of ours first served a port on a node (time of day)."""
        return min((path.stat().st_mtime for path in (self.folder / "ports").glob(f"{node}-*.json")), default=None)

    def tokens(self) -> int:
        """Tokens that all engines of this rehearsal have processed."""
        return sum(count for count, _ in self.served())

    def served(self) -> list[tuple[int, Layout]]:
        """Tokens that each engine of this rehearsal has processed, and how it cut the model."""
        found = []
        for path in self.folder.glob("tokens-*"):
            with contextlib.suppress(ValueError, OSError):
                layout = Layout(**json.loads(path.with_name(path.name.replace("tokens", "layout")).read_text()))
                found.append((int(path.read_text() or 0), layout))
        return found


def soak_hours(folder: Path) -> float | None:
    """Hours that have passed since the soak began, by what ``State.soak_begins`` left in this folder; None before it."""
    path = folder / "soak-began"
    try:
        began, speed = path.stat().st_mtime, path.read_text()
    except FileNotFoundError:
        return None
    return max(0.0, time.time() - began) * float(speed or 0.0)


def alive(pid: int) -> bool:
    """True while the process runs (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"
