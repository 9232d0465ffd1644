"""Faults of the rails: links, GIDs, addresses, MTU, flow control, what is measured before the engine starts."""

from __future__ import annotations

from dataclasses import replace

from pytest_h20.rehearsal.faults.model import Change, Fault, expecting, ids, lost, machine, rail, says, together
from pytest_h20.rehearsal.standin import QOS
from pytest_h20.rehearsal.world import World

_ALL_RAIL = "port_active rate netdev gid_table gid_index gid_address mtu subnet reachable ib_write_bw ib_errors"
_ALL_ROUNDS = "gpu_write_bw gpu_read_bw"


def _hca_missing(world: World) -> None:
    world.other.rails.pop(3)


def _left_out(world: World) -> None:
    """Port 8 is down on both nodes, and the inventory was written by what was up."""
    for m in world.machines.values():
        m.rails[8] = replace(m.rails[8], state="1: DOWN", phys="3: Disabled")
    nodes = tuple(n.model_copy(update={"rails": n.rails[:-1]}) for n in world.inventory.nodes)
    world.inventory = world.inventory.model_copy(update={"nodes": nodes})


def _gid_is_v1(world: World) -> None:
    """Index 3 holds the RoCE v1 GID, index 2 the v2 one: an older kernel's order."""
    gids = world.other.rails[3].gids
    gids[2], gids[3] = gids[3], gids[2]


def _gid_link_local(world: World) -> None:
    """The interface lost its IPv4 address when it came up: only link-local GIDs are left."""
    gids = world.other.rails[3].gids
    del gids[2], gids[3]


def _gid_differs(world: World) -> None:
    """The right GID is at 5 on one node and at 3 on the other."""
    gids = world.other.rails[3].gids
    gids[3], gids[5] = gids[1], gids[3]


def _gpu_memory_slow(world: World) -> None:
    """Only mlx5_4 of the second node, and only with GPU memory: ACS sends it through the CPU."""
    world.other.gpu_share["mlx5_4"] = 0.45


def _slow_together(world: World) -> None:
    """Each rail alone is whole; eight at once get half."""
    world.other.beside_share = 0.5


def _a_hop_more(world: World) -> None:
    """mlx5_5 of the second node goes over another leaf."""
    world.other.latency_us["mlx5_5"] = 5.8


def _other_priority(world: World) -> None:
    """What comes to mlx5_3 of the first node arrives in priority 0."""
    world.traffic.priority[next(iter(world.machines)), "mlx5_3"] = 0


def _one_network(world: World) -> None:
    """All rails of both nodes are in one IPv4 network, and the kernels answer ARP as they do by default."""
    for m in world.machines.values():
        m.rails[:] = [replace(r, prefix=16) for r in m.rails]


def _slow_write(world: World) -> None:
    world.other.write_gbps = 92.0


def _errors_under_load(world: World) -> None:
    world.traffic.under_load[list(world.machines)[1], "mlx5_3"] = {"out_of_sequence": 7}


def _slow_node(world: World) -> None:
    """The third of several nodes, whoever it is measured with."""
    world.all_reduce.nodes[list(world.machines)[2]] = 0.3


def _slow_path(world: World) -> None:
    """Between the second and the third node, on one rail, each way."""
    (_, one), (_, other) = list(world.machines.items())[1:3]
    for here, there in ((one, other), (other, one)):
        here.write_to[there.rails[3].address] = 92.0


def _all_reduce(share: float = 1.0, wrong: int = 0, error: str = "") -> Change:
    def change(world: World) -> None:
        world.all_reduce.share, world.all_reduce.wrong, world.all_reduce.error = share, wrong, error

    return change


_FAR = "\tGPU0\tmlx5_3\nGPU0\t X \tSYS\nmlx5_3\tSYS\t X \n"
_DARK = "wire\txgbe3\nmodule\txgbe3\tIdentifier\t0x11 (QSFP28)\nmodule\txgbe3\tLaser rx power low alarm (Channel 2)\tOn\n"
_SWITCH = "wire\txgbe3\nlldp\txgbe3\tleaf-2\tEthernet7\ntlvs\txgbe3\toui=00,80,C2 subtype=11 len=2 =08,00 \n"
_FLAPS = [f"[{t}] mlx5_core 0000:30:00.0 xgbe3: Link {w}" for t, w in (("1200000.5", "down"), ("1200003.5", "up"))]


_RAILS = [f"xgbe{n}" for n in range(1, 9)]


def _refused(command: str) -> str:
    return f"h20-rights\t{command}\tsudo: a password is required\n"


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str) -> Fault:
    return Fault(name, "fabric", sentence, source, change, ids("fabric", red), phrase, gates=("environment", "fabric"))


FAULTS = (
    _fault(
        "hca-missing",
        "One HCA of a node is gone.",
        "F24",
        _hca_missing,
        f"hcas {_ALL_RAIL} {_ALL_ROUNDS} presence_alike environment.nodes_agree",
        "mlx5_3",
    ),
    _fault(
        "rail-left-out",
        "A rail was down on both nodes when the inventory was written, which does not name it.",
        "no check compares with what is not in the inventory",
        _left_out,
        "presence",
        "mlx5_8:1 (xgbe8, DOWN, Disabled)",
    ),
    _fault("rail-down", "One rail's port is down.", "issue 3", rail(state="1: DOWN", phys="3: Disabled"), "port_active", "mlxlink"),
    _fault(
        "rail-polling",
        "One rail's link does not come up: the cable or the switch port.",
        "F70",
        rail(phys="2: Polling"),
        "port_active",
        "switch port",
    ),
    _fault(
        "rail-slow",
        "One rail came up at half its rate.",
        "issue 3",
        rail(rate="100 Gb/sec (4X EDR)"),
        "rate environment.nodes_agree",
        "100",
    ),
    _fault(
        "rail-two-lanes", "One rail uses two lanes of four.", "a dead lane in a cable", rail(rate="200 Gb/sec (2X NDR)"), "width", "lane"
    ),
    _fault("firmware-old", "One HCA has older firmware than its twins.", "F26, F31", rail(firmware="20.31.1014"), "firmware", "20.31.1014"),
    _fault(
        "interface-renamed",
        "The rail's net device has another name than in the inventory.",
        "udev rules after a driver update",
        rail(interface="eth3"),
        "netdev gid_address mtu subnet reachable environment.nodes_agree",
        "eth3",
    ),
    _fault("gid-is-v1", "The configured GID index holds a RoCE v1 GID.", "F28, F29", _gid_is_v1, "gid_index", "gid_index: 2"),
    _fault(
        "gid-link-local", "The rail has link-local GIDs only.", "F29", _gid_link_local, "gid_index gid_table gid_address", "ip addr add"
    ),
    _fault(
        "gid-differs-between-nodes",
        "The right GID has another index on one node.",
        "F29",
        _gid_differs,
        "gid_index gid_address",
        "gid_index: 5",
    ),
    _fault(
        "show-gids-disagrees",
        "show_gids and sysfs tell different GIDs.",
        "a driver reload under way",
        says("show_gids", "DEV PORT INDEX\n"),
        "gid_table",
        "show_gids",
    ),
    _fault(
        "rail-address-wrong",
        "The rail has another address than the inventory gives.",
        "F30",
        rail(address="33.2.161.99"),
        "gid_address",
        "33.2.161.99",
    ),
    _fault("mtu-mismatch", "The two ends of a rail have different MTUs.", "F38", rail(mtu=1500), "mtu environment.nodes_agree", "1500"),
    _fault(
        "rails-on-different-subnets",
        "The two ends of a rail are in different networks.",
        "F29, F30",
        rail(prefix=29),
        "subnet",
        "33.2.161.16/29",
    ),
    _fault(
        "rail-unreachable",
        "A rail is up, but its peer does not answer over it.",
        "F30: VLAN or switch port",
        machine(dead_rails=frozenset({"xgbe3"})),
        "reachable",
        "0 of 3 replies",
    ),
    _fault("path-mtu", "Full-size packets are lost on the way.", "F38", machine(small_path=frozenset({"xgbe3"})), "reachable", "too long"),
    _fault("no-ping", "ping is not installed.", "could not measure is no pass", lost("ping"), "reachable", "iputils"),
    _fault(
        "link-flaps",
        "A rail's link went down and up in the last day.",
        "antgroup/sglang PR 4",
        machine(kernel_lines=_FLAPS),
        "link_flaps",
        "cable",
    ),
    _fault(
        "rails-in-one-network",
        "All rails of a node are in one IPv4 network, and each answers ARP for all.",
        "IBM's page on ARP flux",
        _one_network,
        "arp",
        "arp_ignore=1",
    ),
    _fault(
        "switch-without-pfc",
        "The switch port of a rail says by LLDP that it has PFC for no priority.",
        "a port that was left out of the template",
        says("wires", _SWITCH),
        "switch_class",
        "leaf-2 Ethernet7 has PFC on for priority none",
    ),
    _fault("rail-dark", "One lane of a rail's transceiver receives too little light.", "issue 15", says("wires", _DARK), "optics", "clean"),
    _fault("nic-on-x8", "A rail's HCA runs on 8 PCIe lanes.", "F70", rail(pcie_width=8), "pcie", "8"),
    _fault(
        "rail-far-from-gpus",
        "A rail shares no PCIe switch with a GPU although it should.",
        "F31, F70",
        together(expecting(rail_distance=("PIX", "NODE")), says("topology", _FAR)),
        "distance",
        "SYS",
    ),
    _fault(
        "no-gpudirect",
        "nvidia_peermem is not loaded.",
        "F31",
        machine(modules=("nvidia", "nvidia_uvm")),
        "gpudirect gpu_read_bw gpu_write_bw environment.nodes_agree",
        "nvidia_peermem",
    ),
    _fault(
        "acs-on",
        "PCIe access control redirects peer traffic.",
        "NCCL's troubleshooting guide",
        together(expecting(acs_off=True), says("pcie_hints", "iommu_groups=9\ncmdline=\nacs_bridges=24\nacs_enabled=8\n")),
        "acs",
        "ACS",
    ),
    _fault(
        "sudo-half-allowed",
        "The login is not root, and sudo allows half of the list: neither lspci nor ethtool.",
        "could not measure is no pass",
        together(
            says("pcie_hints", "iommu_groups=0\ncmdline=ro iommu=pt\nacs_bridges=0\nacs_enabled=0\n", 0, _refused("lspci -D -vvv")),
            says(
                "wires", "".join(f"wire\txgbe{n}\n" for n in range(1, 9)), 0, "".join(_refused(f"ethtool -m xgbe{n}") for n in range(1, 9))
            ),
        ),
        "acs optics",
        "`lspci -D -vvv` needs root: sudo: a password is required",
    ),
    _fault(
        "pfc-off",
        "Priority flow control is off on one rail.",
        "F41",
        rail(qos={**QOS, "pfc": "0 0 0 0 0 0 0 0"}),
        "qos qos_equal roce_class",
        "priority 3: neither PFC nor ECN",
    ),
    _fault(
        "ib-write-slow",
        "A rail moves less than half of its line rate.",
        "F41, F70",
        _slow_write,
        "ib_write_bw",
        "likeliest is a card or its host",
    ),
    replace(
        _fault(
            "rail-path-slow",
            "Of four nodes, one rail is slow between two of them and fast to the others.",
            "a switch port or an uplink of one leaf",
            _slow_path,
            "ib_write_bw",
            "node02 mlx5_3 -> node03 mlx5_3",
        ),
        scenario="four-nodes",
        gates=("fabric",),
        options=("-k", "test_ib_write_bw and mlx5_3"),
    ),
    _fault(
        "gpu-memory-slow-on-the-wire",
        "One rail moves GPU memory at less than half of what it moves of host memory.",
        "linux-rdma/perftest#241",
        _gpu_memory_slow,
        "gpu_write_bw gpu_read_bw",
        "likeliest is the way from GPU to NIC",
    ),
    _fault(
        "rails-slow-together",
        "Each rail alone is whole, all at once reach half.",
        "issue 15: a hidden shared switch",
        _slow_together,
        "rails_together",
        "likeliest is what the rails share",
    ),
    _fault("rail-one-hop-more", "One rail takes three times as long as its neighbours.", "issue 15", _a_hop_more, "rails_apart", "5.8 us"),
    _fault(
        "class-rewritten",
        "Packets arrive in another priority than NCCL's class is sent in.",
        "issue 15: a switch that rewrites DSCP",
        _other_priority,
        "class_used",
        "received most in priority 0",
    ),
    _fault("ib-errors", "A rail repeats packets under load.", "F41", _errors_under_load, "ib_errors", "out_of_sequence"),
    _fault(
        "all-reduce-slow",
        "The all-reduce over all GPUs reaches a third of what the rails can do.",
        "F31, F70",
        _all_reduce(share=1 / 3),
        "all_reduce",
        "likeliest is how NCCL uses the wires",
    ),
    replace(
        _fault(
            "all-reduce-slow-with-one-node",
            "Of four nodes, the all-reduce is slow wherever one of them takes part.",
            "the slowest sets the pace of all, and the figure does not tell which it is",
            _slow_node,
            "all_reduce",
            "of 6 pairs: node03 is slow with each of the 3 nodes",
        ),
        scenario="four-nodes",
        gates=("fabric",),
        options=("-k", "test_all_reduce"),
    ),
    _fault(
        "all-reduce-wrong",
        "The all-reduce gives wrong sums.",
        "a bad HCA or GPU memory",
        _all_reduce(wrong=3),
        "all_reduce_correct",
        "suspect memory or NIC",
    ),
    _fault(
        "all-reduce-dies",
        "The all-reduce does not finish.",
        "F28",
        _all_reduce(error="RuntimeError: NCCL error: unhandled system error"),
        "all_reduce",
        "unhandled system error",
    ),
)
