"""One test per trap of the research note: what looks like proof and is not, and damage that must not mislead."""

from __future__ import annotations

import json

import pytest

from pytest_h20.nccl import Expected, judge_job, labels, parse_log
from tests.unit.nccl.lines import FATAL, HEAD, PREFIXES, one, verdict
from tests.unit.nccl.synthetic import Synthetic


def test_nothing_at_all() -> None:
    assert verdict(b"").verdict == "undetermined"
    assert verdict(b"hello\n\n\xff\xfe\x00 binary").verdict == "undetermined"


def test_device_list_and_selection_are_not_use() -> None:
    log = one("NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB eth0:10.0.0.1<0>", "Using network IB")
    assert verdict(log).verdict == "undetermined"
    assert labels(parse_log(log))["transport"] == "undetermined"


def test_gdr_flag_of_connected_rings_is_worthless() -> None:
    log = one(
        "NET/IB : GPU Direct RDMA Disabled for HCA 0 'mlx5_0'",
        "comm 0x1 rank 0 nRanks 2 nNodes 1 localRanks 2 localRank 0 MNNVL 0",
        "Channel 00/0 : 0[0] -> 1[1] via P2P/direct pointer/read",
        "Connected all rings, use ring PXN 0 GDR 1",
    )
    assert verdict(log).verdict == "intra_node_only"
    assert labels(parse_log(log))["gdr"] is False


def test_net_channels_on_one_host_are_not_two_nodes() -> None:
    log = one(
        "comm 0x1 rank 0 nRanks 2 nNodes 1 localRanks 2 localRank 0 MNNVL 0",
        "Channel 00/0 : 1[1] -> 0[0] [receive] via NET/IB/0/GDRDMA",
        "Channel 00/0 : 0[0] -> 1[1] [send] via NET/IB/0/GDRDMA",
    )
    assert verdict(log).verdict == "intra_node_only"
    assert labels(parse_log(log))["transport"] == "ib"


def test_empty_using_line_of_2_24() -> None:
    log = one("NET/IB : No device found.", "NET/IB : Using [RO]; OOB eth0:10.0.0.1<0>", "Using network Socket")
    got = labels(parse_log(log))
    assert (got["hcas"], got["oob_interface"], got["transport"]) == ([], "eth0", "undetermined")


def test_sideband_line_of_2_3_is_not_a_device_list() -> None:
    assert labels(parse_log(one("NET/IB : Using interface ib0 for sideband communication")))["hcas"] == []


def test_socket_line_of_2_4_bootstrap_does_not_decide() -> None:
    log = one("NET/Socket : Using [0]eth0:10.0.0.1<0>") + Synthetic("2.4.8").all()
    assert verdict(log).verdict == "rdma_proven"


@pytest.mark.parametrize(
    ("text", "hcas"),
    [
        ("[0]mlx5_0:1/IB [1]mlx", ["mlx5_0:1"]),
        ("[0]mlx5_0:1/IB [1]mlx5_1:1/Ro", ["mlx5_0:1"]),
        ("[0]mlx5_0:1/IB [1]mlx5_1:", ["mlx5_0:1"]),
        ("[0]mlx5_0:1/IB/SHARP [1]mlx5_1:1/IB/SHARP [RO]; OOB ib0:1.2.3.4<0>", ["mlx5_0:1", "mlx5_1:1"]),
        ("[0]={[0] mlx5_2:1/RoCE, [1] mlx5_3:1/RoCE} [RO]; OOB eth0:1.2.3.4<0>", ["mlx5_2:1", "mlx5_3:1"]),
        ("[0]mlx5_0:1:3:1/RoCE [1]mlx5_1:1:4/RoCE [RO]; OOB eth0:1.2.3.4<0>", ["mlx5_0:1", "mlx5_1:1"]),
        ("[0]mlx5_bond_0:1/RoCE ; OOB bond0.100:fe80::1%bond0.100<0>", ["mlx5_bond_0:1"]),
    ],
)
def test_device_lists(text: str, hcas: list[str]) -> None:
    assert labels(parse_log(one("NET/IB : Using " + text)))["hcas"] == hcas


@pytest.mark.parametrize(
    ("oob", "interface", "address"),
    [
        ("eth0:10.0.0.1<0>", "eth0", "10.0.0.1"),
        ("bond0.100:10.0.0.1<41234>", "bond0.100", "10.0.0.1"),
        ("veth@if3:fe80::1%veth@if3<0>", "veth@if3", "fe80::1%veth@if3"),
        ("eth0:<0>", "eth0", None),
        ("eth0:x.x.x.x<0>", "eth0", "x.x.x.x"),
    ],
)
def test_oob_addresses(oob: str, interface: str, address: str | None) -> None:
    got = labels(parse_log(one(f"NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB {oob}")))
    assert (got["oob_interface"], got["oob_address"]) == (interface, address)


def test_virtual_device_gives_the_name_of_a_channel() -> None:
    log = (
        Synthetic("2.27.5")
        .all()
        .replace(
            b"NCCL INFO Using network IB",
            b"NCCL INFO NET/IB : Made virtual device [0] name=mlx5_0+mlx5_1 speed=400000 ndevs=2\nh20-a:1:1 [0] NCCL INFO Using network IB",
        )
    )
    job = verdict(log)
    assert {c.hca for c in job.inter_node_channels if c.dev == 0} == {"mlx5_0+mlx5_1"}
    assert job.hcas_used["h20-a"] == ("mlx5_0", "mlx5_1")


def test_pxn_device_counts_in_the_proxys_list() -> None:
    log = Synthetic("2.21.5").all().replace(b"1[1] -> 2[0] [send] via NET/IB/0/", b"1[1] -> 2[0] [send] via NET/IB/0(0)/")
    log = log.replace(
        b"h20-a:1001:1501 [1] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/RoCE",
        b"h20-a:1001:1501 [1] NCCL INFO NET/IB : Using [0]mlx5_7:1/RoCE",
    )
    job = verdict(log)
    assert job.verdict == "rdma_proven"
    proxied = [c for c in job.inter_node_channels if c.pxn is not None]
    assert [(c.pxn, c.hca) for c in proxied] == [(0, "mlx5_0")]


def test_ring_order_trees_and_topology_are_not_transport() -> None:
    log = one("Channel 00/16 :    0   7   6   5", "Trees [0] 1/-1/-1->0->-1", "+ NET[12.5] - NET/0 (0/0/25.0)", "Ring 00 : 1 -> 0 -> 1")
    evidence = parse_log(log)
    assert evidence.channels == ()
    assert evidence.damaged_channels == ()
    assert verdict(log).verdict == "undetermined"


def test_collnet_and_nvls_lines_prove_nothing() -> None:
    log = one("CollNet 00/0 : 0 [send] via COLLNET/SHARP/0/GDRDMA", "Connected NVLS tree", "16 coll channels, 16 nvls channels")
    assert [(c.kind, c.family, c.gdr) for c in parse_log(log).channels] == [("collnet", "ib", True)]
    job = verdict(log)
    assert (job.verdict, job.gdr) == ("undetermined", "unknown")
    assert "COLLNET/SHARP" in job.reason


def test_part_of_a_32_rank_job_looks_like_one_node() -> None:
    log = one("comm 0x1 rank 0 nranks 32 cudaDev 0 busId 1000 - Init COMPLETE", "Channel 00 : 0[1000] -> 1[2000] via P2P/IPC")
    assert verdict(log).verdict == "undetermined"
    assert labels(parse_log(log))["transport"] == "undetermined"


def test_two_nodes_with_one_host_name() -> None:
    whole = Synthetic("2.21.5", hosts=("box", "box"))
    job = judge_job([parse_log(whole.all(), "all")])
    assert job.verdict == "rdma_proven"
    assert job.nodes == ("box#0", "box#1")
    halves = [parse_log(whole.node(0), "one"), parse_log(whole.node(1), "two")]
    assert judge_job(halves).verdict == "rdma_proven"
    named = judge_job(halves, nodes={"one": "node01", "two": "node02"})
    assert named.verdict == "rdma_proven"
    assert set(named.hcas_used) == {"node01", "node02"}


def test_same_pids_in_both_containers() -> None:
    log = Synthetic("2.21.5").logs()
    both = [line.replace(b"h20-b", b"h20-a") for line in log]
    job = judge_job([parse_log(b"".join(both[:2]), "a"), parse_log(b"".join(both[2:]), "b")])
    assert job.verdict == "rdma_proven"
    assert job.nnodes == 2


def test_two_separate_single_node_jobs_do_not_become_two_nodes() -> None:
    def single(host: str) -> bytes:
        lines = []
        for rank in (0, 1):
            head = f"{host}:{7 + rank}:{9 + rank} [{rank}] NCCL INFO "
            lines += [
                f"{head}Channel 00 : {1 - rank}[1000] -> {rank}[2000] [receive] via NET/IB/0/GDRDMA",
                f"{head}Channel 00 : {rank}[2000] -> {1 - rank}[1000] [send] via NET/IB/0/GDRDMA",
                f"{head}comm 0x{rank}1 rank {rank} nranks 2 cudaDev {rank} busId 1000 - Init COMPLETE",
            ]
        return ("\n".join(lines) + "\n").encode()

    a, b = single("hosta").splitlines(True), single("hostb").splitlines(True)
    job = verdict(b"".join(a[:3] + b[3:] + b[:3] + a[3:]))
    assert job.verdict != "rdma_proven"


def test_another_process_that_chose_sockets_spoils_the_proof() -> None:
    log = Synthetic("2.21.5").all() + b"h20-a:77:78 [0] NCCL INFO Using network Socket\n"
    assert verdict(log).verdict == "undetermined"


def test_expected_ranks_are_wanted() -> None:
    evidence = parse_log(Synthetic("2.21.5").all())
    assert judge_job([evidence], Expected(nranks=16)).verdict == "undetermined"
    assert judge_job([evidence], Expected(nranks=4, nnodes=2)).verdict == "rdma_proven"


def test_channels_of_a_small_communicator_do_not_prove_the_large_one() -> None:
    big = "".join(
        f"h20-{'ab'[r // 8]}:{r}:{r} [{r % 8}] NCCL INFO ncclCommInitRank comm 0x9{r} rank {r} nranks 16 cudaDev {r % 8} "
        f"nvmlDev {r % 8} busId {r % 8}000 commId 0xfeed - Init COMPLETE\n"
        for r in range(16)
    )
    assert verdict(Synthetic("2.21.5").all() + big.encode()).verdict == "undetermined"


@pytest.mark.parametrize(("line", "label", "primary"), FATAL)
def test_failures_end_the_proof(line: str, label: str, primary: bool) -> None:
    job = verdict(Synthetic("2.21.5", last=(line,)).all())
    assert job.verdict == "undetermined"
    assert job.errors[0].label == label
    assert job.errors[0].primary is primary
    assert job.errors[0].meaning


def test_primary_failures_come_first_and_details_are_kept() -> None:
    job = verdict(Synthetic("2.21.5", last=(FATAL[4][0], FATAL[3][0], FATAL[6][0])).all())
    assert [e.primary for e in job.errors[:1]] == [True]
    assert job.errors[0].details["hca"] == "mlx5_3"
    assert job.errors[0].details["local_gid"] == "::ffff:1.1.1.1"
    assert job.gid_indexes["h20-a"]["device mlx5_0"] == (3,)


def test_harmless_warnings_do_not_matter() -> None:
    lines = (
        "misc/ibvwrap.cc:3 NCCL WARN Could not find real path of rxe0",
        "misc/cudawrap.cc:1 NCCL WARN libcuda.so not found",
        "NCCL INFO transport/net.cc:55 -> 3",
        "NCCL INFO plugin/net.cc:118 -> 2",
    )
    assert verdict(Synthetic("2.21.5", last=lines).all()).verdict == "rdma_proven"


def test_the_rest_of_a_fatal_warning_still_blocks() -> None:
    job = verdict(Synthetic("2.21.5", last=("transport/net_ib.cc:9 NCCL WARN NET/IB : Got compl",)).all())
    assert job.verdict == "undetermined"
    assert "warning" in " ".join(job.missing)


def test_abort_and_destroy_lines_are_no_damage() -> None:
    states = ("Abort START", "Abort COMPLETE", "Destroy COMPLETE")
    evidence = parse_log(one(*(f"comm 0x3d rank 1 nRanks 2 cudaDev 0 busId 60 - {state}" for state in states)))
    assert evidence.damaged == ()
    assert evidence.ranks == ()


def test_same_warning_of_two_hosts_is_kept_twice() -> None:
    line = "net_ib.cc:1 NCCL WARN NET/IB : Got async event : port error\n"
    evidence = parse_log(f"2026-01-01 a:1:1 [0] {line}2026-01-02 b:1:1 [0] {line}2026-01-03 a:1:1 [0] {line}")
    assert sorted(e.host for e in evidence.errors) == ["a", "b"]


def test_retry_is_told() -> None:
    job = verdict(Synthetic("2.21.5", last=("NCCL INFO Call to connect returned Connection refused, retrying",)).all())
    assert [e.severity for e in job.errors[:1]] == ["retry"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("network", ["IB", "Socket"])
def test_foreign_prefixes(prefix: str, network: str) -> None:
    plain = Synthetic("2.21.5", network=lambda rank: network).all()
    end = b'\\n","stream":"stdout"}' if prefix.startswith("{") else b""
    log = b"".join(prefix.encode() + line + end + b"\n" for line in plain.splitlines())
    evidence = parse_log(log)
    assert judge_job([evidence]).verdict == ("rdma_proven" if network == "IB" else "sockets")
    assert evidence.hosts == {"h20-a", "h20-b"}
    assert labels(evidence) == labels(parse_log(plain))


def test_carriage_returns_and_progress_bars() -> None:
    log = b"".join(b"Loading: 10%\rLoading: 20%\r" + line + b"\r\n" for line in Synthetic("2.21.5").all().splitlines())
    assert verdict(log).verdict == "rdma_proven"


def test_several_records_on_one_line() -> None:
    padded = b"            ".join(Synthetic("2.21.5").all().splitlines()) + b"\n"
    assert verdict(padded).verdict == "rdma_proven"


def test_record_split_over_lines() -> None:
    log = (
        b"node1:1:2 [0] NCCL INFO \nUsing network IBext       node1:1:2 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/Ro\n"
        b"CE [RO]; OOB e0:1.1.1.1<0>\n"
    )
    got = labels(parse_log(log))
    assert (got["network_selected"], got["hcas"], got["oob_interface"]) == ("IBext", ["mlx5_0:1"], "e0")


def test_splice_eats_the_gdr_suffix() -> None:
    log = one("Channel 00/0 : 0[0] -> 8[0] [receive] via NET/IBext/6/GDRDMA") + (
        b"node1:10:20 [0] NCCL INFO Channel 01/0 : 8[0] -> 0[0] [send] via NET/IBext/6/GDSetting up Attention.\n"
    )
    evidence = parse_log(log)
    assert labels(evidence)["gdr"] is True
    assert [c.gdr for c in evidence.channels] == [True, None]
    assert len(evidence.damaged_channels) == 1


def test_glued_head_is_found_and_the_record_before_it_is_not_trusted() -> None:
    first = b"node1:10:20 [0] NCCL INFO Bootstrap : Using eth0:1.1.1.1<0>\n"
    glued = b"node1:10:20 [0] NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/1node1:11:21 [1] NCCL INFO Using network IB\n"
    evidence = parse_log(first + glued)
    assert evidence.hosts == {"node1"}
    assert evidence.first_network == "IB"
    (channel,) = evidence.channels
    assert (channel.dev, channel.gdr, channel.intact) == (None, None, False)


def test_ray_dedup_is_reported_and_blocks() -> None:
    log = (
        Synthetic("2.21.5")
        .all()
        .replace(b"2[0] [send] via NET/IB/0/GDRDMA", b"2[0] [send] via NET/IB/0/GDRDMA [repeated 7x across cluster]")
    )
    job = verdict(log)
    assert job.verdict == "undetermined"
    assert any("RAY_DEDUP_LOGS=0" in a for a in job.advice)
    cut = parse_log(b"(W pid=1) n:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 6[ [repeated 27x across cluster]\n")
    assert cut.damaged_channels


def test_cap_of_1024_bytes() -> None:
    names = " ".join(f"[{i}]mlx5_very_long_bond_name_{i:03d}:1/RoCE" for i in range(40))
    line = f"{HEAD}NET/IB : Using {names}"[:1023]
    got = labels(parse_log(line + "\n"))
    assert all(h.startswith("mlx5_very_long_bond_name_") and h.endswith(":1") and len(h) == 30 for h in got["hcas"])
    assert got["oob_interface"] is None


def test_two_ranks_over_one_file() -> None:
    log = (
        b"ljm:564:604 [1] NCCL INFO comm 0x94 rank 1 nranks ljm:563:603 [0] NCCL INFO comm 0x8f rank 0 nranks 2 cudaDev 0"
        b"ljm:564:604 [1] NCCL INFO Setting affinity for GPU 1 toljm:563:80"
        b"ljm:564:604 [1] NCCL INFO Channel 00 : 1[1] -> 0[0] via SHM/direct/direct\n"
    )
    evidence = parse_log(b"ljm:564:604 [1] NCCL INFO Using network Socket\n" + log)
    assert evidence.hosts == {"ljm"}
    assert [c.kind for c in evidence.channels] == ["shm"]


@pytest.mark.parametrize(
    "via",
    [
        "P2P/IPC",
        "P2P/IPC/read",
        "P2P/CUMEM",
        "P2P/CUMEM/read",
        "P2P/direct pointer",
        "P2P/direct pointer/read",
        "P2P/indirect/3[3]",
        "SHM/direct/direct",
        "SHM/CE/direct",
        "SHM/direct",
        "direct shared memory",
    ],
)
def test_intra_node_wordings(via: str) -> None:
    evidence = parse_log(one(f"Channel 00 : 0[0] -> 1[1] via {via}"))
    assert [c.family for c in evidence.channels] == ["local"]
    assert evidence.damaged_channels == ()


def test_2_30_shm_and_bare_paste() -> None:
    evidence = parse_log("Channel 00/0 : 0[0] -> 8[0] [send] via NET/Socket/0\n")
    assert labels(evidence)["transport"] == "socket"


def test_everything_is_json_safe() -> None:
    evidence = parse_log(Synthetic("2.28.9", last=(FATAL[3][0],)).all(), "x")
    for value in (evidence.to_dict(), judge_job([evidence], Expected(nranks=4, hcas={"a": ("b",)})).to_dict()):
        assert json.loads(json.dumps(value)) == value


def test_chunking_does_not_matter() -> None:
    log = Synthetic("2.27.5", last=(FATAL[0][0],)).all()
    whole = parse_log(log, "x")
    for size in (1, 7, 64, 1000):
        assert parse_log([log[i : i + size] for i in range(0, len(log), size)], "x") == whole


def test_web_pages_escape_and_link() -> None:
    log = (
        b"[n.lan:1:2](http://n.lan:1:2) [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB e0:1.1.1.1&lt;0&gt;\n"
        b"n.lan:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -&gt; 8[0] [send] via NET/IB/0/GDRDMA\n"
    )
    evidence = parse_log(log)
    got = labels(evidence)
    assert evidence.hosts == {"n.lan"}
    assert (got["hcas"], got["oob_address"], got["transport"]) == (["mlx5_0:1"], "1.1.1.1", "ib")


def test_many_communicators_of_one_size_without_ids() -> None:
    log = b"".join(
        f"{host}:{pid}:{pid} [0] NCCL INFO comm 0x{pid} rank {rank} nranks 2 cudaDev 0 busId 1000 - Init COMPLETE\n".encode()
        for host, pid, rank in (("a", 1, 0), ("a", 2, 1), ("b", 3, 0), ("b", 4, 1))
    )
    assert verdict(log).communicators[0].ambiguous
    assert verdict(log).verdict == "undetermined"
