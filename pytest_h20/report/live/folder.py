"""A run's folder, read again and again while the run writes it: here, or on another machine over SSH. Nothing is written there.

Of a folder far away the few files that count are kept in a private folder here, and of the lines that only grow just what is new is
fetched. Whatever is half written, damaged or not of a run is left out and said; it never raises anything but ``H20Error``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from pytest_h20.cluster.codec import decode
from pytest_h20.cluster.ledger import Owner
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.core.verdict import GateName
from pytest_h20.nodes import Node
from pytest_h20.probes.kernel_log import Reading
from pytest_h20.report import untrusted
from pytest_h20.report.live import now as live
from pytest_h20.report.live.progress import Progress, ToldNow, progress
from pytest_h20.report.model import RunView
from pytest_h20.report.run import HEADER_FILE, VERDICT_FILE, load_run

PATTERNS = (VERDICT_FILE, HEADER_FILE, "verdicts*.jsonl", "events*.jsonl", f"{live.FOLDER}/*.json")
SHARED = (".shared/owner.json", ".shared/selected.json", ".shared/kernel-*.json")
_NAME = re.compile(r"(?:(?:inputs|\.live|\.shared)/)?[A-Za-z0-9_+][A-Za-z0-9._+-]*\.jsonl?")
"""What a file of a run may be called: a name that somebody planted must not lead out of the folder."""
_RUN = re.compile(r"\d{8}T\d{6}Z-.+")
MOST_BYTES = 256 << 20
"""Of one file; the lines of a run have some MiB."""


@dataclass(frozen=True)
class FolderNow:
    """A folder as it is now: where it can be read here, the time on the machine that writes it, and whether its process lives there
    (None: not known). ``whole``: every file of it is here."""

    path: Path
    now: datetime
    lives: bool | None
    whole: bool = True


class RunSource(Protocol):
    """Where a run's folder is."""

    def look(self) -> FolderNow:
        """Bring it up to date. Raises ``H20Error``."""

    def close(self) -> None:
        """End the connection; nothing is left here."""


class Here:
    """A run's folder on this machine, or the newest one in a folder of runs."""

    def __init__(self, path: Path) -> None:
        path = path.parent if path.name == VERDICT_FILE else path
        runs = [] if (path / VERDICT_FILE).exists() else _runs(path)
        self._path = max(runs, key=lambda run: run.name) if runs else path

    def look(self) -> FolderNow:
        """Nothing has to be fetched."""
        owner = _owner(self._path)
        return FolderNow(self._path, datetime.now(timezone.utc), None if owner is None else owner.lives)

    def close(self) -> None:
        """Nothing is open."""


def _runs(path: Path) -> list[Path]:
    try:
        return [run for run in path.iterdir() if _RUN.fullmatch(run.name) and (run / VERDICT_FILE).exists()]
    except OSError:
        return []


_LOOK = """cd -- %s 2>/dev/null || exit 9
[ -f verdict.json ] || { d=$(ls -1d [0-9]*T[0-9]*Z-*/ 2>/dev/null | tail -n 1); [ -z "$d" ] || cd -- "./$d" || exit 9; }
echo "folder $(pwd)"
echo "now $(date +%%s)"
echo "machine $(cat /proc/sys/kernel/random/boot_id 2>/dev/null) $(readlink /proc/self/ns/pid 2>/dev/null)"
[ %s = 0 ] || { s=; read -r s 2>/dev/null </proc/%s/stat; echo "process $s"; }
for f in PATTERNS; do
  [ -f "$f" ] && [ ! -L "$f" ] && echo "file $(stat -c '%%s %%Y' -- "$f") $f"
done
:""".replace("PATTERNS", " ".join((*PATTERNS, *SHARED)))


class There:
    """A run's folder on another machine. ``path``: as its user would give it there, relative to where a login begins."""

    def __init__(self, node: Node, path: str) -> None:
        self._node, self._asked = node, path
        self._mirror = Path(tempfile.mkdtemp(prefix="h20-watch-"))
        self._have: dict[str, tuple[int, int]] = {}
        self._folder = ""

    def look(self) -> FolderNow:
        """Ask what there is, and fetch what is new."""
        owner = _owner(self._mirror)
        pid = 0 if owner is None else owner.pid
        told = self._node.run(_LOOK, self._folder or self._asked.removeprefix("~/") or ".", pid, pid)
        if told.rc == 9:
            raise UsageError(f"{self._node.name}: {self._asked}: there is no such folder; give one below h20-runs/")
        words: dict[str, str] = {}
        files: dict[str, tuple[int, int]] = {}
        for line in told.check().stdout.splitlines():
            kind, _, rest = line.partition(" ")
            found = re.fullmatch(r"(\d{1,15}) (\d{1,12}) (.+)", rest) if kind == "file" else None
            if found is None:
                words[kind] = rest
            elif _NAME.fullmatch(found[3]):
                files[found[3]] = int(found[1]), int(found[2])
        self._folder = words.get("folder", self._folder)
        self._fetch(files)
        return FolderNow(self._mirror, _moment(words.get("now", "")), _lives(owner, words), whole=False)

    def _fetch(self, files: dict[str, tuple[int, int]]) -> None:
        for name in self._have.keys() - files.keys():
            (self._mirror / name).unlink(missing_ok=True)
            del self._have[name]
        for name, (size, changed) in files.items():
            have = self._have.get(name, (0, 0))
            if (size, changed) == have or size > MOST_BYTES:
                continue
            target = self._mirror / name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            grows = name.endswith(".jsonl") and target.exists() and target.stat().st_size <= size
            start = target.stat().st_size if grows else 0
            try:
                data = self._node.get(f"{self._folder}/{name}", start, size - start)
            except FileNotFoundError:  # what went on is over
                continue
            with open(target, "ab" if grows else "wb") as file:
                file.write(data)
            os.utime(target, (changed, changed))
            self._have[name] = size, changed

    def close(self) -> None:
        """The connection ends, and what was kept here is gone."""
        self._node.close()
        shutil.rmtree(self._mirror, ignore_errors=True)


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(int(text), timezone.utc) if text.isdigit() and len(text) < 12 else datetime.now(timezone.utc)


def _lives(owner: Owner | None, words: dict[str, str]) -> bool | None:
    """Whether the process is the one that runs there under its number."""
    if owner is None or "process" not in words or words.get("machine") != owner.machine:
        return None
    fields = words["process"].rpartition(")")[2].split()
    return len(fields) > 19 and fields[0] not in "ZX" and fields[19] == str(owner.started)


class Follow:
    """One run, looked at again and again. What has not changed is not read again."""

    def __init__(self, source: RunSource) -> None:
        self.source = source
        self._seen: tuple[object, ...] = ()
        self._view: RunView | None = None

    def stand(self) -> Progress:
        """How it stands. Raises ``UsageError`` when there is no run, or one of another version; ``TransportError``."""
        seen = self.source.look()
        key = tuple(_stamps(seen.path, PATTERNS[:-1]))
        if self._view is None or key != self._seen:
            self._view, self._seen = load_run(seen.path, hashed=seen.whole), key
        return progress(self._view, told(seen), seen.now)


def told(seen: FolderNow) -> ToldNow:
    """What a folder says beside its records."""
    damage: list[str] = []
    nows: dict[str, list[Any]] = {kind: [] for kind in live.NOW_TYPES}
    for file in sorted((seen.path / live.FOLDER).glob("*.json")):
        with _left_out(file, damage):
            data = json.loads(untrusted.text(file))
            nows[data["kind"]].append(live.NOW_TYPES[data["kind"]].model_validate(data))
    selected: list[tuple[str, str]] = []
    with _left_out(seen.path / ".shared/selected.json", damage):
        gates = {gate.value for gate in GateName}
        selected = [(str(test), gate) for test, gate in _published(seen.path / ".shared/selected.json", list) if gate in gates]
    kernel: list[tuple[str, str]] = []
    read = False
    for file in sorted((seen.path / ".shared").glob("kernel-*.json"), key=_changed):
        with _left_out(file, damage):
            readings = {node: r for node, r in _published(file, dict).items() if isinstance(r, Reading)}
            read = read or bool(readings)
            kernel += [(str(node), str(event.text)) for node, reading in readings.items() for event in reading.log.events]
    stamps = [moment for _, _, moment in _stamps(seen.path, PATTERNS)]
    return ToldNow(
        lives=seen.lives,
        last_sign=datetime.fromtimestamp(max(stamps) / 1e9, timezone.utc) if stamps else None,
        selected=tuple(selected),
        bringups=tuple(nows["bringup"]),
        cells=tuple(nows["cell"]),
        machines=tuple(nows["machines"]),
        kernel=tuple(kernel),
        kernel_read=read,
        damage=tuple(damage),
    )


@contextlib.contextmanager
def _left_out(file: Path, damage: list[str]) -> Iterator[None]:
    """What is not there tells nothing; what cannot be read is left out and said."""
    try:
        yield
    except FileNotFoundError:
        return
    except (H20Error, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        damage.append(f"{file.parent.name}/{file.name}: cannot be read and was left out: {str(error).splitlines()[0][:200]}")


def _published(file: Path, kind: type) -> Any:
    """What a process of the run published there for the others."""
    ok, value = decode(untrusted.text(file))
    if ok is not True or not isinstance(value, kind):
        raise H20Error(f"does not hold a {kind.__name__}")
    return value


def _owner(path: Path) -> Owner | None:
    with contextlib.suppress(H20Error, OSError, ValueError, TypeError):
        found = _published(path / ".shared/owner.json", Owner)
        if isinstance(found, Owner) and isinstance(found.pid, int) and found.pid > 0:
            return found
    return None


def _changed(file: Path) -> int:
    with contextlib.suppress(OSError):
        return file.lstat().st_mtime_ns
    return 0


def _stamps(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and time of change (ns) of its files."""
    for pattern in patterns:
        for file in sorted(path.glob(pattern)):
            with contextlib.suppress(OSError):
                found = file.lstat()
                yield file.name, found.st_size, found.st_mtime_ns


def source_of(where: str, connect: Callable[[str], Node]) -> RunSource:
    """``FOLDER`` here, or ``[user@]host[:port]:FOLDER``, which ``connect`` reaches by what stands before the folder. What is there as it
    is written is here."""
    host, colon, path = where.rpartition(":")
    if not colon or "/" in host or Path(where).exists():
        return Here(Path(where))
    if not path:
        raise UsageError(f"{where}: no folder; give [user@]host:FOLDER of a run")
    return There(connect(host), path)
