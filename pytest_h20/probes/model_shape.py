"""What of a model's config.json decides how much tensor and expert parallelism move between GPUs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_h20.probes.script import Missing

VALUE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
"""Bytes of an activation by ``torch_dtype``; quantised weights (FP8, INT4) do not change it."""


STAGE_TENSORS = 2
"""A stage of the pipeline hands on hidden states and residual: two activations a token (``IntermediateTensors`` of vLLM,
``PPProxyTensors`` of SGLang). Each tensor rank sends its part; the receivers gather it inside their node."""


@dataclass(frozen=True)
class ModelShape:
    """Layers, width and type of the activations that are reduced over the ranks.

    Attributes:
        expert_layers: of the layers, those with experts; 0: none is told of.
        handed_on: activations a token that a stage of a pipeline hands to the next: hidden state and residual; DeepSeek-V4's streams of
            residuals (``hc_mult``) where it has these, and no other.
        chosen: experts that a token is sent to in each of them, or groups of experts where it chooses among fewer groups.
    """

    name: str
    layers: int
    hidden: int
    value_bytes: int
    expert_layers: int = 0
    chosen: int = 0
    handed_on: int = STAGE_TENSORS

    @property
    def all_reduces(self) -> int:
        """Per step: two per layer (attention output, MLP or experts' output) and one for the embedding, which is divided by vocabulary."""
        return 2 * self.layers + 1

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's activation."""
        return self.hidden * self.value_bytes

    def __str__(self) -> str:
        return f"{self.name}: {self.layers} layers of width {self.hidden}, {self.value_bytes} B a value"


def shape_of(config: Mapping[str, Any] | Missing) -> ModelShape | Missing:
    """The shape that a config.json tells (that of its ``text_config`` for a model of several kinds of input)."""
    if isinstance(config, Missing):
        return config
    inner = config.get("text_config")
    told = inner if isinstance(inner, Mapping) else config
    layers, hidden = told.get("num_hidden_layers"), told.get("hidden_size")
    kind = str(told.get("torch_dtype") or told.get("dtype") or config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    if not isinstance(layers, int) or not isinstance(hidden, int) or not _count(layers) or not _count(hidden):
        return Missing("config.json tells no num_hidden_layers and hidden_size", "see that it is the model's own")
    if kind not in VALUE_BYTES:
        return Missing(f"config.json has torch_dtype {kind[:40]!r}; known are {', '.join(VALUE_BYTES)}")
    return ModelShape(
        str(config.get("model_type") or "model")[:40], layers, hidden, VALUE_BYTES[kind], *_experts(told, layers), _handed_on(told)
    )


def has_experts(config: Mapping[str, Any] | Missing) -> bool | None:
    """Whether a config.json tells of experts; None where it was not read, or speaks of some in words that are not known here."""
    shape = shape_of(config)
    if isinstance(config, Missing) or isinstance(shape, Missing):
        return None
    inner = config.get("text_config")
    words = [*config, *(inner if isinstance(inner, Mapping) else ())]
    return True if shape.expert_layers else None if any("expert" in str(word) or "moe" in str(word) for word in words) else False


def heads_of(config: Mapping[str, Any] | Missing) -> int | None:
    """The attention heads that a config.json tells; None where it does not."""
    if isinstance(config, Missing):
        return None
    inner = config.get("text_config")
    heads = (inner if isinstance(inner, Mapping) else config).get("num_attention_heads")
    return heads if isinstance(heads, int) and _count(heads) else None


def _handed_on(told: Mapping[str, Any]) -> int:
    """``deepseek_v4`` of vLLM and SGLang 0.5.23: the hidden states of ``hc_mult`` streams, mixed, and no residual beside them."""
    streams = told.get("hc_mult")
    return streams if isinstance(streams, int) and _count(streams) else STAGE_TENSORS


def _experts(told: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """Layers with experts, and experts (or groups of them) that a token chooses in each; (0, 0) where the file tells of none.

    DeepSeek and GLM have dense layers in front (``first_k_dense_replace``), Qwen those of ``mlp_only_layers`` and all but every
    ``decoder_sparse_step``-th. A token that chooses 8 experts out of 4 groups (``topk_group``) finds them on 4 nodes at least.
    """

    def number(*names: str) -> int:
        return next((told[name] for name in names if isinstance(told.get(name), int) and _count(told[name])), 0)

    chosen, groups = number("num_experts_per_tok", "num_experts_per_token"), number("topk_group")
    if number("n_routed_experts", "num_experts", "num_local_experts") < 2 or not chosen:
        return 0, 0
    dense, every = told.get("mlp_only_layers"), number("decoder_sparse_step", "moe_layer_freq") or 1
    without = {i for i in dense if isinstance(i, int)} if isinstance(dense, list) else set[int]()
    found = sum(i not in without and (i + 1) % every == 0 for i in range(number("first_k_dense_replace"), layers))
    return found, min(chosen, groups) if groups > 1 else chosen


def _count(value: int) -> bool:
    return not isinstance(value, bool) and 0 < value < 10**6
