"""The cluster's plan: names, addresses, GIDs, the commands that make the network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.places import LabError
from tests.lab.plan import ClusterPlan, ipv4_gid, link_local_gid, network_commands


def test_names_are_the_write_ups() -> None:
    node = ClusterPlan().nodes[1]
    assert [(nic.hca, nic.name) for nic in node.interfaces] == [(f"mlx5_{i}", f"xgbe{i}") for i in range(9)]
    assert node.name == "node02"
    assert node.address == "10.99.0.2"


def test_gids_as_the_write_up_prints_them() -> None:
    assert ipv4_gid("33.2.160.15") == "0000:0000:0000:0000:0000:ffff:2102:a00f"
    assert link_local_gid("a0:88:c2:59:b8:f8") == "fe80:0000:0000:0000:a288:c2ff:fe59:b8f8"


def test_index_3_is_roce_v2_with_ipv4() -> None:
    nic = ClusterPlan().nodes[0].interfaces[4]
    assert nic.gids[3] == (ipv4_gid("10.99.4.1"), "RoCE v2")


@given(st.ip_addresses(v=4))
def test_ipv4_gid_is_the_mapped_address(address: ipaddress.IPv4Address) -> None:
    assert ipaddress.IPv6Address(ipv4_gid(str(address))).ipv4_mapped == address


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rails", [0, 2, 8])
def test_addresses_and_macs_are_unique(size: int, rails: int) -> None:
    nics = [nic for node in ClusterPlan(size=size, rails=rails).nodes for nic in node.interfaces]
    assert len({nic.address for nic in nics}) == len({nic.mac for nic in nics}) == size * (rails + 1)


def test_every_interface_is_made_once_and_gets_its_address() -> None:
    plan = ClusterPlan(size=2, rails=2)
    commands, batches = network_commands(plan)
    made = [line for line in batches[plan.switch] if " type veth " in line]
    assert len(made) == 6
    assert batches["h20-lab-node01"].count("addr add 10.99.2.1/24 dev xgbe2") == 1
    assert ["ip", "netns", "add", "h20-lab-sw"] in [list(command) for command in commands]
    assert not [line for lines in batches.values() for line in lines if "default" in line]


def test_interface_names_fit_the_kernel() -> None:
    plan = ClusterPlan(name="abcdefgh", size=16)
    commands, batches = network_commands(plan)
    words = [w for command in commands for w in command] + [w for lines in batches.values() for line in lines for w in line.split()]
    names = [words[i + 1] for i, word in enumerate(words) if word == "name"]
    assert names
    assert max(map(len, names)) <= 15
    assert len(plan.host_interface) <= 15


def test_json_round_trip() -> None:
    plan = ClusterPlan("b", 3, 1, "10.98", False, "1G")
    assert ClusterPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{", '{"size": 0}', '{"colour": 1}', "3"])
def test_a_damaged_state_file_is_told(text: str) -> None:
    with pytest.raises(LabError):
        ClusterPlan.from_json(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 0}, "-n 0"),
        ({"rails": 9}, "--rails=9"),
        ({"net": "192.168"}, "--net=192.168"),
        ({"net": "10.256"}, "--net=10.256"),
        ({"name": "Lab"}, "--name=Lab"),
    ],
)
def test_bad_settings_name_the_option(change: dict[str, object], told: str) -> None:
    with pytest.raises(LabError, match=told):
        ClusterPlan(**change)  # type: ignore[arg-type]


def test_an_unknown_node_is_told_with_those_there_are() -> None:
    with pytest.raises(LabError, match="node01, node02"):
        ClusterPlan().node("node03")
