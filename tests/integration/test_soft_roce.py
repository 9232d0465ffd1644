"""The fabric gate where verbs are real: two QEMU machines with rdma_rxe, over the project's own SSH transport.

A heavier lab (docs/lab.md): these tests run when its disk is built, for some minutes on two cores. ``H20_SOFT_ROCE=1`` builds it,
``H20_SOFT_ROCE=0`` leaves the tests out in any case.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.checks import all_verdicts
from pytest_h20.checks.fabric import rails
from pytest_h20.checks.fabric.measure import RailBandwidth, write_bandwidth
from pytest_h20.config.inventory import Inventory, load_inventory, parse_inventory
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes import Node
from pytest_h20.probes.counters import CounterDelta
from pytest_h20.probes.facts import Facts
from pytest_h20.probes.gather import gather
from pytest_h20.run.nodes import connect_all
from tests.lab.vm import image, inventory, machines
from tests.lab.vm.plan import VmPlan, choose_accelerator

REPOSITORY = Path(__file__).parents[2]
RAILS = 4  # one fault on each


@pytest.fixture(scope="module")
def plan() -> Iterator[VmPlan]:
    """The machines, up for these tests only: they are broken on purpose, so nobody else's are taken."""
    wish = os.environ.get("H20_SOFT_ROCE", "")
    if wish == "0":
        pytest.skip("H20_SOFT_ROCE=0")
    if os.geteuid() != 0 or (missing := image.missing_packages()):
        pytest.skip("needs root" if os.geteuid() else f"needs {', '.join(missing)}")
    if machines.state_file().exists():
        pytest.skip("the machines are up for something else; python -m tests.lab.vm down")
    if not image.is_built():
        if wish != "1":
            pytest.skip("the soft-RoCE machines are not built; H20_SOFT_ROCE=1 builds them (about 2 minutes, docs/lab.md)")
        image.build()
    kvm = os.access("/dev/kvm", os.W_OK)
    found = VmPlan(rails=RAILS, accelerator=choose_accelerator(Path("/proc/cpuinfo").read_text(), kvm))
    machines.up(found)
    try:
        yield found
    finally:
        machines.down(found)


@pytest.fixture(scope="module")
def data(plan: VmPlan) -> dict[str, Any]:
    """Their inventory, as YAML has it."""
    found: dict[str, Any] = yaml.safe_load(inventory.render(plan))
    return found


def connected(data: Mapping[str, Any]) -> tuple[Inventory, Mapping[str, Node]]:
    """The nodes of an inventory, over SSH."""
    parsed = parse_inventory(data, "soft-roce")
    return parsed, connect_all(parsed)


def facts_of(data: Mapping[str, Any]) -> Facts:
    """What the probes find now; nothing is asked of the image."""
    parsed, nodes = connected(data)
    try:
        return gather(nodes, parsed, in_image=False)
    finally:
        for node in nodes.values():
            node.close()


def fabric_verdicts(facts: Facts) -> list[Verdict]:
    """The gate's verdicts of what needs no load."""
    return [v for v in all_verdicts(facts) if v.gate == "fabric"]


def red(verdicts: list[Verdict]) -> set[tuple[str, str]]:
    """(check, subject) of what is not in order, unmeasured included."""
    return {(v.check, v.subject) for v in verdicts if v.status not in (Status.PASS, Status.SKIP)}


def bandwidth(data: Mapping[str, Any], facts: Facts, node: str, hca: str) -> tuple[RailBandwidth, list[Verdict]]:
    """``ib_write_bw`` from a rail to its peer, the better of two runs."""
    _, nodes = connected(data)
    try:
        rail = facts.of(node).rail(hca)
        measured = write_bandwidth(nodes, rail, rounds=2)
        assert isinstance(measured, RailBandwidth)
        return measured, rails.judge_write_bandwidth(rail, measured)
    finally:
        for each in nodes.values():
            each.close()


@pytest.fixture(scope="module")
def healthy(data: dict[str, Any]) -> Facts:
    """The facts before anything is broken."""
    return facts_of(data)


def test_healthy_machines_pass_every_check_that_soft_roce_can_show(healthy: Facts) -> None:
    verdicts = fabric_verdicts(healthy)
    assert red(verdicts) == set(), [(v.check, v.subject, v.reason) for v in verdicts if (v.check, v.subject) in red(verdicts)]
    shown = {v.check.removeprefix("fabric.") for v in verdicts if v.status is Status.PASS}
    wanted = "hcas port_active rate width netdev gid_table gid_index gid_address mtu subnet reachable route link_flaps qos qos_equal"
    assert set(wanted.split()) <= shown


def test_the_gid_index_is_read_and_scored(healthy: Facts) -> None:
    for view in healthy.views:
        for rail in view.rails:
            [verdict] = rails.gid_index(rail)
            # rxe: slot 0 link-local, slot 1 IPv4-mapped, both RoCE v2: 1000 + 0 - 0 and 1000 + 200 - 1.
            assert verdict.details["scores"] == {"0": 1000, "1": 1199}


@pytest.mark.parametrize("node", ["node01", "node02"])
def test_write_bandwidth_in_both_directions(data: dict[str, Any], healthy: Facts, node: str) -> None:
    measured, verdicts = bandwidth(data, healthy, node, "mlx5_0")
    assert [v.check for v in verdicts] == ["fabric.ib_write_bw", "fabric.ib_errors", "fabric.ib_errors"]
    assert red(verdicts) == set(), [v.text() for v in verdicts]
    for counters in (measured.source_counters, measured.target_counters):
        assert isinstance(counters, CounterDelta)
        assert counters.values["sent_pkts"] > 0
        assert counters.values["rcvd_pkts"] > 0


def test_a_rail_that_loses_packets_is_seen_in_the_counters(plan: VmPlan, data: dict[str, Any], healthy: Facts) -> None:
    machine = plan.machine("node01")
    machines.on(machine, "tc qdisc add dev eth2 root netem loss 5%")
    try:
        _, verdicts = bandwidth(data, healthy, "node01", "mlx5_1")
    finally:
        machines.on(machine, "tc qdisc del dev eth2 root")
    errors = [v for v in verdicts if v.check == "fabric.ib_errors" and v.status is Status.FAIL]
    assert errors, [v.text() for v in verdicts]


def test_discover_writes_the_inventory_and_the_suite_runs_with_it(plan: VmPlan, data: dict[str, Any], tmp_path: Path) -> None:
    ssh = data["ssh"]
    words = ["discover", *(m.address for m in plan.machines), "--user", "root", "--key", ssh["key"]]
    found = subprocess.run(
        [sys.executable, "-m", "pytest_h20", *words, "--known-hosts", ssh["known_hosts"]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    written = tmp_path / "discovered.yaml"
    written.write_text(found.stdout)
    discovered, wanted = load_inventory(written), parse_inventory(data, "soft-roce")
    for node, other in zip(discovered.nodes, wanted.nodes, strict=True):
        assert (node.name, node.address, node.host_ip) == (other.name, other.address, other.host_ip)
        assert (node.control_interface, node.gid_index, node.rails) == (other.control_interface, other.gid_index, other.rails)
    runs = tmp_path / "runs"
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "--engine=vllm", f"--nodes={written}", f"--h20-run-dir={runs}"]
    options += ["-k", "not ib_write_bw and not rails_at_once and not all_reduce"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "pytest_h20/acceptance/test_fabric.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    [folder] = runs.iterdir()
    verdict = json.loads((folder / "verdict.json").read_text())
    assert not re.search(r"\b(failed|error)", done.stdout.splitlines()[-1]), done.stdout[-3000:]
    assert verdict["accepted"] is False  # a lab never is


def test_each_fault_turns_its_own_checks_red(plan: VmPlan, data: dict[str, Any], healthy: Facts) -> None:
    """One fault on each rail, and one in the flow control, all at once: every other check stays green."""
    one, two = plan.machines
    machines.link(two, "eth1", False)
    changed = json.loads(json.dumps(data))
    changed["nodes"][0]["rails"][1]["gid_index"] = 3  # the write-up's, right for mlx5
    machines.on(one, "ip link set eth3 mtu 1500")
    other = plan.machines[1].nics[4].address.replace(".4.", ".44.")
    machines.on(two, f"ip addr flush dev eth4 scope global; ip addr add {other}/24 dev eth4")
    changed["nodes"][1]["rails"][3]["address"] = other
    machines.on(two, "echo 106 >/sys/kernel/config/rdma_cm/mlx5_1/ports/1/default_roce_tos")
    facts = facts_of(changed)
    verdicts = fabric_verdicts(facts)
    assert red(verdicts) == {
        ("fabric.port_active", "node02 mlx5_0"),
        ("fabric.reachable", "node01 mlx5_0"),
        ("fabric.reachable", "node02 mlx5_0"),
        ("fabric.gid_index", "node01 mlx5_1"),
        ("fabric.gid_address", "node01 mlx5_1"),
        ("fabric.mtu", "node01 mlx5_2"),
        ("fabric.subnet", "node01 mlx5_3"),
        ("fabric.subnet", "node02 mlx5_3"),
        ("fabric.reachable", "node01 mlx5_3"),
        ("fabric.reachable", "node02 mlx5_3"),
        ("fabric.qos", "node02 tos"),
        ("fabric.qos_equal", "cluster"),
    }
    [index] = [v for v in verdicts if (v.check, v.subject) == ("fabric.gid_index", "node01 mlx5_1")]
    assert index.details["right_index"] == 1
    _, asked = bandwidth(changed, facts, "node01", "mlx5_1")
    assert asked[0].check == "fabric.ib_write_bw"
    assert asked[0].status is Status.UNKNOWN  # perftest refuses an empty slot: nothing was measured
