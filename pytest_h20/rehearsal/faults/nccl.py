"""Faults of the RDMA proof: what the ranks' NCCL logs say, and what the rails' counters do during one request."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from dataclasses import replace

from pytest_h20.rehearsal.faults.model import Change, Fault, ids, lost, nccl
from pytest_h20.rehearsal.world import World


def _lines(*lines: str) -> Change:
    def change(world: World) -> None:
        world.nccl.extra_lines[list(world.machines)[1]] = list(lines)

    return change


def _versions(world: World) -> None:
    world.nccl.version = "2.27.3"
    world.nccl.versions_by_node[list(world.machines)[1]] = "2.26.2"


def _rail_idle(world: World) -> None:
    world.traffic.share[list(world.machines)[1], "mlx5_3"] = 0.0


def _rail_short(world: World) -> None:
    world.traffic.share[list(world.machines)[1], "mlx5_3"] = 0.3


def _elsewhere(world: World) -> None:
    world.traffic.share = {(node.name, rail.hca): 0.0 for node in world.inventory.nodes for rail in node.rails}


def _counted(name: str) -> Change:
    def change(world: World) -> None:
        world.traffic.errors[list(world.machines)[1], "mlx5_3"] = {name: 200}

    return change


def _management(world: World) -> None:
    world.traffic.management_share = 1.0


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str) -> Fault:
    return Fault(name, "rdma", sentence, source, change, ids("rdma", red), phrase)


FAULTS = (
    _fault(
        "nccl-on-sockets",
        "NCCL found no RDMA device: everything between the nodes goes over TCP.",
        "F24, F70",
        nccl(network="Socket", gdr=False),
        "job channels_gdr no_sockets hcas_used",
        "NET/Socket",
    ),
    _fault(
        "nccl-plugin-fallback",
        "A network plugin failed to load and NCCL fell back to sockets.",
        "F32",
        nccl(
            network="Socket",
            gdr=False,
            plugin_line="NET/Plugin: Could not find: libnccl-net.so libnccl-net-none.so. Using internal network plugin.",
        ),
        "job channels_gdr no_sockets hcas_used",
        "NET/Socket",
    ),
    _fault("nccl-without-gdr", "InfiniBand verbs are used, but not GPUDirect.", "F31", nccl(gdr=False), "channels_gdr", "nvidia_peermem"),
    _fault("nccl-hca-unused", "One HCA of the inventory carries no channel.", "F41", nccl(unused_hcas={"mlx5_3"}), "hcas_used", "mlx5_3"),
    _fault(
        "nccl-half-on-sockets",
        "Half of the channels run over sockets.",
        "issue 3",
        nccl(socket_share=0.5),
        "job channels_gdr no_sockets",
        "NET/Socket",
    ),
    _fault(
        "nccl-wrong-oob", "Bootstrap runs on the wrong interface.", "F13", nccl(oob_interface="docker0"), "control_interface", "docker0"
    ),
    _fault("nccl-wrong-gid", "The ranks use another GID index than the inventory's.", "F28, F29", nccl(gid_index=1), "gid_index", "1"),
    _fault(
        "nccl-log-cut",
        "The log ends before the first collective.",
        "a log of a start proves nothing",
        nccl(cut_before_collective=True),
        "job channels_gdr no_sockets hcas_used inside_nodes log_complete",
        "first collective",
    ),
    _fault(
        "nccl-devices-listed-not-used",
        "The devices are listed, but no channel uses one: the write-up's only evidence.",
        "a list of devices is what NCCL found, not what it uses",
        nccl(no_channels=True),
        "job channels_gdr no_sockets hcas_used inside_nodes log_complete",
        "channel",
    ),
    _fault(
        "nccl-shared-memory-inside",
        "Ranks of one node talk through host memory although NVLink joins their GPUs.",
        "NCCL_P2P_DISABLE=1 on two H200 (recorded, NCCL 2.28.9)",
        nccl(inside="SHM/direct/direct"),
        "inside_nodes",
        "(GPU0, GPU1: NV18) via SHM",
    ),
    _fault(
        "nccl-network-inside",
        "Ranks of one node talk over the network although NVLink joins their GPUs.",
        "NCCL_P2P_DISABLE=1 and NCCL_SHM_DISABLE=1 on two H200 (recorded)",
        nccl(inside="NET/IB/0/GDRDMA"),
        "inside_nodes",
        "(GPU0, GPU1: NV18) via NET/IB",
    ),
    _fault(
        "nccl-completion-error",
        "NCCL reports a transport error.",
        "F28",
        _lines(
            "NET/IB: Got completion from peer 33.2.161.15<40823> with status=12 opcode=0 len=0 vendor err 129 (Recv) localGid ::ffff:33.2.161.16"
        ),
        "job channels_gdr no_failures",
        "completion status 12",
    ),
    _fault(
        "nccl-versions-differ", "The ranks run different NCCL versions.", "F09, F39", _versions, "job channels_gdr one_version", "2.26.2"
    ),
    _fault("rail-idle-under-load", "One rail moves no byte during a request.", "F41", _rail_idle, "rail_volume", "the rail stayed idle"),
    _fault("rail-below-its-share", "One rail moves a third of its share.", "F41", _rail_short, "rail_volume", "less than its share"),
    _fault(
        "rail-errors-under-load",
        "A rail's error counter rises during a request.",
        "F41",
        _counted("local_ack_timeout_err"),
        "rail_errors",
        "local_ack_timeout_err",
    ),
    _fault(
        "rail-congested",
        "A rail's congestion counter rises during a request of one stream.",
        "F41",
        _counted("np_cnp_sent"),
        "rail_congestion",
        "np_cnp_sent",
    ),
    _fault(
        "management-hca-used",
        "The management device carries collectives.",
        "the write-up leaves mlx5_0 out on purpose",
        _management,
        "management_hca_quiet",
        "NCCL_IB_HCA",
    ),
    _fault(
        "no-rail-counters",
        "A node's rail counters cannot be read while the engine serves.",
        "could not measure is no pass",
        lost("counters"),
        "rail_volume rail_errors rail_congestion management_hca_quiet",
        "counters",
    ),
    replace(
        _fault(
            "stages-over-nodes",
            "The ranks of each stage of a pipeline are spread over the nodes.",
            "node ranks in another order than the profile's: every all-reduce crosses the network",
            nccl(stages_across=True),
            "stages_inside",
            "the 8 ranks of a stage are spread over node01, node02, node03",
        ),
        engine="vllm",
        scenario="three-nodes",
        options=("-k", "test_stages"),
    ),
    replace(
        _fault(
            "experts-traffic-elsewhere",
            "Tokens go to their experts (DeepEP, NVSHMEM) over another network than the rails.",
            "NVSHMEM_HCA_LIST is a setting of its own (DeepEP guide of Alibaba Cloud, document 3031987)",
            _elsewhere,
            "volume_together",
            "the rails stayed idle",
        ),
        scenario="sglang-dp-ep",
        options=("-k", "test_rail_moves or test_rails_move"),
    ),
)
