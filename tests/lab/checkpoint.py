"""What a checkpoint of DeepSeek-V3's architecture holds, read back from its safetensors and held against its own config.json.

Standard library only: a safetensors file begins with the length of its header (8 bytes, little-endian) and the header, JSON with the
dtype, shape and place of each tensor. Names as in the index of DeepSeek-R1, the layer for multi-token prediction (there 61) included.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Held = tuple[str, tuple[int, ...]]
"""dtype and shape of a tensor, as safetensors writes them: ``("F8_E4M3", (256, 512))``."""


def header(path: Path) -> dict[str, Held]:
    """The tensors of one file. Raises ``ValueError`` for what is no whole safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    try:
        table = json.loads(data[8 : 8 + length])
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise ValueError(f"{path.name}: no header of safetensors")
    table.pop("__metadata__", None)
    if max((row["data_offsets"][1] for row in table.values()), default=0) != len(data) - 8 - length:
        raise ValueError(f"{path.name}: {len(data)} bytes, not as many as its header says")
    return {name: (row["dtype"], tuple(row["shape"])) for name, row in table.items()}


def _layer(config: Mapping[str, Any], dense: bool) -> dict[str, tuple[int, int]]:
    """The matrices of a layer that are kept in FP8."""
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    found = {
        "self_attn.q_a_proj": (config["q_lora_rank"], hidden),
        "self_attn.q_b_proj": (heads * (nope + rope), config["q_lora_rank"]),
        "self_attn.kv_a_proj_with_mqa": (rank + rope, hidden),
        "self_attn.kv_b_proj": (heads * (nope + value), rank),
        "self_attn.o_proj": (hidden, heads * value),
    }
    inner = config["moe_intermediate_size"]
    parts = {f"mlp.experts.{i}": inner for i in range(config["n_routed_experts"])}
    parts["mlp.shared_experts"] = inner * config["n_shared_experts"]
    for name, size in ({"mlp": config["intermediate_size"]} if dense else parts).items():
        found |= {f"{name}.gate_proj": (size, hidden), f"{name}.up_proj": (size, hidden), f"{name}.down_proj": (hidden, size)}
    return found


def expected(config: Mapping[str, Any]) -> dict[str, Held]:
    """Every tensor that a checkpoint with this config.json has."""
    hidden, words, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    rows, columns = config["quantization_config"]["weight_block_size"]
    table: Held = ("BF16", (words, hidden))
    found: dict[str, Held] = {"model.embed_tokens.weight": table, "lm_head.weight": table, "model.norm.weight": ("BF16", (hidden,))}
    for number in range(layers + config["num_nextn_predict_layers"]):
        here, dense = f"model.layers.{number}.", number < config["first_k_dense_replace"]
        for name, (high, wide) in _layer(config, dense).items():
            found[f"{here}{name}.weight"] = ("F8_E4M3", (high, wide))
            found[f"{here}{name}.weight_scale_inv"] = ("F32", (-(-high // rows), -(-wide // columns)))
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        norms |= {"self_attn.q_a_layernorm": config["q_lora_rank"], "self_attn.kv_a_layernorm": config["kv_lora_rank"]}
        if number >= layers:  # for multi-token prediction
            norms |= dict.fromkeys(("enorm", "hnorm", "shared_head.norm"), hidden)
            found |= {f"{here}embed_tokens.weight": table, f"{here}shared_head.head.weight": table}
            found[f"{here}eh_proj.weight"] = ("BF16", (hidden, 2 * hidden))
        found |= {f"{here}{name}.weight": ("BF16", (size,)) for name, size in norms.items()}
        if not dense:
            found[f"{here}mlp.gate.weight"] = ("BF16", (config["n_routed_experts"], hidden))
            found[f"{here}mlp.gate.e_score_correction_bias"] = ("F32", (config["n_routed_experts"],))
    return found


def wrong(folder: Path) -> list[str]:
    """What a checkpoint's files hold otherwise than its config.json and its index say; empty: nothing."""
    config = json.loads((folder / "config.json").read_text())
    place = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    found: dict[str, Held] = {}
    for file in sorted(set(place.values())):
        try:
            held = header(folder / file)
        except (OSError, ValueError) as error:
            return [str(error)]
        if set(held) != {name for name, where in place.items() if where == file}:
            return [f"{file}: other tensors than the index says"]
        found |= held
    wanted = expected(config)
    told = [f"{name}: missing" for name in wanted if name not in found]
    told += [f"{name}: not of this architecture" for name in found if name not in wanted]
    return told + [f"{n}: {found[n]}, not {held}" for n, held in wanted.items() if n in found and found[n] != held]
