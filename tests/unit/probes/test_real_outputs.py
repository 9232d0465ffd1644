"""Reality before imagination: where the real output of every probe was seen.

The rehearsal answers for a node as its author thinks. So each probe stands in exactly one list here: it runs on the machine that
runs the tests; or a recording of its real output is parsed; or nobody has shown us one, and docs/measured.md says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.nodes.local import LocalNode
from pytest_h20.probes import gpu, host, kernel_log, perf
from pytest_h20.probes.script import Missing, Probe, Section, build, split
from tests.unit.probes.every import probes

ROOT = Path(__file__).resolve().parents[3]
RECORDED = ROOT / "tests" / "corpus" / "recorded"
H200 = "probes-2xh200-r580.txt"
"""2026-11-27, two H200 of one machine, driver 580.159.04, a torch process on both; uuids and serials zeroed."""

HERE = (
    "clock",
    "disks",
    "kernel_log",
    "limits",
    "listeners",
    "log_owners",
    "model_folder",
    "names",
    "nccl_settings",
    "network",
    "pci",
    "pcie_hints",
    "proxies",
    "system",
    "tools",
    "tuning",
    "image_versions",
    "engine_address",
)
ELSEWHERE = {
    "granted": "tests/integration/test_rights.py",
    "ibdev2netdev": "tests/unit/probes/data/ibdev2netdev-node01.txt",  # the write-up's
    "show_gids": "tests/unit/probes/data/show_gids-node01.txt",
    "rdma": "tests/integration/test_soft_roce.py",  # rdma_rxe in QEMU
    "counters": "tests/unit/probes/test_soft_roce.py",
    "ib_server": "tests/unit/probes/test_soft_roce.py",
    "ib_client": "tests/unit/probes/test_soft_roce.py",
    "perftest": "tests/unit/probes/test_soft_roce.py",
    "ping": "tests/unit/probes/test_soft_roce.py",
    "listen": "tests/integration/test_soft_roce.py",
    "connect": "tests/integration/test_soft_roce.py",
    "stop_listen": "tests/integration/test_soft_roce.py",
    "firewall": "tests/integration/test_soft_roce.py",
    "nccl_shm": "tests/unit/checks/environment/test_nccl_left.py",  # files of this machine, one of them mapped
    "images": "tests/e2e/test_main_job.py",  # the lab's dockerd
    "image_version": "tests/e2e/test_main_job.py",
    "image_devices": "tests/e2e/test_main_job.py",
    "models": "tests/e2e/test_main_job.py",
    "reached": "tests/e2e/test_main_job.py",
}


def _gpus(facts: Any) -> None:
    assert (facts.driver, len(facts.gpus)) == ("580.159.04", 2)
    one = facts.gpus[0]
    assert (one.name, one.pci_device_id, one.memory_mib, one.memory_used_mib) == ("NVIDIA H200", "2335", 143771, 639)
    assert (one.ecc, one.remap_pending, one.fabric_state, one.fabric_status) == (True, False, "Completed", "Success")
    assert [(p.pid, p.memory_mib) for p in one.processes] == [(654, 630)]


def _nvlinks(facts: Any) -> None:
    assert facts.links == ((0, (26.562,) * 18), (1, (26.562,) * 18))


def _owners(facts: Any) -> None:
    assert [(o.pid, o.user, o.container) for o in facts.values()] == [(654, "root", "")]


def _driver(facts: Any) -> None:
    assert (facts.version, facts.open_kernel, facts.modules, facts.dmabuf_kernel) == ("580.159.04", True, ("nvidia", "nvidia_uvm"), True)


def _topology(facts: Any) -> None:
    assert (facts["GPU0", "GPU1"], facts["GPU1", "GPU0"], len(facts)) == ("NV18", "NV18", 4)


def _limits(facts: Any) -> None:
    assert (facts.memlock_kib, facts.nofile, facts.shm_kib) == (None, 20000, 268435456)


def _kernel(facts: Any) -> None:
    assert (facts.source, facts.complete, facts.events, facts.now) == ("dmesg", True, (), 61.36)


PARSED: dict[str, tuple[Probe[Any], Callable[[Any], None]]] = {
    "gpus": (gpu.GPUS, _gpus),
    "nvlinks": (gpu.NVLINKS, _nvlinks),
    "gpu_owners": (gpu.GPU_OWNERS, _owners),
    "driver": (gpu.DRIVER, _driver),
    "topology": (gpu.TOPOLOGY, _topology),
    "limits": (host.LIMITS, _limits),
    "kernel_log": (kernel_log.KERNEL_LOG, _kernel),
}
NEVER_SEEN_REAL = {
    "dcgm": "no dcgmi of a machine with DCGM: its columns are read from its source",
    "fabric_manager": "only a machine without NVSwitches of its own was seen",
    "qos": "no mlnx_qos or dcb output of an adapter",
    "wires": "no transceiver, FEC, counter or LLDP neighbour of an adapter",
}


@pytest.fixture(scope="module")
def h200() -> dict[str, Section]:
    return split((RECORDED / H200).read_text(encoding="utf-8"))


def test_every_probe_was_seen_or_is_said_not_to_have_been() -> None:
    known = {*HERE, *ELSEWHERE, *PARSED, *NEVER_SEEN_REAL}
    assert set(probes()) - known == set(), "a new probe: record its real output, or say that it was never seen"
    assert known - set(probes()) == set()
    assert not NEVER_SEEN_REAL.keys() & {*HERE, *ELSEWHERE, *PARSED}
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).exists()] == []


def test_what_was_never_seen_real_stands_in_the_measured_page() -> None:
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8").partition("## Never seen real")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)`", page, flags=re.M))
    assert listed == set(NEVER_SEEN_REAL)


@pytest.mark.parametrize("name", PARSED)
def test_recordings_of_two_h200(name: str, h200: dict[str, Section]) -> None:
    probe, holds = PARSED[name]
    facts = probe.read(h200)
    assert not isinstance(facts, Missing), facts
    holds(facts)


@pytest.mark.parametrize("name", HERE)
def test_the_machine_of_the_tests_answers(name: str) -> None:
    """The snippet as it goes to a node, on this one; what it prints is understood."""
    probe = probes()[name]
    facts = probe.read(split(LocalNode("here").run(build([probe])).stdout))
    assert not isinstance(facts, Missing), facts


def test_the_all_reduce_of_two_h200_over_sockets() -> None:
    """NCCL's INFO lines follow the figures in the same output: with them the fabric gate could not pass on any real cluster."""
    text = (RECORDED / "all-reduce-2xh200-sockets.txt").read_text(encoding="utf-8")
    figures = perf.parse_all_reduce(text)
    assert (figures.tool, figures.ranks, figures.nccl, len(figures.points)) == ("torch", 2, "2.28.9", 12)
    assert {p.wrong for p in figures.points} == {0}
    assert figures.points[0].size == 14336
