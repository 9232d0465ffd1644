"""The inventory of a GPU cluster: environments/gpu-lab.yaml with the cluster's nodes, what nvidia-smi says, and who lends the GPUs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.cluster import ssh_command
from tests.lab.gpu import machine
from tests.lab.inventory import ssh_entry
from tests.lab.places import LabError, models_dir
from tests.lab.plan import ClusterPlan, NodePlan

GPU_LAB_YAML = Path(__file__).resolve().parents[3] / "environments/gpu-lab.yaml"
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")


def node_entry(node: NodePlan) -> dict[str, Any]:
    """A node with the rail that its operator believes in: the net device is there, the RDMA device is not."""
    rails = [{"hca": nic.hca, "interface": nic.name, "address": nic.address} for nic in node.interfaces[1:]]
    own = {"name": node.name, "address": node.address, "host_ip": node.address, "control_interface": node.interfaces[0].name}
    return {**own, "gid_index": 3, "rails": rails} if rails else own


def expected(row: str, cuda: str, count: int) -> dict[str, Any]:
    """``expect`` from a row of QUERY ("NVIDIA H200, 580.159.04, 143771") and the driver's CUDA version."""
    fields = [field.strip() for field in row.split(",")]
    model = re.search(r"\b[A-Z]{1,3}\d+\w*", fields[0])
    if len(fields) != 3 or not fields[2].isdecimal() or model is None:
        raise LabError(f"nvidia-smi says {row!r}, not a name, a driver version and MiB of memory")
    return {
        "driver": fields[1],
        "cuda": cuda,
        "gpu_count": count,
        "gpu_model": model[0],
        "gpu_memory_min_mib": int(fields[2]) - 10,
    }


INFO = ("docker", "info", "--format", "'{{json .}}'")
WORDS: dict[machine.Lender, str] = {"nvidia": "NVIDIA's container runtime", "wrapper": "the lab's OCI wrapper"}


def lenders(infos: Mapping[str, str]) -> str:
    """Who gives containers their GPUs, in words, by what each node's dockerd says of itself."""
    found: dict[str, list[str]] = {}
    for node, info in infos.items():
        try:
            found.setdefault(WORDS[machine.lender(info)], []).append(node)
        except LabError as error:
            raise LabError(f"{node}: {error}") from None
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{who} on {' and '.join(nodes)}" for who, nodes in found.items())


def told(command: Sequence[str], hint: str = "the inventory of a GPU lab is written where its GPUs are") -> str:
    """What a program prints."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"{' '.join(command)}: {error}; {hint}") from None


def model_fields(folder: Path) -> dict[str, Any]:
    """``model`` for a model of the lab: where it lies, its shards and their bytes by its own index."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = len(set(index["weight_map"].values()))
    return {"path": f"/mnt/models/{folder.name}", "shards": shards, "total_bytes": index["metadata"]["total_size"]}


def over_all(profile: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """A profile that uses every GPU: a node must not show vLLM more than it has ranks there (the refusal ``more_gpus_than_ranks``)."""
    return {**profile, "description": profile["description"].replace("TP=2", f"TP={gpus}"), "tensor_parallel": gpus}


def render(plan: ClusterPlan, model: str) -> str:
    """The whole inventory as YAML."""
    import yaml

    data = yaml.safe_load(GPU_LAB_YAML.read_text(encoding="utf-8"))
    version = re.search(r"CUDA Version\s*:\s*([\d.]+)", told(("nvidia-smi", "-q")))
    row = told(QUERY).splitlines()[0]
    data["description"] += f"; {row.split(',')[0]}"
    if plan.docker:
        sudo = ("sudo", "-n") if plan.login == "sudo" else ()
        who = lenders(
            {node.name: told((*ssh_command(plan, node), *sudo, *INFO), "see /run/lab/dockerd.log on the node") for node in plan.nodes}
        )
        data["description"] += f", given to containers by {who}"
    data["expect"].update(expected(row, version[1] if version else "", plan.gpus // plan.size))
    data["model"].update(model_fields(models_dir() / model))
    for engine in data["engines"].values():
        engine["profiles"] = {name: over_all(profile, plan.gpus) for name, profile in engine["profiles"].items()}
    data.update(ssh=ssh_entry(plan), nodes=[node_entry(node) for node in plan.nodes])
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=140)
    return text
