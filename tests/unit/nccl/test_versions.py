"""Every NCCL generation: a whole two-node job is proven, its sockets twin never is, half of it never is."""

from __future__ import annotations

import pytest

from pytest_h20.nccl import Expected, judge_job, labels, parse_log
from tests.unit.nccl.synthetic import Synthetic

VERSIONS = [
    "2.4.8",
    "2.5.7",
    "2.6.4",
    "2.7.8",
    "2.8.4",
    "2.9.9",
    "2.10.3",
    "2.11.4",
    "2.12.12",
    "2.13.4",
    "2.14.3",
    "2.15.5",
    "2.16.5",
    "2.17.1",
    "2.18.3",
    "2.19.3",
    "2.20.5",
    "2.21.5",
    "2.22.3",
    "2.23.4",
    "2.24.3",
    "2.25.1",
    "2.26.2",
    "2.27.5",
    "2.28.9",
    "2.29.7",
    "2.30.4",
]


@pytest.mark.parametrize("version", VERSIONS)
def test_whole_job_is_proven(version: str) -> None:
    logs = [parse_log(log, f"rank{i}") for i, log in enumerate(Synthetic(version).logs())]
    job = judge_job(logs, Expected(nranks=4, nnodes=2))
    assert job.verdict == "rdma_proven", (job.reason, job.missing)
    assert job.gdr == "all"
    assert len(job.inter_node_channels) == 8
    assert job.one_sided == ()
    assert job.hcas_used == {"h20-a": ("mlx5_0", "mlx5_1"), "h20-b": ("mlx5_0", "mlx5_1")}
    assert {a.interface for addresses in job.oob.values() for a in addresses} == {"bond0"}
    assert {v.split("+")[0] for v in job.nccl_versions.values()} == {version}
    assert job.completed
    assert job.collective


@pytest.mark.parametrize("version", VERSIONS)
def test_one_file_gives_the_same_and_the_corpus_words(version: str) -> None:
    evidence = parse_log(Synthetic(version).all(), "all")
    assert judge_job([evidence]).verdict == "rdma_proven"
    assert labels(evidence) == {
        "transport": "ib",
        "roce": True,
        "gdr": True,
        "hcas": ["mlx5_0:1", "mlx5_1:1"],
        "oob_interface": "bond0",
        "oob_address": "192.168.8.249",
        "errors": [],
        "nranks": 4,
        "nnodes": 2,
        "network_selected": None if version.startswith(("2.4.", "2.5.")) else "IB",
        "confirmed_by_channels": True,
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_sockets_are_sockets(version: str) -> None:
    evidence = parse_log(Synthetic(version, network=lambda rank: "Socket").all())
    assert judge_job([evidence]).verdict == "sockets"
    assert labels(evidence)["transport"] == "socket"
    assert labels(evidence)["gdr"] is False


@pytest.mark.parametrize("version", VERSIONS)
def test_one_node_alone_is_not_proof(version: str) -> None:
    job = judge_job([parse_log(Synthetic(version).node(0), "a")])
    assert job.verdict == "undetermined"
    assert job.one_sided


@pytest.mark.parametrize("version", ["2.7.8", "2.21.5", "2.30.4"])
def test_one_node_ib_the_other_socket_is_mixed(version: str) -> None:
    job = judge_job([parse_log(Synthetic(version, network=lambda rank: "IB" if rank < 2 else "Socket").all())])
    assert job.verdict == "mixed"


@pytest.mark.parametrize("version", ["2.7.8", "2.21.5", "2.30.4"])
def test_rdma_without_gpudirect_is_told(version: str) -> None:
    job = judge_job([parse_log(Synthetic(version, gdr=lambda rank, direction: False).all())])
    assert (job.verdict, job.gdr) == ("rdma_proven", "none")


def test_gpudirect_on_receive_only_is_mixed() -> None:
    job = judge_job([parse_log(Synthetic(gdr=lambda rank, direction: direction == "receive").all())])
    assert (job.verdict, job.gdr) == ("rdma_proven", "mixed")


@pytest.mark.parametrize("name", ["IBext", "IBext_v8", "IBext_v10", "IB"])
def test_plugin_names(name: str) -> None:
    job = judge_job([parse_log(Synthetic("2.19.3", network=lambda rank: name).all())])
    assert job.verdict == "rdma_proven"
    assert job.networks["h20-a"] == (name,)


@pytest.mark.parametrize("name", ["FasTrak", "UCX", "AWS Libfabric"])
def test_networks_that_prove_nothing_by_name(name: str) -> None:
    evidence = parse_log(Synthetic(network=lambda rank: name).all())
    job = judge_job([evidence])
    assert job.verdict == "undetermined"
    assert name in job.reason


def test_google_gib_counts_as_rdma() -> None:
    log = Synthetic(network=lambda rank: "IB").all().replace(b"NET/IB/", b"NET/gIB/").replace(b"network IB", b"network gIB")
    assert judge_job([parse_log(log)]).verdict == "rdma_proven"


@pytest.mark.parametrize(
    ("provider", "verdict"),
    [("efa", "rdma_proven"), ("verbs", "rdma_proven"), ("cxi", "rdma_proven"), ("tcp", "sockets"), ("psm3", "undetermined")],
)
def test_libfabric_is_judged_by_its_provider(provider: str, verdict: str) -> None:
    line = b"h20-a:1000:1500 [0] NCCL INFO NET/OFI Selected Provider is " + provider.encode() + b"\n"
    log = line + Synthetic("2.19.3", network=lambda rank: "AWS Libfabric").all()
    log = log.replace(b"NET/IB : No device found.", b"NET/OFI Initializing aws-ofi-nccl")
    assert judge_job([parse_log(log)]).verdict == verdict


@pytest.mark.parametrize("version", ["2.21.5", "2.27.5", "2.28.9"])
def test_sixteen_ranks_with_the_communicators_of_a_serving_engine(version: str) -> None:
    """World and TP group (16 ranks each), one group per node and single-rank groups, as vLLM and SGLang make them."""
    base = Synthetic(version, per_node=8, channels=16, hcas=tuple(f"mlx5_{i}" for i in range(8)))
    logs = []
    for rank in range(16):
        node, gpu = divmod(rank, 8)
        head = f"h20-{'ab'[node]}:{1000 + gpu}:{1000 + gpu} [{gpu}] NCCL INFO "
        where = f"cudaDev {gpu} nvmlDev {gpu} busId {gpu + 1}000"
        more = []
        for comm, mine, size, nodes, ident in (
            ("0x7a", rank, 16, 2, "0x2222"),
            ("0x7b", gpu, 8, 1, f"0x33{node}"),
            ("0x7c", 0, 1, 1, f"0x44{rank:02x}"),
        ):
            more += [
                f"ncclCommInitRank comm {comm} rank {mine} nranks {size} {where} commId {ident} - Init START",
                f"comm {comm} rank {mine} nRanks {size} nNodes {nodes} localRanks {min(size, 8)} localRank {min(mine, gpu)} MNNVL 0",
                f"ncclCommInitRank comm {comm} rank {mine} nranks {size} {where} commId {ident} - Init COMPLETE",
            ]
        more.append(f"Channel 00/0 : {gpu}[{gpu}] -> {(gpu + 1) % 8}[{(gpu + 1) % 8}] via P2P/CUMEM")
        logs.append(base.rank(rank) + "".join(f"{head}{m}\n" for m in more).encode())
    job = judge_job([parse_log(log, f"nccl.{i}") for i, log in enumerate(logs)], Expected(nranks=16, nnodes=2))
    assert job.verdict == "rdma_proven", (job.reason, job.missing)
    assert (job.nranks, job.nnodes) == (16, 2)
    assert all(len(hcas) == 8 for hcas in job.hcas_used.values())
    without = judge_job([parse_log(log, f"nccl.{i}") for i, log in enumerate(logs) if i != 15], Expected(nranks=16, nnodes=2))
    assert without.verdict == "undetermined"
