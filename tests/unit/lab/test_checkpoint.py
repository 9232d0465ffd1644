"""A checkpoint of DeepSeek-V3's architecture read back: what it must hold, and every way in which it may not."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.checkpoint import Held, expected, header, wrong
from tests.lab.deepseek import CONFIG, LAYERS, QUANTIZATION, is_quantised

SIZES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
MTP = f"model.layers.{LAYERS}."


def config(mtp: int) -> dict[str, object]:
    return {**CONFIG, "quantization_config": QUANTIZATION, "num_nextn_predict_layers": mtp}


def write(folder: Path, tensors: dict[str, Held], mtp: int = 1) -> Path:
    """Two files of zeros with these tensors, index and config.json."""
    place = {}
    for number in range(2):
        file, table, at = f"model-{number}.safetensors", {}, 0
        for name in sorted(tensors)[number::2]:
            dtype, shape = tensors[name]
            end = at + SIZES[dtype] * math.prod(shape)
            table[name], place[name], at = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}, file, end
        text = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    (folder / "config.json").write_text(json.dumps(config(mtp)))
    return folder


def test_the_layer_for_multi_token_prediction_is_whole_or_not_there(tmp_path: Path) -> None:
    """As in the index of R1: a layer with experts, two norms, a projection of both inputs, embeddings and head of its own."""
    without, mtp = expected(config(0)), expected(config(1))
    more = {name.removeprefix(MTP) for name in set(mtp) - set(without)}
    assert not [name for name in without if name.startswith(MTP)]
    own = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "embed_tokens.weight", "shared_head.norm.weight", "shared_head.head.weight"}
    last = {name.removeprefix(f"model.layers.{LAYERS - 1}.") for name in without if name.startswith(f"model.layers.{LAYERS - 1}.")}
    assert more == own | last
    assert wrong(write(tmp_path, mtp)) == []
    assert len(wrong(write(tmp_path, without))) == len(more), "config.json says that there is one"
    assert wrong(write(tmp_path, without, mtp=0)) == []
    assert wrong(write(tmp_path, mtp, mtp=0))[0].endswith("not of this architecture")


def test_what_is_kept_in_fp8_has_a_scale_for_each_block() -> None:
    held = expected(config(1))
    fp8 = {name for name, (dtype, _) in held.items() if dtype == "F8_E4M3"}
    assert fp8 == {name for name in held if is_quantised(name) and not name.endswith("eh_proj.weight")}
    assert held["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"] == ("F8_E4M3", (576, 256))
    assert held["model.layers.1.self_attn.kv_a_proj_with_mqa.weight_scale_inv"] == ("F32", (5, 2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop(f"{MTP}eh_proj.weight"), f"{MTP}eh_proj.weight: missing"),
        (lambda t: t.pop(f"{MTP}mlp.experts.7.up_proj.weight_scale_inv"), "experts.7.up_proj.weight_scale_inv: missing"),
        (lambda t: t.update({f"{MTP}hnorm.weight": ("F32", (256,))}), "hnorm.weight: ('F32', (256,)), not ('BF16', (256,))"),
        (lambda t: t.update({f"{MTP}eh_proj.weight": ("BF16", (256, 256))}), "not ('BF16', (256, 512))"),
        (lambda t: t.update({"model.layers.0.mlp.gate.weight": ("BF16", (8, 256))}), "not of this architecture"),
    ],
)
def test_each_tensor_that_is_not_as_it_must_be_is_named(change: Callable[[dict[str, Held]], object], told: str, tmp_path: Path) -> None:
    tensors = expected(config(1))
    change(tensors)
    (found,) = wrong(write(tmp_path, tensors))
    assert told in found


def test_files_that_are_cut_or_none_are_named(tmp_path: Path) -> None:
    write(tmp_path, expected(config(0)), mtp=0)
    first = tmp_path / "model-0.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    assert wrong(tmp_path) == [f"model-0.safetensors: {len(whole) - 1} bytes, not as many as its header says"]
    for text in (b"", b"12345678", b"\x02\0\0\0\0\0\0\0[]"):
        first.write_bytes(text)
        with pytest.raises(ValueError, match="no header"):
            header(first)
    first.unlink()
    assert "model-0.safetensors" in wrong(tmp_path)[0]
    write(tmp_path, expected(config(0)), mtp=0)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    del index["weight_map"]["lm_head.weight"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert wrong(tmp_path) == ["model-0.safetensors: other tensors than the index says"]
