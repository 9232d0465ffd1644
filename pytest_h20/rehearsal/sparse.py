"""A model folder of true size and true headers, without payload: 163 sparse shards, 688.6 GB apparent, some MB on disk.

For benchmarks, tests and the rehearsal. Names, dtypes and shapes are DeepSeek-R1's as its config implies them; the values are
zeros.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_h20.checks.weights import agent as _agent

agent: Any = _agent

R1_CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "max_position_embeddings": 163840,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}
"""The fields of deepseek-ai/DeepSeek-R1's config.json that decide about tensors and about what is computed with them."""

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TOKENIZER = json.dumps(
    {"version": "1.0", "added_tokens": [{"id": 0, "content": BOS}, {"id": 1, "content": EOS}], "model": {"vocab": {"a": 2}}}
)
TOKENIZER_CONFIG = json.dumps(
    {
        "bos_token": {"__type": "AddedToken", "content": BOS},
        "eos_token": {"__type": "AddedToken", "content": EOS},
        "chat_template": "{{bos_token}}{{'<｜User｜>' + message['content']}}{{'<｜Assistant｜>'}}",
    }
)
"""Just enough of its tokenizer: what is held against the published one."""


def small_config(layers: int = 4, experts: int = 4) -> dict[str, Any]:
    """The same architecture, small enough for real payload: for tests of the full check."""
    return {
        **R1_CONFIG,
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_hidden_layers": layers,
        "n_routed_experts": experts,
        "num_attention_heads": 2,
        "q_lora_rank": 128,
        "kv_lora_rank": 128,
        "vocab_size": 512,
    }


def _size(spec: tuple[str, list[int]]) -> int:
    dtype, shape = spec
    size: int = agent.count(shape) * agent.SIZES[dtype]
    return size


def shards_of(tensors: Mapping[str, tuple[str, list[int]]], shards: int) -> Iterator[dict[str, tuple[str, list[int]]]]:
    """Cut the tensors, in order, into ``shards`` non-empty parts of about equal size."""
    total = sum(map(_size, tensors.values()))
    items = list(tensors.items())
    part: dict[str, tuple[str, list[int]]] = {}
    done, number = 0, 1
    for i, (name, spec) in enumerate(items):
        part[name] = spec
        done += _size(spec)
        left = len(items) - i - 1
        if number < shards and (done >= total * number / shards or left <= shards - number):
            yield part
            part, number = {}, number + 1
    yield part


def header_of(part: Mapping[str, tuple[str, list[int]]]) -> tuple[bytes, int]:
    """The safetensors header of a part (padded to 8 bytes, as the format's writers do) and the bytes of its data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, spec in part.items():
        header[name] = {"dtype": spec[0], "shape": spec[1], "data_offsets": [at, at + _size(spec)]}
        at += _size(spec)
    raw = json.dumps(header, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % 8), at


def write_model(folder: Path, config: Mapping[str, Any] | None = None, shards: int = 163, payload: bool = False) -> int:
    """Write the folder and return the bytes of tensor data. ``payload``: pseudo-random data instead of holes (small models
    only)."""
    config = config or R1_CONFIG
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, tuple[str, list[int]]] = agent.expected_tensors(config)
    weight_map: dict[str, str] = {}
    total = 0
    for number, part in enumerate(shards_of(tensors, shards), 1):
        name = f"model-{number:05d}-of-{shards:06d}.safetensors"
        raw, size = header_of(part)
        with open(folder / name, "wb") as f:
            f.write(struct.pack("<Q", len(raw)) + raw)
            if payload:
                f.write(_noise(size, number))
            f.truncate(8 + len(raw) + size)
        weight_map.update(dict.fromkeys(part, name))
        total += size
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}\n')
    (folder / "tokenizer.json").write_text(TOKENIZER)
    (folder / "tokenizer_config.json").write_text(TOKENIZER_CONFIG)
    for script in ("configuration_deepseek.py", "modeling_deepseek.py"):
        (folder / script).write_text("# stand-in\n")
    return total


def _noise(size: int, seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


def disk_bytes(folder: Path) -> int:
    """What the folder really takes on disk."""
    return sum(os.stat(p).st_blocks * 512 for p in folder.rglob("*") if p.is_file())
