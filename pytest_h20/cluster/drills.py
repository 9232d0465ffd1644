"""The drills: what each does on a node, how it is proved that it happened, and how it is taken back. Pure: scripts out, text in.

A drill breaks one thing on one node. What is broken is written down in the run's record there (`ledger`) before it is broken, as
``Planted``: a kind and a few checked values, never a command. Every script is made here from these values, so that a record says what
is to be taken back and cannot say how.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytest_h20.core.errors import H20Error, UsageError, instead

MARK = "# h20-drill"
"""The first words of every script of a drill; the rehearsal plays it."""
HANDLE = "4820"
"""Of our queueing discipline: only one with this handle is taken away."""
NO_NETEM = "this kernel has no netem (sch_netem)"
SHM = "/dev/shm"
Kind = Literal["kill", "freeze", "container", "link", "netem", "shm", "daemon", "ssh"]
Victim = Literal["worker", "scheduler", "api", "head", "rail", "control"]


class DidNothing(H20Error):
    """The fault could not be made, or nothing shows that it happened. Nothing is judged then."""


@dataclass(frozen=True)
class Drill:
    """One row of the registry.

    ``amount``: what netem is told. ``stands_s``: how long the fault stands before it is taken back (0: it stays until the engine is down
    or well, or the time for that is over). ``told_s``: seconds within which every client must know, with ``why`` so many.
    ``survives``: an engine that ends in it has failed.
    """

    name: str
    sentence: str
    kind: Kind
    victim: Victim
    told_s: float
    why: str
    amount: str = ""
    stands_s: float = 0.0
    survives: bool = False

    @property
    def minutes(self) -> float:
        """The most it takes, without a start of the engine: a look before, the fault, the time to come to rest, a look after."""
        return (self.stands_s + self.told_s + 60.0) / 60.0


SILENT_S = 480.0
"""SGLang looks every half of its --watchdog-timeout (300 s) whether it moves and counts from such a look (srt/utils/watchdog.py of 0.5.16):
a rank that is silent is known after 300 to 450 s. vLLM knows after VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS: 300 s. And 30 s to say so."""
_WATCHDOG = (
    "the engine's own watchdog: vLLM VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS is 300 s, SGLang --watchdog-timeout 300 s and half of it until it"
    " looks; 30 s to say so"
)
_AT_ONCE = "a process that ended is known to its parent at once; a minute is a load balancer's patience"
_NETWORK = "nothing may take longer than the engine's own patience with a rank: up to 450 s; 30 s to say so"

DRILLS: Mapping[str, Drill] = {
    drill.name: drill
    for drill in (
        Drill("kill-worker-rank", "SIGKILL to a process that drives a GPU, on the last node.", "kill", "worker", SILENT_S, _WATCHDOG),
        Drill("kill-scheduler", "SIGKILL to the scheduler (vLLM: the engine core) of the head.", "kill", "scheduler", 60.0, _AT_ONCE),
        Drill("kill-api", "SIGKILL to the process that serves HTTP.", "kill", "api", 60.0, _AT_ONCE),
        Drill("kill-head-container", "The head's container is stopped without any grace.", "container", "head", 60.0, _AT_ONCE),
        Drill("stop-worker", "SIGSTOP to a process that drives a GPU, on the last node.", "freeze", "worker", SILENT_S, _WATCHDOG),
        Drill("rail-down", "`ip link set … down` on the first rail of the last node.", "link", "rail", SILENT_S, _NETWORK, "", 60.0),
        *(
            Drill(
                f"{where}-{short}",
                f"{words} on {'the first rail' if where == 'rail' else 'the control interface'} of the last node (`tc … netem`"
                + (", else `iptables … statistic`)." if "loss" in amount else ")."),
                "netem",
                where,
                SILENT_S,
                _NETWORK,
                amount,
                60.0,
                True,
            )
            for where in ("rail", "control")
            for short, words, amount in (
                ("loss-0.1", "0.1 % of the packets are lost", "loss 0.1%"),
                ("loss-1", "1 % of the packets are lost", "loss 1%"),
                ("delay-20ms", "Every packet is 20 ms late", "delay 20ms"),
            )
        ),
        Drill("fill-shm", "A file fills /dev/shm of the head.", "shm", "head", 60.0, _AT_ONCE, "", 30.0),
        Drill("restart-dockerd", "`systemctl restart docker` on the head.", "daemon", "head", 120.0, "two restarts of a daemon"),
        Drill(
            "break-ssh",
            "The server's side of this run's own SSH connection to the head is killed.",
            "ssh",
            "head",
            60.0,
            _AT_ONCE,
            survives=True,
        ),
    )
}
"""Drill by name, in the order in which they are listed."""


def drill_named(name: str) -> Drill:
    """The drill of this name. Raises ``UsageError`` naming those that exist."""
    found = DRILLS.get(name)
    if found is None:
        raise UsageError(f"--h20-drill={name}: no such drill{instead(name, DRILLS)}")
    return found


# ------------------------------------------------------------------------------------------------------------ what is written down
_FIELDS = {
    "id": r"[0-9a-f]{8}",
    "container": r"|[0-9a-f]{12,64}",
    "interface": r"|[A-Za-z0-9][A-Za-z0-9_.@-]{0,14}",
}
_ROUTE = re.compile(r"[A-Za-z0-9:./ _-]{3,200}")


@dataclass(frozen=True)
class Planted:
    """One fault on one node, as it is written down before it is made.

    ``container``: where its commands run; "": on the node itself. ``pid``, ``start``: the process and its start time in clock ticks.
    ``routes``: those of the interface, which go with it when it is taken down.
    """

    id: str
    drill: str
    container: str = ""
    pid: int = 0
    start: int = 0
    interface: str = ""
    routes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [name for name, pattern in _FIELDS.items() if not re.fullmatch(pattern, str(getattr(self, name)))]
        wrong += ["drill"] if self.drill not in DRILLS else []
        numbers = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (self.pid, self.start))
        wrong += [] if numbers and self.pid != 1 else ["pid"]
        wrong += [] if all(isinstance(r, str) and _ROUTE.fullmatch(r) for r in self.routes) else ["routes"]
        if wrong:
            raise ValueError(f"no drill of ours: {wrong[0]}")

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Planted:
        """From a line of a record. Raises ``ValueError`` or ``TypeError`` for what is none."""
        return cls(**{**said, "routes": tuple(said.get("routes", ()))})

    def plain(self) -> dict[str, Any]:
        """For a line of a record."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def row(self) -> Drill:
        """Its row of the registry."""
        return DRILLS[self.drill]

    @property
    def file(self) -> str:
        """What fills /dev/shm."""
        return f"{SHM}/h20-drill-{self.id}"

    @property
    def rules(self) -> tuple[str, str]:
        """Of a loss without netem: the rule that loses packets and the one before it that counts them, as iptables is told them. The
        comment makes them ours."""
        lost = float(self.row.amount.removeprefix("loss ").removesuffix("%")) / 100
        arriving = f"INPUT -i {shlex.quote(self.interface)}"
        said = f"-m comment --comment h20-drill-{self.id}"
        return f"{arriving} -m statistic --mode random --probability {lost:g} {said} -j DROP", f"{arriving} {said}-seen"

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else f" of process {self.pid}" if self.pid else ""
        return f"drill {self.drill}{where}"


# ------------------------------------------------------------------------------------------------------------------- processes
PROCESSES = (
    f"{MARK} processes\n"
    + """for p in /proc/[0-9]*; do
  read -r s <$p/stat 2>/dev/null || continue
  c=$(tr '\\000\\n' '  ' <$p/cmdline 2>/dev/null)
  echo "${s%%)*}) ${s##*)} | $c"
done
"""
)
"""Every process of a container: the stat line, its name cut at its last bracket, and the command line."""


@dataclass(frozen=True)
class DrilledProcess:
    """A process as its own container numbers it. ``start``: clock ticks after boot."""

    pid: int
    parent: int
    start: int
    command: str


def processes_of(text: str) -> list[DrilledProcess]:
    """Read what ``PROCESSES`` prints; a line that is none is left out."""
    found = []
    for line in text.splitlines():
        stat, _, command = line.partition(" | ")
        fields = stat.rpartition(")")[2].split()
        head = stat.split(" ", 1)[0]
        if head.isdigit() and len(fields) > 19 and fields[0] not in "ZX":
            found.append(DrilledProcess(int(head), int(fields[1]), int(fields[19]), command.strip()))
    return found


_TITLES: Mapping[str, str] = {
    # set by setproctitle in sglang/srt/managers/scheduler.py, vllm/v1/engine/core.py and vllm/v1/executor/multiproc_executor.py
    "worker": r"sglang::scheduler(_\S*)?|VLLM::Worker\S*|VllmWorker\S*|ray::RayWorkerWrapper\S*|ray::RayWorkerProc\S*",
    "scheduler": r"sglang::scheduler(_\S*)?|VLLM::EngineCore\S*|EngineCore\S*",
    "api": r".*(sglang\.launch_server|vllm serve|vllm\.entrypoints\.\S*api_server)\b.*|VLLM::APIServer\S*",
}


def choose(found: Sequence[DrilledProcess], victim: Victim) -> DrilledProcess:
    """The process a drill is made with: of workers the last, of the others the first. Raises ``DidNothing`` with what is there."""
    pattern = re.compile(f"({_TITLES[victim]})( .*)?")
    matching = [p for p in found if pattern.fullmatch(p.command) and p.pid > 1 and not p.command.startswith(("/bin/sh ", "sh "))]
    if victim == "api":  # of the server and its own children the one that was started first
        matching = [p for p in matching if p.parent not in {q.pid for q in matching}] or matching
    if not matching:
        told = "; ".join(dict.fromkeys(p.command[:60] for p in found if p.command))[:400] or "none"
        raise DidNothing(f"no process of the engine is known by its title as the {victim} of this version; its processes: {told}")
    ordered = sorted(matching, key=lambda p: (p.start, p.pid))
    return ordered[-1] if victim == "worker" else ordered[0]


# ------------------------------------------------------------------------------------------------------------------- scripts
def _q(text: str) -> str:
    return shlex.quote(text)


_SSHD = """p=$PPID
while [ "$p" -gt 1 ] && read -r c <"/proc/$p/comm" && case $c in sshd*) false;; esac; do
  s=$(cat "/proc/$p/stat") || break; s=${s##*) }; s=${s#* }; p=${s%% *}
done
"""
_ROUTES_OF = "for t in 4 6; do ip -$t route show dev %s 2>/dev/null | grep -vE 'proto (kernel|ra)' | sed \"s/^/route -$t /\"; done\n"


def look(planted: Planted) -> str:
    """Tells the state of what the drill breaks. The same before it, in it and after it."""
    kind, name = planted.row.kind, _q(planted.interface)
    body = {
        "kill": f"cat /proc/{planted.pid}/stat 2>/dev/null || echo gone\n",
        "freeze": f"cat /proc/{planted.pid}/stat 2>/dev/null || echo gone\n",
        "container": "",
        "link": f'echo "flags $(cat /sys/class/net/{name}/flags)"; echo "oper $(cat /sys/class/net/{name}/operstate)"\n'
        + _ROUTES_OF.replace("%s", name),
        "netem": f"tc -s qdisc show dev {name}\niptables -w 5 -vS INPUT 2>/dev/null | grep -- 'h20-drill-{planted.id}' || :\n",
        "shm": f"df -kP {SHM} | tail -1; [ ! -f {planted.file} ] || echo file\ngrep -E '^Mem(Total|Available):' /proc/meminfo\n",
        "daemon": 'p=$(systemctl show -p MainPID --value docker); echo "pid $p"; systemctl is-active docker; cat /proc/$p/stat\n',
        "ssh": 'echo "connection $SSH_CONNECTION"\n',
    }[kind]
    return f"{MARK} look {planted.drill} {planted.id}\n{body}"


def break_it(planted: Planted) -> str:
    """Makes the fault."""
    row, name = planted.row, _q(planted.interface)
    # the name of a process may hold blanks: the start time is counted from behind its closing bracket
    same = f"s=$(cat /proc/{planted.pid}/stat) || exit 1; set -- ${{s##*) }}; " + (
        f"[ \"${{20}}\" = {planted.start} ] || {{ echo 'another process by now' >&2; exit 1; }}\n"
    )
    body = {
        "kill": f"{same}kill -KILL {planted.pid}\n",
        "freeze": f"{same}kill -STOP {planted.pid}\n",
        "container": "",
        "link": f"ip link set dev {name} down\n",
        "netem": _netem(planted, name),
        "shm": f"set -- $(df -kP {SHM} | tail -1); fallocate -l $(($4 * 1024)) {planted.file} || "
        f"dd if=/dev/zero of={planted.file} bs=1024k 2>/dev/null; [ -s {planted.file} ]\n",
        "daemon": "systemctl restart docker\n",
        "ssh": _SSHD + 'case $c in sshd*) kill -KILL "$p"; sleep 1;; esac; echo "no sshd above this command" >&2; exit 1\n',
    }[row.kind]
    return f"{MARK} break {planted.drill} {planted.id}\n{body}"


def _rules(planted: Planted) -> tuple[str, ...]:
    return planted.rules if planted.row.amount.startswith("loss") else ()


def _netem(planted: Planted, name: str) -> str:
    """netem where the kernel has it. Without it packets can be lost by xt_statistic, which every node with Docker can be told; nothing
    there delays them."""
    lose = " && ".join(f"iptables -w 5 -I {rule}" for rule in _rules(planted))
    return (
        f"e=$(tc qdisc add dev {name} root handle {HANDLE}: netem {planted.row.amount} 2>&1) && exit 0\n"
        # with extended errors, and before them (ENOENT: no such module)
        f"case $e in *'kind is unknown'*|*'No such file'*) ;; *) echo \"$e\" >&2; exit 1;; esac\n"
        + (lose or f"echo '{NO_NETEM}, and nothing else there delays packets' >&2; exit 1")
        + "\n"
    )


def undo(planted: Planted) -> str:
    """Takes the fault back; made again, it does nothing."""
    row, name = planted.row, _q(planted.interface)
    again = [r.removeprefix("route ") for r in planted.routes]
    routes = "".join(f"ip {r[:2]} route replace {r[3:]} dev {name} || :\n" for r in again)
    body = {
        "kill": "",
        "freeze": f"s=$(cat /proc/{planted.pid}/stat 2>/dev/null) || exit 0; set -- ${{s##*) }}; "
        f'[ "${{20}}" != {planted.start} ] || kill -CONT {planted.pid}\n',
        "container": "",
        "link": f"ip link set dev {name} up\n{routes}",
        "netem": f"! tc qdisc show dev {name} | grep -q '^qdisc netem {HANDLE}: root' || tc qdisc del dev {name} root handle {HANDLE}:\n"
        + "".join(f"while iptables -w 5 -D {rule} 2>/dev/null; do :; done\n" for rule in _rules(planted)),
        "shm": f"rm -f {planted.file}\n",
        "daemon": "systemctl start docker\n",
        "ssh": "",
    }[row.kind]
    return f"{MARK} undo {planted.drill} {planted.id}\n{body}"


def by_hand(planted: Planted) -> str:
    """What a person types on the node when it could not be taken back; one line."""
    line = "; ".join(undo(planted).splitlines()[1:])
    if line and planted.container:  # its processes have other numbers on the node
        return f"docker exec {planted.container} /bin/sh -c {_q(line)}"
    return line or "nothing is to be taken back"


# ------------------------------------------------------------------------------------------------------------------- proofs
@dataclass(frozen=True)
class Shown:
    """What two looks show. ``yes``: it is so. ``words``: what was seen."""

    yes: bool
    words: str


def _stat(text: str) -> tuple[str, int]:
    """State and start time of a stat line; ("gone", 0)."""
    fields = text.rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if ")" in text and len(fields) > 19 and fields[19].isdigit() else ("gone", 0)


@dataclass(frozen=True)
class Lossy:
    """What of ours packets go through. ``by``: netem, or iptables. ``packets``: that came to it, ``dropped``: that were lost."""

    by: str
    packets: int
    dropped: int


def lossy_of(planted: Planted, text: str) -> Lossy | None:
    """Ours in what `tc -s qdisc show` and `iptables -vS` print, None when it is not there."""
    if match := re.search(rf"^qdisc netem {HANDLE}: root.*\n\s*Sent \d+ bytes (\d+) pkts? \(dropped (\d+)", text, re.M):
        return Lossy("netem", int(match[1]), int(match[2]))
    counted = {m[1]: int(m[2]) for m in re.finditer(rf'--comment "?h20-drill-{planted.id}(-seen)?"?.* -c (\d+) ', text)}
    return Lossy("iptables", counted.get("-seen", 0), counted[None]) if None in counted else None


@dataclass(frozen=True)
class _Shm:
    total: int = 0
    free: int = 0
    file: bool = False
    memory: Mapping[str, int] = field(default_factory=dict)


def _shm(text: str) -> _Shm:
    first = text.split("\n", 1)[0].split()
    sizes = [int(w) for w in first[1:4] if w.isdigit()]
    memory = {m[1]: int(m[2]) for m in re.finditer(r"^Mem(Total|Available):\s+(\d+)", text, re.M)}
    return _Shm(sizes[0], sizes[2], "\nfile" in text, memory) if len(sizes) == 3 else _Shm()


def _flags(text: str) -> int | None:
    match = re.search(r"^flags (0x[0-9a-fA-F]+)", text, re.M)
    return int(match[1], 16) if match else None


def _oper(text: str) -> str:
    match = re.search(r"^oper (\w+)", text, re.M)
    return match[1] if match else ""


def routes_of(text: str) -> tuple[str, ...]:
    """The routes of an interface that do not come back by themselves."""
    return tuple(line.strip() for line in text.splitlines() if line.startswith("route -") and _ROUTE.fullmatch(line.strip()))


SPARE = 0.1
"""This part of a node's memory stays free when /dev/shm is filled: what is in it is memory."""


def refuse(planted: Planted, before: str) -> str:
    """Why the fault must not be made on this node as it is; empty when it may."""
    kind = planted.row.kind
    if kind in ("kill", "freeze") and _stat(before)[1] != planted.start:
        return f"process {planted.pid} is gone already"
    if kind == "link" and (flags := _flags(before)) is not None and not flags & 1:
        return f"{planted.interface} is down already"
    if kind == "netem" and re.search(r"^qdisc (?!noqueue|mq 0:|pfifo_fast 0:|fq_codel 0:|fq 0:)\S+ \S+ root", before, re.M):
        return f"{planted.interface} has a queueing discipline of somebody's: {before.splitlines()[0].strip()}"
    if kind == "shm":
        seen = _shm(before)
        if not seen.free:
            return f"{SHM} is full already, or could not be read"
        spare = seen.memory.get("Available", 0) - seen.free
        if spare < SPARE * seen.memory.get("Total", 1):
            left = f"{spare >> 10} MiB of memory"
            return f"{SHM} has {seen.free >> 10} MiB free, and filling them would leave {left}: the node could not go on"
    return ""


def happened(planted: Planted, before: str, now: str) -> Shown:
    """Stage one: the fault is there, or it was not made at all."""
    row = planted.row
    if row.kind == "kill":
        state, start = _stat(now)
        dead = state in ("gone", "Z", "X") or start != planted.start
        return Shown(dead, f"process {planted.pid} is {'gone' if dead else 'still there, state ' + state}")
    if row.kind == "freeze":
        state, start = _stat(now)
        return Shown(state == "T" and start == planted.start, f"process {planted.pid}: state {state}")
    if row.kind == "link":
        flags = _flags(now)
        return Shown(
            flags is not None and not flags & 1,
            f"{planted.interface}: flags {flags if flags is None else hex(flags)}, {_oper(now) or 'unknown'}",
        )
    if row.kind == "netem":
        found = lossy_of(planted, now)
        told = "none of ours" if found is None else f"{found.by} {row.amount}, {found.packets} packets, {found.dropped} lost"
        return Shown(found is not None, f"{planted.interface}: {told}")
    if row.kind == "shm":
        seen = _shm(now)
        full = seen.file and seen.free <= max(64, seen.total // 100)
        return Shown(full, f"{SHM}: {seen.free} KiB of {seen.total} KiB are free")
    changed = bool(now.strip()) and now.split("\n")[0] != before.split("\n")[0]
    if row.kind == "daemon":
        old, new = _stat(before)[1], _stat(now)[1]
        changed = bool(new) and old != new
        return Shown(changed, f"dockerd: started at tick {new}, before at {old}")
    return Shown(changed, f"{now.split(chr(10))[0]}, before {before.split(chr(10))[0]}")


def had_effect(planted: Planted, last: str) -> Shown:
    """The end of stage one, just before the fault is taken back: something went through what was broken."""
    if planted.row.kind != "netem":
        return Shown(True, "")
    found = lossy_of(planted, last)
    if found is None:
        return Shown(False, f"{planted.interface}: what was to hit packets is gone: somebody took it away")
    if not found.packets:
        return Shown(False, f"{planted.interface}: no packet went through it: RDMA passes it by, and nothing else used the interface")
    if planted.row.amount.startswith("loss") and not found.dropped:
        return Shown(False, f"{planted.interface}: none of {found.packets} packets was lost")
    return Shown(True, f"{planted.interface}: {found.packets} packets, {found.dropped} lost")


def taken_back(planted: Planted, before: str, now: str) -> Shown:
    """After ``undo``: it is as it was. ``before`` is empty where nobody looked (``reap``)."""
    row = planted.row
    if row.kind == "freeze":
        state, start = _stat(now)
        runs = state != "T" or start != planted.start
        return Shown(runs, f"process {planted.pid} is {'not stopped' if runs else 'still stopped'}")
    if row.kind == "link":
        flags, lost = _flags(now), sorted(set(planted.routes) - set(routes_of(now)))
        up = flags is not None and bool(flags & 1) and (_oper(before) in ("", _oper(now)))
        told = f", without {', '.join(lost)}" if lost else ""
        return Shown(up and not lost, f"{planted.interface} is {_oper(now) or 'not there'}{told}")
    if row.kind == "netem":
        left = lossy_of(planted, now)
        return Shown(left is None, f"{planted.interface}: {f'{left.by} is still there' if left else 'nothing of ours'}")
    if row.kind == "shm":
        seen = _shm(now)
        return Shown(not seen.file and seen.total > 0, f"{SHM}: {seen.free} KiB of {seen.total} KiB are free")
    if row.kind == "daemon":
        active = "active" in now.split("\n")
        return Shown(active, "docker is " + ("active" if active else "not active"))
    return Shown(True, "nothing is to be taken back")
