"""How flags cut a model over GPUs, and what of that leaves a node."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import LaunchFacts, LaunchProfile, NodePlan
from pytest_h20.engines.common import check_parallel
from pytest_h20.engines.layout import Layout, layout_of


def nodes(count: int) -> tuple[NodePlan, ...]:
    return tuple(NodePlan(f"node{i}", i, f"10.0.0.{i + 1}", "eth0") for i in range(count))


@pytest.mark.parametrize(
    ("engine", "tensor", "flags", "count", "layout", "words"),
    [
        ("sglang", 16, {}, 2, Layout(16, nodes=2), "TP16 on 2 nodes"),
        ("sglang", 8, {}, 1, Layout(8), "TP8 on 1 node"),
        ("vllm", 8, {"pipeline-parallel-size": 2}, 2, Layout(8, 2, nodes=2), "TP8 x PP2 on 2 nodes"),
        (
            "vllm",
            8,
            {"data-parallel-size": "2", "enable-expert-parallel": True},
            2,
            Layout(8, 1, 2, 1, 16, "", 2, joined=True),
            "TP8 x DP2 x EP16",
        ),
        ("sglang", 16, {"enable-dp-attention": True, "dp": 16}, 2, Layout(16, attention=16, nodes=2), "TP16 x DP attention 16"),
        ("sglang", 16, {"attn-dp-size": 8, "ep-size": 16}, 2, Layout(16, attention=8, experts=16, nodes=2), "DP attention 8 x EP16"),
        ("sglang", 16, {"dp": 2}, 2, Layout(16, replicas=2, nodes=2), "TP16 x DP2"),
        ("sglang", 16, {"moe-a2a-backend": "deepep"}, 2, Layout(16, experts=16, all_to_all="deepep", nodes=2), "EP16"),
        ("sglang", 16, {"moe-a2a-backend": "none"}, 2, Layout(16, nodes=2), "TP16 on 2 nodes"),
    ],
)
def test_flags(engine: str, tensor: int, flags: dict[str, Any], count: int, layout: Layout, words: str) -> None:
    found = layout_of(engine, tensor, flags, count)
    assert found == layout
    assert words in str(found)


@pytest.mark.parametrize("value", [0, True, "two", -1, 1.5])
def test_a_size_that_is_none(value: object) -> None:
    with pytest.raises(UsageError, match=r"pp-size = .* a whole number from 1"):
        layout_of("sglang", 8, {"pp-size": value}, 2)


@pytest.mark.parametrize(
    ("layout", "spanning", "groups", "over", "stages"),
    [
        (Layout(16, nodes=2), 16, 1, 2, [(0, 1)]),
        (Layout(8, nodes=1), 0, 0, 1, [(0,)]),
        (Layout(8, 2, nodes=2), 2, 8, 2, [(0,), (1,)]),
        (Layout(8, 4, nodes=4), 4, 8, 4, [(0,), (1,), (2,), (3,)]),
        (Layout(16, 2, nodes=4), 16, 2, 2, [(0, 1), (2, 3)]),
        (Layout(4, 4, nodes=2), 4, 4, 2, [(0,), (0,), (1,), (1,)]),
        (Layout(1, replicas=16, nodes=2, joined=True), 16, 1, 2, [(0,)]),
        (Layout(8, replicas=2, nodes=2), 0, 0, 1, [(0,)]),
        (Layout(16, replicas=2, nodes=4, joined=True), 16, 2, 2, [(0, 1)]),
    ],
)
def test_what_leaves_a_node(layout: Layout, spanning: int, groups: int, over: int, stages: list[tuple[int, ...]]) -> None:
    assert (layout.spanning, layout.spanning_groups, layout.spanning_nodes) == (spanning, groups, over)
    assert [layout.nodes_of_stage(stage) for stage in range(layout.pipeline)] == stages


def test_gpus_of_a_pipeline_are_counted_over_its_stages() -> None:
    """TP8 x PP2 on two nodes needs eight GPUs of each, not four."""
    profile = LaunchProfile("vllm", "pp", "image", "/m", flags={"pipeline-parallel-size": 2}, tensor_parallel=8, mode="native")
    dialect = dialect_for("vllm", "0.32.0")
    refused = dialect.refuse(profile, nodes(2), LaunchFacts(gpus={"node0": 8, "node1": 4}))
    (told,) = [r for r in refused if r.id == "not_enough_gpus"]
    assert (told.node, told.reason) == ("node1", "needs 8 GPUs per node (TP8 x PP2 on 2 nodes), has 4")


@pytest.mark.parametrize(
    ("engine", "version", "tensor", "flags", "heads", "ids", "fits"),
    [
        ("sglang", "0.5.16", 32, {}, 128, {"not_enough_gpus"}, "tensor_parallel: 16 fits"),
        ("vllm", "0.32.0", 32, {}, 128, {"not_enough_gpus"}, "tensor_parallel: 16 fits"),
        ("vllm", "0.32.0", 16, {"pipeline-parallel-size": 2}, 128, {"not_enough_gpus"}, "tensor_parallel: 8 fits"),
        ("vllm", "0.32.0", 16, {}, 40, {"heads_not_divisible"}, "tensor_parallel: 10 fits"),
        ("sglang", "0.5.16", 12, {}, 128, {"heads_not_divisible"}, "tensor_parallel: 16 fits"),
        ("sglang", "0.5.16", 16, {"enable-dp-attention": True, "dp-size": 2}, 40, set(), ""),
        ("vllm", "0.32.0", 16, {}, 128, set(), ""),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_one_that_does(
    engine: Any, version: str, tensor: int, flags: dict[str, Any], heads: int, ids: set[str], fits: str
) -> None:
    profile = LaunchProfile(engine, "p", "image", "/m", flags=flags, tensor_parallel=tensor, mode="native" if engine == "vllm" else None)
    facts = LaunchFacts(gpus={"node0": 8, "node1": 8}, attention_heads=heads)
    told = [r for r in dialect_for(engine, version).refuse(profile, nodes(2), facts) if r.id in ("not_enough_gpus", "heads_not_divisible")]
    assert {r.id for r in told} == ids
    assert all(str(r).count(fits) == 1 for r in told)


def test_ranks_that_no_node_count_divides() -> None:
    profile = LaunchProfile("vllm", "pp", "image", "/m", flags={"pp": 3}, tensor_parallel=1)
    with pytest.raises(UsageError, match=r"3 ranks \(TP1 x PP3 on 2 nodes\) cannot be divided over 2 nodes"):
        check_parallel(profile, nodes(2))


@pytest.mark.parametrize(("flags", "refused"), [({}, True), ({"ep-size": 32}, False)])
def test_whole_experts_are_not_cut(flags: dict[str, object], refused: bool) -> None:
    """Experts 2048 wide in FP8 blocks of 128: TP32 would cut them into 64, EP32 leaves them whole."""
    profile = LaunchProfile("sglang", "wide", "image", "/m", flags=flags, tensor_parallel=32)
    found = dialect_for("sglang", "0.5.16").refuse(profile, nodes(4), LaunchFacts(expert_width=2048, block_n=128))
    assert any(r.id == "block_fp8_not_divisible" for r in found) is refused


@pytest.mark.parametrize(("tensor", "flags", "refused"), [(8, {}, False), (16, {}, True), (16, {"enable-expert-parallel": True}, False)])
def test_the_copies_of_vllm_cut_each_expert_together(tensor: int, flags: dict[str, object], refused: bool) -> None:
    """Without EP the experts are cut over DP x TP: TP16 x DP2 makes parts of 64 of them, which blocks of 128 do not divide."""
    profile = LaunchProfile(
        "vllm", "copies", "image", "/m", flags={"data-parallel-size": 2, **flags}, tensor_parallel=tensor, mode="native"
    )
    found = dialect_for("vllm", "0.33.0").refuse(profile, nodes(tensor // 4), LaunchFacts(expert_width=2048, block_n=128))
    assert any(r.id == "block_fp8_not_divisible" for r in found) is refused
