"""Stand-in kernel files of GPU and RDMA drivers: what ``show_gids``, ``ibdev2netdev`` and a probe read on a real node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab.plan import Interface

DRIVER = "535.216.03"  # of the write-up

# ConnectX-7 at 400 Gb/s. The write-up does not tell its NICs' model or rate: this is the lab's choice.
_DEVICE = {"node_type": "1: CA", "fw_ver": "28.39.1002", "hca_type": "MT4129", "board_id": "MT_0000000838", "hw_rev": "0"}
_PORT = {
    "state": "4: ACTIVE",
    "phys_state": "5: LinkUp",
    "link_layer": "Ethernet",
    "rate": "400 Gb/sec (4X NDR)",
    "lid": "0x0",
    "sm_lid": "0x0",
    "lid_mask_count": "0",
    "sm_sl": "0",
    "cap_mask": "0x00010000",
    "pkeys/0": "0xffff",
}
# Names as the mlx5 driver has them. They are plain files: they never move by themselves.
COUNTERS = (
    "VL15_dropped",
    "excessive_buffer_overrun_errors",
    "link_downed",
    "link_error_recovery",
    "local_link_integrity_errors",
    "multicast_rcv_packets",
    "multicast_xmit_packets",
    "port_rcv_constraint_errors",
    "port_rcv_data",
    "port_rcv_errors",
    "port_rcv_packets",
    "port_rcv_remote_physical_errors",
    "port_rcv_switch_relay_errors",
    "port_xmit_constraint_errors",
    "port_xmit_data",
    "port_xmit_discards",
    "port_xmit_packets",
    "port_xmit_wait",
    "symbol_error",
    "unicast_rcv_packets",
    "unicast_xmit_packets",
)
HW_COUNTERS = (
    "duplicate_request",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "out_of_buffer",
    "out_of_sequence",
    "packet_seq_err",
    "req_cqe_error",
    "resp_cqe_error",
    "rnr_nak_retry_err",
    "roce_adp_retrans",
    "roce_slow_restart",
    "rp_cnp_handled",
    "rp_cnp_ignored",
    "rx_icrc_encapsulated",
    "rx_read_requests",
    "rx_write_requests",
)
_START = {"port_xmit_data": 123456789, "port_rcv_data": 123450000, "port_xmit_packets": 480000, "port_rcv_packets": 479900}
MODULES = ("mlx5_core", "mlx5_ib", "ib_core", "ib_uverbs", "rdma_cm", "nvidia", "nvidia_uvm", "nvidia_peermem")


def write_infiniband(top: Path, interfaces: Iterable[Interface], slots: int = 16) -> None:
    """Write a ``class/infiniband`` tree under ``top`` in the shape of mlx5.

    In an unused slot the GID is all zeros; its ``gid_attrs`` files, which the kernel answers with EINVAL, are links to
    themselves here (ELOOP, an ``OSError`` as well).
    """
    for nic in interfaces:
        device = top / "infiniband" / nic.hca
        port = device / "ports/1"
        for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs", "pkeys", "counters", "hw_counters"):
            (port / folder).mkdir(parents=True)
        guid = nic.gids[0][0][20:]
        own = {"node_guid": guid, "sys_image_guid": guid, "node_desc": f"stand-in {nic.hca}"}
        _write(device, {**_DEVICE, **own})
        _write(port, _PORT)
        _write(port / "counters", {name: str(_START.get(name, 0)) for name in COUNTERS})
        _write(port / "hw_counters", dict.fromkeys(HW_COUNTERS, "0"))
        (device / "device/net" / nic.name).mkdir(parents=True)
        _write(device / "device", {"vendor": "0x15b3", "device": "0x1021", "numa_node": str(nic.index // 5)})
        for i in range(slots):
            attrs = port / "gid_attrs"
            if i < len(nic.gids):
                gid, kind = nic.gids[i]
                _write(port, {f"gids/{i}": gid, f"gid_attrs/types/{i}": kind, f"gid_attrs/ndevs/{i}": nic.name})
            else:
                _write(port, {f"gids/{i}": ":".join(["0000"] * 8)})
                for folder in ("types", "ndevs"):
                    (attrs / folder / str(i)).symlink_to(str(i))


def write_modules(top: Path) -> None:
    """Write the ``/sys/module`` folders of the drivers that a GPU node with RDMA has loaded."""
    for name in MODULES:
        (top / name).mkdir(parents=True)
        _write(top / name, {"initstate": "live", "refcnt": "1", "coresize": "16384"})
    _write(top / "nvidia", {"version": DRIVER})


def write_proc_driver(top: Path) -> None:
    """Write what the NVIDIA kernel module shows under ``/proc/driver``."""
    (top / "nvidia").mkdir(parents=True)
    kernel = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER}  Tue Oct 22 18:00:06 UTC 2024"
    _write(top / "nvidia", {"version": f"{kernel}\nGCC version:  gcc version 12.2.0 (pytest-h20 lab: stand-in)"})


def proc_modules(real: str) -> str:
    """``/proc/modules`` of this machine with the stood-in drivers added."""
    here = {line.split(" ", 1)[0] for line in real.splitlines()}
    return real + "".join(f"{name} 16384 1 - Live 0x0000000000000000\n" for name in MODULES if name not in here)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
