"""What a model's config.json decides about the bytes between GPUs: its own layers and width, never DeepSeek-R1's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.engines.layout import Layout
from pytest_h20.probes.counters import ExpectedVolume, expected_volume
from pytest_h20.probes.image import MODEL_FOLDER, ModelFolder, parse_model_folder
from pytest_h20.probes.model_shape import ModelShape, has_experts, shape_of
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal.sparse import R1_CONFIG

LAB = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128, "torch_dtype": "float32"}


def folder(config: object) -> ModelFolder:
    return parse_model_folder(f"path=/m\nexists=1\nconfig=1\nshards=1\ndevice=x\nconfig_json={json.dumps(config)}\n")


def test_deepseek_r1() -> None:
    shape = shape_of(folder(R1_CONFIG).config)
    assert shape == ModelShape("deepseek_v3", 61, 7168, 2, 58, 4)
    assert isinstance(shape, ModelShape)
    assert (shape.all_reduces, shape.token_bytes) == (123, 14336)


QWEN3_MOE = {"model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096, "torch_dtype": "bfloat16", "num_experts": 128}
QWEN3_MOE |= {"num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": []}


V4_FLASH = {"model_type": "deepseek_v4", "hidden_size": 4096, "num_hidden_layers": 43, "torch_dtype": "bfloat16", "hc_mult": 4}
V4_FLASH |= {"n_routed_experts": 256, "num_experts_per_tok": 6, "num_nextn_predict_layers": 1, "num_hash_layers": 3}
"""Of deepseek-ai/DeepSeek-V4-Flash's config.json: experts in every layer, no groups of them."""


def test_deepseek_v4_hands_its_streams_from_stage_to_stage() -> None:
    """Two activations a token were expected, and a rail that carried all four was "used by somebody else, too"."""
    shape = shape_of(V4_FLASH)
    assert shape == ModelShape("deepseek_v4", 43, 4096, 2, 43, 6, 4)
    assert isinstance(shape, ModelShape)
    hop = 4 * 1000 * 4096 * 2
    assert expected_volume(1000, 8, shape, Layout(8, 2, nodes=2)).of_nodes == ((hop, 0), (0, hop))
    old = shape_of(R1_CONFIG | {"hc_mult": None})
    assert isinstance(old, ModelShape)
    assert old.handed_on == 2


GLM_45 = {
    "model_type": "glm4_moe",
    "num_hidden_layers": 92,
    "hidden_size": 5120,
    "first_k_dense_replace": 3,
    "n_routed_experts": 160,
    "num_experts_per_tok": 8,
    "n_group": 1,
    "topk_group": 1,
}
"""Layers, width and experts: scripts/models/glm4.5-355B-A32B.sh of THUDM/slime; the names and the groups: GLM-4.5-Air's config.json."""


@pytest.mark.parametrize(
    ("config", "layers", "chosen"),
    [
        (QWEN3_MOE, 94, 8),
        (QWEN3_MOE | {"mlp_only_layers": [0, 1]}, 92, 8),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, 47, 8),
        (R1_CONFIG | {"topk_group": 1, "n_group": 1}, 58, 8),
        (V4_FLASH, 43, 6),
        (GLM_45, 89, 8),
        (R1_CONFIG | {"model_type": "deepseek_v32", "index_topk": 2048}, 58, 4),
        (LAB, 0, 0),
        (R1_CONFIG | {"num_experts_per_tok": None}, 0, 0),
        (LAB | {"num_experts": 1, "num_experts_per_tok": 1}, 0, 0),
    ],
)
def test_layers_with_experts(config: dict[str, Any], layers: int, chosen: int) -> None:
    """GLM and Kimi have one group of experts (``topk_group`` 1), Qwen none: a token may find its 8 experts on 8 nodes."""
    shape = shape_of(config)
    assert isinstance(shape, ModelShape)
    assert (shape.expert_layers, shape.chosen) == (layers, chosen)


def test_a_model_of_two_layers_moves_what_two_layers_move() -> None:
    """Seen on two GPUs: the lab's Llama was asked for 451 MB a rail in the counted request."""
    shape = shape_of(folder(LAB).config)
    assert shape == ModelShape("llama", 2, 128, 4)
    assert isinstance(shape, ModelShape)
    volume = expected_volume(512, 1, shape, Layout(2, nodes=2))
    assert isinstance(volume, ExpectedVolume)
    assert volume.bytes_per_rail == 5 * 512 * 128 * 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "tells no num_hidden_layers"),
        ({**LAB, "num_hidden_layers": "many"}, "tells no num_hidden_layers"),
        ({**LAB, "num_hidden_layers": True}, "tells no num_hidden_layers"),
        ({**LAB, "torch_dtype": "int4"}, "torch_dtype 'int4'"),
        ([1], "is no object"),
    ],
)
def test_what_is_not_told_is_missing(config: object, said: str) -> None:
    shape = shape_of(folder(config).config)
    assert isinstance(shape, Missing)
    assert said in str(shape)


def test_a_text_model_inside_another() -> None:
    assert shape_of({"model_type": "vlm", "text_config": LAB}) == ModelShape("vlm", 2, 128, 4)


def test_a_file_that_is_cut_or_foreign_is_missing() -> None:
    assert isinstance(parse_model_folder('path=/m\nexists=1\nconfig_json={"a": 1').config, Missing)
    assert isinstance(parse_model_folder("path=/m\nexists=0").config, Missing)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["num_hidden_layers", "hidden_size", "torch_dtype", "text_config", "x"]), x, max_size=4)
        ),
    )
)
def test_any_json_is_a_shape_or_missing(config: Any) -> None:
    assert isinstance(shape_of(folder(config).config), (ModelShape, Missing))


def test_the_probe_prints_the_file_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(R1_CONFIG, indent=2).replace("\n", "\r\n"))
    done = subprocess.run(["sh", "-c", MODEL_FOLDER.snippet, "sh", str(tmp_path)], capture_output=True, text=True, check=True)
    assert parse_model_folder(done.stdout).config == R1_CONFIG
    done = subprocess.run(["sh", "-c", MODEL_FOLDER.snippet, "sh", str(tmp_path / "no")], capture_output=True, text=True, check=True)
    assert isinstance(parse_model_folder(done.stdout).config, Missing)


@pytest.mark.parametrize(("hidden", "sent"), [(128, 2656863), (256, 5275065)])
def test_a_prefill_on_two_h200_moved_what_the_formula_says(hidden: int, sent: int) -> None:
    """Bytes that left node01 over its veth while vLLM 0.24 (TP=2, NCCL over TCP) computed 2048 prompt tokens and one more."""
    shape = shape_of({"num_hidden_layers": 2, "hidden_size": hidden, "torch_dtype": "bfloat16"})
    assert not isinstance(shape, Missing)
    volume = expected_volume(2049, 1, shape, Layout(2, nodes=2))
    assert isinstance(volume, ExpectedVolume)
    assert volume.bytes_per_node == pytest.approx(sent, rel=0.15)


def test_whether_there_are_experts_is_said_only_where_it_is_known() -> None:
    assert has_experts(folder(R1_CONFIG).config) is True
    assert has_experts(LAB) is False
    assert has_experts({"model_type": "vlm", "text_config": {**LAB, "moe_num_experts": 64}}) is None, "words of another model"
    assert has_experts({"model_type": "none"}) is has_experts(Missing("no such file")) is None
