from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h20.engines import LaunchFacts, LaunchProfile, dialect_for
from pytest_h20.engines.flags import stored_versions
from tests.unit.engines.profiles import SGLANG_TUNED, lab_nodes, nodes


def ids(version: str, profile: LaunchProfile = SGLANG_TUNED, count: int = 2, facts: LaunchFacts | None = None) -> list[str]:
    return [r.id for r in dialect_for("sglang", version).refuse(profile, nodes(count), facts or LaunchFacts())]


def test_the_write_up_s_command() -> None:
    plan = dialect_for("sglang", "0.4.4").plan(SGLANG_TUNED, nodes())
    head, peer = plan.steps
    command = " ".join(head.argv)
    assert command.startswith(
        "python3 -m sglang.launch_server --model-path /mnt/models/DeepSeek-R1 --tp 16 --dist-init-addr 10.63.65.207:30000"
        " --nnodes 2 --node-rank 0 --host 0.0.0.0 --port 8000 --trust-remote-code --mem-fraction-static 0.9"
    )
    assert command.endswith("--reasoning-parser deepseek-r1 --enable-metrics")
    assert set(peer.argv) ^ set(head.argv) == {"1"} | ({"0"} if "0" not in peer.argv else set())
    assert peer.env["SGLANG_HOST_IP"] == peer.env["HOST_IP"] == "10.63.65.208"
    assert "VLLM_HOST_IP" not in peer.env
    assert plan.ready.node == "node01"


@pytest.mark.parametrize("version", [str(v) for v in stored_versions("sglang")])
def test_the_write_up_is_not_refused_by_any_parser(version: str) -> None:
    assert ids(version) == []


def test_one_node_needs_no_rendezvous() -> None:
    plan = dialect_for("sglang", "0.5.16").plan(replace(SGLANG_TUNED, tensor_parallel=8), nodes(1))
    assert "--dist-init-addr" not in plan.steps[0].argv
    assert [need.port for need in plan.ports_needed["node01"]] == [8000]


def test_the_dummy_server_needs_the_http_port_on_every_node() -> None:
    needs = dialect_for("sglang", "0.5.16").plan(SGLANG_TUNED, nodes()).ports_needed
    assert [n.port for n in needs["node01"]] == [8000, 30000]
    assert [(n.port, "dummy" in n.purpose) for n in needs["node02"]] == [(8000, True)]


def test_dp_attention_needs_six_more_ports() -> None:
    profile = replace(SGLANG_TUNED, flags={"enable-dp-attention": True, "dp": 2})
    needs = dialect_for("sglang", "0.4.10").plan(profile, nodes()).ports_needed
    assert [n.port for n in needs["node01"]] == [8000, *range(30000, 30007)]
    assert "dist_port_is_http_port" in ids("0.4.10", replace(profile, http_port=30004))


def test_rendezvous_and_http_must_not_share_a_port() -> None:
    assert "dist_port_is_http_port" in ids("0.5.16", replace(SGLANG_TUNED, http_port=30000))
    assert "dist_port_is_http_port" not in ids("0.5.16", replace(SGLANG_TUNED, http_port=30000, tensor_parallel=8), count=1)


@pytest.mark.parametrize(
    ("version", "flags", "has", "lacks"),
    [
        ("0.5.3", {"enable-ep-moe": True}, ["--ep-size", "16"], ["--enable-ep-moe"]),
        ("0.4.10", {"enable-ep-moe": True}, ["--enable-ep-moe"], ["--ep-size"]),
        ("0.5.16", {"enable-deepep-moe": True}, ["--moe-a2a-backend", "deepep"], ["--enable-deepep-moe"]),
        ("0.5.16", {"cuda-graph-max-bs": 64}, ["--cuda-graph-max-bs-decode", "64"], ["--cuda-graph-max-bs"]),
        ("0.5.13", {"cuda-graph-max-bs": 64}, ["--cuda-graph-max-bs"], ["--cuda-graph-max-bs-decode"]),
        ("0.4.8", {"enable-flashinfer-mla": True}, ["--attention-backend", "flashinfer"], ["--enable-flashinfer-mla"]),
        ("0.5.22", {"enable-dp-attention": True, "dp": 4}, ["--attn-dp-size", "4"], ["--enable-dp-attention", "--dp"]),
        ("0.5.20", {"enable-dp-attention": True, "dp": 4}, ["--enable-dp-attention", "--dp"], ["--attn-dp-size"]),
        ("0.5.16", {"enable-metrics": False}, [], ["--enable-metrics"]),
        ("0.5.16", {"cuda-graph-bs-decode": [1, 2, 4]}, ["--cuda-graph-bs-decode", "1", "2", "4"], []),
    ],
)
def test_flags_follow_the_version(version: str, flags: dict[str, object], has: list[str], lacks: list[str]) -> None:
    profile = replace(SGLANG_TUNED, flags=flags)
    dialect = dialect_for("sglang", version)
    words = dialect.plan(profile, nodes()).steps[0].argv
    assert [word for word in has if word not in words] == []
    assert [word for word in lacks if word in words] == []
    assert dialect.refuse(profile, nodes(), LaunchFacts()) == []  # what is translated is not refused


@pytest.mark.parametrize(
    ("flags", "version", "refusal"),
    [
        ({"reasoning-parser": "deepseek_r1"}, "0.5.16", "unknown_reasoning_parser"),
        ({"enable-reasoning": True}, "0.4.4", "unknown_flag"),
        ({"gpu-memory-utilization": 0.9}, "0.5.16", "unknown_flag"),
        ({"enable-dp-attention": True}, "0.4.10", "dp_attention_without_dp"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, object], version: str, refusal: str) -> None:
    assert refusal in ids(version, replace(SGLANG_TUNED, flags=flags))


@pytest.mark.parametrize(
    ("tensor", "flags", "count", "refusal"),
    [
        (16, {"dp": 2}, 4, "copies_over_nodes"),
        (8, {"dp-size": 2}, 2, "copies_over_nodes"),
        (4, {"dp": 2}, 1, ""),
        (16, {"dp": 16, "enable-dp-attention": True}, 2, ""),
        (16, {"dp": 6, "enable-dp-attention": True}, 2, "dp_attention_not_divisible"),
        (4, {"pp-size": 3}, 2, "stages_cut_by_nodes"),
        (4, {"pp-size": 6}, 4, "stages_cut_by_nodes"),
        (8, {"pp-size": 3}, 3, ""),
        (16, {"pp-size": 2}, 4, ""),
        (4, {"pp-size": 4}, 2, ""),
        (4, {"pp-size": 3}, 1, ""),
    ],
)
@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_layouts_that_sglang_does_not_start(version: str, tensor: int, flags: dict[str, object], count: int, refusal: str) -> None:
    profile = replace(SGLANG_TUNED, tensor_parallel=tensor, flags=flags)
    assert ids(version, profile, count) == [refusal] * bool(refusal)


def test_the_other_engine_s_spelling_is_suggested() -> None:
    profile = replace(SGLANG_TUNED, flags={"max-model-len": 4096, "reasoning-parser": "deepseek_r1"})
    fixes = " ".join(r.fix for r in dialect_for("sglang", "0.5.16").refuse(profile, nodes(), LaunchFacts()))
    assert "--context-length" in fixes
    assert "write deepseek-r1" in fixes


def test_ipv6_literals_only_where_they_are_parsed() -> None:
    v6 = tuple(replace(node, host_ip=f"fd00::{node.rank + 1}") for node in nodes())
    old, new = dialect_for("sglang", "0.4.10"), dialect_for("sglang", "0.5.16")
    assert [r.id for r in old.refuse(SGLANG_TUNED, v6, LaunchFacts())] == ["ipv6_not_parsed", "ipv6_not_parsed"]
    assert new.refuse(SGLANG_TUNED, v6, LaunchFacts()) == []
    assert "[fd00::1]:30000" in new.plan(SGLANG_TUNED, v6).steps[1].argv


def test_driver_535_cannot_run_cuda_13() -> None:
    old = LaunchFacts(drivers={"node01": "535.216.03", "node02": "535.216.03"})
    assert ids("0.5.11", facts=old) == ["driver_too_old", "driver_too_old"]
    assert ids("0.5.10", facts=old) == []


def test_a_lab_without_rdma_gets_no_rdma_variables() -> None:
    step = dialect_for("sglang", "0.5.16").plan(replace(SGLANG_TUNED, tensor_parallel=2), lab_nodes()).steps[0]
    assert not [name for name in step.env if name.startswith("NCCL_IB")]


def test_the_ready_line_counts_only_after_the_port_was_bound() -> None:
    rule = dialect_for("sglang", "0.5.16").ready(nodes())
    assert "Uvicorn running on" in rule.patterns[0]
    assert any("Errno 98" in pattern for pattern in rule.voided_by)
