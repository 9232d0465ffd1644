"""All rails at once, from command to verdict, on stand-ins: GPU memory per pair, the sum, the odd one, the class, and who is to blame."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pytest_h20.checks.fabric.blame import of_all_reduce, of_together
from pytest_h20.checks.fabric.measure import RailBandwidth, write_bandwidth
from pytest_h20.checks.fabric.rounds import Flow, Lag, Wired, gpu_of, pair_source, parse_pairs, wired
from pytest_h20.checks.fabric.together import judge_wired
from pytest_h20.checks.fabric.wires import class_used
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes.base import CommandResult, ContainerSpec
from pytest_h20.probes.counters import CounterDelta
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.script import Missing, Section, requests
from tests.unit.probes.cluster import Cluster, blog_cluster

CHECKS = ("fabric.gpu_write_bw", "fabric.gpu_read_bw", "fabric.rails_together", "fabric.rails_apart")
SINGLES = {f"node0{n} mlx5_{i}": 196.0 for n in (1, 2) for i in range(1, 9)}


def measured(cluster: Cluster) -> tuple[Facts, Wired]:
    facts = cluster.gather()
    found = wired(cluster.nodes, facts)  # type: ignore[arg-type]
    assert isinstance(found, Wired), found
    return facts, found


def judged(cluster: Cluster, singles: Mapping[str, float] = SINGLES) -> dict[str, list[Verdict]]:
    facts, found = measured(cluster)
    verdicts = judge_wired(facts, found, singles)
    return {check: [v for v in verdicts if v.check == check] for check in CHECKS}


def red(found: Mapping[str, list[Verdict]]) -> dict[str, list[str]]:
    return {check: [v.subject for v in of if v.status.blocks] for check, of in found.items() if any(v.status.blocks for v in of)}


def test_whole_wires_are_green_and_each_gpu_uses_its_own_nic() -> None:
    cluster = blog_cluster()
    facts, found = measured(cluster)
    assert (found.tool, found.no_gpu, len(found.flows), len(found.lags), found.host) == ("perftest", "", 32, 16, ())
    assert {(f.hca, f.gpu, f.peer_gpu) for f in found.flows} == {(f"mlx5_{i + 1}", i, i) for i in range(8)}
    verdicts = judge_wired(facts, found, SINGLES)
    assert {v.status for v in verdicts} == {Status.PASS}, [v.text() for v in verdicts if v.status is not Status.PASS]
    assert {v.check for v in verdicts} == set(CHECKS)
    together = [v for v in verdicts if v.check == "fabric.rails_together"]
    assert [(v.subject, v.measured, v.looked_at) for v in together] == [
        ("node01 -> node02", 8 * 196.0, 8),
        ("node02 -> node01", 8 * 196.0, 8),
    ]
    [apart] = [v for v in verdicts if v.check == "fabric.rails_apart"]
    assert apart.looked_at == 48


def test_rounds_do_not_grow_with_the_rails() -> None:
    """Two rounds of writes, two of reads, two of latency; a server call at one end and a client call at the other in each."""
    cluster = blog_cluster()
    facts = cluster.gather()
    for node in cluster.nodes.values():
        node.asked.clear()
    wired(cluster.nodes, facts)  # type: ignore[arg-type]
    for node in cluster.nodes.values():
        asked = [name for names in node.asked for name in names]
        assert sorted(asked) == sorted(["perftest", *["counters"] * 2, *["ib_server"] * 3, *["ib_client"] * 3])


def test_the_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU first, dma-buf where no peermem is loaded (linux-rdma/perftest#336), NCCL's class, a port of its own for every rail."""
    cluster = blog_cluster()
    cluster.head.machine.modules = ("nvidia", "nvidia_uvm")
    cluster.head.machine.overrides["driver"] = Section(
        0, "nvrm=NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15\nmodule=nvidia\ndmabuf=yes\ndevices=8\n", ""
    )
    cluster.head.machine.nccl_env = {"NCCL_IB_TC": "106", "NCCL_IB_SL": "3"}
    lines: dict[str, list[str]] = {}
    for name, node in cluster.nodes.items():
        plain = node.run

        def run(command: str, *args: object, name: str = name, plain: object = plain, **more: object) -> CommandResult:
            lines.setdefault(name, []).extend(line for probe, words in requests(command) if probe == "ib_client" for line in words)
            return plain(command, *args, **more)  # type: ignore[operator,no-any-return]

        monkeypatch.setattr(node, "run", run)
    measured(cluster)
    first = shlex.split(lines["node01"][0])
    assert first[:7] == ["ib_write_bw", "-d", "mlx5_1", "-i", "1", "-p", "18515"]
    assert first.index("--use_cuda=0") < first.index("--use_cuda_dmabuf")
    assert {"--tclass=106", "-S"} <= set(first)
    other = shlex.split(lines["node02"][0])
    assert "--use_cuda=0" in other
    assert "--use_cuda_dmabuf" not in other
    assert not [w for w in other if w.startswith("--tclass")]
    writes = [shlex.split(x) for of in lines.values() for x in of if x.startswith("ib_write_bw ")]
    assert len({w[6] for w in writes}) == 16


def test_gpu_memory_that_is_slow_on_one_rail_is_named_with_the_likeliest_part() -> None:
    cluster = blog_cluster()
    cluster.other.machine.gpu_share["mlx5_4"] = 0.45
    cluster.other.machine.overrides["pcie_hints"] = Section(0, "iommu_groups=9\ncmdline=\nacs_bridges=24\nacs_enabled=8\n", "")
    found = judged(cluster)
    subject = "node02 mlx5_4 GPU3 -> node01 mlx5_4 GPU3"
    assert red(found) == {"fabric.gpu_write_bw": [subject], "fabric.gpu_read_bw": [subject]}
    [verdict] = [v for v in found["fabric.gpu_write_bw"] if v.status is Status.FAIL]
    assert "likeliest is the way from GPU to NIC" in verdict.reason
    assert "node02: ACS redirects at 8 bridges" in verdict.reason
    assert "host memory reaches 196.0 Gbit/s on the same wire" in verdict.reason
    assert verdict.limit is not None
    assert "0.9 x line rate 200" in verdict.limit.origin.detail
    assert verdict.details["alone"] == pytest.approx(88.2)


def test_a_slow_wire_is_told_once_and_not_by_its_gpu() -> None:
    cluster = blog_cluster()
    cluster.other.machine.rail_share["mlx5_4"] = 0.45
    found = judged(cluster, {**SINGLES, "node02 mlx5_4": 88.2})
    assert red(found) == {}
    told = [v for v in found["fabric.gpu_write_bw"] if v.status is Status.SKIP]
    assert ["the wire itself is slow" in v.reason for v in told] == [True]


def test_rails_that_are_whole_alone_and_slow_together() -> None:
    cluster = blog_cluster()
    cluster.other.machine.beside_share = 0.5
    found = judged(cluster)
    assert red(found) == {"fabric.rails_together": ["node02 -> node01"]}
    [verdict] = [v for v in found["fabric.rails_together"] if v.status is Status.FAIL]
    assert "what the rails share" in verdict.reason
    assert (verdict.measured, verdict.unit) == (784.0, "Gbit/s")


def flow(hca: str, at_once: float, alone: float | None = None, node: str = "node01") -> Flow:
    return Flow(node, hca, "node02", hca, "write", 0, 0, at_once, alone)


def test_what_the_slow_rails_share_is_named() -> None:
    cluster = blog_cluster()
    rows = []
    for i, r in enumerate(cluster.head.machine.rails):
        bridge = "0000:40:01.0" if r.hca in ("mlx5_1", "mlx5_2") else f"0000:5{i}:01.0"
        path = f"/sys/devices/pci0000:40/0000:40:00.0/{bridge}/{r.pci}"
        rows.append(f"pci\t{r.pci}\t0x15b3\t0x101b\t0x020000\tmlx5_core\t0\t16.0 GT/s PCIe\t16.0 GT/s PCIe\t16\t16\t{path}\n")
    cluster.head.machine.overrides["pci"] = Section(0, "".join(rows), "")
    facts = cluster.gather()
    flows = [flow("mlx5_1", 99.0), flow("mlx5_2", 97.0), flow("mlx5_3", 196.0)]
    wanted = dict.fromkeys(("mlx5_1", "mlx5_2", "mlx5_3"), 176.0)
    found = Wired("perftest", "", tuple(flows))
    assert "mlx5_1, mlx5_2 are all below 0000:40:01.0" in of_together(facts, flows, wanted, found)
    host = tuple(replace(f, gpu=None, at_once=196.0) for f in flows)
    with_host = of_together(facts, flows, wanted, replace(found, host=host))
    assert with_host.startswith("likeliest is PCIe that GPUs and NICs share: mlx5_1, mlx5_2 are all below 0000:40:01.0")
    paused = {"node02": (CounterDelta("mlx5_1", 1, 3.0, {"rx_prio3_pause": 9000}),)}
    assert "PFC storm: it marked or paused what it could not carry (rx_prio3_pause of node02 rose by 9000)" in of_together(
        facts, flows, wanted, replace(found, counters=paused)
    )


def test_the_odd_rail_is_named_by_spread() -> None:
    cluster = blog_cluster()
    cluster.head.machine.latency_us["mlx5_5"] = 5.8
    assert "node01 mlx5_5 takes 5.8 us, the median is 1.9 us" in judged(cluster)["fabric.rails_apart"][0].reason
    facts, found = measured(blog_cluster())
    slower = [replace(f, at_once=170.0) if (f.node, f.hca, f.verb) == ("node01", "mlx5_2", "read") else f for f in found.flows]
    looser = replace(
        facts, inventory=facts.inventory.model_copy(update={"expect": facts.inventory.expect.model_copy(update={"ib_write_bw_min": 0.8})})
    )
    [odd] = [v for v in judge_wired(looser, replace(found, flows=tuple(slower)), SINGLES) if v.check == "fabric.rails_apart"]
    assert odd.status is Status.FAIL
    assert odd.reason == "node01 mlx5_2 reads 85 % of its line rate, the median is 98 %"


@pytest.mark.parametrize("times", [1.0, 1.9, 9.0])
def test_rails_that_are_alike_are_not_apart(times: float) -> None:
    """All far away from each other in the same way, or one a little: nothing is odd."""
    cluster = blog_cluster()
    for machine in (cluster.head.machine, cluster.other.machine):
        machine.latency_us = {f"mlx5_{i}": 1.9 * (times if times > 2 or i == 5 else 1.0) for i in range(1, 9)}
    assert red(judged(cluster)) == {}


def test_a_latency_that_did_not_come_is_not_measured() -> None:
    facts, found = measured(blog_cluster())
    lags = (Lag("node01", "mlx5_1", Missing("0 messages were sent")), *found.lags[1:])
    [verdict] = [v for v in judge_wired(facts, replace(found, lags=lags), SINGLES) if v.check == "fabric.rails_apart"]
    assert verdict.status is Status.UNKNOWN
    assert "node01 mlx5_1: 0 messages were sent" in verdict.reason


def test_perftest_that_sends_nothing_has_measured_nothing() -> None:
    cluster = blog_cluster()
    nothing = '{"results": {"MsgSize": 65536, "n_iterations": 0, "BW_peak": 196.0, "BW_average": 196.0}}'
    answer = "".join(f"run\t{i}\tjson\n{nothing}\n" for i in range(8))
    cluster.head.machine.overrides["ib_client"] = Section(0, answer, "")
    found = judged(cluster)
    assert red(found).keys() == set(CHECKS)
    assert all("0 messages" in v.reason for of in found.values() for v in of if v.status.blocks)


def without_cuda(cluster: Cluster) -> Cluster:
    for machine in (cluster.head.machine, cluster.other.machine):
        machine.perftest_cuda = False
    return cluster


def by_torch(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, stdout: str, rc: int = 0, error: str = "") -> list[ContainerSpec]:
    """The containers of the pairs; rank 1 prints this."""
    seen: list[ContainerSpec] = []

    def run(spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        seen.append(spec)
        assert spec.env["H20_SCRIPT"] == pair_source()
        return CommandResult("x", "docker run", rc, stdout if spec.argv[5] == "1" else "", error, 1.0)

    facts = cluster.gather
    monkeypatch.setattr(cluster, "gather", lambda: _patched(facts(), cluster, monkeypatch, run))
    return seen


def _patched(facts: Facts, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, run: object) -> Facts:
    for node in cluster.nodes.values():
        monkeypatch.setattr(node.containers, "run", run)
    return facts


PAIRS = "".join(f"NCCL INFO x\n{json.dumps({'pair': i, 'gbps': 193.5})}\n" for i in range(8))


def test_without_cuda_in_perftest_torch_measures_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = without_cuda(blog_cluster())
    seen = by_torch(cluster, monkeypatch, PAIRS)
    found = judged(cluster)
    assert red(found) == {}
    assert {(v.status, v.measured, v.details["tool"]) for v in found["fabric.gpu_write_bw"]} == {(Status.PASS, 193.5, "torch")}
    assert [(v.status, "NCCL only writes" in v.reason) for v in found["fabric.gpu_read_bw"]] == [(Status.SKIP, True)]
    assert len(seen) == 4  # both ends, both directions
    assert list(seen[0].argv[7:9]) == ["0,mlx5_1:1,3", "1,mlx5_2:1,3"]
    assert {spec.env["NCCL_SOCKET_IFNAME"] for spec in seen} == {"xgbe0"}


@pytest.mark.parametrize(("wanted", "status"), [(True, Status.UNKNOWN), (None, Status.SKIP)])
def test_gpu_memory_that_nothing_can_measure_is_said(monkeypatch: pytest.MonkeyPatch, wanted: bool | None, status: Status) -> None:
    cluster = without_cuda(blog_cluster())
    cluster.expect(ib_write_bw=wanted)
    by_torch(cluster, monkeypatch, "", 1, "ncclInvalidUsage: Failed to initialize any NET plugin\n")
    found = judged(cluster)
    [verdict] = found["fabric.gpu_write_bw"]
    assert verdict.status is status
    assert "GPU memory not measured: perftest on node01 was built without --use_cuda; with torch: " in verdict.reason
    assert "Failed to initialize any NET plugin" in verdict.reason
    # What host memory does at once is still worth knowing.
    assert [v.details["memory"] for v in found["fabric.rails_together"]] == ["host memory"] * 2
    assert {v.status for v in found["fabric.rails_together"]} == {Status.PASS}


def test_machines_without_gpudirect_are_measured_with_host_memory() -> None:
    cluster = blog_cluster()
    cluster.expect(gpudirect=False)
    cluster.other.machine.modules = ("nvidia",)
    found = judged(cluster)
    assert red(found) == {}
    assert [v.reason for v in found["fabric.gpu_read_bw"]] == [
        "nothing is expected, and it could not be measured: GPU memory not measured: neither nvidia_peermem nor dma-buf on node02"
    ]


def test_nodes_without_gpus_are_measured_with_host_memory() -> None:
    """As the soft-RoCE machines are."""
    cluster = without_cuda(blog_cluster())
    cluster.expect(gpudirect=False)
    for machine in (cluster.head.machine, cluster.other.machine):
        machine.overrides["gpus"] = Section(127, "", "nvidia-smi is not installed\n")
    found = judged(cluster)
    assert red(found) == {}
    assert "the GPUs of node01 are not known" in found["fabric.gpu_write_bw"][0].reason
    assert [v.looked_at for v in found["fabric.rails_together"]] == [8, 8]


def test_without_perftest_and_image_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = blog_cluster()
    by_torch(cluster, monkeypatch, "", 1, "ModuleNotFoundError: No module named 'torch'\n")
    cluster.other.machine.overrides["perftest"] = Section(127, "", "ib_write_bw is not installed\n")
    facts = cluster.gather()
    found = wired(cluster.nodes, facts)  # type: ignore[arg-type]
    assert isinstance(found, Missing)
    verdicts = judge_wired(facts, found, {})
    assert {(v.check, v.status) for v in verdicts} == {(check, Status.UNKNOWN) for check in CHECKS}
    assert "node02: ib_write_bw is not installed" in verdicts[0].reason


def test_not_wanted_is_not_judged() -> None:
    cluster = blog_cluster()
    cluster.expect(ib_write_bw=False)
    assert {v.status for v in judge_wired(cluster.gather(), Missing("x"), {})} == {Status.SKIP}


@pytest.mark.parametrize(
    ("rows", "gpus", "wanted"),
    [
        ("\tGPU0\tGPU1\tmlx5_1\tmlx5_2\nmlx5_1\tSYS\tPIX\t X \tSYS\nmlx5_2\tPIX\tSYS\tSYS\t X \n", 2, {"mlx5_1": 1, "mlx5_2": 0}),
        ("\tGPU0\tGPU1\n", 2, {"mlx5_1": 0, "mlx5_2": 1}),
        ("\tGPU0\n", 1, {"mlx5_1": 0, "mlx5_2": 0}),
    ],
    ids=["crossed", "told by nothing", "one GPU for both"],
)
def test_each_rail_gets_the_nearest_gpu(rows: str, gpus: int, wanted: dict[str, int]) -> None:
    cluster = blog_cluster()
    machine = cluster.head.machine
    machine.gpus = machine.gpus[:gpus]
    machine.overrides["topology"] = Section(0, rows, "")
    machine.overrides["pci"] = Section(127, "", "not read\n")
    found = gpu_of(cluster.gather().of("node01"))
    assert {hca: found[hca] for hca in wanted} == wanted


def test_lines_that_are_no_pair_are_none() -> None:
    text = '{"pair": 0, "gbps": 193.5}\n{"pair": 1}\n{"pair": 2, "gbps": "nan"}\n{"pair": 3, "gbps": -1}\n{"pair"\nNCCL INFO\n'
    assert parse_pairs(text) == {0: 193.5}


# ---------------------------------------------------------------------------------------------------------------------- the class
BYTES = 73_500_000_000


def classed(cluster: Cluster, sent: Mapping[int, int], received: Mapping[int, int]) -> Verdict:
    """With these bytes per priority at either end of node01 mlx5_3."""
    rail = cluster.gather().of("node01").rail("mlx5_3")
    found = write_bandwidth(cluster.nodes, rail, rounds=1)  # type: ignore[arg-type]
    assert isinstance(found, RailBandwidth)
    ends = [
        CounterDelta("mlx5_3", 1, 3.0, {f"{way}_prio{i}_bytes": n for i, n in of.items()}) for way, of in (("tx", sent), ("rx", received))
    ]
    return class_used(rail, replace(found, source_counters=ends[0], target_counters=ends[1]))


def test_bytes_in_the_chosen_priority_are_green_beside_the_hosts_own() -> None:
    verdict = classed(blog_cluster(), {0: BYTES // 50, 3: BYTES}, {3: BYTES, 6: 1000})
    assert (verdict.status, verdict.looked_at) == (Status.PASS, 2)
    assert verdict.details["class"] == "traffic class 106 (forced on the device) -> DSCP 26 -> priority 3"


def test_bytes_in_another_priority_are_red_at_the_end_where_they_are() -> None:
    rewritten = classed(blog_cluster(), {3: BYTES}, {0: BYTES, 3: 1000})
    assert rewritten.status is Status.FAIL
    assert "node02 mlx5_3 received most in priority 0: the switch rewrites DSCP" in rewritten.reason
    sorted_wrong = classed(blog_cluster(), {0: BYTES}, {0: BYTES})
    assert "node01 mlx5_3 sent most in priority 0: the NIC sorts it elsewhere" in sorted_wrong.reason


@pytest.mark.parametrize(("lossless", "status"), [(True, Status.UNKNOWN), (None, Status.SKIP), (False, Status.SKIP)])
def test_counters_that_tell_no_priority_prove_nothing(lossless: bool | None, status: Status) -> None:
    cluster = blog_cluster()
    cluster.expect(lossless=lossless)
    assert classed(cluster, {}, {}).status is status
    blind = classed(cluster, {3: 5000}, {3: 5000})
    assert blind.status is status
    if lossless:
        assert "they miss RDMA" in blind.reason


# ------------------------------------------------------------------------------------------------------------- blame of all_reduce
def test_a_slow_all_reduce_says_which_measurement_speaks_for_it() -> None:
    facts, found = measured(blog_cluster())
    assert "no wire was measured" in of_all_reduce(facts, SINGLES, None, [])
    assert "likeliest is a wire: node01 mlx5_3 reaches 92 Gbit/s" in of_all_reduce(facts, {**SINGLES, "node01 mlx5_3": 92.0}, found, [])
    slow = replace(found, flows=(replace(found.flows[0], at_once=88.0), *found.flows[1:]))
    assert "the way from GPU to NIC: node01 mlx5_1 reaches 88 Gbit/s with GPU memory" in of_all_reduce(facts, SINGLES, slow, [])
    assert "what the rails share (fabric.rails_together): a storm" in of_all_reduce(facts, SINGLES, found, ["a storm"])
    assert "how NCCL uses the wires" in of_all_reduce(facts, SINGLES, found, [])
