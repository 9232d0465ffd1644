"""The hardware's lower bound of TPOT: what no correct measurement can be below.

Derivation: research note on engines, section 4.3 (decode, no speculative tokens, experts chosen evenly and
independently, no kernel inefficiency, prefill ignored). For B requests of context ctx on G GPUs:

    distinct experts per layer   e(B) = E (1 - (1 - k/E)^B)
    bytes per GPU and step       (attention shard + dense + shared experts + head + L_moe e(B) expert) / G
                                 + replicated (q_a, kv_a, router) + B ctx kv
    t_mem  = bytes / HBM bandwidth
    t_comp = B 2 active / (G FP8) + B L 2 heads (2 kv_lora + rope) ctx / (G BF16)
    TPOT_hw = max(t_mem, t_comp)

A measured TPOT below TPOT_hw means that the client counts wrongly (cached or short outputs, several tokens per chunk,
speculative decoding that was not told). With drafts one step gives several tokens: `sanity.tpot_floor` divides by the acceptance length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_h20.core.errors import UsageError


class GpuSpec(Protocol):
    """Of one GPU (``core.gpus.GpuModel``). GB/s and dense TFLOP/s; ``weights_tflops``: with the weights' type."""

    @property
    def hbm(self) -> float:
        """Bandwidth of its memory."""

    @property
    def bf16(self) -> float:
        """Products in BF16."""

    @property
    def weights_tflops(self) -> float:
        """Products in FP8, or BF16 where it has none."""


@dataclass(frozen=True)
class ModelSpec:
    """Bytes and operations of one decode step. All from the model's config.json, FP8 weights with FP32 block scales."""

    name: str
    layers: int
    moe_layers: int
    experts: int
    experts_per_token: int
    active_parameters: float
    expert_bytes: float
    sharded_bytes: float
    """Attention shard, dense layers, shared experts and output head: read by every step, divided over the GPUs."""
    replicated_bytes: float
    """Read by every GPU in every step: down-projections of MLA and the router."""
    kv_bytes_per_token: float
    """On every GPU: MLA's latent cache is replicated under tensor parallelism."""
    attention_heads: int
    attention_width: int
    """Multiply-adds per head, cached token and layer: 2 kv_lora_rank + rope dimensions (MLA in absorbed form)."""


def spec_of(config: Mapping[str, Any]) -> ModelSpec | None:
    """Bytes and operations of a model from its config.json; None for an architecture or quantisation that is not known here.

    Known: DeepSeek-V3's (``deepseek_v3``: MLA, routed and shared experts) with FP8 weights in blocks.
    """
    quantised = config.get("quantization_config")
    if config.get("model_type") != "deepseek_v3" or not isinstance(quantised, Mapping) or quantised.get("quant_method") != "fp8":
        return None
    try:
        return _deepseek_v3(config, quantised)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _deepseek_v3(config: Mapping[str, Any], quantised: Mapping[str, Any]) -> ModelSpec:
    hidden, layers, dense_layers = int(config["hidden_size"]), int(config["num_hidden_layers"]), int(config["first_k_dense_replace"])
    experts, chosen, shared_experts = (int(config[k]) for k in ("n_routed_experts", "num_experts_per_tok", "n_shared_experts"))
    q_lora, kv_lora, heads = (int(config[k]) for k in ("q_lora_rank", "kv_lora_rank", "num_attention_heads"))
    rope, nope, v_head = (int(config[k]) for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"))
    moe_inner, dense_inner, vocab = (int(config[k]) for k in ("moe_intermediate_size", "intermediate_size", "vocab_size"))
    rows, columns = quantised.get("weight_block_size") or (128, 128)
    scale = 1 + 4 / (int(rows) * int(columns))  # one FP32 scale per block of FP8
    moe_layers = layers - dense_layers
    expert = 3 * hidden * moe_inner
    attention = layers * (q_lora * heads * (nope + rope) + kv_lora * heads * (nope + v_head) + heads * v_head * hidden)
    dense = dense_layers * 3 * hidden * dense_inner
    shared = moe_layers * shared_experts * expert
    down = layers * hidden * (q_lora + kv_lora + rope)
    router = moe_layers * experts * hidden
    head = vocab * hidden
    return ModelSpec(
        name=str(config["model_type"]),
        layers=layers,
        moe_layers=moe_layers,
        experts=experts,
        experts_per_token=chosen,
        active_parameters=float(attention + dense + shared + moe_layers * chosen * expert + down + router + head),
        expert_bytes=expert * scale,
        sharded_bytes=(attention + dense + shared) * scale + head * 2,  # the output head is BF16
        replicated_bytes=down * scale + router * 2,  # so is the router
        kv_bytes_per_token=layers * (kv_lora + rope) * 2,
        attention_heads=heads,
        attention_width=2 * kv_lora + rope,
    )


def decode_bound(
    batch: int,
    context: float = 192,
    gpus: int = 16,
    *,
    gpu: GpuSpec,
    model: ModelSpec,
    kv_groups: int = 1,
    cut_over: int = 0,
) -> float:
    """The least seconds that the hardware takes for a decode step of `batch` requests with `context` tokens each.

    ``kv_groups``: over how many groups of GPUs the requests are divided (DP attention, copies of the model): each holds the cache of
    its own. ``cut_over``: over how many GPUs the weights that are no expert's are cut: copies that share their experts hold the rest
    each for itself; 0 = over all. Communication is left out: ``fabric.tpot_cost`` measures it.
    Raises UsageError for sizes below 1.
    """
    if batch < 1 or gpus < 1 or context < 0:
        raise UsageError(f"roofline: batch {batch}, GPUs {gpus}, context {context}: sizes from 1 are needed")
    experts = model.experts * (1 - (1 - model.experts_per_token / model.experts) ** batch)
    moved = (
        model.sharded_bytes / (cut_over or gpus)
        + model.moe_layers * experts * model.expert_bytes / gpus
        + model.replicated_bytes
        + batch / kv_groups * context * model.kv_bytes_per_token
    )
    memory = moved / (gpu.hbm * 1e9)
    attention = batch * model.layers * 2 * model.attention_heads * model.attention_width * context
    compute = batch * 2 * model.active_parameters / (gpus * gpu.weights_tflops * 1e12) + attention / (gpus * gpu.bf16 * 1e12)
    return max(memory, compute)
