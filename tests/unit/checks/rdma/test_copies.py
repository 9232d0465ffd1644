"""Copies of a model, each inside one node: what two real nodes of two H200 said with vLLM 0.24.0, and what only looks like it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.inventory import parse_inventory
from pytest_h20.core.verdict import Status
from pytest_h20.nccl import parse_log
from pytest_h20.probes.facts import NodeFacts
from pytest_h20.probes.image import ModelFolder
from tests.unit.probes.cluster import blog_cluster

DATA = Path(__file__).parent / "data"
GPU_LAB = Path(__file__).parents[4] / "environments/gpu-lab.yaml"
LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128, "torch_dtype": "float32"}
WITH_EXPERTS = {**LLAMA, "n_routed_experts": 8, "num_experts_per_tok": 2}


def logs(*of: str) -> list[NodeLog]:
    found = []
    for path in sorted(DATA.glob("copies-nccl.*.log")):
        node = path.name.split(".")[1]
        if node in of:
            found.append(NodeLog(node, path.name, path.name, parse_log(path.read_bytes(), path.name)))
    return found


def said(taken: list[NodeLog], config: dict[str, Any] | None = None, **layout: Any) -> NcclVerdicts:
    """What these logs prove of a layout (TP2 x DP2 on two nodes) and a model (the lab's Llama)."""
    data = yaml.safe_load(GPU_LAB.read_text(encoding="utf-8"))
    profile = data["engines"]["vllm"]["profiles"]["native"]
    flags = {**profile["flags"], "data-parallel-size": 2, **layout.pop("flags", {})}
    profile.update({"tensor_parallel": 2, **layout, "flags": flags})
    inventory = parse_inventory(data, "gpu-lab")
    target = LaunchTarget(inventory, *inventory.engine_profile("vllm"))
    folder = ModelFolder("/m", True, True, 4, "dev", json.dumps(LLAMA if config is None else config))
    nodes: dict[str, NodeFacts] = {name: replace(node, model_folder=folder) for name, node in blog_cluster().gather().nodes.items()}
    return NcclVerdicts(job_of(target, taken), target, nodes=nodes)


def between(of: NcclVerdicts) -> dict[str, set[Status]]:
    found = {"gdr": of.gdrdma(), "sockets": of.no_sockets(), "hcas": of.hcas(), "gid": of.gid_index(), "whole": of.complete()}
    return {name: {v.status for v in verdicts} for name, verdicts in found.items()}


def test_copies_without_experts_share_nothing() -> None:
    """It was "all ranks are on one node: says nothing about the network between nodes", and red."""
    of = said(logs("node01", "node02"))
    told = of.job_verdict()
    assert (told.status, told.measured, told.looked_at) == (Status.PASS, "nothing between nodes", 2)
    assert told.limit is not None
    assert told.limit.origin.detail == "TP2 x DP2 on 2 nodes: one request is computed by one of 2 copies, inside a node"
    assert set().union(*between(of).values()) == {Status.SKIP}
    assert of.one_version()[0].status is Status.PASS


def test_copies_of_one_gpu_need_no_nccl() -> None:
    of = said([], tensor_parallel=1)
    assert of.job_verdict().status is Status.PASS
    assert {v.status for v in (*of.no_errors(), *of.bootstrap(), *of.inside())} == {Status.SKIP}


@pytest.mark.parametrize(
    ("nodes", "config", "layout", "status"),
    [
        (("node01", "node02"), WITH_EXPERTS, {}, Status.FAIL),
        (("node01", "node02"), {**LLAMA, "some_moe_layers": 3}, {}, Status.FAIL),
        (("node01", "node02"), {}, {}, Status.FAIL),
        (("node01", "node02"), LLAMA, {"tensor_parallel": 4, "flags": {"data-parallel-size": 1}}, Status.FAIL),
        ((), LLAMA, {}, Status.UNKNOWN),
        ((), WITH_EXPERTS, {"tensor_parallel": 1}, Status.UNKNOWN),
    ],
    ids=[
        "experts are shared",
        "perhaps experts",
        "a model that nobody knows",
        "one copy over both",
        "no log of two ranks",
        "experts, no log",
    ],
)
def test_what_must_be_proven_still_must(nodes: tuple[str, ...], config: dict[str, Any], layout: dict[str, Any], status: Status) -> None:
    assert said(logs(*nodes), config, **layout).job_verdict().status is status


def test_a_way_between_nodes_that_is_there_is_judged() -> None:
    """Whatever the model is: before 0.14 vLLM's copies have a communicator of their own."""
    sockets = Path(__file__).parents[3] / "corpus/nccl"
    taken = [
        NodeLog(
            name, f"{name}.log", f"{name}.log", parse_log((sockets / f"recorded-2xh200-sockets-{name}.log").read_bytes(), f"{name}.log")
        )
        for name in ("node01", "node02")
    ]
    of = said(taken, tensor_parallel=1)
    assert (of.job_verdict().status, of.job.verdict) == (Status.FAIL, "sockets")
    assert of.no_sockets()[0].status is Status.FAIL
