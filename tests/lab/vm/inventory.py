"""The inventory of running machines: environments/soft-roce.yaml with their own addresses and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.vm import places
from tests.lab.vm.plan import Machine, VmPlan

SOFT_ROCE_YAML = Path(__file__).resolve().parents[3] / "environments/soft-roce.yaml"
GID_INDEX = 1
"""rxe fills slot 0 with the link-local GID and slot 1 with the IPv4 one, both RoCE v2 (kernel 6.1)."""


def node_entry(machine: Machine) -> dict[str, Any]:
    """A machine as the inventory has it."""
    control, *rails = machine.nics
    return {
        "name": machine.name,
        "address": machine.address,
        "host_ip": machine.address,
        "control_interface": control.name,
        "gid_index": GID_INDEX,
        "rails": [{"hca": nic.hca, "interface": nic.name, "address": nic.address} for nic in rails],
    }


def own_fields(plan: VmPlan) -> dict[str, Any]:
    """The parts of the inventory that depend on the machines."""
    return {
        "ssh": {
            "user": "root",
            "key": str(places.key_file()),
            "known_hosts": str(places.known_hosts_file()),
            "use_agent": False,
            "use_config": False,
        },
        "nodes": [node_entry(machine) for machine in plan.machines],
    }


def render(plan: VmPlan) -> str:
    """The whole inventory as YAML, with the MTU that these machines have."""
    import yaml

    data = yaml.safe_load(SOFT_ROCE_YAML.read_text(encoding="utf-8"))
    data["expect"]["rail_mtu"] = plan.mtu
    text: str = yaml.safe_dump({**data, **own_fields(plan)}, sort_keys=False, allow_unicode=True)
    return text
