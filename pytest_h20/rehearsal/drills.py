"""Drills on the stand-in cluster: scripts of ``cluster.drills`` are answered from a file of each node, and the engine feels them.

A kill or a stop of a rank is played by the head: it errs or hangs, its ``/health`` turns, and it ends. Kills of the HTTP process and of
the container end the real actor. Faults of the network and of /dev/shm are there and hurt nobody.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_h20.cluster import drills
from pytest_h20.rehearsal.state import State

TICKS = 4242
"""Start time of every played process."""
DRIVES, MAIN = 20, 7
"""Played pids: the first of those that drive GPUs, and the one that serves HTTP."""


@dataclass
class DrillTruth:
    """How the engine takes a drill. Times in model seconds after it.

    ``errs_s``: from when on requests fail instead of hanging; ``health_s``: from when on /health says 503; ``ends_s``: when it ends
    (None: never). ``nothing``: scripts of drills do nothing. ``stuck``: nothing can be taken back. ``passes_by``: no packet goes
    through a queueing discipline. ``cuts``, ``lies``: answers after the fault end early as if whole, or are wrong. ``nonsense``: the
    next start of the engine answers wrongly. ``left_mib``: GPU memory that stays in use. ``starts``: the engine starts again.
    """

    errs_s: float | None = 0.0
    health_s: float | None = 2.0
    ends_s: float | None = 15.0
    nothing: bool = False
    stuck: bool = False
    passes_by: bool = False
    cuts: bool = False
    lies: bool = False
    nonsense: bool = False
    left_mib: int = 0
    starts: bool = True


@dataclass
class StandInDrills:
    """The drills of one node."""

    node: str
    state: State
    truth: DrillTruth = field(default_factory=DrillTruth)

    @property
    def _path(self) -> Path:
        return self.state.folder / f"drills-{self.node}.json"

    def _known(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def made(self) -> bool:
        """Whether any was made on this node."""
        return self._path.exists()

    def answer(self, script: str) -> tuple[int, str]:
        """Exit status and output of a drill's script."""
        words = script.split("\n", 1)[0].split()[2:]
        if words[0] == "left":
            return 0, "".join(f"port {port:04X}\n" for port in self.state.ports(self.node))
        step, name, identity = words
        known = self._known()
        kind = drills.DRILLS[name].kind
        if step == "break" and not self.truth.nothing:
            known[identity] = {"kind": kind}
            self._path.write_text(json.dumps(known))
            if kind in ("kill", "freeze"):
                strike(self.state, kind)
        if step == "undo" and identity in known and not self.truth.stuck and kind not in ("daemon", "ssh"):
            del known[identity]
            self._path.write_text(json.dumps(known))
            if kind == "freeze":
                struck_file(self.state).unlink(missing_ok=True)
        return 0, self._look(script, kind, identity in known, len(known)) if step == "look" else ""

    def _look(self, script: str, kind: str, broken: bool, count: int) -> str:
        interface = re.search(r"(?:/net/|dev )'?([\w.-]+)", script)
        name = interface[1] if interface else ""
        pid = re.search(r"/proc/(\d+)/stat", script)
        start = TICKS + (int(pid[1]) if pid else 0)
        packets = 0 if self.truth.passes_by else 5000
        return {
            "kill": "gone\n" if broken else _stat("S", start),
            "freeze": _stat("T" if broken else "S", start),
            "link": f"flags {'0x1002' if broken else '0x1003'}\noper {'down' if broken else 'up'}\n",
            "netem": f"qdisc netem 4820: root refcnt 2 limit 1000\n Sent {packets * 90} bytes {packets} pkt (dropped {packets // 100}, "
            f"overlimits 0 requeues 0)\n"
            if broken
            else "qdisc noqueue 0: root refcnt 2\n",
            "shm": f"shm 1000000 {1000000 if broken else 10} {0 if broken else 999990} 1% /dev/shm\n"
            + ("file\n" if broken else "")
            + "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n",
            "daemon": f"pid {700 + count}\nactive\n{_stat('S', TICKS + count)}",
            "ssh": f"connection 10.0.0.1 {4000 + count} 10.0.0.2 22\n",
        }.get(kind, name)


def _stat(state: str, start: int) -> str:
    return f"77 (python3) {state} 1 {' 0' * 17} {start} 0\n"


def processes(argvs: Sequence[Sequence[str]], rank: int) -> str:
    """The processes of a container, as ``drills.PROCESSES`` prints them. ``argvs``: of its main process and of those exec'd into it."""
    rows = [(1, 0, "/bin/sh -c engine")]
    for argv in argvs:
        sglang = "sglang.launch_server" in argv
        serves = sglang or "serve" in argv or any("api_server" in word for word in argv)
        rows.append((MAIN if serves else MAIN - 1, 1, " ".join(["python3", *argv] if sglang else argv)))
        if sglang:
            rows += [(DRIVES + i, MAIN, f"sglang::scheduler_TP{8 * rank + i}") for i in range(8)]
        elif serves:
            rows.append((DRIVES - 1, MAIN, "VLLM::EngineCore"))
        if not sglang and (argv[:1] == ["ray"] or "ray" not in argv):
            rows += [(DRIVES + i, MAIN - 1, _vllm_worker(argv, 8 * rank + i)) for i in range(8)]
    return "".join(f"{pid} (x) S {parent} {' 0' * 17} {TICKS + pid} 0 | {command}\n" for pid, parent, command in rows)


def _vllm_worker(argv: Sequence[str], rank: int) -> str:
    return "ray::RayWorkerWrapper.execute_method" if argv[:1] == ["ray"] else f"VLLM::Worker_TP{rank}"


# ------------------------------------------------------------------------------------------------------- what the engine feels
def struck_file(state: State) -> Path:
    """Written by a drill that hits the engine, read by the actor of the head."""
    return state.folder / "struck.json"


def strike(state: State, kind: str) -> None:
    """A rank is gone or stopped, now."""
    struck_file(state).write_text(json.dumps({"kind": kind, "at": time.time()}))


class Struck:
    """The head's actor asks this what has become of the engine."""

    def __init__(self, folder: Path, truth: Mapping[str, Any], scale: float) -> None:
        self._file = folder / "struck.json"
        self._truth = DrillTruth(**truth)
        self._scale = scale
        self._began = time.time()

    def _seconds(self) -> tuple[str, float] | None:
        """Kind and model seconds since a fault that hit this process; None when none did."""
        try:
            told = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        return (told["kind"], (time.time() - told["at"]) * self._scale) if told["at"] > self._began else None

    def request(self) -> str:
        """What a new request gets: "" (an answer), ``hang``, ``error``, ``cut`` or ``lie``."""
        seen = self._seconds()
        if seen is None:
            return ""
        if self._truth.cuts or self._truth.lies:
            return "cut" if self._truth.cuts else "lie"
        errs = None if seen[0] == "freeze" else self._truth.errs_s
        return "error" if errs is not None and seen[1] >= errs else "hang"

    def ill(self) -> bool:
        """Whether /health says so."""
        seen = self._seconds()
        return seen is not None and self._truth.health_s is not None and seen[1] >= self._truth.health_s

    def over(self) -> bool:
        """Whether it is time to end."""
        seen = self._seconds()
        return seen is not None and self._truth.ends_s is not None and seen[1] >= self._truth.ends_s

    def talks_nonsense(self) -> bool:
        """Whether this is the start after a drill, of an engine that does not recover."""
        return self._truth.nonsense and self._file.exists() and json.loads(self._file.read_text())["at"] <= self._began

    def fails_to_start(self) -> bool:
        """Whether this is the start after a drill, and it does not succeed."""
        return not self._truth.starts and self._file.exists()
