"""What hangs, from outside: every process of a container with its stack, what NCCL's RAS says, what the GPUs do. Readers only.

One shell script per container, which needs no more than ``/bin/sh``; py-spy and Python are used where the image has them (SGLang's images
of 2025 had no py-spy: sglang#7783). Nothing is stopped and nothing is written. Output::

    == process PID                one per process of the container, its own shell apart
    name, state, ppid, threads    of /proc/PID/status
    command ...                   /proc/PID/cmdline
    wchan ...                     what the kernel has it wait for
    -- kernel / -- python         its stacks, as far as they can be read
    == recorder FILE BYTES        flight recorder dumps that the engine has left (TORCH_FR_DUMP_TEMP_FILE, TORCH_NCCL_DEBUG_INFO_TEMP_FILE)
    == ras N                      NCCL's RAS report, asked for apart: twice, two seconds apart
"""

# ruff: noqa: E501 - shell stays on its own lines
from __future__ import annotations

import re
import signal as signals
from dataclasses import dataclass, field
from typing import Literal

MARK = "# h20-hang"
"""How the script begins: a stand-in container answers by it."""

STACK_S = 10
"""py-spy is given so long per process."""

MOST = 64
"""Processes of a container that are looked into."""

_SCRIPT = r"""%(mark)s stacks
LC_ALL=C; export LC_ALL
n=0
for d in /proc/[0-9]*; do
  p=${d#/proc/}; [ "$p" = $$ ] && continue
  c=$(tr '\0' ' ' <$d/cmdline 2>/dev/null | cut -c1-300); [ -n "$c" ] || continue
  case $c in *"%(mark)s"*) continue;; esac
  n=$((n + 1)); [ $n -le %(most)d ] || break
  echo "== process $p"
  grep -E '^(Name|State|PPid|Threads|SigCgt):' $d/status 2>/dev/null
  echo "command $c"
  echo "wchan $(cat $d/wchan 2>/dev/null)"
  if [ -r $d/stack ]; then echo "-- kernel"; head -20 $d/stack 2>/dev/null; fi
  case $c in *python*|*sglang*|*vllm*|*VLLM*|*ray::*)
    if command -v py-spy >/dev/null; then echo "-- python"; timeout %(stack)d py-spy dump --nonblocking --pid $p 2>&1 | head -200; fi;;
  esac
  for v in TORCH_FR_DUMP_TEMP_FILE TORCH_NCCL_DEBUG_INFO_TEMP_FILE; do
    f=$(tr '\0' '\n' <$d/environ 2>/dev/null | sed -n "s/^$v=//p" | head -1)
    [ -n "$f" ] && for r in "$f"*; do [ -f "$r" ] && echo "== recorder $r $(wc -c <"$r")"; done
  done
%(signal)s
done
exit 0
"""

_RAS = (
    MARK
    + r""" ras
if command -v python3 >/dev/null; then python3 - <<'H20'
import os, socket, time
host, _, port = os.environ.get("NCCL_RAS_ADDR", "localhost:28028").rpartition(":")
for i in range(2):
    print("== ras %d" % i, flush=True)
    try:
        s = socket.create_connection((host.strip("[]") or "localhost", int(port)), 3)
        s.settimeout(12); s.sendall(b"TIMEOUT 5\nVERBOSE STATUS\n")
        left = 262144
        while left > 0:
            b = s.recv(65536)
            if not b: break
            left -= len(b); print(b.decode("utf-8", "replace"), end="")
        s.close()
    except (OSError, ValueError) as e:
        print("ras: %s" % e)
    print(flush=True)
    if not i: time.sleep(2)
H20
else echo "== ras 0"; echo "ras: no python3 in this container"; fi
"""
)


def stacks_command(signal: str = "") -> list[str]:
    """What is run in a container. ``signal`` (``SIGUSR1``): sent to each Python process that catches it, where somebody has registered
    faulthandler for it (``stack_signal`` of a profile): its stacks go to the engine's own log. Neither engine registers one by itself."""
    send = ""
    if signal:
        bit = 1 << (int(signals.Signals[signal]) - 1)
        send = (
            "  case $c in *python*|*sglang*|*vllm*) s=$(sed -n 's/^SigCgt:[^0-9a-f]*0*//p' $d/status 2>/dev/null); "
            f"[ $(( 0x${{s:-0}} & {bit} )) -ne 0 ] && kill -s {signal.removeprefix('SIG')} $p 2>/dev/null;; esac"
        )
    return ["/bin/sh", "-c", _SCRIPT % {"mark": MARK, "most": MOST, "stack": STACK_S, "signal": send}]


def ras_command() -> list[str]:
    """Asks NCCL's RAS from inside a container, twice. Only where ``may_ask`` allows it, and when everything else has been collected: a bug
    there ends the job."""
    return ["/bin/sh", "-c", _RAS]


GPU_COMMAND = (
    f"{MARK} gpus\n"
    "LC_ALL=C nvidia-smi --query-gpu=index,utilization.gpu,power.draw,clocks.sm,memory.used --format=csv,noheader,nounits 2>&1; "
    "echo '== apps'; LC_ALL=C nvidia-smi --query-compute-apps=gpu_bus_id,pid,used_memory --format=csv,noheader,nounits 2>&1"
)
"""On the node: what every GPU does at this moment, and whose it is."""


@dataclass(frozen=True)
class HungProcess:
    """One process. ``state``: the letter of ``/proc/PID/status`` (T: stopped, D: waits for a device, Z: ended). ``rank``: of the tensor-parallel
    group, where its name tells it. ``stack``: function names of its Python main thread, innermost first."""

    pid: int
    name: str = ""
    state: str = ""
    threads: int = 0
    command: str = ""
    wchan: str = ""
    rank: int | None = None
    stack: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ras:
    """NCCL's own view of the largest communicator. ``counts``: rank to how many operations it has launched, of those that RAS told apart;
    ``most``: what all others have launched. ``missing``: ranks that do not answer. ``moves``: whether the second report has other counts.
    ``failed``: why there is none."""

    ranks: int = 0
    operation: str = ""
    most: int | None = None
    counts: dict[int, int] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    moves: bool = False
    failed: str = ""


@dataclass(frozen=True)
class Looked:
    """What one container told."""

    processes: tuple[HungProcess, ...] = ()
    recorder: tuple[str, ...] = ()
    ras: Ras | None = None


_RANK = re.compile(r"(?:TP|tp_rank[=_ ]|_tp|Worker_TP)(\d{1,4})\b")
_FRAME = re.compile(r"^\s+(\S+) \((.+)\)$")
_STATE = re.compile(r"^State:\s+(\S)", re.M)
_THREADS = re.compile(r"^Threads:\s+(\d{1,6})$", re.M)
_NAME = re.compile(r"^Name:\s+(.{1,64})$", re.M)


def parse(text: str) -> Looked:
    """The script's output; what cannot be read is left out."""
    processes, recorder, reports = [], [], []
    for part in re.split(r"^== ", text, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        kind, _, rest = head.partition(" ")
        if kind == "process" and rest.strip().isdigit():
            processes.append(_process(int(rest), body))
        elif kind == "recorder":
            recorder.append(rest.strip()[:300])
        elif kind == "ras":
            reports.append(body)
    return Looked(tuple(processes), tuple(recorder), parse_ras(reports) if reports else None)


def _process(pid: int, body: str) -> HungProcess:
    def first(pattern: re.Pattern[str]) -> str:
        found = pattern.search(body)
        return found[1] if found else ""

    told = {word: rest for word, _, rest in (line.partition(" ") for line in body.splitlines()) if word in ("command", "wchan")}
    rank = _RANK.search(told.get("command", ""))
    python = body.partition("-- python\n")[2]
    main = re.split(r"^Thread ", python, flags=re.M)
    frames = [m[1] for line in (main[1] if len(main) > 1 else python).splitlines() if (m := _FRAME.match(line))]
    return HungProcess(
        pid,
        first(_NAME),
        first(_STATE),
        int(first(_THREADS) or 0),
        told.get("command", ""),
        told.get("wchan", "").strip(),
        int(rank[1]) if rank else None,
        tuple(frames[:30]),
    )


_GROUP = re.compile(r"^\s+(\d+) ranks? (?:has|have) launched up to (?:(\w+) )?operation (\d+)(?: of (\w+))?", re.M)
_ONE = re.compile(r"^\s+Rank (\d+) has launched up to (?:(\w+) )?operation (\d+)", re.M)
_LISTED = re.compile(r"^\s+Rank (\d+) -- ")
_MISSING = re.compile(r"^\s+The missing ranks?: ([\d, ]+)", re.M)
_SUMMARY = re.compile(r"^\s*\d+\s+\d+\s+[\d-]+\s+[\d-]+\s+(\d+)\s+\d+\s+[A-Z]+", re.M)


def parse_ras(reports: list[str]) -> Ras:
    """NCCL's text reports (src/ras/client_support.cc, ras.rst of 2.24 to 2.32): the last one, against the one before."""
    last = reports[-1]
    refused = re.search(r"^ras: (.+)$", last, re.M)
    if refused or not last.strip():
        return Ras(failed=(refused[1] if refused else "no answer")[:200])
    counts: dict[int, int] = {}
    operation, most, largest, current = "", None, 0, None
    for line in last.splitlines():
        if group := _GROUP.match(line):
            current = int(group[3])
            operation = operation or group[2] or group[4] or ""
            if int(group[1]) > largest:
                largest, most = int(group[1]), current
        elif one := _ONE.match(line):
            counts[int(one[1])], current = int(one[3]), None
            operation = operation or one[2] or ""
        elif (listed := _LISTED.match(line)) and current is not None:
            counts[int(listed[1])] = current
        elif not line.strip():
            current = None
    missing = sorted({int(n) for found in _MISSING.findall(last) for n in re.findall(r"\d+", found)})
    ranks = max((int(n) for n in _SUMMARY.findall(last)), default=0)
    told = [sorted(_GROUP.findall(r) + _ONE.findall(r)) for r in reports[-2:]]
    return Ras(ranks, operation, most, counts, tuple(missing), len(told) == 2 and told[0] != told[1])


# ---------------------------------------------------------------------------------------------------------------- is it safe to ask
Safe = Literal["yes", "not while it starts", "no"]


@dataclass(frozen=True)
class RasRule:
    """NCCL from this version on (until the next row). ``source``: the thread or page."""

    since: tuple[int, int, int]
    safe: Safe
    why: str
    source: str


RAS_RULES = (
    RasRule((0, 0, 0), "no", "has no RAS", "NCCL's RAS page: since 2.24"),
    RasRule(
        (2, 24, 3), "not while it starts", "a report while a communicator is made crashes the job", "nccl#1669 (2.26.2), #1718 (2.26.5)"
    ),
    RasRule((2, 27, 3), "no", "a report may end the job (memory corruption)", "nccl#1762 (2.27.3)"),
    RasRule((2, 27, 7), "no", "crashes in RAS even when nobody asks: set NCCL_RAS_ENABLE=0", "nccl#1996 (H100, H20)"),
    RasRule((2, 28, 0), "not while it starts", "a report while communicators come and go may crash the job", "nccl#2346 (2.29.7)"),
)
"""Rising. 2.27.3 mended #1669 and #1718 (its release notes) and brought #1762."""


def ras_rule(version: str) -> RasRule:
    """The row for an NCCL version; one that is not known may be any, and is not asked."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if not found:
        return RasRule((0, 0, 0), "no", "the NCCL version is not known", "")
    numbers = (int(found[1]), int(found[2]), int(found[3] or 0))
    return next(rule for rule in reversed(RAS_RULES) if rule.since <= numbers)


def may_ask(version: str, starting: bool, enabled: bool = True) -> tuple[bool, str]:
    """Whether RAS is asked, and why not. ``starting``: communicators may still be made. ``enabled``: ``NCCL_RAS_ENABLE`` is not 0."""
    rule = ras_rule(version)
    if not enabled:
        return False, "RAS is off (NCCL_RAS_ENABLE=0)"
    if rule.safe == "yes" or (rule.safe == "not while it starts" and not starting):
        return True, ""
    return False, f"NCCL {version or '?'}: {rule.why} ({rule.source})" if rule.source else rule.why


# ---------------------------------------------------------------------------------------------------------------- last collective
_OP = re.compile(r"^.*?\b(AllReduce|AllGather|ReduceScatter|Broadcast|Reduce|Send|Recv|AlltoAll): opCount ([0-9a-f]+)\b", re.M)
_FILE_RANK = re.compile(r"\brank (\d{1,5}) nranks \d+")


def last_collective(text: str) -> tuple[str, int] | None:
    """(operation, number) of the last collective that a rank's NCCL log (``NCCL_DEBUG_SUBSYS`` with ``COLL``) tells; None without one."""
    found = _OP.findall(text)
    return (found[-1][0], int(found[-1][1], 16)) if found else None


def rank_of(text: str) -> int | None:
    """The rank whose NCCL log this is."""
    found = _FILE_RANK.search(text)
    return int(found[1]) if found else None
