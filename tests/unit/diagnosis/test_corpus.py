"""The labelled engine logs (tests/corpus, and the larger set where it is), and the recorded transcripts beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_h20.diagnosis import diagnose
from tests.corpus_score import folders
from tests.corpus_score_engine import score


@pytest.fixture(scope="module", params=folders("engine"), ids=lambda p: p.parent.parent.name)
def corpus(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_corpus_score(corpus: Path) -> None:
    rows = score(corpus)
    assert len(rows) >= 26
    assert sum(r.outcome == r.got_outcome for r in rows) / len(rows) >= 0.95
    assert sum(r.cause == r.got_cause for r in rows) / len(rows) >= 0.90
    assert [r.file for r in rows if r.false_ready] == []


def test_no_cut_of_a_failed_start_is_ready(corpus: Path) -> None:
    """Every failed log that never became ready, cut at every tenth line from the front and from the back."""
    for row in score(corpus):
        if row.outcome != "failed" or "after_ready" in (row.cause or ""):
            continue
        lines = (corpus / row.file).read_text(encoding="utf-8", errors="replace").split("\n")
        step = max(1, len(lines) // 10)
        for cut in range(0, len(lines), step):
            assert diagnose(lines[:cut]).outcome != "ready", (row.file, cut)
            assert diagnose(lines[cut:]).outcome != "ready", (row.file, cut)


TRANSCRIPTS = {
    "sglang-0.5.16-h200/bad-start": {
        "context-length": "context_length_too_large",
        "cuda-graph-capture-fails": "cublas_failure",
        "dist-init-unresolvable": "hostname_unresolvable",
        "model-path": "model_not_found",
        "no-config": "missing_config",
        "no-tokenizer": "missing_tokenizer",
        "no-visible-gpu": "no_gpu_visible",
        "node0-alone-dist-timeout": "peer_never_joined",
        "node1-alone-dist-timeout": "master_unreachable",
        "port-busy": "port_in_use",
        "reasoning-parser": "unknown_reasoning_parser",
        "shard-badheader": "corrupt_safetensors",
        "shard-empty": "corrupt_safetensors",
        "shard-truncated": "corrupt_safetensors",
        "tp2-one-gpu": "not_enough_gpus",
        "unknown-flag": "unrecognized_arguments",
    },
    "sglang-0.5.16-h200/crash": {
        "detokenizer-killed-9": "scheduler_killed_oom",
        "scheduler-killed-9": "scheduler_killed_oom",
        "launch-process-killed-9": "killed",
        "out-of-vocab-token-id": "device_side_assert",
    },
    "sglang-0.5.16-h200/twonode": {
        "node0": "peer_node_gone",
        "node1-bad-shard.node0": "peer_failed_to_load",
        "node1-bad-shard.node1": "corrupt_safetensors",
    },
    "vllm-0.24.0-h200/bad-start": {
        "memory-fraction-too-high": "gpu_memory_occupied",
        "memory-fraction-too-low": "no_memory_for_kv_cache",
        "no-config": "missing_config",
        "memory-profiling-disturbed": "memory_profiling_disturbed",
        "no-visible-gpu": "no_gpu_visible",
        "python-module-missing": "missing_python_module",
        "reasoning-parser": "unknown_reasoning_parser",
        "shard-missing": "missing_weight_shards",
        "tp2-one-gpu": "world_size_exceeds_gpus",
        "unknown-flag": "unrecognized_arguments",
    },
    "vllm-0.24.0-h200/crash": {"enginecore-killed-9": "engine_core_died"},
    "vllm-0.24.0-h200/twonode": {
        "engine-init-fails.node0": "missing_python_module",
        "node0": "peer_node_gone",
        "node1": "worker_died",
    },
    "vllm-0.32.0-cpu/bad-start": {
        "port-busy": "port_in_use",
        "shard-missing": "missing_weight_shards",
        "no-tokenizer": "missing_tokenizer",
    },
}


@pytest.mark.parametrize(("folder", "name", "cause"), [(f, n, c) for f, rows in TRANSCRIPTS.items() for n, c in rows.items()])
def test_recorded_failures(folder: str, name: str, cause: str) -> None:
    path = (
        Path(os.environ.get("H20_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "transcripts" / folder / f"{name}.server.log"
    )
    if not path.exists():
        pytest.skip(f"no transcript at {path}")
    with path.open(encoding="utf-8", errors="replace", newline="") as log:
        diagnosis = diagnose(log.read())
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", cause)
