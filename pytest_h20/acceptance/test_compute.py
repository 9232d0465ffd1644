"""Gate ``compute``: what each GPU, its memory and its links can do, from the engine's own image, before twenty minutes of loading."""

from __future__ import annotations

import pytest

from pytest_h20.checks.compute.judge import BurnJudge
from pytest_h20.plugin.fixtures import Judge

pytestmark = pytest.mark.h20_gate("compute")


def test_ran(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """The burn ran on every GPU, and to its end."""
    h20_judge(h20_burn.check("compute.ran", node_name))


def test_exact(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """A fixed computation gives the same bits in every repeat and on every GPU: no silent corruption."""
    h20_judge(h20_burn.check("compute.exact", node_name))


def test_memory(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """Nearly all GPU memory gives back two patterns, and its bandwidth is the vendor's to a part."""
    h20_judge(h20_burn.check("compute.memory", node_name), h20_burn.check("compute.hbm", node_name))


def test_matrices(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """Matrix products in BF16, FP8 and FP32."""
    h20_judge(*(h20_burn.check(f"compute.gemm_{kind}", node_name) for kind in ("bf16", "fp8", "fp32")))


def test_host_link(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """Host to GPU and back, one GPU at a time."""
    h20_judge(h20_burn.check("compute.host_link", node_name))


def test_nvlink(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """From every GPU into the memory of every other one."""
    h20_judge(h20_burn.check("compute.nvlink", node_name))


def test_all_reduce(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """An all-reduce over the GPUs of one node: no network takes part."""
    h20_judge(h20_burn.check("compute.all_reduce", node_name))


def test_clocks(h20_burn: BurnJudge, node_name: str, h20_judge: Judge) -> None:
    """Clocks and power while all of that ran: nothing was slowed down by heat or a power brake."""
    h20_judge(h20_burn.check("compute.clocks", node_name), h20_burn.check("compute.power", node_name))


def test_apart(h20_burn: BurnJudge, h20_judge: Judge) -> None:
    """Every GPU against the median of its siblings on all nodes, in every figure."""
    h20_judge(*h20_burn.apart())
