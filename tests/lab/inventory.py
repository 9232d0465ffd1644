"""The inventory of a running cluster: environments/lab.yaml with that cluster's own nodes and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.plan import USER, ClusterPlan, NodePlan

LAB_YAML = Path(__file__).resolve().parents[2] / "environments/lab.yaml"


def node_entry(node: NodePlan) -> dict[str, Any]:
    """A node as the inventory has it."""
    control, *rails = node.interfaces
    return {
        "name": node.name,
        "address": node.address,
        "host_ip": node.address,
        "control_interface": control.name,
        "gid_index": 3,
        "rails": [{"hca": nic.hca, "interface": nic.name, "address": nic.address} for nic in rails],
        "other_hcas": [{"hca": control.hca, "interface": control.name, "address": control.address}],
    }


def ssh_entry(plan: ClusterPlan) -> dict[str, Any]:
    """How the suite reaches the nodes."""
    return {
        "user": "root" if plan.login == "root" else USER,
        **({"sudo": True} if plan.login == "sudo" else {}),
        "key": str(plan.key),
        "known_hosts": str(plan.known_hosts),
        "use_agent": False,
        "use_config": False,
    }


def cluster_fields(plan: ClusterPlan) -> dict[str, Any]:
    """The parts of the inventory that depend on the cluster."""
    return {"ssh": ssh_entry(plan), "nodes": [node_entry(node) for node in plan.nodes]}


def render(plan: ClusterPlan) -> str:
    """The whole inventory as YAML. A profile whose nodes the cluster lacks stays in: choosing it gives an error."""
    import yaml

    data = yaml.safe_load(LAB_YAML.read_text(encoding="utf-8"))
    for engine in data["engines"].values():
        for profile in engine["profiles"].values():
            if "nodes" not in profile:
                profile["tensor_parallel"] = plan.size  # a rank on each node
    text: str = yaml.safe_dump({**data, **cluster_fields(plan)}, sort_keys=False, allow_unicode=True)
    return text
