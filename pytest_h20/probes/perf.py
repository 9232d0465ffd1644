"""perftest and all_reduce_perf: command lines, JSON parsers, limits derived from the rails, and what it costs per output
token."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pytest_h20.probes.model_shape import ModelShape
from pytest_h20.probes.script import Missing, Probe, ProbeError, rows, whole

# NCCL's maintainer: "about 24 GB/s bus bandwidth per 200 Gb/s NIC, 12 per 100" (NVIDIA/nccl-tests issues 119 and 252).
BUSBW_PER_200G = 24.0


@dataclass(frozen=True)
class WriteBandwidth:
    """One ib_write_bw or ib_read_bw run. Gbit/s. ``size`` bytes per message."""

    average_gbps: float
    peak_gbps: float
    size: int
    gid_index: int | None = None


@dataclass(frozen=True)
class Latency:
    """One ib_write_lat run: half of a round trip, microseconds, as perftest has it: the median of all."""

    typical_us: float


PerfRun = WriteBandwidth | Latency | Missing

BANDWIDTH = ("-s", "65536", "-D", "3", "--report_gbits")
"""64 KiB messages for 3 s, the size at which any healthy rail is at line rate."""
LATENCY = ("-s", "8", "-n", "1000")
"""A thousand messages of 8 bytes: what a flag of NCCL's protocols takes."""


def perftest_argv(
    tool: str, device: str, port: int, gid_index: int | None, listen_port: int, peer: str | None = None, how: Sequence[str] = BANDWIDTH
) -> list[str]:
    """The command line of one of perftest's tools; with ``peer`` the client, without it the server. ``how``: what is measured.

    ``-u 20``: a QP timeout of 4 s (perftest's own 67 ms fails on a busy node); ``-F``: no complaint about CPU frequency.
    """
    argv = [tool, "-d", device, "-i", str(port), "-p", str(listen_port), *how, "-F", "-u", "20"]
    if gid_index is not None:
        argv += ["-x", str(gid_index)]
    return [*argv, peer] if peer else argv


def on_gpu(index: int, dmabuf: bool) -> list[str]:
    """The memory of a GPU instead of the host's. ``--use_cuda`` must come first (linux-rdma/perftest#336). Both ends need it, and
    ib_write_lat cannot: its CPU polls the memory that is written to (#276)."""
    return [f"--use_cuda={index}", *(["--use_cuda_dmabuf"] if dmabuf else [])]


def as_class(traffic_class: int, service_level: int) -> list[str]:
    """The traffic class and service level that NCCL sends with; nothing where they are the default."""
    return [*([f"--tclass={traffic_class}"] if traffic_class else []), *(["-S", str(service_level)] if service_level else [])]


def parse_ib_write_bw(text: str) -> WriteBandwidth:
    """perftest's JSON: ``{"test_info": {...}, "results": {"MsgSize", "n_iterations", "BW_peak", "BW_average", "MsgRate"}}``.

    With ``--report_gbits`` both are Gbit/s. Raises ``ProbeError`` when there is no finite positive figure: a header is no
    measurement.
    """
    info, results = _results(text)
    average, peak = _figure(results.get("BW_average")), _figure(results.get("BW_peak"))
    if not average:
        # Seen with soft RoCE: its "Correlation coefficient r^2: 0.6 < 0.9" means that cycles could not be turned into seconds.
        raise ProbeError(f"BW_average is {results.get('BW_average')!r}; perftest prints 0 when the node's clock is too unsteady for it")
    index, size = info.get("GID_index"), results.get("MsgSize")
    return WriteBandwidth(average, peak or average, size if isinstance(size, int) else 0, index if isinstance(index, int) else None)


def parse_ib_write_lat(text: str) -> Latency:
    """perftest's JSON of a latency test: ``results`` with ``t_min``, ``t_max``, ``t_typical``, ``t_avg``, ``t_stdev`` and two percentiles,
    microseconds. Raises ``ProbeError`` as above."""
    _, results = _results(text)
    typical = _figure(results.get("t_typical"))
    if not typical:
        raise ProbeError(f"t_typical is {results.get('t_typical')!r}")
    return Latency(typical)


def _results(text: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What perftest says of a run, and its figures. Raises ``ProbeError`` where there are none, or nothing was sent."""
    data = _perftest_json(text)
    results = data.get("results") if isinstance(data, Mapping) else None
    if isinstance(results, Sequence) and not isinstance(results, str) and results:
        results = results[-1]
    if not isinstance(results, Mapping):
        raise ProbeError("no results in perftest's JSON")
    if results.get("n_iterations") == 0:
        raise ProbeError("0 messages were sent: whatever perftest prints was not measured")
    info = data.get("test_info") if isinstance(data, Mapping) else None
    return info if isinstance(info, Mapping) else {}, results


def _perftest_json(text: str) -> object:
    """What perftest calls JSON. Version 4.5-0.17 (6.06, Debian 12) writes keys and words without quotes and a comma after every
    value, one ``key: value,`` on a line."""
    start = text.find("{")
    if start < 0:
        return None
    body = text[start:]
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        body = re.sub(r"^(\s*)([A-Za-z][\w.]*)\s*:", r'\1"\2":', body, flags=re.M)
        body = re.sub(r":[ \t]*([A-Za-z][^\n\"{}]*?),?$", r': "\1",', body, flags=re.M)
        try:
            return json.loads(re.sub(r",(\s*})", r"\1", body))
        except (ValueError, RecursionError):
            raise ProbeError(f"not JSON: {error}") from None


def parse_ib_write_bw_table(text: str) -> WriteBandwidth:
    """The console table of a perftest without ``--out_json`` (before 4.5): the one row of five numbers below ``#bytes``.

    Raises ``ProbeError`` when the header is there and the row is not: that was a failed run.
    """
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if line.strip().startswith("#bytes")), None)
    for line in lines[at + 1 :] if at is not None else ():
        fields = line.split()
        if len(fields) >= 4 and re.fullmatch("[0-9]{1,15}", fields[0]):
            peak, average = _figure(fields[2]), _figure(fields[3])
            if fields[1] == "0":
                raise ProbeError("0 messages were sent: whatever bandwidth it prints was not measured")
            if average and "Gb/sec" in lines[at or 0]:
                return WriteBandwidth(average, peak or average, int(fields[0]))
    raise ProbeError("no row of figures in Gb/sec below #bytes")


def _figure(value: object) -> float | None:
    try:
        f = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return f if 0 < f < 1e15 else None  # NaN and infinity are neither


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else None


def parse_ib_write_lat_table(text: str) -> Latency:
    """The console table of a latency test: nine numbers below ``#bytes``, the fifth is the typical one."""
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if line.strip().startswith("#bytes") and "t_typical" in line), None)
    for line in lines[at + 1 :] if at is not None else ():
        fields = line.split()
        if len(fields) >= 8 and re.fullmatch("[0-9]{1,15}", fields[0]):
            if fields[1] == "0":
                raise ProbeError("0 messages were sent: whatever perftest prints was not measured")
            if typical := _figure(fields[4]):
                return Latency(typical)
    raise ProbeError("no row of microseconds below #bytes")


def parse_perf_start(text: str) -> tuple[int, ...]:
    """``pid=N`` per server: it is listening (or was started; the client tries for some seconds)."""
    found = tuple(whole(line[4:].strip(), "pid", low=2) for line in text.splitlines() if line.startswith("pid="))
    if not found:
        raise ProbeError("no pid= line")
    return found


# Arguments: SECONDS and command lines, one argument each. A server ends by itself after one client, or after SECONDS. GPUs are counted as
# nvidia-smi counts them.
IB_SERVER = Probe(
    "ib_server",
    r"""
n=$1; shift
for c in "$@"; do command -v "${c%% *}" >/dev/null || { echo "${c%% *} is not installed" >&2; exit 127; }; done
CUDA_DEVICE_ORDER=PCI_BUS_ID; export CUDA_DEVICE_ORDER
if command -v setsid >/dev/null; then s=setsid; else s=nohup; fi
if command -v timeout >/dev/null; then s="$s timeout $n"; fi
for c in "$@"; do
  $s sh -c "exec $c" >/dev/null 2>&1 </dev/null &
  echo "pid=$!"
done
sleep 1
""",
    parse_perf_start,
    hint="yum install perftest / apt install perftest",
)


def parse_ib_client(text: str) -> tuple[PerfRun, ...]:
    """``run<TAB>NUMBER<TAB>json``, ``table`` or ``failed`` starts the output of each command line; what follows is perftest's, or its last
    words. In the order of the command lines."""
    found: list[PerfRun] = []
    for part in ("\n" + text).split("\nrun\t")[1:]:
        head, _, body = part.partition("\n")
        number, _, kind = head.partition("\t")
        if whole(number.strip(), "the number of a run") != len(found):
            raise ProbeError(f"run {number} comes where {len(found)} should")
        found.append(_one_run(kind.strip(), body))
    if not found:
        raise ProbeError("no run in it")
    return tuple(found)


def _one_run(kind: str, body: str) -> PerfRun:
    if kind == "failed":
        return Missing(" / ".join(line.strip() for line in body.splitlines() if line.strip())[:200] or "it ended without a word")
    latency = "t_typical" in body
    try:
        if kind == "json":
            return parse_ib_write_lat(body) if latency else parse_ib_write_bw(body)
        return parse_ib_write_lat_table(body) if latency else parse_ib_write_bw_table(body)
    except ProbeError as error:
        return Missing(f"perftest's output was not understood: {error}")


# Arguments: command lines, one argument each; all at once. JSON where perftest knows it, the table where not.
IB_CLIENT = Probe(
    "ib_client",
    r"""
for c in "$@"; do command -v "${c%% *}" >/dev/null || { echo "${c%% *} is not installed" >&2; exit 127; }; done
CUDA_DEVICE_ORDER=PCI_BUS_ID; export CUDA_DEVICE_ORDER
e=`mktemp -d "${TMPDIR:-/tmp}/h20-perf.XXXXXX"` || exit 73
trap 'rm -rf "$e"' EXIT
i=0
for c in "$@"; do
  {
    if "${c%% *}" --help 2>&1 | grep -q out_json; then c="$c --out_json --out_json_file $e/$i.json"; fi
    sh -c "$c" >"$e/$i.o" 2>&1; echo $? >"$e/$i.r"
  } &
  i=$((i + 1))
done
wait
i=0
for c in "$@"; do
  if [ "`cat "$e/$i.r"`" != 0 ]; then printf 'run\t%s\tfailed\n' $i; grep -v '^ *$' "$e/$i.o" | tail -n 3
  elif [ -s "$e/$i.json" ]; then printf 'run\t%s\tjson\n' $i; cat "$e/$i.json"
  else printf 'run\t%s\ttable\n' $i; cat "$e/$i.o"; fi
  echo
  i=$((i + 1))
done
true
""",
    parse_ib_client,
    seconds=60,
    hint="yum install perftest / apt install perftest",
)


def parse_perftest(text: str) -> dict[str, frozenset[str]]:
    """``perftest<TAB>TOOL<TAB>OPTIONS``: its tools, each with the options for GPU memory that it knows."""
    found = {tool: frozenset(options.split()) for tool, options in rows(text, "perftest", 2)}
    if not found:
        raise ProbeError("no perftest line")
    return found


# A build without CUDA (Debian's) has no word of it in its help.
PERFTEST = Probe(
    "perftest",
    r"""
command -v ib_write_bw >/dev/null || { echo "ib_write_bw is not installed" >&2; exit 127; }
for w in ib_write_bw ib_read_bw ib_write_lat; do
  command -v $w >/dev/null && printf 'perftest\t%s\t%s\n' $w "`$w --help 2>&1 | grep -o -e '--use_cuda[a-z_]*' | sort -u | tr '\n' ' '`"
done
true
""",
    parse_perftest,
    hint="yum install perftest / apt install perftest",
)


@dataclass(frozen=True)
class AllReducePoint:
    """One message size of an all-reduce benchmark. ``time_us`` per all-reduce, ``busbw`` GB/s (nccl-tests' definition),
    ``wrong`` values."""

    size: int
    time_us: float
    busbw: float
    wrong: int | None


@dataclass(frozen=True)
class AllReduce:
    """An all-reduce benchmark over all ranks. ``tool``: nccl-tests or torch."""

    tool: str
    ranks: int
    nccl: str
    points: tuple[AllReducePoint, ...]

    @property
    def largest(self) -> AllReducePoint | None:
        """The point that bandwidth is judged at: an average over all sizes says nothing (latency dilutes it)."""
        return max(self.points, key=lambda p: p.size, default=None)

    def time_us(self, size: float) -> float | None:
        """Time of one all-reduce of ``size`` bytes: between two measured sizes by log-log interpolation, None outside of
        them."""
        points = sorted((p for p in self.points if p.size > 0), key=lambda p: p.size)
        for p in points:
            if p.size == size:
                return p.time_us
        for a, b in pairwise(points):
            if a.size < size < b.size:
                share = (math.log(size) - math.log(a.size)) / (math.log(b.size) - math.log(a.size))
                return math.exp(math.log(a.time_us) + share * (math.log(b.time_us) - math.log(a.time_us)))
        return None


def all_reduce_perf_argv(hosts: Mapping[str, int], json_file: str, env: Mapping[str, str], ssh_port: int = 22) -> list[str]:
    """mpirun over ``hosts`` (address -> GPUs): one process per GPU, from one token to 1 GiB, data checked (``-c 1``), JSON
    out."""
    argv = [
        "mpirun",
        "--allow-run-as-root",
        "-np",
        str(sum(hosts.values())),
        "-H",
        ",".join(f"{h}:{n}" for h, n in hosts.items()),
    ]
    argv += ["--bind-to", "none", "-mca", "plm_rsh_args", f"-p {ssh_port} -o StrictHostKeyChecking=no"]
    if interface := env.get("NCCL_SOCKET_IFNAME"):
        argv += ["-mca", "btl_tcp_if_include", interface, "-mca", "oob_tcp_if_include", interface]
    for key in sorted(env):
        argv += ["-x", f"{key}={env[key]}"]
    return [*argv, "all_reduce_perf", "-b", str(8192), "-e", "1G", "-f", "2", "-g", "1", "-c", "1", "-n", "50", "-J", json_file]


def parse_all_reduce(text: str) -> AllReduce:
    """The JSON of nccl-tests' ``-J`` (version 3: ``results[].size``, ``.out_of_place``/``.in_place`` with ``time`` in us,
    ``bus_bw``,
    ``nwrong``) and of our own torch runner, which writes the same keys.

    Other text may stand before and after it: NCCL prints its INFO lines to the same output, also after the results.
    """
    data = _object_with_results(text)
    points = []
    for r in data["results"]:
        if not isinstance(r, Mapping):
            raise ProbeError(f"a result is {r!r}, not an object")
        best = next((r[k] for k in ("out_of_place", "in_place") if isinstance(r.get(k), Mapping)), None)
        if best is None:
            raise ProbeError(f"result of size {r.get('size')} has no figures")
        time_us, busbw = _figure(best.get("time")), _figure(best.get("bus_bw"))
        if time_us is None or busbw is None:
            raise ProbeError(f"result of size {r.get('size')}: time {best.get('time')!r}, bus_bw {best.get('bus_bw')!r}")
        wrong = best.get("nwrong")
        size = _figure(r.get("size"))
        if size is None:
            raise ProbeError(f"a result has the size {str(r.get('size'))[:40]!r}")
        points.append(AllReducePoint(int(size), time_us, busbw, _count(wrong)))
    if not points:
        raise ProbeError("the results list is empty")
    config = data.get("config")
    devices = config.get("devices") if isinstance(config, Mapping) else None
    ranks = len(devices) if isinstance(devices, list) else _count(data.get("ranks")) or 0
    return AllReduce(str(data.get("tool") or "nccl-tests"), ranks, str(data.get("nccl_version") or ""), tuple(points))


def _object_with_results(text: str) -> Mapping[str, Any]:
    """The first JSON object with a list of results that starts a line of a mixed output. Raises ``ProbeError`` when there is none."""
    decoder = json.JSONDecoder()
    lost = ProbeError("no results list in the JSON")
    for found in re.finditer(r"^[ \t]*\{", text, flags=re.M):
        try:
            data, _ = decoder.raw_decode(text, found.end() - 1)
        except (ValueError, RecursionError) as error:
            lost = ProbeError(f"not JSON: {error}")
            continue
        if isinstance(data, Mapping) and isinstance(data.get("results"), list):
            return data
    raise lost


def busbw_floor(rail_gbps: Sequence[float]) -> tuple[float, str]:
    """The derived floor of the bus bandwidth at large sizes, GB/s, and how it follows."""
    floor = sum(rail_gbps) / 200.0 * BUSBW_PER_200G
    rates = " + ".join(f"{r:g}" for r in rail_gbps)
    return floor, f"24 GB/s per 200 Gbit/s of rail (NCCL's maintainer, nccl-tests issue 119) x ({rates}) Gbit/s"


def predicted_tpot_ms(result: AllReduce, batch: int, shape: ModelShape) -> float | None:
    """Milliseconds per output token that communication costs at this batch: the model's all-reduces of ``batch`` tokens each.

    None when that size is outside the measured ones. Beside the measured TPOT it separates a slow fabric from a slow engine.
    """
    t = result.time_us(batch * shape.token_bytes)
    return None if t is None else shape.all_reduces * t / 1000.0


# Runs in the engine's own image (torch and its NCCL are there): RANK0_ADDRESS PORT NODES NODE_RANK GPUS. Rank 0 prints the
# JSON.
TORCH_ALL_REDUCE = r"""
import json, os, subprocess, sys, time
import torch
import torch.distributed as dist

address, port, nodes, node_rank, gpus = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
backend = sys.argv[6] if len(sys.argv) > 6 else "nccl"
if "H20_LOCAL" not in os.environ:
    again = [sys.executable, "-c", "import os; exec(os.environ['H20_SCRIPT'])"] + sys.argv[1:]
    children = [subprocess.Popen(again, env=dict(os.environ, H20_LOCAL=str(i))) for i in range(gpus)]
    codes = [c.wait() for c in children]
    sys.exit(max(abs(c) for c in codes))
local = int(os.environ["H20_LOCAL"])
rank, world = node_rank * gpus + local, nodes * gpus
device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
if backend == "nccl":
    torch.cuda.set_device(device)
dist.init_process_group(backend, init_method="tcp://%s:%s" % (address, port), rank=rank, world_size=world)
wait = torch.cuda.synchronize if backend == "nccl" else (lambda: None)
results = []
for size in [14336 * b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)] + ([1 << 28] if backend == "nccl" else []):
    x = torch.full((size // 2,), 1.0, dtype=torch.bfloat16 if backend == "nccl" else torch.float32, device=device)
    dist.all_reduce(x)
    wait()
    wrong = int((x != world).sum().item())
    x.fill_(0.0)
    rounds = 5 if size >= 1 << 26 else 50
    for _ in range(5):
        dist.all_reduce(x)
    best = None
    for _ in range(3):
        dist.barrier()
        wait()
        start = time.perf_counter()
        for _ in range(rounds):
            dist.all_reduce(x)
        wait()
        t = (time.perf_counter() - start) / rounds
        best = t if best is None else min(best, t)
    slowest = torch.tensor([best], dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    t = slowest.item()
    moved = x.numel() * x.element_size()
    results.append({"size": size, "out_of_place": {"time": t * 1e6, "alg_bw": moved / t / 1e9,
                    "bus_bw": moved / t / 1e9 * 2 * (world - 1) / max(world, 2), "nwrong": wrong}})
if rank == 0:
    version = ".".join(map(str, torch.cuda.nccl.version())) if backend == "nccl" else ""
    print(json.dumps({"tool": "torch", "ranks": world, "nccl_version": version, "results": results}))
dist.destroy_process_group()
"""

# The script travels in the environment: its local ranks start themselves again with it.
TORCH_BOOT = "import os; exec(os.environ['H20_SCRIPT'])"
