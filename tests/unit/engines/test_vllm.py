from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.engines import ImageVersions, LaunchFacts, LaunchProfile, NodePlan, dialect_for
from pytest_h20.engines.base import Version
from pytest_h20.engines.common import REMOVED_FLAGS
from pytest_h20.engines.flags import stored_versions
from tests.unit.engines.profiles import HCAS, VLLM_WRITE_UP, lab_nodes, nodes

SERVER = "--tensor-parallel-size 16 --host 0.0.0.0 --port 8000 --gpu-memory-utilization 0.9 --trust-remote-code"


def ids(version: str, profile: LaunchProfile = VLLM_WRITE_UP, facts: LaunchFacts | None = None, count: int = 2) -> list[str]:
    return [r.id for r in dialect_for("vllm", version).refuse(profile, nodes(count), facts or LaunchFacts())]


def test_the_write_up_with_ray() -> None:
    plan = dialect_for("vllm", "0.8.2").plan(VLLM_WRITE_UP, nodes())
    head, worker, server = plan.steps
    assert plan.mode == "ray"
    assert " ".join(head.argv).startswith("ray start --head --port=8379 --block --node-ip-address=10.63.65.207")
    assert " ".join(worker.argv) == "ray start --address=10.63.65.207:8379 --block --node-ip-address=10.63.65.208"
    assert (head.kind, worker.kind, server.kind) == ("container", "container", "exec")
    assert (head.wait_for, worker.wait_for, server.node) == ("started", "ray-joined", "node01")
    command = " ".join(server.argv)
    assert command.startswith(f"python3 -m vllm.entrypoints.openai.api_server --model /mnt/models/DeepSeek-R1 {SERVER}")
    assert "--enable-chunked-prefill=False" in command
    assert "--enable-reasoning" in command  # needed before 0.9, added although the profile does not say it
    assert plan.ready.role == "api-server"
    assert {need.port for need in plan.ports_needed["node01"]} == {8000, 8379}
    assert plan.ports_needed["node02"] == ()


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("0.7.2", ["--enable-reasoning", "--enable-chunked-prefill=False"], ["serve"]),
        ("0.8.5", ["--enable-reasoning", "--no-enable-chunked-prefill"], ["--enable-chunked-prefill=False"]),
        ("0.9.2", ["--no-enable-chunked-prefill"], ["--enable-reasoning"]),
        ("0.11.1", ["serve"], ["--enable-reasoning", "--nnodes"]),
        ("0.24.0", ["serve", "--nnodes", "--headless"], ["ray"]),
        ("0.33.0", ["serve", "--no-enable-chunked-prefill"], ["--enable-chunked-prefill=False"]),
    ],
)
def test_flags_follow_the_version(version: str, has: list[str], lacks: list[str]) -> None:
    words = [word for step in dialect_for("vllm", version).plan(VLLM_WRITE_UP, nodes()).steps for word in step.argv]
    assert [word for word in has if word not in words] == []
    assert [word for word in lacks if word in words] == []


def test_native_nodes_differ_only_in_rank_and_headless() -> None:
    head, peer = dialect_for("vllm", "0.24.0").plan(VLLM_WRITE_UP, nodes()).steps
    assert head.argv[head.argv.index("--master-addr") + 1] == peer.argv[peer.argv.index("--master-addr") + 1] == "10.63.65.207"
    assert set(peer.argv) - set(head.argv) == {"1", "--headless"}
    assert (head.role, peer.role) == ("rank0", "rank1")


COPIES = replace(
    VLLM_WRITE_UP,
    tensor_parallel=1,
    mode="native",
    flags={"data-parallel-size": 16, "enable-expert-parallel": True, "api-server-count": 4, "dpl": 3},
)


def test_copies_over_nodes_are_joined_by_data_parallel_options() -> None:
    """As vLLM's docs/serving/expert_parallel_deployment.md has it for two nodes; --nnodes would make one copy of all of them."""
    plan = dialect_for("vllm", "0.33.0").plan(COPIES, nodes())
    head, peer = ([*step.argv] for step in plan.steps)
    for argv in (head, peer):
        assert not {"--nnodes", "--node-rank", "--master-addr", "--dpl"} & set(argv)
        for option, value in (("size", "16"), ("size-local", "8"), ("address", "10.63.65.207"), ("rpc-port", "29501")):
            assert argv[argv.index(f"--data-parallel-{option}") + 1] == value
    assert "--data-parallel-start-rank" not in head, "with it vLLM 0.33 asks for balancing by somebody else (hybrid)"
    assert peer[peer.index("--data-parallel-start-rank") + 1] == "8"
    assert ("--headless" in head, "--headless" in peer) == (False, True)
    assert ("--api-server-count" in head, "--api-server-count" in peer) == (True, False), "refused beside --headless"
    assert "--dpl belongs to the layout; the flag is ignored" in plan.warnings
    assert "data parallel (--data-parallel-rpc-port)" in [need.purpose for need in plan.ports_needed["node01"]]
    assert plan.ready.node == "node01"


def test_copies_on_one_node_and_a_copy_over_all_nodes_are_none_of_that() -> None:
    one = dialect_for("vllm", "0.33.0").plan(replace(COPIES, flags={"data-parallel-size": 8}), nodes()[:1])
    assert "--data-parallel-address" not in one.steps[0].argv
    wide = dialect_for("vllm", "0.33.0").plan(replace(COPIES, tensor_parallel=16, flags={}), nodes())
    assert "--nnodes" in wide.steps[0].argv


WIDE = replace(COPIES, tensor_parallel=16, flags={**COPIES.flags, "data-parallel-size": 2})


@pytest.mark.parametrize("version", ["0.11.1", "0.24.0", "0.33.0"])
def test_copies_that_span_nodes_are_joined_by_nnodes(version: str) -> None:
    """Two copies of two nodes: vLLM infers from --node-rank which copy a node is of (rank x 8 / 16: 0, 0, 1, 1) and its rank in it."""
    plan = dialect_for("vllm", version).plan(WIDE, nodes(4))
    head, *peers = ([*step.argv] for step in plan.steps)
    for rank, argv in enumerate([head, *peers]):
        for option, value in (("nnodes", "4"), ("node-rank", str(rank)), ("master-addr", "10.63.65.207"), ("master-port", "29501")):
            assert argv[argv.index(f"--{option}") + 1] == value
        assert argv[argv.index("--data-parallel-size") + 1] == "2"
        assert argv[argv.index("--data-parallel-rpc-port") + 1] == "29502", "the engine of the second copy reports there"
        assert not {"--data-parallel-size-local", "--dpl", "--data-parallel-start-rank"} & set(argv), "inferred; 3 would be wrong"
        assert ("--headless" in argv, "--api-server-count" in argv) == (rank > 0, rank == 0)
    assert [(n.port, n.purpose) for n in plan.ports_needed["node01"]][1:] == [
        (29501, "torch rendezvous (--master-port)"),
        (29502, "data parallel (--data-parallel-rpc-port)"),
    ]
    assert ids(version, replace(WIDE, http_port=29502), count=4) == ["ports_collide"]
    assert ids(version, WIDE, LaunchFacts(experts=True), count=4) == []


def test_a_count_of_api_servers_is_the_head_s_without_copies_too() -> None:
    plan = dialect_for("vllm", "0.33.0").plan(replace(VLLM_WRITE_UP, mode="native", flags={"api-server-count": 4}), nodes())
    assert ["--api-server-count" in step.argv for step in plan.steps] == [True, False], "vLLM refuses it beside --headless"


@pytest.mark.parametrize(
    ("tensor", "copies", "count", "refused"),
    [
        (4, 3, 2, True),  # 6 GPUs a node: one copy and a half
        (12, 4, 6, True),  # 8 GPUs a node: a copy is a node and a half
        (4, 4, 2, False),
        (12, 2, 4, False),  # 6 GPUs a node: a copy is two of them
        (16, 2, 4, False),
        (8, 2, 2, False),
        (4, 3, 1, False),
    ],
)
def test_copies_that_nodes_cut(tensor: int, copies: int, count: int, refused: bool) -> None:
    profile = replace(COPIES, tensor_parallel=tensor, flags={"data-parallel-size": copies})
    assert ("copies_cut_by_nodes" in ids("0.33.0", profile, count=count)) is refused


def test_copies_with_ray_meet_where_nobody_else_comes() -> None:
    ray = replace(WIDE, mode="ray", flags={"data-parallel-size": 2, "enable-expert-parallel": True})
    moe, dense = LaunchFacts(experts=True), LaunchFacts(experts=False)
    assert ids("0.17.1", ray, moe, count=4) == ["copies_with_ray"]
    for flags in ({"data-parallel-backend": "ray"}, {"data-parallel-address": "10.63.65.207"}):
        assert ids("0.17.1", replace(ray, flags={**ray.flags, **flags}), moe, count=4) == []
    assert ids("0.17.1", ray, dense, count=4) == ids("0.17.1", ray, count=4) == [], "independent copies; and what is not known"


@pytest.mark.parametrize(
    ("version", "profile", "experts", "refused"),
    [
        ("0.33.0", WIDE, False, True),
        ("0.14.1", WIDE, False, True),
        ("0.13.0", WIDE, False, False),
        ("0.33.0", WIDE, None, False),
        ("0.33.0", replace(WIDE, tensor_parallel=8, flags={"data-parallel-size": 4}), False, False),
    ],
)
def test_copies_of_a_model_without_experts_fit_in_a_node(version: str, profile: LaunchProfile, experts: bool | None, refused: bool) -> None:
    assert ("copies_without_experts" in ids(version, profile, LaunchFacts(experts=experts), count=4)) is refused


def test_every_container_gets_the_whole_environment() -> None:
    for version in ("0.8.2", "0.24.0"):
        for step in dialect_for("vllm", version).plan(VLLM_WRITE_UP, nodes()).steps:
            node = next(n for n in nodes() if n.name == step.node)
            env = step.env
            assert env["VLLM_HOST_IP"] == env["HOST_IP"] == node.host_ip
            assert {env[f"{x}_SOCKET_IFNAME"] for x in ("NCCL", "GLOO", "TP")} == {"xgbe0"}
            assert env["NCCL_IB_HCA"] == "=" + ",".join(HCAS)
            assert (env["NCCL_IB_GID_INDEX"], env["NCCL_IB_DISABLE"], env["NCCL_DEBUG"]) == ("3", "0", "INFO")
            assert env["NCCL_DEBUG_FILE"].endswith("/nccl.%h.%p")
            assert {"INIT", "NET", "ENV"} <= set(env["NCCL_DEBUG_SUBSYS"].split(","))
            assert ("RAY_DEDUP_LOGS" in env) == (version == "0.8.2")


def test_the_profile_s_environment_wins_and_long_loads_get_their_time() -> None:
    profile = replace(VLLM_WRITE_UP, env={"NCCL_DEBUG": "WARN"}, ready_timeout_s=2400.0)
    env = dialect_for("vllm", "0.24.0").plan(profile, nodes()).steps[0].env
    assert (env["NCCL_DEBUG"], env["VLLM_ENGINE_READY_TIMEOUT_S"]) == ("WARN", "2400")
    assert "VLLM_ENGINE_READY_TIMEOUT_S" not in dialect_for("vllm", "0.8.2").plan(profile, nodes()).steps[0].env


def test_a_cpu_lab_gets_no_rdma_variables_and_the_mp_backend() -> None:
    profile = replace(VLLM_WRITE_UP, tensor_parallel=2, flags={"enforce-eager": True, "reasoning-parser": "deepseek_r1"})
    dialect = dialect_for("vllm", "0.32.0+cpu")
    plan = dialect.plan(profile, lab_nodes())
    assert plan.mode == "native"
    assert not [name for step in plan.steps for name in step.env if name.startswith("NCCL_IB")]
    assert all(step.argv[step.argv.index("--distributed-executor-backend") + 1] == "mp" for step in plan.steps)
    old = LaunchFacts(drivers={"lab1": "470.1", "lab2": "470.1"}, gpus={"lab1": 0, "lab2": 0})
    assert dialect.refuse(profile, lab_nodes(), old) == []


def test_one_node_needs_no_cluster() -> None:
    profile = replace(VLLM_WRITE_UP, tensor_parallel=8)
    plan = dialect_for("vllm", "0.8.2").plan(profile, nodes(1))
    assert plan.mode == "single"
    assert len(plan.steps) == 1
    assert not {"--nnodes", "--headless"} & set(plan.steps[0].argv)


@pytest.mark.parametrize("version", ["0.8.2", "0.24.0"])
def test_contradictions_are_usage_errors(version: str) -> None:
    dialect = dialect_for("vllm", version)
    with pytest.raises(UsageError, match="divided"):
        dialect.plan(replace(VLLM_WRITE_UP, tensor_parallel=15), nodes())
    with pytest.raises(UsageError, match="ranks"):
        dialect.plan(VLLM_WRITE_UP, (nodes()[1],))
    with pytest.raises(UsageError, match="at least one node"):
        dialect.plan(VLLM_WRITE_UP, ())
    with pytest.raises(UsageError, match="given twice"):
        dialect.plan(replace(VLLM_WRITE_UP, flags={"max_model_len": 1, "max-model-len": 2}), nodes())


@pytest.mark.parametrize("version", [str(v) for v in stored_versions("vllm")])
def test_the_write_up_is_not_refused_by_any_parser(version: str) -> None:
    refused = set(ids(version)) - {"mnnvl_custom_all_reduce_hang"}
    assert refused == set()
    assert ("mnnvl_custom_all_reduce_hang" in ids(version)) == version.startswith(("0.27.", "0.28."))


@pytest.mark.parametrize(
    ("flags", "version", "refusal"),
    [
        ({"enable-reasoning": True, "reasoning-parser": "deepseek_r1"}, "0.10.0", "removed_flag"),
        ({"max_seq_len_to_capture": 16384}, "0.11.0", "removed_flag"),
        ({"swap-space": 4}, "0.24.0", "removed_flag"),
        ({"enable-chunked-prefill": "False"}, "0.8.5", "boolean_flag_form"),
        ({"reasoning-parser": "deepseek-r1"}, "0.24.0", "unknown_reasoning_parser"),
        ({"mem-fraction-static": 0.9}, "0.24.0", "unknown_flag"),
        ({"max-modle-len": 1}, "0.8.2", "unknown_flag"),
        (
            {"enable-chunked-prefill": False, "max-num-batched-tokens": 8192, "max-model-len": 16384},
            "0.8.2",
            "max_num_batched_tokens_too_small",
        ),
        ({"enable-auto-tool-choice": True, "reasoning-parser": "deepseek_r1"}, "0.7.2", "tool_choice_conflicts_with_reasoning"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags: dict[str, object], version: str, refusal: str) -> None:
    assert refusal in ids(version, replace(VLLM_WRITE_UP, flags=flags))


def test_refusals_name_the_flag_to_use() -> None:
    found = dialect_for("vllm", "0.24.0").refuse(
        replace(VLLM_WRITE_UP, flags={"mem-fraction-static": 0.9, "max-modle-len": 1}), nodes(), LaunchFacts()
    )
    assert ["gpu-memory-utilization" in r.fix or "max-model-len" in r.fix for r in found] == [True, True]
    assert all(r.source for r in found)


def test_driver_535_cannot_run_cuda_13() -> None:
    old = LaunchFacts(drivers={"node01": "535.216.03", "node02": "580.65.06"})
    found = [r for r in dialect_for("vllm", "0.20.0").refuse(VLLM_WRITE_UP, nodes(), old) if r.id == "driver_too_old"]
    assert [r.node for r in found] == ["node01"]
    assert "driver_too_old" not in ids("0.19.1", facts=old)
    assert "driver_too_old" not in ids("0.20.0", facts=replace(old, cuda_compat=True))
    cu12 = ImageVersions(vllm="0.20.0", torch="2.11.0+cu129", cuda="12.9")
    assert "driver_too_old" not in ids("0.20.0", facts=replace(old, images={"node01": cu12, "node02": cu12}))
    assert "driver_too_old" not in ids("0.20.0", facts=LaunchFacts())  # an unknown driver is not guessed


def test_mnnvl_hang_is_refused_only_where_it_happens() -> None:
    assert "mnnvl_custom_all_reduce_hang" in ids("0.28.0")
    assert "mnnvl_custom_all_reduce_hang" not in ids("0.28.0", facts=LaunchFacts(compute_capability=(10, 0)))
    off = replace(VLLM_WRITE_UP, flags={"disable-custom-all-reduce": True})
    assert "mnnvl_custom_all_reduce_hang" not in ids("0.28.0", off)
    assert "mnnvl_custom_all_reduce_hang" not in ids("0.28.0", replace(VLLM_WRITE_UP, tensor_parallel=8), count=1)


def test_a_node_that_shows_more_gpus_than_ranks_is_refused() -> None:
    """TP=2 over two nodes of two H200 ended with an AssertionError: vLLM takes rank r for one of node r // device_count."""
    four = LaunchFacts(gpus={"node01": 16, "node02": 16})
    (told,) = [r for r in dialect_for("vllm", "0.24.0").refuse(VLLM_WRITE_UP, nodes(), four) if r.id == "more_gpus_than_ranks"]
    assert told.node == "node02"
    assert told.reason.startswith("TP16 on 2 nodes has 8 ranks a node, and a container sees 16 GPUs: vLLM 0.24.0 tells by that number")
    assert "CUDA_VISIBLE_DEVICES: 0,1,2,3,4,5,6,7 in the profile" in told.fix


@pytest.mark.parametrize(
    ("version", "more", "gpus"),
    [
        ("0.24.0", {}, {"node01": 8, "node02": 8}),
        ("0.24.0", {}, {"node01": 16, "node02": 8}),  # the first node's ranks come first all the same
        ("0.24.0", {}, {}),
        ("0.23.0", {}, {"node01": 16, "node02": 16}),
        ("0.32.0+cpu", {}, {"node01": 16, "node02": 16}),
        ("0.24.0", {"env": {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}}, {"node01": 16, "node02": 16}),
        ("0.24.0", {"mode": "ray"}, {"node01": 16, "node02": 16}),
        ("0.24.0", {"tensor_parallel": 4, "flags": {"data-parallel-size": 2}}, {"node01": 16, "node02": 16}),
    ],
)
def test_nodes_that_show_as_many_gpus_as_ranks_are_not(version: str, more: dict[str, Any], gpus: dict[str, int]) -> None:
    assert "more_gpus_than_ranks" not in ids(version, replace(VLLM_WRITE_UP, **more), LaunchFacts(gpus=gpus))


def test_ray_must_be_in_the_image_and_native_mode_in_the_version() -> None:
    bare = ImageVersions(vllm="0.24.0", torch="2.11.0", cuda="13.0")
    facts = LaunchFacts(images={"node01": bare, "node02": bare})
    assert ids("0.24.0", replace(VLLM_WRITE_UP, mode="ray"), facts).count("ray_not_installed") == 2
    assert "ray_not_installed" not in ids("0.24.0", facts=facts)
    assert "native_too_early" in ids("0.11.0", replace(VLLM_WRITE_UP, mode="native"))
    assert "native_too_early" not in ids("0.11.1", replace(VLLM_WRITE_UP, mode="native"))


def test_ray_0_17_to_0_20_would_overwrite_the_other_node_s_rails() -> None:
    head, peer = nodes()
    other = NodePlan(peer.name, 1, peer.host_ip, peer.control_interface, peer.hcas, 5)
    profile = replace(VLLM_WRITE_UP, mode="ray")
    for version, expected in (("0.16.0", False), ("0.17.1", True), ("0.20.2", True), ("0.21.0", False)):
        found = [r.id for r in dialect_for("vllm", version).refuse(profile, (head, other), LaunchFacts())]
        assert ("ray_overwrites_node_env" in found) is expected
    assert "ray_overwrites_node_env" not in ids("0.17.1", profile)


def test_tp_beyond_16_is_refused_for_block_fp8() -> None:
    facts = LaunchFacts(expert_width=2048, block_n=128)
    assert "block_fp8_not_divisible" in ids("0.24.0", replace(VLLM_WRITE_UP, tensor_parallel=32), facts)
    assert "block_fp8_not_divisible" not in ids("0.24.0", facts=facts)


def test_images_that_differ_and_gpus_that_lack_are_refused() -> None:
    one, two = ImageVersions(vllm="0.8.2", ray_importable=True), ImageVersions(vllm="0.8.5", ray_importable=True)
    facts = LaunchFacts(images={"node01": one, "node02": two}, gpus={"node01": 8, "node02": 7})
    assert {"images_differ", "not_enough_gpus"} <= set(ids("0.8.2", facts=facts))
    wrong = LaunchFacts(images={"node01": ImageVersions(sglang="0.5.1")})
    assert "engine_not_in_image" in ids("0.24.0", facts=wrong)


def test_ports_and_addresses_that_collide_are_refused() -> None:
    assert "ports_collide" in ids("0.8.2", replace(VLLM_WRITE_UP, http_port=8379))
    same = tuple(replace(n, host_ip="10.0.0.1") for n in nodes())
    assert "duplicate_host_ip" in [r.id for r in dialect_for("vllm", "0.8.2").refuse(VLLM_WRITE_UP, same, LaunchFacts())]


def test_versions_outside_the_known_band_are_told() -> None:
    assert "older than 0.7.2" in dialect_for("vllm", "0.6.3").plan(VLLM_WRITE_UP, nodes()).warnings[0]
    assert "newer than 0.33.0" in dialect_for("vllm", "0.40.0").plan(VLLM_WRITE_UP, nodes()).warnings[0]
    assert dialect_for("vllm", "0.33.0").plan(VLLM_WRITE_UP, nodes()).warnings == ()


def test_ray_s_second_executor_is_warned_about_where_it_hangs() -> None:
    profile = replace(VLLM_WRITE_UP, mode="ray")
    told = {v: dialect_for("vllm", v).plan(profile, nodes()).warnings for v in ("0.20.2", "0.24.0", "0.33.0")}
    assert [any("RayExecutorV2" in w for w in warnings) for warnings in told.values()] == [False, True, False]


def test_the_ready_rule_waits_for_uvicorn_not_for_the_announcement() -> None:
    rule = dialect_for("vllm", "0.24.0").ready(nodes())
    assert rule.node == "node01"
    assert "Application startup complete" in rule.patterns[-1]
    assert len(dialect_for("vllm", "0.7.2").ready(nodes()).patterns) == 1  # 0.7.2 announces nothing


@pytest.mark.parametrize("version", ["0.8.2", "0.10.0", "0.11.0", "0.18.0", "0.24.0"])
@pytest.mark.parametrize("value", [True, False, "true", "False", 4, None], ids=repr)
def test_an_option_is_refused_or_dropped_or_given_and_never_two_of_them(version: str, value: object) -> None:
    names = sorted(REMOVED_FLAGS["vllm"])
    made = replace(VLLM_WRITE_UP, flags=dict.fromkeys(names, value))
    dialect = dialect_for("vllm", version)
    refused = {r.flag for r in dialect.refuse(made, nodes(), LaunchFacts()) if r.id == "removed_flag"}
    plan = dialect.plan(made, nodes())
    dropped = {name for name in names if any(f"--{name} dropped" in note for note in plan.warnings)}
    words = {word.partition("=")[0] for step in plan.steps for word in step.argv}
    given = {name for name in names if f"--{name}" in words or f"--no-{name}" in words}
    assert not refused & dropped
    assert not (refused | dropped) & given
    gone = {name for name in names if Version.parse(version).at_least(REMOVED_FLAGS["vllm"][name][0])}
    off = value in (False, "False")
    assert (refused, dropped) == ((set(), gone) if off else (set(), set()) if value is None else (gone, set()))
