"""The tiny DeepSeek-V3: what is kept in FP8, and sizes that are whole blocks for every rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab import deepseek
from tests.lab import model as llama
from tests.lab.deepseek import BLOCK, CONFIG, QUANTIZATION, SEEDS, is_quantised


@pytest.mark.parametrize(
    "name", ["self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.o_proj", "mlp.experts.3.up_proj", "mlp.down_proj"]
)
def test_projections_are_kept_in_fp8(name: str) -> None:
    assert is_quantised(f"model.layers.1.{name}.weight")


@pytest.mark.parametrize(
    "name", ["lm_head", "model.embed_tokens", "model.norm", "model.layers.1.mlp.gate", "model.layers.1.self_attn.kv_a_layernorm"]
)
def test_norms_router_embeddings_and_head_are_not(name: str) -> None:
    assert not is_quantised(f"{name}.weight")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_has_whole_blocks(ranks: int) -> None:
    """An engine refuses a column- or row-parallel matrix whose share is no multiple of the block."""
    heads = CONFIG["num_attention_heads"] // ranks
    shared = [
        heads * (CONFIG["qk_nope_head_dim"] + CONFIG["qk_rope_head_dim"]),
        heads * (CONFIG["qk_nope_head_dim"] + CONFIG["v_head_dim"]),
    ]
    shared += [heads * CONFIG["v_head_dim"], CONFIG["intermediate_size"] // ranks, CONFIG["moe_intermediate_size"] // ranks]
    assert [size % BLOCK for size in shared] == [0] * 5
    assert CONFIG["num_attention_heads"] % ranks == 0
    assert QUANTIZATION["weight_block_size"] == [BLOCK, BLOCK]


@pytest.mark.parametrize("good", [0, 2, SEEDS])
def test_a_seed_that_does_not_learn_is_followed_by_others(good: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    model: Any = SimpleNamespace(to=lambda _: model, eval=lambda: model)
    torch = SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setattr(deepseek, "untrained", lambda _: model)
    monkeypatch.setattr(llama, "train", lambda *_: 0.05)
    monkeypatch.setattr(llama, "wrongly_said", lambda *_: [] if len(seeds) > good else ["9.11"])
    told: list[str] = []

    def learn() -> Any:
        return deepseek.learnt(torch, None, ["q"], "cpu", told.append)

    if good < SEEDS:
        assert learn() == (model, 0.05)
    else:
        with pytest.raises(SystemExit, match=f"1 of 1 wrong with {SEEDS} seeds"):
            learn()
    assert seeds == [llama.SEED + i for i in range(min(good + 1, SEEDS))]
    assert len(told) == good
