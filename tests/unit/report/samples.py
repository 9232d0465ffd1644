"""Realistic runs for tests and for looking at: clean, faulty, aborted bring-up, two engines, calibration, rehearsal, killed.

``python -m tests.unit.report.samples DIR`` writes all of them, with their pages, below DIR.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pytest_h20.checks.throughput import judge_cell
from pytest_h20.config.limits import LimitFile, load_limits
from pytest_h20.core.verdict import GateName, Limit, Origin, Status, Verdict, judge, worst
from pytest_h20.report.model import (
    CellLoad,
    CellRow,
    Command,
    Fingerprint,
    GpuLoad,
    HostLoad,
    KernelLine,
    LogTail,
    Mode,
    NodeBrief,
    NodeColumn,
    RailTraffic,
    RunView,
    SetupError,
    StateChange,
    Warning_,
)
from pytest_h20.report.run import RunFolder

ROOT = Path(__file__).parents[3]
THRESHOLDS = ROOT / "environments" / "thresholds"
NODES = ("node01", "node02")


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 4, 5, 9, 30, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=20)
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


CLOCK = Clock()
STATES = (
    ("preflight", "", 21.0),
    ("launching", "2 containers", 9.0),
    ("joining", "16 ranks", 34.0),
    ("loading", "163 shards", 348.0),
)
IMAGE = "lmsysorg/sglang:ea52b45be1a7"
TPOT_FLOOR = {
    1: 0.86,
    2: 1.17,
    4: 1.77,
    8: 2.85,
    16: 4.66,
    32: 7.16,
    64: 9.63,
    100: 10.7,
    128: 11.0,
    200: 11.4,
    256: 11.6,
    512: 12.5,
    1024: 17.3,
}


def sglang_limits() -> LimitFile:
    """The write-up's 26 rows."""
    return load_limits(THRESHOLDS / "sglang-default.yaml")


def make_cells(
    engine: str,
    profile: str,
    limits: LimitFile,
    *,
    level: float = 1.06,
    noise: float = 0.01,
    slow_from: int = 0,
    seed: int = 1,
    repeat: int = 0,
) -> list[CellRow]:
    """Cells of the whole matrix at ``level`` times the limits file's throughput; a third slower from ``slow_from`` streams up."""
    rng = random.Random(seed)
    found = []
    for row in limits.cells:
        blog = {m: v for m in ("output_throughput", "mean_tpot_ms", "mean_ttft_ms") if (v := limits.written(row.id, m)) is not None}
        factor = level * (1 + rng.gauss(0, noise)) * (0.67 if slow_from and row.concurrency >= slow_from else 1)
        throughput = blog["output_throughput"] * factor
        tpot = blog.get("mean_tpot_ms", 1000 * row.concurrency / blog["output_throughput"] * 0.97) / factor
        ttft = blog.get("mean_ttft_ms", 300 + 2.6 * row.concurrency) / factor
        cell = CellRow(
            engine=engine,
            profile=profile,
            input_len=row.input,
            output_len=row.output,
            concurrency=row.concurrency,
            output_throughput=throughput,
            input_throughput=throughput,
            mean_tpot_ms=tpot,
            mean_ttft_ms=ttft,
            more=tails("ttft", ttft, 2.9) | tails("tpot", tpot, 1.3) | tails("itl", tpot, 4.2),
            requests=row.concurrency * 4,
            seconds=row.concurrency * 4 * row.output / throughput,
            windows=tuple(throughput * (1 + rng.gauss(0, 0.03)) for _ in range(40)),
            limits=limits.cell(row.id),
            blog=blog if limits.origin.kind == "blog" else {},
            floor={
                "mean_tpot_ms": TPOT_FLOOR[row.concurrency],
                "output_throughput": 1000 * row.concurrency / TPOT_FLOOR[row.concurrency],
            },
            repeat=repeat,
        )
        status = worst(v.status for v in judge_cell(cell, limits))
        found.append(cell.model_copy(update={"status": status}))
    return found


def tails(name: str, mean: float, far: float) -> dict[str, float]:
    """p50 and p99 of a time by its mean, as the load generator names them."""
    found = {f"p50_{name}_ms": mean * 0.94, f"p99_{name}_ms": mean * far}
    return found | ({"mean_itl_ms": mean} if name == "itl" else {})


def identities(number: int) -> dict[str, str]:
    """What a node with eight H20 and nine HCAs says of itself."""
    return {
        "gpu serials": ", ".join(f"165482401{number}{gpu:03d}" for gpu in range(8)),
        "gpu uuids": ", ".join(f"GPU-8f6f2b4{number}-0c1d-4f6e-9a3b-5d2e7c90{gpu:04x}" for gpu in range(8)),
        "hca guids": ", ".join(f"mlx5_{hca} a088:c203:00{number}f:{0x4A10 + hca:04x}" for hca in range(9)),
        "machine id": f"4c4c4544-0042-3510-8050-b{number}c04f503533",
    }


def record_cells(run: RunFolder, cells: Iterable[CellRow], limits: LimitFile) -> None:
    """Record cells with their verdicts, as the throughput tests do."""
    for cell in cells:
        run.add(cell)
        for verdict in judge_cell(cell, limits):
            run.record(verdict, f"test_throughput.py::test_throughput[{cell.engine}-{cell.name}]", cell.seconds)


def start(base: Path, engines: Sequence[str] = ("sglang",), name: str = "h20-2node", mode: Mode = Mode.FULL, **fields: Any) -> RunFolder:
    """A run folder with a realistic header."""
    return RunFolder.create(
        base,
        engines,
        name,
        mode,
        clock=CLOCK,
        nodes=tuple(NodeBrief(name=n, address=f"10.63.65.20{7 + i}", gpus="8 x NVIDIA H20 96 GiB") for i, n in enumerate(NODES)),
        images={e: IMAGE if e == "sglang" else "vllm/vllm-openai:v0.8.2" for e in engines},
        driver="535.216.03",
        model="/mnt/models/DeepSeek-R1",
        inventory="environments/h20-2node.yaml (sha256 5b1f0c0f)",
        limits="sglang-default (blog: write-up 2025-04-05), 26 cells",
        settings={
            "h20-engine": f"{', '.join(engines)} (command line)",
            "h20-nodes": "environments/h20-2node.yaml (command line)",
            "h20-load-recipe": "steady (default)",
            "h20-run-dir": "h20-runs (ini file)",
        },
        command_line=f"pytest --engine={engines[0]} --nodes=environments/h20-2node.yaml --html=report.html --self-contained-html",
        **fields,
    )


def passed(check: str, title: str, measured: Any, limit: Limit, subject: str = "", evidence: tuple[str, ...] = ()) -> Verdict:
    """A verdict that is judged, not made up."""
    return judge(check, title, measured, limit, subject=subject, evidence=evidence)


def equal(value: Any, origin: str = "environments/h20-2node.yaml") -> Limit:
    return Limit(kind="equal", value=value, origin=Origin(kind="inventory", detail=origin))


def at_least(value: float, unit: str, kind: Any = "derived", detail: str = "") -> Limit:
    return Limit(kind="min", value=value, unit=unit, origin=Origin(kind=kind, detail=detail))


def environment(run: RunFolder, *, driver2: str = "535.216.03") -> None:
    """Both machines, looked at."""
    for node, driver in zip(NODES, ("535.216.03", driver2), strict=True):
        seen = run.evidence(f"{node}/nvidia-smi.txt", f"Driver Version: {driver}\nGPU 0: NVIDIA H20\n")
        test = "test_environment.py::test_{}[" + node + "]"
        run.record(
            passed("environment.driver", "NVIDIA driver version", driver, equal("535.216.03"), node, (seen,)),
            test.format("driver"),
            0.4,
        )
        run.record(passed("environment.gpu_count", "GPUs in the machine", 8, equal(8), node, (seen,)), test.format("gpus"), 0.1)
        memlock = Limit(kind="equal", value="unlimited", origin=Origin(kind="vendor", detail="NCCL: RDMA needs locked memory"))
        run.record(passed("environment.memlock", "Locked memory limit", "unlimited", memlock, node), test.format("memlock"), 0.1)
        run.add(
            NodeColumn(
                node=node,
                facts={
                    "os": "CentOS Linux 7.6.1810",
                    "kernel": "3.10.0-957.el7.x86_64",
                    "driver": driver,
                    "gpu": "NVIDIA H20 (10de:2329)",
                    "docker": "24.0.7",
                    "ofed": "MLNX_OFED_LINUX-5.8-1.1.2.1",
                    "firmware mlx5_1": "28.39.1002" if node == "node01" else "28.38.1900",
                    "clock offset": "0.4 ms" if node == "node01" else "0.6 ms",
                },
            )
        )
        run.add(
            Command(
                node=node,
                command="nvidia-smi --query-gpu=driver_version,name,pci.device_id --format=csv",
                purpose="environment",
                rc=0,
                seconds=0.31,
            )
        )


def fabric(run: RunFolder) -> None:
    for rail in range(1, 9):
        run.record(
            passed("fabric.port_active", "RDMA port is active", "ACTIVE", equal("ACTIVE"), f"node01 mlx5_{rail}"),
            f"test_fabric.py::test_port[node01-mlx5_{rail}]",
            0.2,
        )
    bandwidth = at_least(180.0, "Gbit/s", detail="0.9 x 200 Gbit/s rail")
    run.record(
        passed("fabric.write_bandwidth", "ib_write_bw per rail", 194.6, bandwidth, "node01 mlx5_1"),
        "test_fabric.py::test_bw",
        12.0,
    )


def weights(run: RunFolder) -> None:
    for node in NODES:
        run.record(passed("weights.shards", "Weight files", 163, equal(163), node), f"test_weights.py::test_shards[{node}]", 1.1)
        run.record(passed("compute.ran", "Burn", 8, equal(8), node), f"test_compute.py::test_ran[{node}]", 27.4)


def bring_up(run: RunFolder, engine: str) -> None:
    """From nothing to ready in seven minutes."""
    for state, note, seconds in STATES:
        run.add(StateChange(engine=engine, state=state, note=note))
        CLOCK.wait(seconds)
    run.add(StateChange(engine=engine, state="ready"))
    run.add(
        Command(
            node="node01",
            command="docker run --gpus all --network=host --ipc=host --shm-size=128g --privileged --ulimit memlock=-1:-1 "
            f"-v /ssd1/models:/mnt/models {IMAGE} python3 -m sglang.launch_server --model-path /mnt/models/DeepSeek-R1 "
            "--tp 16 --dist-init-addr 10.63.65.207:30000 --nnodes 2 --node-rank 0 --trust-remote-code --host 0.0.0.0 --port 8000",
            purpose="start the engine",
            rc=0,
            seconds=1.9,
        )
    )
    ready = Limit(kind="max", value=1800, unit="s", origin=Origin(kind="inventory", detail="ready_timeout"))
    run.record(passed("bringup.ready", "Time until the engine answers", 412.7, ready, engine), "test_bringup.py::test_ready", 412.7)


def rdma(run: RunFolder, engine: str, *, broken: int | None = None) -> None:
    """Eight rails with equal traffic; ``broken``: the number of one that carried none and fell back to sockets."""
    share = Limit(kind="min", value=2.4, unit="GB", origin=Origin(kind="derived", detail="0.8 x what TP16 must move on 8 rails"))
    for node, other in (NODES, NODES[::-1]):
        for rail in range(1, 9):
            bad = rail == broken
            moved = 0.002 if bad else 3.05 + 0.01 * rail
            why = "0.002 GB moved while a request ran; its NCCL channels went by NET/Socket" if bad else ""
            run.add(
                RailTraffic(
                    engine=engine,
                    node=node,
                    hca=f"mlx5_{rail}",
                    interface=f"xgbe{rail}",
                    peer_node=other,
                    peer_hca=f"mlx5_{rail}",
                    gb_sent=moved,
                    gb_received=moved + (0 if bad else 0.01),
                    gb_expected=3.0,
                    channels=0 if bad else 2,
                    gdr=not bad,
                    status=Status.FAIL if bad else Status.PASS,
                    reason=why,
                )
            )
            verdict = judge(
                "rdma.rail_bytes",
                "The rail carried its share",
                moved,
                share,
                subject=f"{node} mlx5_{rail}",
                reason=why,
                action=f"look at node's port: ibstat mlx5_{rail}; NCCL_IB_HCA must name it",
                evidence=(run.evidence(f"{node}/counters-mlx5_{rail}.txt", f"port_xmit_data {moved}"),) if bad else (),
            )
            run.record(verdict, f"test_nccl_rdma.py::test_rail_bytes[{node}-mlx5_{rail}]", 0.1)


def machines(run: RunFolder, engine: str) -> None:
    """Sixteen GPUs through two cells; in the second one of them is slow, and NVLink reports an error."""
    rng = random.Random(7)
    for number, streams in enumerate((64, 128)):
        gpus = []
        for index in range(16):
            clock = 1188.0 if (number, index) == (1, 11) else 1980.0
            levels = {"sm_mhz": (clock, 8.0), "power_w": (390.0 + 4 * (index % 4), 12.0), "temperature_c": (54.0 + index % 6, 1.5)}
            series = {
                name: tuple((20.0 * i, round(rng.gauss(middle, width), 1)) for i in range(24)) for name, (middle, width) in levels.items()
            }
            gpus.append(
                GpuLoad(
                    node=NODES[index // 8],
                    index=index % 8,
                    serial=f"16500{index:02d}",
                    slot=f"00000000:{0x1B + 8 * (index % 8):02X}:00.0",
                    spreads={name: (middle - width, middle, middle + width) for name, (middle, width) in levels.items()},
                    series=series,
                    samples=460,
                    apart="node02 GPU 3: SM clock 1188 MHz, the median of 16 GPUs is 1980 MHz" if clock < 1500 else "",
                )
            )
        hosts = {name: HostLoad(run_queue=(2.0, 9.0, 31.0), memory_bytes=97 * 2**30) for name in NODES}
        cell = f"in128-out128-c{streams}"
        run.add(CellLoad(engine=engine, cell=cell, seconds=460.0, gpus=tuple(gpus), hosts=hosts, energy_wh_per_1k=2.41))
    run.add(
        KernelLine(
            node="node02",
            gate=GateName.THROUGHPUT,
            engine=engine,
            cell="in128-out128-c128",
            after_s=211.0,
            severity="reset",
            meaning="Xid 145 on 0000:33:00: NVLink: RLW error (NVIDIA: WORKFLOW_NVLINK5_ERR)",
            action="drain the node, reset the board's GPUs",
            text="[1209811.200000] NVRM: Xid (PCI:0000:33:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 07",
        )
    )


def endpoint(run: RunFolder, *, split: bool = True) -> None:
    protocol = Origin(kind="protocol", detail="OpenAI API")
    run.record(
        passed("endpoint.models", "The model is listed", 1, Limit(kind="equal", value=1, origin=protocol)),
        "test_endpoint.py::test_models",
        0.1,
    )
    verdict = judge(
        "reasoning.split",
        "Reasoning is split from the answer",
        split,
        Limit(kind="equal", value=True, origin=Origin(kind="vendor", detail="--reasoning-parser deepseek-r1")),
        reason="the answer begins with <think>",
        action="start SGLang with --reasoning-parser deepseek-r1",
    )
    run.record(verdict, "test_reasoning.py::test_split", 8.2)
    score = at_least(0.9, "", kind="builtin", detail="64 questions, lower end of the Wilson interval")
    run.record(passed("answers.score", "Graded questions", 0.95, score), "test_answers.py::test_score", 120.0)


def prints(run: RunFolder, engines: Sequence[str], **changes: str) -> None:
    run.fingerprint(
        Fingerprint(
            plugin_version="0.1.0",
            python="3.12.4",
            engines={
                e: {
                    "version": "0.4.4" if e == "sglang" else "0.8.2",
                    "image_digest": f"sha256:{e}0d1c",
                    "nccl": "2.21.5",
                    "tensor_parallel": "16",
                    **changes,
                }
                for e in engines
            },
            flags={e: {"tp" if e == "sglang" else "tensor-parallel-size": 16, "trust-remote-code": True} for e in engines},
            nodes={
                n: {"driver": "535.216.03", "kernel": "3.10.0-957.el7.x86_64", "fw_mlx5_1": "28.39.1002", **identities(i)}
                for i, n in enumerate(NODES, 1)
            },
            model={"path": "/mnt/models/DeepSeek-R1", "shards": "163"},
            inventory_sha256="5b1f0c0f" * 8,
            limits_sha256="9a7c0b11" * 8,
        )
    )


def clean(base: Path, mode: Mode = Mode.FULL, level: float = 1.06, seed: int = 1, **fields: Any) -> RunView:
    """Everything holds."""
    run = start(base, mode=mode, **fields)
    environment(run)
    fabric(run)
    weights(run)
    bring_up(run, "sglang")
    rdma(run, "sglang")
    endpoint(run)
    limits = sglang_limits()
    record_cells(run, make_cells("sglang", "default", limits, level=level, seed=seed), limits)
    prints(run, ("sglang",))
    return run.finish()


def faulty(base: Path) -> RunView:
    """Another driver on one node, one rail on sockets, reasoning not split, slow from 128 streams up, one cell in doubt."""
    run = start(base)
    environment(run, driver2="535.129.03")
    fabric(run)
    run.record(
        judge(
            "fabric.write_bandwidth",
            "ib_write_bw per rail",
            None,
            at_least(180.0, "Gbit/s", detail="0.9 x 200 Gbit/s rail"),
            subject="node02 mlx5_4",
            reason="ib_write_bw is not installed on node02",
            action="yum install perftest on node02",
        ),
        "test_fabric.py::test_bw[node02-mlx5_4]",
    )
    weights(run)
    bring_up(run, "sglang")
    rdma(run, "sglang", broken=3)
    endpoint(run, split=False)
    run.record(
        Verdict(check="endpoint.tools", status=Status.SKIP, title="Tool calls", reason="this profile sets no tool parser"),
        "test_endpoint.py::test_tools",
    )
    limits = sglang_limits()
    cells = make_cells("sglang", "default", limits, level=1.05, slow_from=128, seed=3)
    cells[-1] = cells[-1].model_copy(
        update={"status": Status.UNKNOWN, "reason": "client saturated: its self-check is 4.1 % off at 1024 streams"}
    )
    cells[5] = cells[5].model_copy(
        update={
            "output_throughput": None,
            "mean_tpot_ms": None,
            "mean_ttft_ms": None,
            "windows": (),
            "status": Status.UNKNOWN,
            "reason": "2 of 128 requests did not finish",
        }
    )
    record_cells(run, cells, limits)
    prints(run, ("sglang",))
    machines(run, "sglang")
    run.add(Warning_(text="host key checking is off for node02 (inventory)"))
    run.add(
        LogTail(
            node="node02",
            source="rank 1",
            text="[NCCL] NET/Socket : Using [0]xgbe0:10.63.65.208<0>\n",
            evidence="evidence/node02/rank1.log",
        )
    )
    return run.finish()


def aborted(base: Path) -> RunView:
    """The engine did not start: one node has fewer shards. Everything after it was skipped."""
    run = start(base)
    environment(run)
    fabric(run)
    for state, note, seconds in STATES[:3]:
        run.add(StateChange(engine="sglang", state=state, note=note))
        CLOCK.wait(seconds)
    run.add(StateChange(engine="sglang", state="loading", note="node02: 12 of 163 shards"))
    CLOCK.wait(31)
    run.add(StateChange(engine="sglang", state="broken", note="rank 1 ended"))
    tail = "\n".join(
        [
            "Loading safetensors checkpoint shards:   7% Completed | 12/163 [00:31<06:29,  2.58s/it]",
            '  File "/sgl-workspace/sglang/srt/model_loader/weight_utils.py", line 441, in safetensors_weights_iterator',
            '    with safe_open(st_file, framework="pt") as f:',
            "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
            "[2025-04-05 10:12:44] Rank 1 scheduler died with exit code -3",
        ]
    )
    log = run.evidence("node02/rank1.log", tail)
    run.add(LogTail(node="node02", source="rank 1 (sglang.launch_server)", text=tail, evidence=log))
    run.add(
        LogTail(
            node="node01",
            source="rank 0 (sglang.launch_server)",
            text="[2025-04-05 10:12:45] Lost connection to rank 1",
            evidence="",
        )
    )
    run.add(
        SetupError(
            test_id="test_bringup.py::test_ready",
            title="The engine did not start on node02",
            cause="model-00013-of-000163.safetensors is cut short on node02 (diagnosis F47: MetadataIncompleteBuffer)",
            fix="copy it again: rsync node01:/ssd1/models/DeepSeek-R1/model-00013-of-000163.safetensors /ssd1/models/DeepSeek-R1/",
            text=tail,
            evidence=(log,),
        )
    )
    run.record(
        Verdict(
            check="bringup.ready",
            status=Status.FAIL,
            title="The engine starts on all nodes",
            subject="sglang",
            reason="rank 1 on node02 ended while loading shard 13 of 163",
            action="copy model-00013-of-000163.safetensors again",
            evidence=(log,),
        ),
        "test_bringup.py::test_ready",
        61.0,
    )
    skipped = Verdict(check="endpoint.models", status=Status.SKIP, title="The model is listed", reason="the engine did not start")
    run.record(skipped, "test_endpoint.py::test_models")
    prints(run, ("sglang",))
    return run.finish()


def two_engines(base: Path) -> RunView:
    """SGLang and vLLM in one run."""
    run = start(base, ("sglang", "vllm"))
    environment(run)
    fabric(run)
    weights(run)
    for engine in ("sglang", "vllm"):
        bring_up(run, engine)
        rdma(run, engine)
    endpoint(run)
    limits = sglang_limits()
    record_cells(run, make_cells("sglang", "default", limits, seed=5), limits)
    other = load_limits(THRESHOLDS / "vllm-blog.yaml")
    record_cells(run, make_cells("vllm", "blog", other, level=1.25, seed=6), other)
    prints(run, ("sglang", "vllm"))
    return run.finish()


def calibration(base: Path, repeats: int = 5) -> RunView:
    """Five repeats of every cell."""
    run = start(
        base,
        cannot_accept=("calibration records a baseline and judges nothing",),
        required=(GateName.ENVIRONMENT, GateName.BRINGUP),
    )
    environment(run)
    bring_up(run, "sglang")
    limits = sglang_limits()
    for repeat in range(1, repeats + 1):
        for cell in make_cells("sglang", "default", limits, noise=0.015, seed=10 + repeat, repeat=repeat):
            run.add(cell)
    prints(run, ("sglang",))
    return run.finish()


def rehearsal(base: Path) -> RunView:
    """Everything holds, and nothing was real."""
    return clean(base, Mode.REHEARSAL, stood_in=("GPU", "RDMA", "engine"), time_scale=100.0)


def killed(base: Path) -> RunView:
    """A run that was killed while loading: nothing was finished."""
    run = start(base)
    environment(run)
    run.add(StateChange(engine="sglang", state="preflight"))
    run.add(StateChange(engine="sglang", state="loading", note="40 of 163 shards"))
    with (run.path / "verdicts.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    return run.view()


ALL = {f.__name__: f for f in (clean, faulty, aborted, two_engines, calibration, rehearsal, killed)}


def main(argv: Sequence[str]) -> int:
    """Write all samples and their pages."""
    from pytest_h20.report.compare import compare, side
    from pytest_h20.report.html.page import comparison_page, run_page

    out = Path(argv[0])
    out.mkdir(parents=True, exist_ok=True)
    for name, build in ALL.items():
        (out / f"{name}.html").write_text(run_page(build(out / "runs")), encoding="utf-8")
    old, new = clean(out / "runs", seed=21), clean(out / "runs", level=0.99, seed=22)
    (out / "comparison.html").write_text(comparison_page(compare(side(old), side(new), run_spread=0.01)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
