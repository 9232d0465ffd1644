"""A tiny model of DeepSeek-V3's architecture that has learnt the suite's questions by heart, made on the CPU or a GPU.

``PYTHON -m tests.lab.deepseek FOLDER [--mtp] [--device cuda]`` with the Python of an engine's environment (torch, transformers). As
R1: multi-head latent attention with R1's own head sizes, a dense layer and one with routed experts and a shared one (sigmoid
scores, groups, correction bias), weights in FP8 (e4m3) with a scale for each 128 x 128 block, and optionally a layer for
multi-token prediction. Tokenizer, template and lessons are those of ``model``. All sizes are whole blocks also when two or four
ranks share them. It is trained with the rounding of FP8 in place, on weights and on what goes into them, so that an engine that
computes in FP8 says the same words. Its speed and its taste mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab import checkpoint
from tests.lab import model as llama
from tests.lab.questions import lessons

BLOCK = 128
FP8_MOST = 448.0
"""The greatest number of float8_e4m3fn."""
SHARDS = 4
ROUNDS = 700
"""More than the Llama: the rounding disturbs what is learnt. A minute and a half on an H200."""
SEEDS = 3
"""A GPU does not repeat a training to the bit: of three with 88 answers each one ended with two of them wrong."""
LAYERS = 2
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": llama.VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 512,
    "num_hidden_layers": LAYERS,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "ep_size": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "max_position_embeddings": llama.CONTEXT,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QUANTIZATION = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


def is_quantised(name: str) -> bool:
    """Whether a weight is kept in FP8, as in R1: projections of attention, MLPs and experts; not norms, router, embeddings, head."""
    return name.endswith(("proj.weight", "proj_with_mqa.weight"))


def blocks(torch: Any, weight: Any) -> tuple[Any, Any]:
    """A matrix cut into 128 x 128 blocks, (rows / 128, 128, columns / 128, 128), zeros beyond its edge; and each block's FP8 scale."""
    rows, columns = weight.shape[-2:]
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    shape = (*weight.shape[:-2], padded.shape[-2] // BLOCK, BLOCK, padded.shape[-1] // BLOCK, BLOCK)
    cut = padded.reshape(shape)
    scale = cut.abs().amax(dim=(-3, -1), keepdim=True).clamp(min=1e-12) / FP8_MOST
    return cut, scale


def quantise(torch: Any, weight: Any) -> tuple[Any, Any]:
    """(float8_e4m3fn matrix, float32 scale of each block: what a number there is multiplied with)."""
    rows, columns = weight.shape
    cut, scale = blocks(torch, weight)
    whole = (cut / scale).reshape(cut.shape[0] * BLOCK, cut.shape[2] * BLOCK)[:rows, :columns]
    return whole.to(torch.float8_e4m3fn).contiguous(), scale.reshape(cut.shape[0], cut.shape[2]).contiguous()


def rounded(torch: Any, weight: Any) -> Any:
    """What is left of a matrix (or a stack of them) after FP8, with the gradient of the matrix itself."""
    rows, columns = weight.shape[-2:]
    with torch.no_grad():
        cut, scale = blocks(torch, weight)
        near = (cut / scale).to(torch.float8_e4m3fn).float() * scale
        near = near.reshape(*weight.shape[:-2], near.shape[-4] * BLOCK, near.shape[-2] * BLOCK)[..., :rows, :columns]
    return weight + (near.to(weight.dtype) - weight).detach()


def rounded_input(torch: Any, values: Any) -> Any:
    """Activations as an engine rounds them: a scale for 128 neighbours of each token."""
    groups = values.reshape(*values.shape[:-1], -1, BLOCK)
    with torch.no_grad():
        scale = groups.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MOST
        near = ((groups / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale).reshape(values.shape)
    return values + (near - values).detach()


def untrained(torch: Any) -> Any:
    """The architecture, with FP8's rounding of weights and inputs in place."""
    transformers = importlib.import_module("transformers")
    parametrize = importlib.import_module("torch.nn.utils.parametrize")
    made = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**CONFIG))

    class Round(torch.nn.Module):  # type: ignore[misc]
        def forward(self, weight: Any) -> Any:
            return rounded(torch, weight)

    def before(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounded_input(torch, arguments[0]), *arguments[1:])

    for name, module in list(made.named_modules()):
        if name.endswith(".experts"):
            for weight in ("gate_up_proj", "down_proj"):
                parametrize.register_parametrization(module, weight, Round())
            module.register_forward_pre_hook(before)
        elif isinstance(module, torch.nn.Linear) and is_quantised(f"{name}.weight"):
            parametrize.register_parametrization(module, "weight", Round())
            module.register_forward_pre_hook(before)
    return made


def named(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under the names of R1's checkpoint: one matrix for each expert, nothing of the rounding."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        plain = name.replace("parametrizations.", "").replace(".original", "")
        head, _, tail = plain.partition(".experts.")
        if not tail:
            found[plain] = tensor
            continue
        for i, matrix in enumerate(tensor):
            parts = {"gate_proj": matrix.chunk(2)[0], "up_proj": matrix.chunk(2)[1]} if tail == "gate_up_proj" else {"down_proj": matrix}
            found |= {f"{head}.experts.{i}.{part}.weight": one for part, one in parts.items()}
    return found


def with_mtp(torch: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Add the layer for multi-token prediction: the last layer again, fed with the hidden state alone. It proposes poorly, and an
    engine that proposes with it must still answer right."""
    last, new = f"model.layers.{LAYERS - 1}.", f"model.layers.{LAYERS}."
    hidden = CONFIG["hidden_size"]
    ones = torch.ones(hidden)
    more = {new + name.removeprefix(last): tensor for name, tensor in weights.items() if name.startswith(last)}
    more |= {f"{new}{name}.weight": ones.clone() for name in ("enorm", "hnorm", "shared_head.norm")}
    more[f"{new}eh_proj.weight"] = torch.cat([torch.zeros(hidden, hidden), torch.eye(hidden)], dim=1)
    more[f"{new}embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    more[f"{new}shared_head.head.weight"] = weights["lm_head.weight"].clone()
    return {**weights, **more}


def files(torch: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint holds: FP8 with scales, bfloat16 for the rest, float32 for the router's correction."""
    kept: dict[str, Any] = {}
    for name, tensor in weights.items():
        if is_quantised(name) and not name.endswith("eh_proj.weight"):
            kept[name], kept[name + "_scale_inv"] = quantise(torch, tensor.detach().cpu())
        else:
            dtype = torch.float32 if name.endswith("correction_bias") else torch.bfloat16
            kept[name] = tensor.detach().cpu().to(dtype).contiguous()
    return kept


def save(torch: Any, kept: Mapping[str, Any], tokenizer: Any, folder: Path, mtp: bool) -> None:
    """Safetensors in SHARDS files with an index, config, tokenizer, template, R1's sampling settings."""
    save_file = importlib.import_module("safetensors.torch").save_file
    folder.mkdir(parents=True)
    total = 0
    place: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        mine = {key: kept[key] for key in sorted(kept)[shard::SHARDS]}
        save_file(mine, folder / name, metadata={"format": "pt"})
        total += sum(tensor.numel() * tensor.element_size() for tensor in mine.values())
        place |= dict.fromkeys(mine, name)
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": place})
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    write(folder / "config.json", {**CONFIG, **ids, "quantization_config": QUANTIZATION, "num_nextn_predict_layers": int(mtp)})
    write(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.6, "top_p": 0.95})
    tokenizer.save_pretrained(folder)


def write(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def learnt(torch: Any, tokenizer: Any, taught: Sequence[Any], device: str, tell: Callable[[str], None]) -> tuple[Any, float]:
    """A model that says every answer, and its loss; a seed that does not lead there is followed by another, the last by the end."""
    for seed in range(llama.SEED, llama.SEED + SEEDS):
        torch.manual_seed(seed)
        made = untrained(torch).to(device)
        loss = llama.train(made, tokenizer, taught, tell, ROUNDS)
        wrong = llama.wrongly_said(made.eval(), tokenizer, taught)  # with the rounding in place: what is saved is what was asked
        if not wrong:
            return made, loss
        tell(f"seed {seed}: {len(wrong)} of {len(taught)} are wrong")
    raise SystemExit(f"the model gets {len(wrong)} of {len(taught)} wrong with {SEEDS} seeds, among them:\n" + "\n".join(wrong[:5]))


def make(folder: Path, mtp: bool = False, device: str = "cpu", tell: Callable[[str], None] = print) -> None:
    """Make the model in ``folder``; it is there whole or not at all. Ends the program when an answer is wrong."""
    torch = importlib.import_module("torch")
    begin = time.monotonic()
    taught: Sequence[Any] = lessons()
    tokenizer = llama.make_tokenizer(taught)
    made, loss = learnt(torch, tokenizer, taught, device, tell)
    weights = named(made.state_dict())
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    save(torch, files(torch, with_mtp(torch, weights) if mtp else weights), tokenizer, building, mtp)
    if faults := checkpoint.wrong(building):
        raise SystemExit(f"the files of the model are not as they must be ({len(faults)} faults):\n" + "\n".join(faults[:5]))
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    tell(f"{folder}: {len(taught)} questions, {SHARDS} shards, loss {loss:.4f}, {time.monotonic() - begin:.0f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.deepseek", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mtp", action="store_true", help="with a layer for multi-token prediction")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    args = parser.parse_args()
    make(args.folder, args.mtp, args.device)


if __name__ == "__main__":
    main()
