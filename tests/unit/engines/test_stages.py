from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.engines import EngineName, dialect_for
from pytest_h20.engines.stages import recognise


@pytest.mark.parametrize(
    ("engine", "line", "name", "done", "total"),
    [
        ("vllm", "INFO 04-18 14:08:52 api_server.py:840] vLLM API server version 0.7.2", "arguments", None, None),
        (
            "vllm",
            "INFO 04-18 14:10:22 ray_utils.py:214] Waiting for creating a placement group of specs for 310 seconds. specs=[",
            "placement",
            310,
            None,
        ),
        ("vllm", "INFO 03-10 20:09:03 [parallel_state.py:1234] world_size=16 rank=1 local_rank=1", "dist-init", None, None),
        ("vllm", "(Worker_TP0 pid=1) INFO 03-10 20:09:04 [pynccl.py:111] vLLM is using nccl==2.21.5", "nccl", None, None),
        ("vllm", "Loading safetensors checkpoint shards:  21% Completed | 34/163 [01:02<03:58,  1.85s/it]", "loading", 34, 163),
        ("vllm", "INFO 05-01 10:00:00 [gpu_model_runner.py:1] Model loading took 40.2 GiB and 300.1 seconds", "loaded", None, None),
        ("vllm", "INFO 05-01 10:00:00 [kv_cache_utils.py:1] GPU KV cache size: 512,000 tokens", "kv-cache", None, None),
        ("vllm", "Capturing CUDA graph shapes:  77%|███████▋  | 27/35 [00:21<00:07,  1.10it/s]", "graphs", 27, 35),
        ("vllm", "INFO 05-01 10:00:00 [api_server.py:1028] Starting vLLM API server on http://0.0.0.0:8000", "serving", None, None),
        ("vllm", "\x1b[1;36m(APIServer pid=17544)\x1b[0;0m INFO:     Application startup complete.", "ready", None, None),
        (
            "vllm",
            "INFO 1 [serve.py:9] Launching 8 data parallel engine(s) in headless mode, with head node address tcp://10.0.0.1:29501.",
            "joining",
            None,
            None,
        ),
        (
            "vllm",
            "INFO 1 Launching vLLM (v0.24.0) headless multiproc executor, with head node address 10.0.0.1:29501 for torch",
            "joining",
            None,
            None,
        ),
        ("sglang", "[2026-11-23 17:23:05] Init torch distributed begin.", "dist-init", None, None),
        ("sglang", "[2026-11-23 17:23:05 TP0] sglang is using nccl==2.27.5", "nccl", None, None),
        ("sglang", "Multi-thread loading shards: 100% Completed | 2/2 [00:00<00:00, 692.42it/s]", "loading", 2, 2),
        (
            "sglang",
            "[2026-11-23 17:23:08] Load weight end. elapsed=0.10 s, type=LlamaForCausalLM, avail mem=135.33 GB",
            "loaded",
            None,
            None,
        ),
        ("sglang", "Capturing batches (bs=248 avail_mem=135.19 GB):  17%|█▋        | 6/36 [00:00<00:01]", "graphs", 6, 36),
        (
            "sglang",
            "[2026-03-27 09:31:49 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=5.89 GB",
            "graphs",
            None,
            None,
        ),
        (
            "sglang",
            "[2026-11-23 17:23:11] max_total_num_tokens=262144, chunked_prefill_size=8192, context_len=4096",
            "kv-cache",
            None,
            None,
        ),
        ("sglang", "[2026-11-23 17:29:38] INFO:     Application startup complete.", "warmup", None, None),
        ("sglang", "[2026-11-23 17:23:12] The server is fired up and ready to roll!", "ready", None, None),
        (
            "sglang",
            "[2026-01-01 00:00:00] Entering DeepGEMM JIT Pre-Compile session. It may take a long time",
            "compile",
            None,
            None,
        ),
    ],
)
def test_lines_announce_stages(engine: EngineName, line: str, name: str, done: int | None, total: int | None) -> None:
    stage = recognise(engine, line)
    assert stage is not None
    assert (stage.name, stage.done, stage.total) == (name, done, total)


def test_overwritten_bars_give_the_newest() -> None:
    bar = "Loading safetensors checkpoint shards:   0% Completed | 0/163\rLoading safetensors checkpoint shards:   1% Completed | 2/163"
    stage = dialect_for("vllm", "0.8.2").stage(bar)
    assert stage is not None
    assert stage.done == 2
    assert stage.fraction == pytest.approx(2 / 163)
    assert stage.unit == "shards"


def test_ordinary_lines_announce_nothing() -> None:
    for line in (
        "",
        "hello",
        '[2026-11-23] INFO:  127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK',
        "Traceback (most recent call last):",
    ):
        assert recognise("vllm", line) is None
        assert recognise("sglang", line) is None


@given(st.text(max_size=300))
def test_foreign_text_never_raises(line: str) -> None:
    for engine in ("vllm", "sglang"):
        stage = dialect_for(engine, "0.5.16" if engine == "sglang" else "0.24.0").stage(line)
        assert stage is None or 0 <= stage.order < 14
