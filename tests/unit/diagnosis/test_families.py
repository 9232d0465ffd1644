"""Exceptions that no row of the tables knows, by what they are about and where they were raised. Kinds met in public threads
(sgl#577, vllm#12899, sgl#23233, sgl#24843, sgl#4127, vllm#8194) and in the sources of vLLM 0.11 and SGLang 0.5.5; words re-told."""

from __future__ import annotations

import pytest

from pytest_h20.diagnosis import diagnose

HIT = "[2025-09-02 09:05:00 TP3] Scheduler hit an exception: Traceback (most recent call last):"
END = "[2025-09-02 09:05:01] Received sigquit from a child process. It usually means the child failed."


def frame(path: str, function: str) -> str:
    return f'  File "/x/site-packages/{path}", line 7, in {function}'


RUN = frame("sglang/srt/managers/scheduler.py", "run_scheduler_process")


@pytest.mark.parametrize(
    ("raised", "cause"),
    [
        ("NotImplementedError: MoE runner x has no such kernel for w4a8 with group_size 77", "unsupported_quantization"),
        ("AssertionError: rotary embedding and sliding window cannot be used together here", "unsupported_attention_backend"),
        ("RuntimeError: this operator only works on Hopper", "compute_capability_too_low"),
        ("AssertionError: hidden dimension 77 does not divide among 6 tp ranks", "tensor_parallel_not_divisible"),
        ("RuntimeError: frobnicate is not installed, please pip install frobnicate", "missing_python_module"),
        ("ValueError: frobnicate 1.2 is too old, please upgrade to frobnicate>=2.0", "package_versions_mismatch"),
        ("AttributeError: 'FrobConfig' object has no attribute 'rope_knob'", "package_versions_mismatch"),
        ("TypeError: FrobModel.__init__() got an unexpected keyword argument 'knob'", "package_versions_mismatch"),
        ("RuntimeError: The size of tensor a (512) must match the size of tensor b (2048) at dimension 1", "kernel_rejected"),
        ("ValueError: frob_token must be exactly one token for this parser.", "invalid_argument_value"),
        ("AttributeError: 'Scheduler' object has no attribute 'frob_pool'", "program_error"),
        ("AssertionError", "program_error"),
        ("huggingface_hub.utils._validators.HFValidationError: Repo id must use alphanumeric chars: 'a/b:c'", "model_not_found"),
        ("RuntimeError: Runtime check failed at /x/marlin.cuh:963: size_k = 704, is not divisible by 5", "kernel_rejected"),
        ("ValueError: unheard of", None),  # unknown stays unknown
        ("RuntimeError: something went wrong", None),
    ],
)
def test_what_an_exception_is_about(raised: str, cause: str | None) -> None:
    got = diagnose([HIT, RUN, raised, "", END])
    assert (got.outcome, got.cause) == ("failed", cause)
    assert got.decisive_line == raised


@pytest.mark.parametrize(
    ("where", "raised", "cause"),
    [
        (frame("sglang/srt/models/frob.py", "load_weights"), "KeyError: 'head'", "weight_shape_mismatch"),
        (frame("vllm/model_executor/layers/linear.py", "weight_loader"), "AssertionError", "weight_shape_mismatch"),
        (frame("transformers/utils/import_utils.py", "<module>"), "ValueError: no such backend", "package_versions_mismatch"),
        (frame("sglang/launch_server.py", "<module>"), "ValueError: unheard of", None),  # the look-alike: it runs, it is not imported
        (frame("huggingface_hub/utils/_http.py", "hf_raise_for_status"), "HTTPError: unheard of", "model_download_failed"),
        (
            frame("torch/distributed/rendezvous.py", "_create"),
            "ConnectionRefusedError: [Errno 111] Connection refused",
            "master_unreachable",
        ),
        (frame("vllm/config/model.py", "_verify_frob"), "ValueError: unheard of", "invalid_argument_value"),
        (frame("vllm/layers/compressed_tensors.py", "_check_scheme_supported"), "RuntimeError: (", "unsupported_quantization"),
    ],
)
def test_where_an_exception_was_raised(where: str, raised: str, cause: str | None) -> None:
    got = diagnose([HIT, RUN, where, raised, "", END])
    assert (got.outcome, got.cause) == ("failed", cause)


def test_a_traceback_that_is_cut_in_a_check() -> None:
    """The check was entered: it does nothing but refuse. A line that only calls it, says less."""
    check = frame("vllm/worker/worker.py", "_check_if_gpu_supports_dtype")
    caller = frame("vllm/worker/worker.py", "init_device")
    assert diagnose(["Traceback (most recent call last):", caller, check]).cause == "unsupported_dtype"
    assert diagnose(["Traceback (most recent call last):", caller, "    _check_if_gpu_supports_dtype(dtype)"]).cause is None


@pytest.mark.parametrize("where", ["__del__", "shutdown"])
def test_a_mistake_on_the_way_out_names_no_cause(where: str) -> None:
    out = ["Traceback (most recent call last):", frame("vllm/engine.py", where), "AttributeError: 'Engine' object has no attribute 'x'"]
    assert diagnose([HIT, RUN, "ValueError: unheard of", "", *out, END]).cause is None
    assert diagnose([HIT, RUN, "ValueError: fp77 quantization is not supported", "", *out, END]).cause == "unsupported_quantization"


def test_an_exception_of_a_request_names_no_cause() -> None:
    """The server serves; what a client asked for is not why it was killed later."""
    up = "[2025-09-02 09:00:00] The server is fired up and ready to roll!"
    served = '[2025-09-02 09:01:00] INFO:     127.0.0.1:1 - "POST /generate HTTP/1.1" 200 OK'
    asked = ["Exception in ASGI application", "Traceback (most recent call last):", "AttributeError: 'X' object has no attribute 'y'"]
    assert diagnose([up, served, *asked, served]).outcome == "ready"
    assert diagnose([up, served, *asked, served, "Killed"]).cause == "killed"


def test_programs_beside_the_server() -> None:
    """vllm#21226, sgl#4161, Kontxt#4, vllm#10102: a report, a client, another program, a job that only uses NCCL."""
    seen = "INFO 07-20 09:40:18 [__init__.py:239] Automatically detected platform cuda."
    report = [
        seen,
        "Traceback (most recent call last):",
        '  File "/w/collect_env.py", line 17, in <module>',
        frame("vllm/envs.py", "<module>"),
    ]
    client = ["Namespace(backend='sglang', port=8011)", "Traceback (most recent call last):", '  File "<frozen runpy>", line 8, in _run']
    other = ["Starting Frob MCP Server...", "Traceback (most recent call last):", frame("requests/models.py", "raise_for_status")]
    job = ["node7:30412:30412 [0] NCCL INFO Bootstrap : Using eth1:192.0.2.12<0>", "node7:30412:30412 [0] NCCL INFO Connected all rings"]
    for log in (report, client, other, job):
        assert diagnose(log).outcome == "undetermined", log
    assert diagnose(["(EngineCore pid=9) INFO 07-20 09:40:18 [parallel_state.py:1] x", *job]).outcome == "waiting"


def test_the_health_application_of_node_1_that_starts_twice() -> None:
    """Recorded (0.5.16, two nodes): told to stop, SGLang's node 1 starts it once more; that this fails is not why it ended."""
    log = [
        "[2026-11-23 17:20:00] server_args=ServerArgs(model_path='/m', tp_size=2, nnodes=2, node_rank=1)",
        "[2026-11-23 17:25:00 TP1] max_total_num_tokens=327840, context_len=32768",
        "[2026-11-23 17:29:45] INFO:     Waiting for application startup.",
        "[2026-11-23 17:29:45] ERROR:    Traceback (most recent call last):",
        frame("starlette/routing.py", "lifespan"),
        frame("sglang/srt/observability/func_timer.py", "enable_func_timer"),
        "prometheus_client.registry.DuplicateTimeseries: Duplicated timeseries in CollectorRegistry: {'sglang:func_latency_seconds'}",
        "",
        "[2026-11-23 17:29:45] ERROR:    Application startup failed. Exiting.",
    ]
    assert diagnose(log).outcome != "failed"
    assert diagnose([*log[:6], "ValueError: unheard of", log[-1]]).outcome == "failed"


def test_a_worker_of_v0_says_the_message_without_its_class() -> None:
    head = "(VllmWorkerProcess pid=15021) ERROR 08-06 20:44:07 multiproc_worker_utils.py:226] "
    says = "Exception in worker VllmWorkerProcess while processing method load_model: {}, Traceback (most recent call last):"
    cut = head + '  File "/x/site-packages/vllm/worker/worker.py", line 122, in load_model'
    got = diagnose([head + says.format("Weight input_size_per_partition = 7392 is not divisible by min_thread_k = 128."), cut])
    assert (got.outcome, got.cause) == ("failed", "tensor_parallel_not_divisible")
    assert diagnose([head + says.format("unheard of"), cut]).cause is None
