"""The write-up's cluster and profiles, as the dialects see them."""

from __future__ import annotations

from pytest_h20.engines import LaunchProfile, NodePlan

HCAS = tuple(f"mlx5_{i}:1" for i in range(1, 9))


def nodes(count: int = 2) -> tuple[NodePlan, ...]:
    """Nodes of the write-up: control interface xgbe0, eight rails, GID index 3."""
    return tuple(NodePlan(f"node{r + 1:02}", r, f"10.63.65.{207 + r}", "xgbe0", HCAS, 3) for r in range(count))


def lab_nodes(count: int = 2) -> tuple[NodePlan, ...]:
    """Nodes without RDMA."""
    return tuple(NodePlan(f"lab{r + 1}", r, f"10.88.0.{r + 1}", "eth0") for r in range(count))


VLLM_WRITE_UP = LaunchProfile(
    "vllm",
    "write-up",
    "vllm/vllm-openai:v0.8.2",
    "/mnt/models/DeepSeek-R1",
    flags={
        "gpu-memory-utilization": 0.90,
        "trust-remote-code": True,
        "max_num_seqs": 256,
        "max-num-batched-tokens": 16384,
        "max_model_len": 16384,
        "tokenizer-mode": "auto",
        "enable-chunked-prefill": False,
        "reasoning-parser": "deepseek_r1",
    },
    dist_port=29501,
)
SGLANG_TUNED = LaunchProfile(
    "sglang",
    "tuned",
    "lmsysorg/sglang:481f2edc18b5",
    "/mnt/models/DeepSeek-R1",
    flags={
        "trust-remote-code": True,
        "mem-fraction-static": 0.90,
        "tokenizer-mode": "auto",
        "chunked-prefill-size": 4096,
        "context-length": 65536,
        "quantization": "fp8",
        "reasoning-parser": "deepseek-r1",
    },
    dist_port=30000,
)
