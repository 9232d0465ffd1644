"""Shapes met in public logs and threads: a few decisive lines of each, names and paths replaced. The comment says where."""

from __future__ import annotations

import pytest

from pytest_h20.diagnosis import FatalWatch, diagnose

VLLM = "(APIServer pid=1) INFO 03-09 12:55:57 [api_server.py:1351] vLLM API server version 0.21.0"
VLLM_READY = "(APIServer pid=1) INFO:     Application startup complete."
VLLM_END = "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
CORE = "(EngineCore pid=9) ERROR 03-09 12:56:41 [core.py:1006] "
SGLANG = "[2025-09-02 09:00:01] server_args=ServerArgs(model_path='/m', tp_size=16, nnodes=2, node_rank=0)"
SGLANG_HIT = "[2025-09-02 09:05:00 TP3] Scheduler hit an exception: Traceback (most recent call last):"
SGLANG_END = "[2025-09-02 09:05:01] Received sigquit from a child process. It usually means the child failed."
DEAD = (
    "(APIServer pid=1) ERROR 03-09 15:00:00 [async_llm.py:704] vllm.v1.engine.exceptions.EngineDeadError: "
    "EngineCore encountered an issue. See stack trace (above) for the root cause."
)


def core(line: str) -> list[str]:
    return [VLLM, f"{CORE}EngineCore failed to start.", f"{CORE}Traceback (most recent call last):", CORE + line, VLLM_END]


def scheduler(line: str) -> list[str]:
    return [SGLANG, SGLANG_HIT, '  File "/x/sglang/srt/a.py", line 1, in f', line, "", SGLANG_END]


FAILED: list[tuple[str, list[str], str | None, str]] = [
    # name, lines, cause, beginning of the decisive line after its prefix
    (
        "vllm-project/vllm#49101: the engine's own all-reduce",
        [VLLM, "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'invalid argument'", VLLM_END],
        "custom_all_reduce_failed",
        "Failed: Cuda error",
    ),
    (
        "vllm-project/vllm#1771: /dev/shm",
        [VLLM, "Fatal Python error: Bus error", "", "Bus error (core dumped)"],
        "bus_error",
        "Fatal Python error: Bus error",
    ),
    (
        "sgl-project/sglang#16855: a proxy answers the warm-up; SGLang then kills itself",
        [
            SGLANG,
            "[2025-09-02 09:05:00] Initialization failed. warmup error: Traceback (most recent call last):",
            "AssertionError: res=<Response [502]>, res.text=''",
            "",
            "Killed",
        ],
        "warmup_failed",
        "AssertionError: res=<Response [502]>",
    ),
    (
        "sgl-project/sglang#8974: 'Killed' is the engine's own doing, the exception is what matters",
        [*scheduler("FrobnicationError: the frobnicator is loose"), "Killed"],
        None,
        "FrobnicationError",
    ),
    (
        "vllm-project/vllm#17770: Ray guesses (OOM, SIGSEGV); only the death is known",
        [
            *core("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."),
            f"{CORE}The actor is dead because its worker process has died. There are some potential root causes. (1) The "
            "process is killed by SIGKILL by OOM killer. (3) The worker is crashed unexpectedly due to SIGSEGV.",
        ],
        "ray_actor_died",
        "ray.exceptions.ActorDiedError",
    ),
    (
        "vllm-project/vllm#28199: the architecture is known, its code cannot be imported",
        [
            VLLM,
            "(APIServer pid=1) ERROR 03-09 12:56:00 [registry.py:548] ImportError: /x/_C.abi3.so: undefined symbol: _Z3mm",
            "(APIServer pid=1)   Value error, Model architectures ['X'] failed to be inspected. Please check the logs",
        ],
        "missing_shared_library",
        "ImportError: /x/_C.abi3.so",
    ),
    (
        "sgl-project/sglang#3836: the abort is how a watchdog ends the process",
        [
            SGLANG,
            "[rank5]:[E226 11:16:37.121 ProcessGroupNCCL.cpp:616] [Rank 5] Watchdog caught collective operation timeout: Work",
            "terminate called after throwing an instance of 'c10::DistBackendError'",
            "Fatal Python error: Aborted",
        ],
        "collective_timeout",
        "[rank5]:[E226",
    ),
    (
        "public log (SGLang on ROCm): 'nvcc not found' is a remark, the exception is not",
        [
            SGLANG,
            "Failed to get device capability: nvcc not found and PyTorch is not built with CUDA support.",
            *scheduler("KeyError: 'model.layers.0.mlp.experts.w2_qweight'")[1:],
        ],
        "weight_shape_mismatch",
        "KeyError: 'model.layers.0",
    ),
    (
        "the same with an exception that nobody knows: unknown stays unknown",
        [SGLANG, "torch warns: cannot open shared object file libfoo.so", *scheduler("ValueError: unheard of")[1:]],
        None,
        "ValueError: unheard of",
    ),
    (
        "public log (SGLang 0.5.13): the server's own address times out, nothing is downloaded",
        [
            *scheduler("RuntimeError: Error in function 'BatchPrefillWithPagedKVCacheDispatched' at /x/prefill.cuh:3215: Invalid"),
            "Traceback (most recent call last):",
            "urllib3.exceptions.ReadTimeoutError: HTTPConnectionPool(host='127.0.0.1', port=30000): Read timed out.",
        ],
        "kernel_rejected",
        "RuntimeError: Error in function",
    ),
    (
        "vLLM without a network: the name of the Hub, not of a node, cannot be resolved",
        [
            VLLM,
            "Traceback (most recent call last):",
            "urllib3.exceptions.NameResolutionError: <HTTPSConnection object>: Failed to resolve 'huggingface.co' ([Errno -3] "
            "Temporary failure in name resolution)",
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files.",
        ],
        "model_download_failed",
        "urllib3.exceptions.NameResolutionError",
    ),
    (
        "mattbucci/2x-3090: a compiler's exception that is quoted by its constructor",
        scheduler("ValueError(\"type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e5')\")"),
        "unsupported_quantization",
        'ValueError("type fp8e4nv',
    ),
    (
        "public log (0.17): the reason stands in the third line of the exception's message",
        [
            VLLM,
            "(APIServer pid=1) Traceback (most recent call last):",
            "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "(APIServer pid=1)   Value error, org/model You can inspect the repository content at https://hf.co/org/model.",
            "(APIServer pid=1) Please pass the argument `trust_remote_code=True` to allow custom code to be run. [type=value_error]",
        ],
        "trust_remote_code_required",
        "Please pass the argument",
    ),
    (
        "docker: the image wants a newer driver",
        ["nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver: unknown."],
        "driver_too_old",
        "nvidia-container-cli",
    ),
    (
        "public log (0.12): the batch system ends the job while weights are loaded",
        [
            VLLM,
            "Loading safetensors checkpoint shards:  69% Completed | 9/13 [00:50<00:19,  4.95s/it]",
            "slurmstepd: error: *** JOB 5930 ON node11 CANCELLED AT 2025-12-22T15:50:04 ***",
        ],
        "terminated_by_signal",
        "slurmstepd",
    ),
    (
        "public log (0.27): SIGTERM during the start",
        [VLLM, "(EngineCore pid=9) INFO 03-09 12:57:00 [core.py:1214] [shutdown] EngineCore: trigger received signal=SIGTERM"],
        "terminated_by_signal",
        "[shutdown] EngineCore: trigger",
    ),
    (
        "public log (0.27): SIGTERM while a request runs takes the engine away first",
        [
            VLLM,
            VLLM_READY,
            "(APIServer pid=1) INFO 03-09 15:00:00 [launcher.py:100] [shutdown] API server: shutdown triggered",
            '(APIServer pid=1) INFO:     10.0.0.9:52744 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error',
            DEAD,
        ],
        "terminated_by_signal",
        "[shutdown] API server: shutdown triggered",
    ),
    (
        "public log (0.13): an engine that dies of something unknown; the line is the exception, not its echo",
        [
            VLLM,
            VLLM_READY,
            f"{CORE}EngineCore encountered a fatal error.",
            f"{CORE}Traceback (most recent call last):",
            f"{CORE}KeyError: 'chatcmpl-17'",
            DEAD,
        ],
        "program_error",
        "KeyError: 'chatcmpl-17'",
    ),
    (
        "public log (0.12): an engine that is gone without a word",
        [
            VLLM,
            VLLM_READY,
            "(APIServer pid=1) ERROR 03-09 15:00:00 [core_client.py:600] Engine core proc EngineCore_DP0 died unexpectedly, "
            "shutting down client.",
            DEAD,
        ],
        "engine_core_died",
        "Engine core proc EngineCore_DP0 died unexpectedly",
    ),
    (
        "public log: the tail of a server that died answers its last request",
        [DEAD, '(APIServer pid=1) INFO:     10.0.0.1:1 - "POST /v1/chat/completions HTTP/1.1" 200 OK'],
        "engine_core_died",
        "vllm.v1.engine.exceptions.EngineDeadError",
    ),
    (
        "public log (0.16): sentencepiece without its vocabulary",
        [
            "INFO 03-01 17:37:31 [model.py:1745] Using max model len 4096",
            "Traceback (most recent call last):",
            "    return _sentencepiece.SentencePieceProcessor_LoadFromFile(self, arg)",
            "TypeError: not a string",
        ],
        "missing_tokenizer_vocabulary",
        "TypeError: not a string",
    ),
]


@pytest.mark.parametrize(("lines", "cause", "begins"), [f[1:] for f in FAILED], ids=[f[0] for f in FAILED])
def test_failures_of_public_logs(lines: list[str], cause: str | None, begins: str) -> None:
    diagnosis = diagnose(lines)
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", cause)
    assert begins in diagnosis.decisive_line


@pytest.mark.parametrize(
    "prefix",
    [
        "vllm-1  | ",  # docker compose
        "Aug 19 18:34:27 host vllm[8727]: ",  # journald (community-scripts/ProxmoxVED#2047)
        "(vllm-test, pid=2150) ",  # Ray Serve (flashinfer-ai/flashinfer#1532)
        "\x1b[36m(RayWorkerWrapper pid=10858, ip=10.0.0.2)\x1b[0m ",  # Ray
        "2026-02-03T08:11:01.123456789Z stderr F ",  # a CRI log of Kubernetes
    ],
)
def test_whoever_carried_the_line_does_not_hide_it(prefix: str) -> None:
    lines = [VLLM, "Traceback (most recent call last):", "RuntimeError: Could not find nvcc and default cuda_home does not exist"]
    diagnosis = diagnose([prefix + line for line in lines])
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", "jit_compile_failed")


@pytest.mark.parametrize(
    "line",
    [
        # a local folder is asked for at the Hub, and the start goes on (vLLM 0.10–0.16)
        "(APIServer pid=1) ERROR 03-09 18:43:55 [repo_utils.py:47] Error retrieving safetensors: Repo id must be in the form "
        "'repo_name' or 'namespace/repo_name': '/m'. Use `repo_type` argument if needed., retrying 1 of 2",
        # the second process of a host does not get the port of NCCL's RAS service
        "host:529525:535668 [0] ras/client_support.cc:160 NCCL WARN Call to bind failed: Address already in use",
        "Failed to get device capability: nvcc not found and PyTorch is not built with CUDA support.",
        "[2025-09-02 09:00:02 TP1] Failed to import amdsmi with ModuleNotFoundError(\"No module named 'amdsmi'\")",
        "[rank1]:[W1114 20:24:07.970 TCPStore.cpp:125] [c10d] recvValue failed on SocketImpl: failed to recv, got 0 bytes",
        "WARNING 03-19 00:20:58 [_custom_ops.py:21] Failed to import from vllm._C with ImportError('libcudart.so.12: cannot "
        "open shared object file: No such file or directory')",
        "(EngineCore pid=9) ERROR 07-31 16:03:33 [fa_utils.py:57] Cannot use FA version 2 is not supported due to FA2 is only "
        "supported on devices with compute capability >= 8",
    ],
)
def test_alarming_lines_of_starts_that_went_well(line: str) -> None:
    for first in (VLLM, SGLANG):
        watch = FatalWatch()
        assert [watch.feed(first), watch.feed(line), watch.settle()] == [None, None, None]
        assert diagnose([first, line]).outcome == "waiting"
    assert diagnose([VLLM, line, VLLM_READY, line]).outcome == "ready"


def test_an_ordered_stop_may_warn() -> None:
    stop = [
        "INFO 03-09 15:00:00 [launcher.py:80] Shutting down FastAPI HTTP server.",
        "[rank1]:[W1114 20:24:07.970 TCPStore.cpp:125] [c10d] recvValue failed on SocketImpl: failed to recv, got 0 bytes",
        "INFO:     Shutting down",
        "INFO:     Application shutdown complete.",
    ]
    assert diagnose([VLLM, VLLM_READY, *stop]).outcome == "ready"


def test_answers_prove_what_a_filter_took_away() -> None:
    """djangodevreng/dgx-spark-benchmarks: uvicorn's own lines are missing from the log."""
    announced = "(APIServer pid=1) INFO 05-05 08:53:12 [api_server.py:602] Starting vLLM server on http://0.0.0.0:8000"
    answer = '(APIServer pid=1) INFO:     172.17.0.1:59936 - "GET /v1/models HTTP/1.1" 200 OK'
    assert diagnose([VLLM, announced]).outcome == "waiting"
    assert diagnose([VLLM, answer]).outcome == "waiting", "whose answer is it?"
    assert diagnose([VLLM, announced, answer]).outcome == "ready"


def test_what_happens_within_a_stage_is_what_one_waits_for() -> None:
    """sgl-project/sglang#9867: DeepGEMM compiles within graph capture, and that is what takes 20 minutes."""
    capture = "[2025-07-01 10:10:00 TP{}] Capture cuda graph begin. This can take up to several minutes. avail mem=9.51 GB"
    compiling = "[2025-07-01 10:10:01 TP0] Entering DeepGEMM JIT Pre-Compile session. It may take a long time"
    assert diagnose([SGLANG, capture.format(0), compiling]).cause == "jit_kernel_build"
    both = diagnose([SGLANG, capture.format(0), capture.format(1)])
    assert (both.cause, both.decisive_line) == ("cuda_graph_capture", capture.format(0)), "the first rank tells since when"


TEXTS: list[tuple[str, str, str]] = [
    # the engine, its line (texts of vLLM 0.7–0.33, SGLang 0.4–0.5, torch, Ray and systemd), the cause
    (SGLANG, "AssertionError: tp_size must be divisible by number of nodes", "world_size_exceeds_gpus"),
    (VLLM, "OSError: It looks like the config file at '/m/config.json' is not a valid JSON file.", "missing_config"),
    (
        SGLANG,
        "FileNotFoundError: [Errno 2] No such file or directory: '/m/model-00005-of-00163.safetensors'",
        "missing_weight_shards",
    ),
    (
        VLLM,
        "OSError: Error no file named pytorch_model.bin, model.safetensors, tf_model.h5, model.ckpt.index found in directory /m.",
        "missing_weight_shards",
    ),
    (SGLANG, "ValueError: Not enough memory; please try to increase --mem-fraction-static.", "not_enough_memory_static"),
    (SGLANG, "AssertionError: Memory capacity is too small", "not_enough_memory_static"),
    (
        VLLM,
        "RuntimeError: [enforce fail at ../third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. "
        "Unable to find address for: eth9",
        "gloo_connect_failed",
    ),
    (VLLM, "RuntimeError: Did not receive response from front-end process within 5 minutes", "master_unreachable"),
    (
        SGLANG,
        "torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /default_pg/0//cuda//0",
        "peer_never_joined",
    ),
    (
        SGLANG,
        "torch.distributed.DistBackendError: [8] is setting up NCCL communicator and retrieving ncclUniqueId "
        "from [0] via c10d key-value store by store->get('0'), but store->get('0') got error: Socket Timeout",
        "peer_never_joined",
    ),
    (
        VLLM,
        "ValueError: The number of required GPUs exceeds the total number of available GPUs in the placement group.",
        "ray_not_enough_gpus",
    ),
    (
        VLLM,
        "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you "
        "must use the 'spawn' start method",
        "cuda_in_forked_process",
    ),
    (VLLM, "ray.exceptions.RaySystemError: System error: No module named 'vllm'", "missing_python_module"),
    (VLLM, "TimeoutError: Timed out waiting for engines to sendinitial message on input socket.", "engine_core_startup_timeout"),
    (
        VLLM,
        "ray.exceptions.RayChannelTimeoutError: System error: Timed out waiting for object available to read. ObjectID: 00",
        "execute_model_timeout",
    ),
    (
        SGLANG,
        "[2025-09-02 09:05:00] Rank 0 scheduler died during initialization (exit code: -9). If exit code is -"
        "9 (SIGKILL), a common cause is the OS OOM killer.",
        "scheduler_killed_oom",
    ),
    (
        SGLANG,
        "[2025-09-02 09:05:00] Rank 0 scheduler died during initialization (exit code: 1). If exit code is -9"
        " (SIGKILL), a common cause is the OS OOM killer.",
        "child_process_crashed",
    ),
    (VLLM, "double free or corruption (!prev)", "aborted"),
    (VLLM, "vllm.service: Main process exited, code=killed, status=9/KILL", "killed"),
    (
        VLLM,
        "ValueError: Total number of attention heads (28) must be divisible by tensor parallel size (16).",
        "tensor_parallel_not_divisible",
    ),
    (SGLANG, "RuntimeError: CUDA error: an illegal memory access was encountered", "illegal_memory_access"),
    (
        SGLANG,
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cublas_failure",
    ),
    (
        VLLM,
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before cal"
        "ling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized",
        "fabric_manager_not_running",
    ),
    (
        VLLM,
        "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroup"
        "NCCL.cpp:3690, remote process exited or there was a network error, NCCL version 2.27.5",
        "peer_node_gone",
    ),
    (VLLM, "pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found", "no_gpu_visible"),
    (
        VLLM,
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`",
        "no_gpu_visible",
    ),
    (VLLM, "ValueError: Invalid repository ID or local directory specified: 'deepseek'.", "model_not_found"),
    (VLLM, "OSError: [Errno 28] No space left on device", "disk_full"),
    (VLLM, "OSError: [Errno 24] Too many open files: '/m/model-00001-of-000163.safetensors'", "too_many_open_files"),
    (SGLANG, "RuntimeError: NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)", "nccl_invalid_usage"),
]


@pytest.mark.parametrize(("first", "line", "cause"), TEXTS, ids=[f"{t[2]}-{n}" for n, t in enumerate(TEXTS)])
def test_texts_of_engines_name_their_cause(first: str, line: str, cause: str) -> None:
    diagnosis = diagnose([first, "Traceback (most recent call last):", line])
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", cause)
