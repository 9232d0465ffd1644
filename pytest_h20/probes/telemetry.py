"""A node under load, once a second: one long-lived shell command, its typed samples, and what a stretch of time holds of them.

The command leaves nothing behind: it ends with the connection it runs on (``transport.shell``). ``nvidia-smi`` runs once and loops by
itself: measured on 4 x H200 with R580 that costs 0.4 % of one core, a call every second 6.3 %, ``nvidia-smi dmon`` 2.8 %.

Lines (a line that begins otherwise is kept as a note: an error of a tool)::

    gpu I, SERIAL, BUS ID, NAME                      once per GPU
    rail DEVICE/PORT COUNTER...                      once per port: which counters its ``r`` lines hold
    mem CONTAINER...                                 once: of which containers the ``t`` lines hold the memory
    I, W, SM MHz, MEM MHz, C, REASONS, MiB, ECC, ECC  nvidia-smi's own, per GPU and second (ECC: corrected, uncorrected since driver load)
    t UPTIME STEAL ALL RUNNING [BYTES...]            per second: CPU ticks stolen and in all, run queue, anonymous and shared memory of the containers
    avail TOTAL AVAILABLE                            per second: KiB of the node's memory
    r DEVICE/PORT VALUE...                           per second and port; - where a counter could not be read
    rows BUS ID, CORRECTABLE, UNCORRECTABLE, PENDING, FAILURE   remapped rows, per GPU and minute
"""

# ruff: noqa: E501 - shell and foreign text stay on their own lines
from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pytest_h20.probes.counters import WORDS
from pytest_h20.probes.script import ProbeError, integer, number, whole

MARK = "# h20-telemetry"
"""How the command begins: a stand-in node answers by it."""

REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of ``clocks_event_reasons.active`` (nvml.h, nvmlClocksEventReasons)."""

WATCHED = (
    *("port_xmit_data", "port_rcv_data", "port_xmit_wait", "link_downed", "port_rcv_errors", "port_xmit_discards", "symbol_error"),
    *("out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err", "out_of_buffer", "roce_adp_retrans"),
    *("rx_icrc_encapsulated", "np_cnp_sent", "np_ecn_marked_roce_packets", "rp_cnp_handled"),
)
"""Counters that are read every second. All others are read before and after the load (``probes.counters``)."""

MOST_NOTES = 50
MOST_SAMPLES = 20_000
"""Seconds of samples that are kept per node, five hours; what was summed up is forgotten before that (``Telemetry.forget``)."""

_COMMAND = r"""%s %s
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"; export PATH
S=/sys/class/infiniband; C=/sys/fs/cgroup; w=%s
g=
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=index,serial,pci.bus_id,name --format=csv,noheader,nounits 2>&1 | while IFS= read -r l; do echo "gpu $l"; done
  for k in event throttle; do
    q=index,power.draw,clocks.sm,clocks.mem,temperature.gpu,clocks_${k}_reasons.active,memory.used,ecc.errors.corrected.volatile.total,ecc.errors.uncorrected.volatile.total
    nvidia-smi --query-gpu=$q --format=csv,noheader,nounits >/dev/null 2>&1 && break
  done
  watch_gpus() { nvidia-smi --query-gpu=$q --format=csv,noheader,nounits -l $w 2>&1 & g=$!; }
  watch_gpus
else
  echo "nvidia-smi is not installed"
fi
m=0
for p in $S/*/ports/*; do
  [ -d "$p" ] || continue
  files= names= d=${p#$S/}; d=${d%%%%/*}/${p##*/}
  for c in %s; do
    f=$p/counters/$c; [ -r $f ] || f=$p/hw_counters/$c; [ -r $f ] || continue
    v=; { read -r v <$f; } 2>/dev/null; case $v in ''|*[!0-9]*) continue;; esac
    files="$files $f" names="$names $c"
  done
  [ -n "$files" ] && m=$((m + 1)) && eval "files$m=\$files port$m=\$d" && echo "rail $d$names"
done
held= mem=
for i in %s; do
  for f in $(find $C/memory $C -maxdepth 6 -type d \( -name $i -o -name "*-$i.scope" ! -name "*conmon*" \) 2>/dev/null); do
    f=$f/memory.stat; [ -r $f ] && mem="$mem $f" held="$held $i" && break
  done
done
[ -z "$held" ] || echo "mem$held"
k=0
exec 2>/dev/null
while :; do
  read -r up x </proc/uptime
  read -r x u n s i io q sq st x </proc/stat
  read -r x x x run x </proc/loadavg
  b=
  for f in $mem; do
    a= h=0
    while read -r key n x; do
      case $key in anon|total_rss) a=$n;; shmem|total_shmem) h=$n;; esac  # cgroup v2, v1
    done <$f
    b="$b ${a:+$((a + h))}"; [ -n "$a" ] || b="$b-"
  done
  echo "t $up $st $((u + n + s + i + io + q + sq + st)) ${run%%%%/*}$b"
  total=; while read -r key kib x; do
    case $key in MemTotal:) total=$kib;; MemAvailable:) echo "avail $total $kib"; break;; esac
  done </proc/meminfo
  j=0
  while [ $j -lt $m ]; do
    j=$((j + 1)) l=; eval "files=\$files$j d=\$port$j"
    for f in $files; do v=-; read -r v <$f; l="$l $v"; done  # no cat: starting one costs as much as reading 150 files
    echo "r $d$l"
  done
  if [ $((k %% 60)) -eq 0 ] && [ -n "$g" ]; then
    kill -0 $g 2>/dev/null || watch_gpus
    { nvidia-smi --query-remapped-rows=gpu_bus_id,remapped_rows.correctable,remapped_rows.uncorrectable,remapped_rows.pending,remapped_rows.failure --format=csv,noheader,nounits | while IFS= read -r l; do echo "rows $l"; done; } &
  fi
  k=$((k + 1))
  sleep $w
done
"""


def command(containers: Sequence[str] = (), every_s: float = 1.0) -> str:
    """The shell command. ``containers``: full ids of ours whose memory is told (without page cache, which weights fill). ``every_s``: nvidia-smi takes whole seconds."""
    ids = " ".join(shlex.quote(c) for c in containers)
    return _COMMAND % (MARK, f"{every_s:g}", f"{every_s:g}", " ".join(WATCHED), ids)


# ---------------------------------------------------------------------------------------------------------------- lines to samples
@dataclass(frozen=True)
class GpuIdentity:
    """A GPU as people find it: serial number, and slot as the PCI address says it."""

    index: int
    serial: str = ""
    bus_id: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"GPU {self.index} (serial {self.serial or 'unknown'}, slot {self.bus_id or 'unknown'})"


@dataclass(frozen=True)
class GpuSample:
    """One GPU at one moment. None: the driver does not tell. W, MHz, degrees C, MiB; ECC counts since the driver was loaded."""

    index: int
    power_w: float | None = None
    sm_mhz: float | None = None
    mem_mhz: float | None = None
    temperature_c: float | None = None
    reasons: tuple[str, ...] = ()
    memory_mib: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


@dataclass(frozen=True)
class HostSample:
    """The node at one moment: its uptime (s), CPU ticks stolen and in all since boot, run queue, bytes per container."""

    uptime_s: float
    steal_ticks: int
    all_ticks: int
    running: int
    memory: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class MemorySample:
    """The node's memory at one moment, bytes: in all, and what new processes could have (without page cache)."""

    total: int
    available: int


@dataclass(frozen=True)
class RailSample:
    """Counters of one port at one moment, bytes as bytes. ``rail``: ``mlx5_1/1``."""

    rail: str
    values: Mapping[str, int]


@dataclass(frozen=True)
class RowsSample:
    """Remapped rows of one GPU (by bus id): correctable, uncorrectable, and whether one waits or failed."""

    bus_id: str
    correctable: int
    uncorrectable: int
    pending: bool
    failure: bool


Sample = GpuSample | HostSample | MemorySample | RailSample | RowsSample

_GPU_LINE = re.compile(r"^[0-9]{1,3}, ")
_NOTHING = ("N/A", "[N/A]", "[Not Supported]", "")


def parse_gpu(line: str) -> GpuSample:
    """``0, 690.92, 1545, 3201, 59, 0x0000000000000004, 885, 0, 0``. Raises ``ProbeError``."""
    cells = [c.strip() for c in line.split(",")]
    if len(cells) != 9:
        raise ProbeError(f"a line of nvidia-smi has {len(cells)} values, not 9: {line[:120]!r}")
    bits = int(cells[5], 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", cells[5]) else 0
    return GpuSample(
        whole(cells[0], "GPU index", 0, 255),
        number(cells[1]),
        number(cells[2]),
        number(cells[3]),
        number(cells[4]),
        tuple(name for bit, name in REASONS.items() if bits & bit),
        number(cells[6]),
        integer(cells[7]),
        integer(cells[8]),
    )


def parse_host(line: str) -> HostSample:
    """``t UPTIME STEAL ALL RUNNING [BYTES...]``. Raises ``ProbeError``."""
    cells = line.split()
    uptime = number(cells[1]) if len(cells) >= 5 else None
    if uptime is None:
        raise ProbeError(f"a t line without its four numbers: {line[:120]!r}")
    steal, ticks, running = (whole(c, "a number of a t line", 0, 2**63) for c in cells[2:5])
    return HostSample(uptime, steal, ticks, running, tuple(integer(c) for c in cells[5:]))


def parse_memory(line: str) -> MemorySample:
    """``avail TOTAL AVAILABLE``, KiB. Raises ``ProbeError``."""
    cells = line.split()
    if len(cells) != 3:
        raise ProbeError(f"an avail line without its two numbers: {line[:120]!r}")
    total, available = (1024 * whole(c, "KiB of memory", 0, 2**50) for c in cells[1:])
    return MemorySample(total, available)


def parse_rail(line: str, names: Mapping[str, Sequence[str]]) -> RailSample:
    """``r DEVICE/PORT VALUE...``; ``names``: what the port's ``rail`` line announced. Raises ``ProbeError``."""
    cells = line.split()
    known = names.get(cells[1]) if len(cells) > 1 else None
    if known is None or len(known) != len(cells) - 2:
        raise ProbeError(f"an r line that no rail line announced: {line[:120]!r}")
    values = {n: whole(c, f"counter {n}", 0, 2**64) * (4 if n in WORDS else 1) for n, c in zip(known, cells[2:], strict=True) if c != "-"}
    return RailSample(cells[1], values)


def parse_rows(line: str) -> RowsSample:
    """``rows BUS ID, CORRECTABLE, UNCORRECTABLE, PENDING, FAILURE``. Raises ``ProbeError``."""
    cells = [c.strip() for c in line.removeprefix("rows ").split(",")]
    if len(cells) != 5:
        raise ProbeError(f"a rows line has {len(cells)} values, not 5: {line[:120]!r}")
    return RowsSample(
        cells[0], whole(cells[1], "remapped rows"), whole(cells[2], "remapped rows"), cells[3].lower() == "yes", cells[4].lower() == "yes"
    )


@dataclass(frozen=True)
class Lately:
    """What a node told last: samples per GPU; per port the moments and the bytes it had sent by then."""

    gpus: Mapping[int, tuple[GpuSample, ...]]
    rails: Mapping[str, tuple[tuple[float, int], ...]]


@dataclass
class Telemetry:
    """What one node has told so far. ``feed`` takes its lines with the moment they came (any clock that only runs forward, s).

    ``notes``: lines that were not understood, the first `MOST_NOTES`.
    """

    node: str
    gpus: dict[int, GpuIdentity] = field(default_factory=dict)
    containers: tuple[str, ...] = ()
    samples: list[tuple[float, Sample]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def feed(self, line: str, at: float) -> None:
        """Take one line. Never raises: a line that cannot be read is a note, and its sample a gap."""
        self.lines.append((at, line[:4096]))
        if len(self.lines) > MOST_SAMPLES * 32:
            del self.lines[: MOST_SAMPLES * 8]
        try:
            self._take(line, at)
        except ProbeError as error:
            self._note(str(error))

    def _take(self, line: str, at: float) -> None:
        kind, _, rest = line.partition(" ")
        if _GPU_LINE.match(line):
            self._keep(at, parse_gpu(line))
        elif kind == "t":
            self._keep(at, parse_host(line))
        elif kind == "avail":
            self._keep(at, parse_memory(line))
        elif kind == "r":
            self._keep(at, parse_rail(line, self._names))
        elif kind == "rows":
            self._keep(at, parse_rows(line))
        elif kind == "gpu":
            cells = [c.strip() for c in rest.split(",", 3)]
            if len(cells) != 4:
                raise ProbeError(rest[:200])
            index = whole(cells[0], "GPU index", 0, 255)
            self.gpus[index] = GpuIdentity(index, *("" if c in _NOTHING else c[:80] for c in cells[1:]))
        elif kind == "rail" and "/" in rest:
            port, *names = rest.split()
            if len(self._names) < 256:
                self._names[port] = tuple(names)
        elif kind == "mem":
            self.containers = tuple(rest.split())[:64]
        elif line.strip():
            self._note(line.strip()[:200])

    def _keep(self, at: float, sample: Sample) -> None:
        self.samples.append((at, sample))
        if len(self.samples) > MOST_SAMPLES * 32:
            del self.samples[: MOST_SAMPLES * 8]

    def _note(self, text: str) -> None:
        if len(self.notes) < MOST_NOTES and text not in self.notes:
            self.notes.append(text)

    def forget(self, before: float) -> None:
        """Drop what came before this moment."""
        self.samples = [(at, s) for at, s in self.samples if at >= before]
        self.lines = [(at, line) for at, line in self.lines if at >= before]

    def text(self, start: float, end: float) -> str:
        """The lines that came between two moments, each after its second since ``start``: the evidence."""
        return "".join(f"{at - start:.2f} {line}\n" for at, line in self.lines if start <= at <= end)

    def lately(self, most: int) -> Lately:
        """The last ``most`` samples of every GPU and port, oldest first. Looks at no more than it gives."""
        gpus: dict[int, list[GpuSample]] = {index: [] for index in self.gpus}
        rails: dict[str, list[tuple[float, int]]] = {}
        wanted = (most + 1) * (len(self.gpus) + len(self._names) + 3)
        for at, sample in reversed(self.samples[-wanted:]):
            if isinstance(sample, GpuSample):
                gpus.setdefault(sample.index, []).append(sample)
            elif isinstance(sample, RailSample) and (sent := sample.values.get("port_xmit_data")) is not None:
                rails.setdefault(sample.rail, []).append((at, sent))
        return Lately(
            {index: tuple(reversed(found[:most])) for index, found in sorted(gpus.items())},
            {rail: tuple(reversed(found[: most + 1])) for rail, found in sorted(rails.items())},
        )

    def since(self, start: float, end: float) -> Window:
        """The stretch from ``start`` to ``end``, summed up."""
        inside = [(at, s) for at, s in self.samples if start <= at <= end]
        return window(self, inside, start, end)


# ------------------------------------------------------------------------------------------------------------ samples to a stretch
@dataclass(frozen=True)
class Spread:
    """A quantity over a stretch: smallest, median and largest of ``count`` samples."""

    low: float
    median: float
    high: float
    count: int


QUANTITIES = ("power_w", "sm_mhz", "mem_mhz", "temperature_c", "memory_mib")


@dataclass(frozen=True)
class GpuWindow:
    """One GPU over a stretch. ``throttled``: reason to number of samples in which it held. ``series``: (seconds from the start, value)
    per quantity, thinned for drawing. ``ecc``: how far (corrected, uncorrected) rose."""

    identity: GpuIdentity
    spreads: Mapping[str, Spread]
    throttled: Mapping[str, int]
    samples: int
    ecc: tuple[int, int]
    series: Mapping[str, tuple[tuple[float, float], ...]]

    def median(self, quantity: str) -> float | None:
        """The median of a quantity, None when it was never told."""
        return self.spreads[quantity].median if quantity in self.spreads else None


@dataclass(frozen=True)
class Window:
    """One node over a stretch of ``seconds``. ``gaps``: (from, to) in seconds from its start in which a kind of sample (``gpu``,
    ``host``) is missing for longer than `GAP_S`; they are never filled. ``rails``: counter to how far it rose, per port.
    ``used_bytes``: of the node's memory, page cache apart, the median. ``uptime_at``: the node's uptime less our clock, to place kernel stamps; None when it told no uptime."""

    node: str
    seconds: float
    gpus: Mapping[int, GpuWindow]
    rails: Mapping[str, Mapping[str, int]]
    gaps: Mapping[str, tuple[tuple[float, float], ...]]
    steal_share: float | None
    run_queue: Spread | None
    memory_bytes: int | None
    used_bytes: float | None
    uptime_at: float | None
    notes: tuple[str, ...]

    def seen(self, kind: str) -> float:
        """The part of the stretch, 0 to 1, in which samples of this kind came."""
        lost = sum(to - start for start, to in self.gaps.get(kind, ()))
        return 1.0 - lost / self.seconds if self.seconds > 0 else 0.0

    @property
    def power_w(self) -> float | None:
        """Mean power of all GPUs together; None unless each one tells it."""
        medians = [g.median("power_w") for g in self.gpus.values()]
        return None if not medians or None in medians else sum(m for m in medians if m is not None)


GAP_S = 5.0
"""Samples come every second; so long without one is a gap."""

MOST_POINTS = 40
"""Points per GPU and quantity that are kept for drawing."""


def gaps(moments: Iterable[float], start: float, end: float, longest: float = GAP_S) -> tuple[tuple[float, float], ...]:
    """Stretches longer than ``longest`` between start, moments and end, in seconds from the start. Without any moment all of it is one,
    however short: nothing was seen."""
    inside = sorted(m for m in moments if start <= m <= end)
    if not inside:
        return ((0.0, end - start),)
    edges = [start, *inside, end]
    return tuple((a - start, b - start) for a, b in pairwise(edges) if b - a > longest)


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing."""
    return Spread(min(values), statistics.median(values), max(values), len(values)) if values else None


def window(told: Telemetry, inside: Sequence[tuple[float, Sample]], start: float, end: float) -> Window:
    """Sum up samples between two moments."""
    by_gpu: dict[int, list[tuple[float, GpuSample]]] = {}
    by_rail: dict[str, list[RailSample]] = {}
    hosts: list[tuple[float, HostSample]] = []
    used: list[int] = []
    for at, sample in inside:
        if isinstance(sample, GpuSample):
            by_gpu.setdefault(sample.index, []).append((at, sample))
        elif isinstance(sample, HostSample):
            hosts.append((at, sample))
        elif isinstance(sample, MemorySample):
            used.append(sample.total - sample.available)
        elif isinstance(sample, RailSample):
            by_rail.setdefault(sample.rail, []).append(sample)
    identities = {index: told.gpus.get(index, GpuIdentity(index)) for index in sorted({*told.gpus, *by_gpu})}
    memory = [sum(b for b in h.memory if b is not None) for _, h in hosts if any(b is not None for b in h.memory)]
    queue = spread([float(h.running) for _, h in hosts])
    ticks = hosts[-1][1].all_ticks - hosts[0][1].all_ticks if hosts else 0
    # The GPU that was silent longest decides: one that is off the bus must not hide behind the others.
    silent = max(
        (gaps((at for at, _ in by_gpu.get(index, ())), start, end) for index in identities),
        key=lambda found: sum(to - since for since, to in found),
        default=((0.0, end - start),),
    )
    return Window(
        node=told.node,
        seconds=end - start,
        gpus={index: _gpu_window(who, by_gpu[index], start) for index, who in identities.items() if index in by_gpu},
        rails={rail: _risen(found) for rail, found in sorted(by_rail.items())},
        gaps={"gpu": silent, "host": gaps((at for at, _ in hosts), start, end)},
        steal_share=(hosts[-1][1].steal_ticks - hosts[0][1].steal_ticks) / ticks if ticks > 0 else None,
        run_queue=queue,
        memory_bytes=max(memory, default=None),
        used_bytes=statistics.median(used) if used else None,
        uptime_at=statistics.median(h.uptime_s - at for at, h in hosts) if hosts else None,
        notes=tuple(told.notes),
    )


def _gpu_window(who: GpuIdentity, found: Sequence[tuple[float, GpuSample]], start: float) -> GpuWindow:
    spreads: dict[str, Spread] = {}
    series: dict[str, tuple[tuple[float, float], ...]] = {}
    for quantity in QUANTITIES:
        points = [(at - start, float(v)) for at, s in found if (v := getattr(s, quantity)) is not None]
        if (all_of_it := spread([v for _, v in points])) is not None:
            spreads[quantity] = all_of_it
            series[quantity] = thinned(points)
    throttled: dict[str, int] = {}
    for _, sample in found:
        for reason in sample.reasons:
            throttled[reason] = throttled.get(reason, 0) + 1
    counts = [[c for _, s in found if (c := getattr(s, name)) is not None] for name in ("ecc_corrected", "ecc_uncorrected")]
    corrected, uncorrected = (max(0, c[-1] - c[0]) if c else 0 for c in counts)
    return GpuWindow(who, spreads, throttled, len(found), (corrected, uncorrected), series)


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> tuple[tuple[float, float], ...]:
    """At most ``most`` of the points, evenly chosen, the first and the last always. None is made up."""
    if len(points) <= most:
        return tuple((round(x, 2), y) for x, y in points)
    step = (len(points) - 1) / (most - 1)
    chosen = [points[round(i * step)] for i in range(most)]
    return tuple((round(x, 2), y) for x, y in chosen)


def _risen(found: Sequence[RailSample]) -> dict[str, int]:
    first, last = found[0].values, found[-1].values
    return {name: value - first[name] for name, value in last.items() if name in first and value >= first[name]}
