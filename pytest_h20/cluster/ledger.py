"""What a run has on a node, written down there before it is made: the only thing that tear-down and ``reap`` believe.

In the base folder of this user on the node (0700, owned by the log-in user, no link; checked by every script)::

    RUN.run     JSON lines: whose run it is, every container and folder before it is made, every drill before it breaks anything and
                once it was taken back; the file's age is the run's heartbeat
    RUN.tmp/    TMPDIR of every command of the run: what a killed probe leaves lies in here
    RUN/        what the run's containers write (RUN-0/, RUN-1/ with two engines)

Labels of containers are claims that anybody can make: a container is ours when its name was written down here first. A name is
unique in a daemon. Commands on the node carry a secret word in their environment, so that what outlives its connection (a check of
weights, a server of ib_write_bw, a listener) is found again with all its children.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from pytest_h20.cluster import labels
from pytest_h20.cluster.drill_steps import take_back
from pytest_h20.cluster.drills import Planted
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import CommandResult, ContainerInfo, Containers, ContainerSpec, Node

MARK = "# h20-ledger\n"
"""The first line of every script of this module; the rehearsal runs such a script in its sandbox."""
BEAT_S = 15.0
DEAD_AFTER_S = 180.0
"""A run of another machine without a heartbeat for so long has ended."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# Everything below happens inside the checked folder, by relative names.
_ENTER = (
    MARK
    + """umask 077
fail() { echo "$b: $*" >&2; exit 65; }
b=%s
"""
)
_MAKE = """[ -d "$b" ] || { mkdir -p -- "$(dirname -- "$b")" 2>/dev/null; e=$(mkdir -m 700 -- "$b" 2>&1) || [ -d "$b" ] || fail "$e"; }
"""
_CHECK = """[ -e "$b" ] || exit 0
cd -P -- "$b" 2>/dev/null || fail "is no folder that this user may enter"
[ ! -L "$b" ] || fail "is a symbolic link"
set -- $(ls -ldn . | tr -s ' ' | cut -d' ' -f1,3)
[ "$2" = "$(id -u)" ] || fail "belongs to uid $2, and this log-in is uid $(id -u)"
case $1 in drwx------*) ;; *) chmod 700 . || fail "its mode $1 could not be made 0700";; esac
"""
_LIST = """for f in *.run; do
  [ -f "$f" ] && [ ! -L "$f" ] || continue
  echo "@run $f $(($(date +%s) - $(stat -c %Y "$f")))"; cat "$f"; echo
done
"""
_KILL = """t=%s
mine() { for e in $(grep -l -- "H20_TOKEN=$t" /proc/[0-9]*/environ 2>/dev/null); do
  p=${e%%/environ}; [ "$(stat -c %%u "$p" 2>/dev/null)" = "$(id -u)" ] && echo "${p#/proc/}"; done; }
i=0; while k=$(mine); [ -n "$k" ] && [ $i -lt 20 ]; do
  if [ $i -lt 10 ]; then kill -TERM $k 2>/dev/null; else kill -KILL $k 2>/dev/null; fi
  i=$((i+1)); sleep 0.2 2>/dev/null || sleep 1
done
[ -z "$k" ] || fail "processes $k cannot be ended"
"""


@dataclass(frozen=True)
class Owner:
    """A process, so that another one can tell whether it still lives. ``machine``: boot and pid namespace."""

    who: str
    machine: str
    pid: int
    started: int

    @classmethod
    def me(cls, who: str) -> Owner:
        """This process."""
        return cls(who, machine(), os.getpid(), started(os.getpid()) or 0)

    @property
    def lives(self) -> bool | None:
        """None: it runs (or ran) on another machine."""
        if self.machine != machine():
            return None
        return started(self.pid) == self.started


def machine() -> str:
    """This boot of this machine, and the pid namespace in which a pid means something."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    return "unknown " + secrets.token_hex(8)


def started(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot; None when it is gone (or only its exit status is left)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Entry:
    """What is written down about one run on one node."""

    run: str
    age: float
    owner: Owner | None
    processes: tuple[Owner, ...] = ()
    tokens: tuple[str, ...] = ()
    containers: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    kept: bool = False
    drills: tuple[Planted, ...] = ()
    """What was broken and not taken back."""

    @property
    def lives(self) -> bool:
        """By its process where that can be seen, else by its heartbeat."""
        here = self.owner.lives if self.owner is not None else None
        return self.age < DEAD_AFTER_S if here is None else here or self.ending

    @property
    def ending(self) -> bool:
        """Its controller is gone, and a worker has not noticed yet: it may still be starting something."""
        gone = self.owner is not None and self.owner.lives is False
        return gone and any(process.lives for process in self.processes)

    @property
    def who(self) -> str:
        """Who started it."""
        return self.owner.who if self.owner is not None else "unknown"


def _script(base: str, body: str, make: bool = False) -> str:
    return _ENTER % shlex.quote(base) + (_MAKE if make else "") + _CHECK + body


def _ask(node: Node, base: str, body: str, make: bool = False, timeout: float = 60.0) -> str:
    """Run a script in the base folder. Raises ``TransportError`` when the folder is not ours or the script fails."""
    result = node.run(_script(base, body, make), timeout=timeout)
    if not result.ok:
        why = (result.stderr or result.stdout).strip().splitlines()[-1:] or [f"exit status {result.rc}"]
        raise TransportError(
            f"{node.name}: {why[0]}; what a run leaves on a node lies in a folder that only its own user can enter: "
            f"remove it if it is nobody's, or set `run_dir_on_node` (now {base})"
        )
    return result.stdout


def entries(node: Node, base: str) -> list[Entry]:
    """Every run that is written down on a node. Looks, changes nothing."""
    found: list[Entry] = []
    for part in ("\n" + _ask(node, base, _LIST)).split("\n@run ")[1:]:
        head, *lines = part.splitlines()
        file, _, age = head.rpartition(" ")
        run = file.removesuffix(".run")
        if _NAME.fullmatch(run):
            found.append(_entry(run, float(age) if age.lstrip("-").isdigit() else 0.0, lines))
    return found


def _entry(run: str, age: float, lines: Iterable[str]) -> Entry:
    owner, processes, tokens, names, folders, kept = None, [], [], set(), [], False
    drills: dict[str, Planted] = {}
    for line in lines:
        try:
            said = json.loads(line)
            owner = Owner(**said["owner"]) if "owner" in said else owner
            processes += [Owner(**said["process"])] if "process" in said else []
            tokens += [said["token"]] if re.fullmatch(r"[0-9a-f]{32}", said.get("token", "")) else []
            names |= {said["container"]} if "container" in said else set()
            folder = said.get("folder", "")
            folders += [folder] if _NAME.fullmatch(folder) and folder.startswith(run) else []
            kept = kept or bool(said.get("kept"))
            if "drill" in said:
                planted = Planted.read(said["drill"])
                drills[planted.id] = planted
            drills.pop(str(said.get("taken_back", "")), None)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # a line cut by a kill: what it was to announce was not made yet
    return Entry(run, age, owner, tuple(processes), tuple(tokens), frozenset(names), tuple(folders), kept, tuple(drills.values()))


def files(node: Node, base: str, folder: str, most: int = 2000) -> list[tuple[str, int]]:
    """Name and size of every regular file directly in a folder of the base folder; never of a link, a pipe or a device.

    A file whose name is not made of plain characters is renamed there first, so that any bytes survive. For a folder in which
    nothing runs any more.
    """
    if not _NAME.fullmatch(folder):
        raise H20Error(f"{node.name}: {folder!r} is no name of a folder")
    listed = _ask(node, base, f"cd -P ./{folder} 2>/dev/null || exit 0\nfind . ! -name . -prune -type f -print0 | od -An -v -tx1\n")
    found, script = [], ""
    for index, raw in enumerate(bytes.fromhex("".join(listed.split())).split(b"\0")[:-1][:most]):
        name = raw.removeprefix(b"./")
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name.decode("ascii", "replace")).lstrip(".-_")[:100]
        if plain.encode() != name:
            plain = f"{plain or 'file'}.{index}"
            octal = "".join(f"\\{byte:03o}" for byte in name)
            script += f"f=$(printf '{octal}x'); mv -- \"./${{f%x}}\" ./{plain}\n"
        found.append(plain)
    sizes = "".join(f"[ -f ./{n} ] && [ ! -L ./{n} ] && echo {n} $(stat -c %s ./{n})\n" for n in found)
    told = _ask(node, base, f"cd -P ./{folder} || exit 0\n{script}{sizes}:\n") if found else ""
    return [(name, int(size)) for name, _, size in (line.partition(" ") for line in told.splitlines()) if size.isdigit()]


def containers_of(node: Node, entry: Entry) -> list[ContainerInfo]:
    """The containers of a run that are there: by the names that were written down, whatever labels others carry."""
    if not entry.containers:
        return []
    return [c for c in node.containers.find({labels.OWNER: ""}) if c.name in entry.containers]


def take_back_drills(node: Node, entry: Entry, wait: Callable[[float], None] = time.sleep) -> list[str]:
    """Take back what a run broke on the node. Returns what is still broken, each with what to type there."""
    return [f"{node.name}: {why}" for planted in entry.drills if (why := take_back(node, planted, wait=wait))]


def end_processes(node: Node, base: str, entry: Entry) -> None:
    """End every command of the run that still runs on the node, and all that they started."""
    for token in entry.tokens:
        _ask(node, base, _KILL % shlex.quote(token))


def forget(node: Node, base: str, entry: Entry, folders: bool = True) -> None:
    """Remove the run's folders, by names inside the base folder, and then its record."""
    names = [f"{entry.run}.tmp", *(dict.fromkeys((entry.run, *entry.folders)) if folders else ())]
    told = " ".join(f"./{name}" for name in names)
    last = f"rm -f ./{entry.run}.run\n" if folders else ""
    gone = f'rm -rf {told} 2>/dev/null\nfor d in {told}; do [ ! -e "$d" ] || fail "$d could not be removed; remove it as root"; done\n'
    _ask(node, base, gone + last)


class Ledger:
    """The record of one run on one node, as one process of the run writes it. Opened by the first thing that is done there."""

    def __init__(
        self,
        node: Node,
        base: str,
        run: str,
        owner: Owner,
        opened: Callable[[str], None] = lambda _: None,
        process: Owner | None = None,
        writing: Callable[[], AbstractContextManager[None]] = nullcontext,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """``writing`` is held while something is written down; it refuses that in a worker once the tear-down has begun, which would
        else find the record gone and begin a new one. ``wait``: where time runs faster."""
        self._wait = wait
        self._writing = writing
        self.node, self.base, self.run = node, base, run
        self._owner = owner
        self._process = process or Owner.me(owner.who)
        self._token = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._opened = opened
        self._open = False
        self._closed = threading.Event()

    @property
    def environment(self) -> str:
        """What every command on the node begins with."""
        return f"export H20_TOKEN={self._token} TMPDIR={shlex.quote(f'{self.base}/{self.run}.tmp')}; "

    def open(self) -> None:
        """Make the base folder when it is not there, and say whose run this is."""
        with self._lock:
            if self._open:
                return
            said = {"owner": asdict(self._owner), "process": asdict(self._process), "token": self._token}
            self._append(said, f"mkdir -p ./{self.run}.tmp || fail 'no room'\n")
            # Only now: a node that never answered holds nothing of this run, and is not asked again at its end.
            self._opened(self.node.name)
            self._open = True
        threading.Thread(target=self._beat, daemon=True, name=f"h20-beat-{self.node.name}").start()

    def note(self, **said: Any) -> None:
        """Write something down before it is made."""
        self.open()
        self._append(said)

    def make_folder(self, name: str) -> None:
        """A folder for containers, whose users are not known: open to them, inside a folder that is closed to everybody else."""
        self.note(folder=name)
        _ask(self.node, self.base, f"mkdir -m 777 ./{name} && chmod 777 ./{name} || fail 'no folder {name}'\n")

    def remove_folder(self, name: str) -> None:
        """Remove a folder of this run, whatever its containers put in it; links are not followed."""
        if not _NAME.fullmatch(name) or not name.startswith(self.run):
            raise H20Error(f"{self.node.name}: {name!r} is no folder of run {self.run}")
        gone = f'rm -rf ./{name} 2>/dev/null; [ ! -e ./{name} ] || fail "{name} could not be removed (owned by root); remove it as root"\n'
        _ask(self.node, self.base, gone)

    def end(self, folders: bool = True) -> list[str]:
        """At the end of the run: nothing of it is left here but, without ``folders``, what was kept. Returns what is left."""
        entry = self.entry()
        if entry is None:
            return []
        left = take_back_drills(self.node, entry, self._wait)
        for container in containers_of(self.node, entry) if folders else ():
            try:
                self.node.containers.remove(container.id)
            except H20Error as error:
                left.append(f"{self.node.name}: container {container.name} ({container.id[:12]}) could not be removed: {error}")
        end_processes(self.node, self.base, entry)
        if not left:
            forget(self.node, self.base, entry, folders)
        return left

    def take_back(self) -> list[str]:
        """Take back what this run broke here and has not taken back. Returns what is still broken."""
        entry = self.entry()
        left = take_back_drills(self.node, entry, self._wait) if entry is not None else []
        for planted in entry.drills if entry is not None and not left else ():
            self.note(taken_back=planted.id)
        return left

    def entry(self) -> Entry | None:
        """What is written down about this run, by all its processes."""
        return next((e for e in entries(self.node, self.base) if e.run == self.run), None)

    def close(self) -> None:
        """No more heartbeats from this process."""
        self._closed.set()

    def _append(self, said: Mapping[str, Any], more: str = "") -> None:
        line = shlex.quote(json.dumps(said))
        with self._writing():
            _ask(self.node, self.base, f"{more}printf '%s\\n' {line} >>./{self.run}.run || fail 'no room'\n", make=True)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with contextlib.suppress(H20Error, OSError):
                _ask(self.node, self.base, f"[ ! -e ./{self.run}.run ] || touch ./{self.run}.run\n")


def ledger_of(node: Node) -> Ledger:
    """The ledger through which everything on this node goes."""
    return cast("Ledger", node.ledger)  # type: ignore[attr-defined]


class LedgerNode:
    """A ``Node`` around another one that writes down what it starts, before it starts it; the rest is the inner node's."""

    def __init__(self, inner: Node, ledger: Ledger, launching: Callable[[], AbstractContextManager[None]], mark: bool = True) -> None:
        self.inner, self.ledger = inner, ledger
        self._launching = launching
        self._mark = mark
        self._containers: LedgerContainers | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self.inner.name

    @property
    def containers(self) -> Containers:
        """The container engine; what it starts is written down."""
        inner = self.inner.containers
        if self._containers is None or self._containers.inner is not inner:
            self._containers = LedgerContainers(inner, self.ledger, self._launching)
        return cast("Containers", self._containers)

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """As the inner node, with the run's own word and TMPDIR in the environment."""
        return self._asked(command, args, lambda line: self.inner.run(line, timeout=timeout, stdin=stdin))

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """As ``run``, and ``on_line`` gets each line."""
        return self._asked(command, args, lambda line: self.inner.stream(line, on_line=on_line, timeout=timeout))

    def _asked(self, command: str, args: tuple[object, ...], call: Callable[[str], CommandResult]) -> CommandResult:
        from pytest_h20.nodes import quote

        self.ledger.open()
        before = self.ledger.environment if self._mark else ""
        line = quote(command, *args)
        try:
            return replace(call(before + line), command=line)
        except H20Error as error:
            if before and error.args and before in str(error.args[0]):
                error.args = (str(error.args[0]).replace(before, ""), *error.args[1:])
            raise

    def close(self) -> None:
        """End the heartbeat and the connection."""
        self.ledger.close()
        self.inner.close()


class LedgerContainers:
    """``Containers`` that write down a name before they make a container of it; the rest is the inner one's."""

    def __init__(self, inner: Containers, ledger: Ledger, launching: Callable[[], AbstractContextManager[None]]) -> None:
        self.inner = inner
        self._ledger = ledger
        self._launching = launching

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        """As the inner one."""
        with self._launching():
            return self.inner.start(self._noted(spec))

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        """As the inner one."""
        with self._launching():
            return self.inner.run(self._noted(spec), timeout=timeout)

    def _noted(self, spec: ContainerSpec) -> ContainerSpec:
        self._ledger.note(container=spec.name)
        return replace(spec, labels={labels.OWNER: "1", labels.RUN: self._ledger.run, **spec.labels})
