"""What people paste: a few lines, quoted, framed, wrapped, without the start, without the exception's own line. Met in public
threads after the corpus was made; the lines are re-told with other names. The thread stands behind each."""

from __future__ import annotations

import json

import pytest

from pytest_h20.diagnosis import FatalWatch, diagnose

SHARDS = "Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:09<00:00,  4.9s/it]"
BANNER = "INFO 04-18 14:08:52 [api_server.py:840] vLLM API server version 0.8.2"
APP_READY = "INFO:     Application startup complete."
UP = "INFO 04-18 14:12:52 [api_server.py:1088] Starting vLLM API server on http://0.0.0.0:8000"


# -- ready, and what looks like it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [[BANNER], []], ids=["whole", "tail"])
def test_another_application_is_up_while_vllm_loads(head: list[str]) -> None:
    """uvicorn's line is any FastAPI application's: a gateway in the same container says it while vLLM is at shard 2 of 2."""
    loading = [*head, "INFO 04-18 14:09:00 [weight_utils.py:265] Using model weights format ['*.safetensors']", SHARDS]
    gateway = ["INFO:     Started server process [7]", "INFO:     Waiting for application startup.", APP_READY]
    for log in (
        [*loading, *gateway],
        [*head, *gateway, *loading[len(head) :]],
        [*loading[:-1], *gateway, SHARDS],
        [*loading, *gateway, "INFO 04-18 14:09:20 [gpu_model_runner.py:1347] Model loading took 14.9 GiB and 9.8 seconds"],
    ):
        assert diagnose(log).outcome == "waiting", log
        watch = FatalWatch()
        for line in log:
            watch.feed(line)
        assert watch.diagnosis().outcome == "waiting"
    assert diagnose([*loading, *gateway, UP, APP_READY]).outcome == "ready"  # the look-alike: then vLLM's own


def test_another_service_of_the_same_compose_file() -> None:
    vllm = f"vllm-1     | {BANNER}"
    assert diagnose([vllm, f"gateway-1  | {APP_READY}"]).outcome == "waiting"
    assert diagnose([vllm, f"vllm-1     | {APP_READY}"]).outcome == "ready"


def test_another_process_than_the_api_server() -> None:
    banner = "(APIServer pid=41) INFO 03-09 12:55:57 [api_server.py:1351] vLLM API server version 0.21.0"
    assert diagnose([banner, "INFO:     Started server process [7]", APP_READY]).outcome == "waiting"
    assert diagnose([banner, "INFO:     Started server process [41]", APP_READY]).outcome == "ready"


def test_an_application_that_is_no_engine() -> None:
    log = ["Loading Phi-3 Mini...", "INFO:     Started server process [5]", APP_READY, "INFO:     Uvicorn running on http://127.0.0.1:8000"]
    assert diagnose(log).outcome == "undetermined"


SGLANG_POOL = "[2026-08-20 03:11:02 TP0] max_total_num_tokens=3228418, chunked_prefill_size=16384, context_len=262144"
FIRED = "[2026-08-20 03:11:05] The server is fired up and ready to roll!"


def test_sglang_excerpt_with_its_ready_line() -> None:
    assert diagnose([SGLANG_POOL, FIRED]).outcome == "ready"
    assert diagnose([FIRED]).outcome != "ready"  # nothing shows whose port answered
    bind = "[2026-08-20 03:11:03] ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 30000): address already in use"
    assert diagnose([SGLANG_POOL, bind, FIRED]).cause == "port_in_use"


VLLM_21 = "(APIServer pid=1) INFO 03-09 12:55:57 [api_server.py:1351] vLLM API server version 0.21.0"
STOP = "(APIServer pid=1) INFO 03-09 15:00:00 [launcher.py:100] [shutdown] API server: shutdown triggered"
DEAD = "(APIServer pid=1) ERROR 03-09 15:00:00 [async_llm.py:704] vllm.v1.engine.exceptions.EngineDeadError: EngineCore"


def test_an_ordered_stop_may_lose_the_engine_first() -> None:  # vllm#48745
    assert diagnose([VLLM_21, f"(APIServer pid=1) {APP_READY}", STOP, DEAD]).outcome == "ready"
    journal = f"Aug 25 17:51:32 n1 vllm[44]: {DEAD}"
    stopped = ["Aug 25 17:51:32 n1 systemd[21]: Stopping vLLM (production)...", journal]
    assert diagnose([VLLM_21, f"(APIServer pid=1) {APP_READY}", *stopped]).outcome == "ready"
    torn = '(APIServer pid=1) INFO:     10.0.0.9:52744 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error'
    assert diagnose([VLLM_21, f"(APIServer pid=1) {APP_READY}", STOP, torn, DEAD]).cause == "terminated_by_signal"
    assert diagnose([VLLM_21, f"(APIServer pid=1) {APP_READY}", DEAD]).cause == "engine_core_died"  # nobody ordered it


# -- failures without the exception's own line -----------------------------------------------------------------------------

FRAME = '  File "/x/vllm/v1/executor/multiproc_executor.py", line 522, in worker_busy_loop'


@pytest.mark.parametrize(
    "log",
    [
        [
            "INFO 06-09 23:57:43 [__init__.py:190] Automatically detected platform cuda.",
            "Traceback (most recent call last):",
            '  File "runpy.py", line 196, in _run',
        ],
        [
            "(VllmWorker rank=2 pid=225) ERROR 06-26 23:10:17 [multiproc_executor.py:527] WorkerProc hit an exception.",
            "(VllmWorker rank=2 pid=225) ERROR 06-26 23:10:17 [multiproc_executor.py:527] Traceback (most recent call last):",
            f"(VllmWorker rank=2 pid=225) ERROR 06-26 23:10:17 [multiproc_executor.py:527] {FRAME}",
        ],
        [
            'INFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK',
            "(VllmWorker rank=0 pid=1) ERROR 01-04 17:21:04 multiproc_executor.py:401] WorkerProc hit an exception: %s",
            "(VllmWorker rank=0 pid=1) ERROR 01-04 17:21:04 multiproc_executor.py:401] Traceback (most recent call last):",
            f"(VllmWorker rank=0 pid=1) ERROR 01-04 17:21:04 multiproc_executor.py:401] {FRAME}",
        ],
        [
            f"Aug 17 18:42:18 n1 vllm[8052]: (APIServer pid=8052) {FRAME}",
            "Aug 17 18:42:18 n1 vllm[8052]: (APIServer pid=8052)     return await main",
        ],
    ],
    ids=["vllm start", "vllm#20170", "vllm PR 11737: it had served", "the middle of one, from the journal"],
)
def test_a_log_that_ends_inside_a_traceback_has_failed(log: list[str]) -> None:
    assert (diagnose(log).outcome, diagnose(log).cause) == ("failed", None)


def test_a_traceback_that_was_got_over_is_no_failure() -> None:
    log = [BANNER, "Traceback (most recent call last):", '  File "a.py", line 1, in f', "LookupError: no tracing here", SHARDS]
    assert diagnose(log).outcome == "waiting"
    served = [VLLM_21, f"(APIServer pid=1) {APP_READY}", "Traceback (most recent call last):", '  File "client.py", line 1, in f']
    assert diagnose(served).outcome == "ready"  # a request's traceback, still being printed


# -- causes ----------------------------------------------------------------------------------------------------------------

CAUSES = [
    (
        "vllm#6986",
        "2024-07-31T17:09:32.37+08:00 [rank0]: ValueError: Model architectures ['X'] are not supported for now.",
        "unsupported_model_architecture",
    ),
    (
        "GLM-4#608: nothing but the message",
        "Model architectures ['GlmForCausalLM'] are not supported for now.",
        "unsupported_model_architecture",
    ),
    ("gguf-plugin#114", "RuntimeError: Unknown gguf model_type: deepseek_v9", "unsupported_model_architecture"),
    (
        "vllm#40778: the GPU's architecture",
        "vllm  | (Worker_TP0 pid=4) ERROR 04-24 18:37:45 [multiproc_executor.py:971] RuntimeError: "
        "Assertion error (/w/deepgemm-src/csrc/apis/hyperconnection.hpp:56): Unsupported architecture",
        "compute_capability_too_low",
    ),
    (
        "sgl#748",
        "Initialization failed. warmup error: HTTPConnectionPool(host='0.0.0.0', port=30000): Max retries exceeded with url: "
        "/generate (Caused by NewConnectionError('...: [Errno 111] Connection refused'))",
        "warmup_failed",
    ),
    (
        "a launcher's health check with a URL",
        "TimeoutError: Server at http://10.0.0.1:30000/health did not become ready within 600 s",
        "startup_timeout",
    ),
    (
        "a launcher's health check with a URL",
        "ERROR: Health check of http://10.0.0.1:8000/v1/models timed out after 1800 s",
        "startup_timeout",
    ),
    ("a launcher's wait with a URL", "TimeoutError: Timed out waiting for http://10.0.0.1:8000/health", "startup_timeout"),
    (
        "sgl#10856",
        "[2025-09-24 05:49:34] Health check failed. Server couldn't get a response from detokenizer for last 20 seconds. "
        "tic start time: 05:49:14. last_heartbeat time: 05:42:53",
        "health_check_failed",
    ),
    ("DeepEP#289", "/w/nvshmem/src/modules/transport/ibrc/ibrc.cpp:418: non-zero status: 110 ibv_modify_qp failed", "nvshmem_failed"),
    (
        "sgl#6017",
        "/w/nvshmem/src/host/init/init.cu:nvshmemi_check_state_and_init:1080: nvshmem initialization failed, exiting",
        "nvshmem_failed",
    ),
    ("DeepEP#150", "aborting due to error in nvshmemi_init_thread", "nvshmem_failed"),
    (
        "Mooncake#2177",
        "[2026-05-21 16:41:11 TP7] Prefill transfer failed for request rank=7 with exception KVTransferError(bootstrap_room"
        "=6): Decode instance could be dead, remote mooncake session 10.0.0.3:16917 is not alive",
        "kv_transfer_failed",
    ),
    (
        "vllm PR 10884",
        "E1213 02:57:10.528410  5811 worker_pool.cpp:274] Worker: Process failed for slice (opcode: 0): transport retry counter exceeded",
        "kv_transfer_failed",
    ),
    ("sgl#6193", "[2025-05-13 11:04:18 TP0] Mooncake memory registration failed.", "kv_transfer_registration_failed"),
    ("DeepEP in SGLang", "RuntimeError: Failed: Assertion error /w/DeepEP/csrc/deep_ep.cpp:1105", "deepep_failed"),
    ("sglang PR 13948", "[sgl_kernel] CRITICAL: Could not load any common_ops library!", "missing_shared_library"),
    (
        "an extension of another system",
        "ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found",
        "missing_shared_library",
    ),
    (
        "vllm#1401",
        "RuntimeError: Timed out initializing process group in store based barrier on rank: 1, for key: k (world_size=2)",
        "peer_never_joined",
    ),
    (
        "vllm#14340, quoted",
        "> [E306 00:03:07.842961975 socket.cpp:1011] [c10d] The client socket has timed out after 60000ms while trying "
        "to connect to (10.0.0.12, 29400).",
        "master_unreachable",
    ),
    (
        "vllm#52907, found by grep",
        "node0.out:(Worker pid=2) ERROR 08-31 06:22:53 [multiproc_executor.py:944] torch.distributed."
        "DistStoreError: wait timeout after 1800000ms, keys: /default_pg/0",
        "peer_never_joined",
    ),
    (
        "Ray's second executor",
        "ERROR ... [ray_executor_v2.py:464] RayWorkerProc rank=[3] died unexpectedly, shutting down executor.",
        "worker_died",
    ),
    (
        "vllm#6976, framed",
        "│ ERROR 09-27 06:46:46 engine.py:157] RuntimeError: CUDA error: an illegal memory access was encountered   │",
        "illegal_memory_access",
    ),
    ("ROCm", "Memory access fault by GPU node-2 (Agent handle: 0x5) on address 0x7f000. Reason: Unknown.", "illegal_memory_access"),
    (
        "kernel of FlashInfer",
        "ValueError: Mismatched Tensor on argument #1 when calling: `f(x: Tensor([n0, 4096], bfloat16))`",
        "kernel_rejected",
    ),
    ("torch", "!!!!!!! Segfault encountered !!!!!!!", "segmentation_fault"),
    (
        "sgl#5602",
        "[rank6]:[E421 04:13:43.45 ProcessGroupGloo.cpp:143] Rank 6 successfully reached monitoredBarrier, but received errors "
        "while waiting for send/recv from rank 0. Please check rank 0 logs for faulty rank.",
        "peer_failed_to_load",
    ),
    ("an older GPU", "RuntimeError: SGLang only supports sm75 and above.", "compute_capability_too_low"),
    (
        "FP8 KV cache on Ampere",
        "RuntimeError: FlashAttention on Ampere/Ada cards only supports fp16 and bf16 data type",
        "unsupported_attention_backend",
    ),
    ("NIXL", "RuntimeError: NIXL_ERR_REMOTE_DISCONNECT", "kv_transfer_failed"),
    ("UCX", "UCX  ERROR   no active messages transport to n2: self/memory - Destination is unreachable", "kv_transfer_failed"),
    (
        "an upgraded driver",
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
        "driver_library_mismatch",
    ),
    ("an upgraded driver", "Failed to initialize NVML: Driver/library version mismatch", "driver_library_mismatch"),
    ("docker", 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].', "no_gpu_visible"),
    ("a dying GPU", "RuntimeError: CUDA error: uncorrectable ECC error encountered", "gpu_hardware_error"),
    ("a lost GPU", "NVRM: Xid (PCI:0000:5d:00): 79, pid=1, GPU has fallen off the bus.", "gpu_hardware_error"),
    ("torch.compile", "torch._dynamo.exc.BackendCompilerFailed: backend='<VllmBackend>' raised:", "torch_compile_failed"),
    (
        "its compiler",
        "torch._inductor.exc.InductorError: CalledProcessError: Command '['/usr/bin/gcc', '/tmp/main.c']' returned non-zero exit status 1.",
        "jit_compile_failed",
    ),
    (
        "another node's address",
        "OSError: [Errno 99] error while attempting to bind on address ('10.0.0.9', 8000): cannot assign requested address",
        "address_not_local",
    ),
    ("DeepEP", "DeepEP dispatch NVL receiver timeout, channel: 1, RDMA: 0, nvl: 3, src RDMA: 1", "deepep_failed"),
    ("DeepGEMM", "RuntimeError: Assertion error (/w/DeepGEMM/csrc/jit_kernels/x.hpp:22): m > 0", "kernel_rejected"),
    ("torch in /dev/shm", "RuntimeError: unable to write to file </torch_123_1>: No space left on device (28)", "shared_memory_too_small"),
    (
        "NCCL runs out of GPU memory: nccl#1235",
        "n1:9:9 [3] include/alloc.h:178 NCCL WARN Cuda failure 'out of memory'",
        "cuda_out_of_memory",
    ),
    ("torch's driver call", "RuntimeError: CUDA driver error: out of memory", "cuda_out_of_memory"),
    ("C++", "terminate called after throwing an instance of 'std::bad_alloc'", "host_out_of_memory"),
    (
        "a weight file that does not fit",
        "RuntimeError: unable to mmap 496 bytes from file </m/1.safetensors>: Cannot allocate memory (12)",
        "host_out_of_memory",
    ),
    (
        "vLLM 0.32 counts /dev/shm",
        "RuntimeError: Insufficient space in /dev/shm for x: 9 MiB required, 1 MiB free.",
        "shared_memory_too_small",
    ),
    (
        "a full disk is no damaged file",
        "safetensors_rust.SafetensorError: Error while serializing: IoError: No space left on device",
        "disk_full",
    ),
    (
        "a tensor's name: vllm#27138",
        "(Worker_TP0 pid=2) ERROR 10-18 03:20:36 [m.py:628] KeyError: 'blocks.0.attn.qkv.weight'",
        "weight_shape_mismatch",
    ),
    ("bare: vllm#11010", "ERROR 12-09 00:49:29 engine.py:366] 'layers.0.mlp.down_proj.weight.absmax'", "weight_shape_mismatch"),
    ("sgl#35743", "ValueError: Attention backend 'sage_attn' is not supported by this attention layer;", "unsupported_attention_backend"),
    (
        "vllm-omni#2170",
        "  Value error, No model architectures are specified [type=value_error, input_value=ArgsKwargs(())]",
        "missing_config",
    ),
    (
        "vllm#9624: it stands among the supported ones",
        "ValueError: Model architectures ['GemmaModel'] are not supported for now. Supported architectures: dict_keys(['A', 'GemmaModel'])",
        "model_inspection_failed",
    ),
    (
        "a name of a class in a package: vllm#3719",
        "huggingface_hub.utils._http.OfflineModeIsEnabled: Cannot reach https://huggingface.co/api/models/x: offline mode is enabled.",
        "model_download_failed",
    ),
    ("requests", "requests.exceptions.ConnectionError: (ProtocolError('Connection aborted.'), '(Request ID: 9)')", "model_download_failed"),
    ("httpx", "httpx.ConnectError: [Errno -3] Temporary failure in name resolution", "model_download_failed"),
    ("a name in lower case", "socket.gaierror: [Errno -2] Name or service not known", "hostname_unresolvable"),
    ("a shell", "mkdir: cannot create directory '/.cache': Permission denied", "permission_denied"),
    (
        "vllm#16514",
        "[parallel_state.py:1158] Error ignored: [unbound_buffer.cc:133] Timed out waiting 1800000ms for send operational complete",
        "gloo_recv_timeout",
    ),
    (
        "sgl#4205: wrapped",
        "Exception: Capture cuda graph failed: [/w/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:33",
        "peer_node_gone",
    ),
    ("vllm#13939", "CRITICAL 02-25 11:11:34 launcher.py:101] MQLLMEngine is already dead, terminating server process", "engine_core_died"),
    ("Triton's assembler: triton#8539", "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'", "triton_error"),
    ("shared memory of the GPU", "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 266240", "triton_error"),
    ("a linker", "/usr/bin/ld: cannot find -lcuda: No such file or directory", "jit_compile_failed"),
    ("no compiler", "RuntimeError: Failed to find C compiler. Please specify via CC environment variable", "jit_compile_failed"),
    ("torchvision of another build", "RuntimeError: operator torchvision::nms does not exist", "missing_shared_library"),
    (
        "only what torch adds: vllm#22793",
        "ERROR 08-12 14:37:42 [m.py:559] CUDA kernel errors might be asynchronously reported at some other API call",
        "cuda_error",
    ),
    ("the GPU's generation", "AssertionError: FlashMLA is only supported on Hopper devices.", "compute_capability_too_low"),
    (
        "vllm#27083",
        "(Worker pid=2) ERROR 10-16 17:22:56 [nixl_connector.py:827] Handshake failed for request chatcmpl",
        "kv_transfer_failed",
    ),
    (
        "LMCache#725",
        "[174.5] [n1:70 :0]  tcp_ep.c:1260 UCX  ERROR tcp_ep (state=CONNECTED): send(110) failed: Input/output error",
        "kv_transfer_failed",
    ),
    (
        "Mooncake's store: vllm PR 12957",
        "E0417 19:46:42.567034   481 store_py.cpp:191] Failed to mount segment: UNKNOWN_ERROR",
        "kv_transfer_failed",
    ),
    ("DeepEP", "deep_ep_cpp.EPException: Failed: CUDA error /DeepEP/csrc/kernels/runtime.cu:61", "deepep_failed"),
    (
        "vLLM 0.32",
        "ValueError: Cannot provide a placement group requiring 16 GPUs (placement_group_specs=[]) within 1800 seconds.",
        "ray_placement_group_timeout",
    ),
    ("Ray", "ConnectionError: ray.init() failed: Could not connect to GCS at 10.0.0.1:6379", "ray_cluster_not_found"),
    ("a collector's tag: worker-vllm#260", "duuu9mr[info]ModuleNotFoundError: No module named 'x'", "missing_python_module"),
    (
        "a colour that lost its escape",
        "ESC[1;36m(VllmWorker pid=168)ESC[0;0m ERROR 08-12 14:37:42 [m.py:559] RuntimeError: CUDA error: misaligned address",
        "cuda_error",
    ),
    ("no colour", "ERROR 01-02 03:04:05 [m.py:2] RuntimeError: CUDA error: misaligned address", "cuda_error"),
    ("a colour that lost it", " [36m(RayWorkerVllm pid=5) [0m RuntimeError: CUDA out of memory.", "cuda_out_of_memory"),
    ("vLLM's executor for Ray: vllm#31903", "ERROR 01-07 00:15:31 [worker_base.py:344] CUDA error: misaligned address", "cuda_error"),
    (
        "Ray's core: vllm#15385",
        "[2025-03-24 02:35:46,111 E 1234 1234] gcs_rpc_client.h:151: Failed to connect to GCS at address 10.0.0.40:6379 within 5 seconds.",
        "ray_cluster_not_found",
    ),
    (
        "Mooncake over TCP: sgl#10001",
        "E0904 07:15:26.3  5796 tcp_transport.cpp:172] Session::readBody failed. Error: End",
        "kv_transfer_failed",
    ),
    ("nvcc: ms-swift#8349", '7 errors detected in the compilation of "/root/.cache/flashinfer/0.6.4/90a/x.cu".', "jit_compile_failed"),
    ("a notebook: vllm#872", "OutOfMemoryError                          Tracebac", "cuda_out_of_memory"),
    (
        "an exception's repr, cut: LLaMA-LoRA-Tuner#6",
        "ValueError('Loading x requires you to execute the tokenizer file in that repo on your local machine. Make sure",
        "trust_remote_code_required",
    ),
    ("CUDA's own name alone", "Search for `cudaErrorIllegalAddress' in https://x.y/z.html for more information.", "illegal_memory_access"),
    ("and of an assert", "Search for `cudaErrorAssert' in https://x.y/z.html", "device_side_assert"),
    ("sgl PR 23181", "RuntimeError: Not enough memory to allocate KV cache.", "not_enough_memory_static"),
    ("InferenceX#2128", "ValueError: Loaded weights leave no GPU memory for the KV cache under --x=0.8", "not_enough_memory_static"),
    ("Mooncake's adapters", "E0115 05:20:19.945175   309 rdma_transport.cpp:662] RdmaTransport: No available RNIC", "kv_transfer_failed"),
    ("Mooncake's master", "E1111 08:02:15.854331   924 master_client.cpp:146] RPC call failed: Connection timed out", "kv_transfer_failed"),
    ("an exception in quotes", '"ValueError: No supported config format found in"', "missing_config"),
    ("Mistral's files", "OSError: Found 0 files matching x. Make sure that a Mistral tokenizer is present in ['a']", "missing_tokenizer"),
    (
        "advice as an error",
        "ValueError: With `vllm serve`, provide it in place, instead of via the `--model` option.",
        "invalid_argument_value",
    ),
    (
        "Transformers",
        "ValueError: Unrecognized configuration class <class 'x.GConfig'> for this kind of AutoModel",
        "unsupported_model_architecture",
    ),
    ("DeepGEMM's nvcc", "RuntimeError: Assertion error (/x/jit/compiler.hpp:187): major > 12", "jit_compile_failed"),
    (
        "another model's weights",
        "ValueError: There is no module or parameter named 'language_model.x' in Qwen3ForCausalLM",
        "weight_shape_mismatch",
    ),
]


@pytest.mark.parametrize(("line", "cause"), [row[1:] for row in CAUSES], ids=[f"{i} {row[0]}" for i, row in enumerate(CAUSES)])
def test_a_single_line_names_its_cause(line: str, cause: str) -> None:
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("failed", cause)


@pytest.mark.parametrize(
    "line",
    [
        "/w/nvshmem/src/host/transport/transport.cpp:nvshmemi_transport_init:275: init failed for transport: IBGDA",  # IBRC may do
        "I0513 11:04:17.478277  5507 rdma_context.cpp:125] RDMA device: mlx5_4, LID: 66, GID: (GID_Index 0) fe:80:00",
        "W0724 03:14:20.702893 104002 worker_pool.cpp:303] retrying",
        "INFO 04-18 14:09:00 [cuda.py:1] nvcc not found, using pre-built kernels",
        "WARNING [argparse_utils.py:257] With `vllm serve`, you should provide it in place, instead of via the `--model` option.",
        "E0620 17:20:15.656373   293 rdma_context.cpp:116] Failed to create completion queue: Cannot allocate [12]",  # one adapter
        "INFO: health check of http://10.0.0.1:8000/health passed after 12 s",
        "NVRM: Xid (PCI:0000:5d:00): 43, pid=1, Ch 00000008",  # an application's own fault
        "INFO 04-18 14:09:00 [decorators.py:203] torch._dynamo.config.recompile_limit is 8",
        "[rank0]:[W306 00:03:07.843593274 TCPStore.cpp:358] [c10d] TCP client failed to connect/validate to host n1:29400 - retrying",
    ],
)
def test_lines_that_only_look_like_it(line: str) -> None:
    assert diagnose([line]).outcome != "failed"
    assert diagnose([BANNER, line]).outcome == "waiting"


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: Unsupported kv_role: foo. Supported roles are kv_producer, kv_consumer",
        "  Value error, nnodes > 1 can only be set when distributed executor backend is mp, uni or external_launcher.",
        "AssertionError: --enable-hisparse is only supported for DSA (DeepSeek Sparse Attention) models",
        "ValueError: --dcp-size 3 must divide --tp-size 8.",
        "ValueError: Invalid data-parallel launch options: `--nnodes 2` requires `--data-parallel-backend mp`; got ray.",
        "ValueError: attention_backend and attention_config.backend are mutually exclusive",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig",
    ],
)
def test_an_option_that_the_engines_own_checks_refuse(line: str) -> None:
    """Read in vLLM 0.32 and SGLang 0.5.23: some thousand such sentences, each with its option in it."""
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("failed", "invalid_argument_value")


@pytest.mark.parametrize(
    "line",
    [
        "AssertionError: hidden_states must be contiguous",
        "RuntimeError: The size of tensor a (512) must match the size of tensor b (2048) at non-singleton dimension 1",
        "TypeError: __init__() got an unexpected keyword argument 'foo_bar'",
        "KeyError: 'layers'",
        "ray.exceptions.RayTaskError(RuntimeError): ray::RayWorkerWrapper.execute_method() (pid=3103, ip=10.0.0.1, actor_id=d3",
    ],
)
def test_an_exception_that_tells_no_cause_stays_unknown(line: str) -> None:
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("failed", None)


def test_what_looks_like_running_out_of_memory() -> None:
    """A hint of vLLM 0.6 in every start; and the error of the same words."""
    hint = "INFO 08-19 07:51:12 model_runner.py:1028] CUDA graphs can take 1~3 GiB memory per GPU. If you are running out of memory, x"
    log = [BANNER, hint, "ERROR 08-19 07:51:13 [core.py:396] EngineCore failed to start."]
    assert (diagnose(log).outcome, diagnose(log).cause) == ("failed", None)


def test_the_engine_that_could_not_look_at_the_model_names_what_is_missing() -> None:
    """vllm#9624: "not supported" is what vLLM makes of its own broken import."""
    head = "ERROR 10-23 23:20:26 registry.py:272] Error in inspecting model architecture 'LlamaForCausalLM'"
    end = "ValueError: Model architectures ['LlamaForCausalLM'] are not supported for now."
    missing = "ERROR 10-23 23:20:26 registry.py:272] ImportError: libcudart.so.12: cannot open shared object file"
    assert diagnose([head, end]).cause == "model_inspection_failed"
    assert diagnose([head, missing, end]).cause == "missing_shared_library"
    assert diagnose([end]).cause == "unsupported_model_architecture"


ROUTE = "INFO 03-21 20:19:24 [launcher.py:34] Route: /v1/models, Methods: GET"


def test_between_the_announcement_and_the_ready_line() -> None:
    for log in ([UP], [UP, ROUTE], [f"│ {ROUTE}      │"], [ROUTE, "INFO:     Started server process [12625]", "INFO:     Waitin"]):
        assert (diagnose(log).outcome, diagnose(log).cause) == ("waiting", "warmup"), log
    assert diagnose([ROUTE, APP_READY]).outcome == "ready"


def test_a_server_that_answered_and_then_ended_itself_is_not_ready() -> None:
    """vllm#13939: nothing but answers, and then the launcher's last word."""
    answer = 'INFO:     10.0.0.4:60994 - "POST /v1/chat/completions HTTP/1.0" 200 OK'
    metrics = "INFO 02-25 11:11:31 metrics.py:455] Avg prompt throughput: 2082.8 tokens/s, Running: 3 reqs"
    dead = "CRITICAL 02-25 11:11:34 launcher.py:101] MQLLMEngine is already dead, terminating server process"
    assert diagnose([metrics, answer]).outcome == "ready"
    assert (diagnose([metrics, answer, dead]).outcome, diagnose([metrics, answer, dead]).cause) == ("failed", "engine_core_died")


def test_what_nccl_says_while_it_fails_is_no_progress() -> None:
    """Recorded (2.28.9, NCCL_SOCKET_IFNAME=bond7): INFO lines follow the WARN that ended it."""
    warn = "[2026-11-27 07:54:32] node01:346:346 [0] bootstrap.cc:114 NCCL WARN Bootstrap : no socket interface found"
    closing = "node01:346:346 [0] NCCL INFO ENV/Plugin: Closing env plugin ncclEnvDefault"
    assert diagnose([warn, closing]).cause == "nccl_no_socket_interface"
    assert diagnose([warn, "node01:346:346 [0] NCCL INFO comm 0x1 rank 0 nranks 2 - Init COMPLETE"]).outcome == "undetermined"


def test_an_exception_whose_words_are_on_the_next_line() -> None:
    """Recorded (two H200): multiprocessing prints ``RuntimeError:`` and then what is wrong."""
    log = [
        BANNER,
        "Traceback (most recent call last):",
        "(APIServer pid=243) RuntimeError: ",
        "(APIServer pid=243)         An attempt has been made to start a new process before the",
    ]
    assert (diagnose(log).outcome, diagnose(log).cause) == ("failed", "no_main_guard")


def test_progress_after_a_mention_is_no_failure() -> None:
    """The end of a longer log: an error was got over, for loading goes on."""
    late = "[E306 00:03:07.84 socket.cpp:1011] [c10d] The client socket has timed out after 60000ms while trying to connect to (a, 1)."
    assert diagnose([late, SHARDS]).outcome == "waiting"
    assert diagnose([late]).outcome == "failed"


def test_the_error_inside_a_wrapper_is_the_cause() -> None:
    """SGLang wraps whatever breaks a graph capture, torch whatever a kernel left behind."""
    ninja = "Exception: Capture cuda graph failed: Ninja build failed."
    access = ["RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered", "  -> Exception: Capture cuda graph failed"]
    assert diagnose([ninja]).cause == "jit_compile_failed"
    assert diagnose(access).cause == "illegal_memory_access"
    assert diagnose(["Exception: Capture cuda graph failed: no reason given"]).cause == "cuda_graph_capture_failed"


@pytest.mark.parametrize("error", ["CUDA error: invalid resource handle", "CUDA error (/w/a.cu:7): invalid resource handle"])
def test_an_invalid_handle_comes_before_the_illegal_access_it_leads_to(error: str) -> None:
    log = [
        f"[2026-01-01 10:00:00 TP1] Scheduler hit an exception: RuntimeError: {error}",
        f"RuntimeError: {error}",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
    ]
    assert diagnose(log).cause == "invalid_resource_handle"


WIDE = "(VllmWorker rank=3 pid=226) ERROR 06-26 23:10:17 [multiproc_executor.py:527] "


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("RuntimeError: CUDA out of mem", "ory. Tried to allocate 1.50 GiB."),
        ("[Rank 1] Watchdog caught collective operation ti", "meout: WorkNCCL(SeqNum=16487777, OpType=ALLREDUCE)"),
        ("RuntimeError: Engine core initialization fai", "led. See root cause above."),
    ],
)
def test_a_terminal_breaks_inside_words(head: str, rest: str) -> None:
    whole, broken = diagnose([BANNER, WIDE + head + rest]), diagnose([BANNER, WIDE + head, rest])
    assert (broken.outcome, broken.cause) == (whole.outcome, whole.cause)
    assert whole.outcome == "failed"
    assert diagnose([BANNER, WIDE + head, "  " + rest]).cause is None  # an indented line is a line of its own


FAILED_START = [
    BANNER,
    "INFO 04-18 14:09:00 [weight_utils.py:265] Using model weights format ['*.safetensors']",
    "ERROR 04-18 14:09:30 [core.py:390] EngineCore failed to start.",
    "ERROR 04-18 14:09:30 [core.py:390] Traceback (most recent call last):",
    'ERROR 04-18 14:09:30 [core.py:390]   File "/x/vllm/v1/engine/core.py", line 84, in __init__',
    "ERROR 04-18 14:09:30 [core.py:390]     self._initialize_kv_caches(vllm_config)",
    "ERROR 04-18 14:09:30 [core.py:390] ValueError: No available memory for the cache blocks. Try increasing it.",
]
BARE_FAILURE = [
    "Traceback (most recent call last):",
    '  File "a.py", line 1, in f',
    "    g()",
    "huggingface_hub.x.OfflineModeIsEnabled: Cannot reach https://h",
]
CUT_FAILURE = [
    SHARDS,
    "Traceback (most recent call last):",
    '  File "/x/vllm/a.py", line 1, in f',
    "    self.run()",
    "    ^^^^^^^^^^",
    '  File "/x/vllm/b.py", line 2, in g',
    "    h(x)",
]
CARRIERS = {
    "kubectl --timestamps": "2026-02-03T08:11:01.123456789Z ",
    "kubectl --prefix": "[pod/vllm-0/vllm] ",
    "stern": "vllm-7b94f88dfd-dxs9c vllm ",
    "pdsh": "node01: ",
    "srun -l": "0: ",
    "cat -n": "    12  ",
    "an editor's numbers": " 404 ",
    "a process number": "[1234] ",
    "a list": "- ",
    "quoted twice": "> > ",
    "an indented block": "    ",
    "loguru": "2026-11-28 04:00:00.123 | ",
    "docker compose": "server-1  | ",
    "a collector": "duuu9mr59[info]",
}


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS)
def test_who_carried_the_lines_does_not_matter(carrier: str) -> None:
    for log, said in (
        (FAILED_START, ("failed", "no_memory_for_kv_cache")),
        (BARE_FAILURE, ("failed", "model_download_failed")),
        (CUT_FAILURE, ("failed", None)),
        ([BANNER, SHARDS], ("waiting", "weights_loading")),
        ([BANNER, UP, APP_READY], ("ready", None)),
    ):
        for blank in ([], [carrier.rstrip()]):
            got = diagnose("\n".join([*(carrier + line for line in log), *blank]))
            assert (got.outcome, got.cause) == said, (carrier, log)


@pytest.mark.parametrize("width", [70, 97, 118])
def test_a_hard_wrapped_paste(width: int) -> None:
    """Broken every so many characters, at blanks too, and over more than two lines."""
    text = "ValueError: Free memory on device cuda:0 (137.17/139.8 GiB) on startup is less than desired GPU memory utilization (0.999)."
    line = f"(EngineCore pid=2834) ERROR 11-23 18:09:03 [core.py:1231] {text}"
    wrapped = [line[i : i + width] for i in range(0, len(line), width)]
    assert (diagnose([BANNER, *wrapped]).outcome, diagnose([BANNER, *wrapped]).cause) == ("failed", "gpu_memory_occupied")


@pytest.mark.parametrize("level", ["ERROR 03-02 19:49:43 [m.py:242] ", ""])
def test_a_traceback_that_lost_its_indentation(level: str) -> None:
    """vllm#14095: a web page removed the blanks at the beginning of the lines. Its source lines are no words of the engine."""
    log = [
        'File "/x/vllm/a.py", line 237, in init',
        'raise TimeoutError("Server failed to start within the timeout period.")',
        "^^^^^^^^^^",
    ]
    assert (diagnose([level + line for line in log]).outcome, diagnose([level + line for line in log]).cause) == ("failed", None)


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=3) DEBUG 09-02 17:29:06 [utils.py:777] Waiting for 1 local, 0 remote core engine proc(s) to start.",
        "(VllmWorkerProcess pid=2) INFO 06-17 20:29:56 [cuda.py:336] Using Flash Attention backend.",
        "INFO 06-24 02:48:48 llm_engine.py:100] Initializing an LLM engine (v0.4.2) with config: model='/m'",
        "(APIServer pid=2) INFO 12-29 15:20:55 [model.py:514] Resolved architecture: DeepseekV32ForCausalLM",
    ],
)
def test_a_single_line_of_a_start(line: str) -> None:
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("waiting", "engine_starting")


def test_what_is_written_behind_a_progress_bar() -> None:
    """sgl#23763: one rank's bar, and on the same line what another rank says."""
    bar = "DeepGEMM warmup:  30%|███▌     | 4965/16384 [00:00<00:00, 24891.75it/s]"
    assert diagnose(bar).outcome == "waiting"
    assert diagnose(f"{bar}[2026-05-20 02:29:31 TP3] Scheduler hit an exception: Tra").outcome == "failed"


@pytest.mark.parametrize("carrier", ["[VLLM LOG] ", "(AsyncEngine pid=89) "])
def test_a_log_that_ends_inside_a_tag(carrier: str) -> None:
    """auto-round#1464, SkyRL#284: the last line is cut in the middle of the process's name, behind a frame."""
    frame = f'{carrier}(Worker_TP3 pid=51)   File "/x/vllm/model_executor/models/utils.py", line 344, in load_weights'
    got = diagnose([frame, f"{carrier}(Worker_TP3 pid=51)     loaded = load(weights)", f"{carrier}(Wor"])
    assert (got.outcome, got.cause) == ("failed", None)


@pytest.mark.parametrize(
    ("log", "outcome"),
    [
        (
            ['(W pid=7) ERROR 07-31 08:44:05 [m.py:594]   File "/mnt/vast/vl', 'lm/v1/sampler.py", line 294, in sample', "(W pid=7"],
            "failed",
        ),
        (
            ["Traceback (most recent call last):", '  File "/opt/vllm/v1/engine/core.py", line 7, in f', '  File "/usr/lib/contextli'],
            "failed",
        ),
        # the look-alike: neither an engine nor an exception, so it may be any program
        (["2026-11-28T04:00:00Z Traceback (most recent call last):", '2026-11-28T04:00:00Z   File "/usr/lib/contextli'], "undetermined"),
    ],
)
def test_a_frame_that_was_broken_or_cut(log: list[str], outcome: str) -> None:
    assert (diagnose(log).outcome, diagnose(log).cause) == (outcome, None)


@pytest.mark.parametrize(
    "line",
    [
        "[2025-03-07 21:49:33 TP13] Decode out of memory happened. #retracted_reqs: 1, #new_token_ratio: 0.1474 -> 0.1845",  # sgl#4184
        '(APIServer pid=9) INFO:     127.0.0.1:61522 - "POST /v1/audio/transcriptions HTTP/1.1" 200 OK',
    ],
)
def test_lines_of_a_server_at_work(line: str) -> None:
    assert diagnose([line]).outcome == "ready"
    assert diagnose([BANNER, line]).outcome == "waiting"


def test_batches_and_throughput_show_that_it_serves() -> None:
    """sgl#1270: nothing but "Decode batch". SGLang's own first request is shorter; a start that is marked needs its ready line."""
    batch = "[04:40:55 TP0] Decode batch. #running-req: 2, #token: 4078, token usage: 0.00, gen throughput (token/s): 447.31, #queue-req: 0"
    metrics = "INFO 07-04 04:42:09 [loggers.py:273] Engine 000: Avg prompt throughput: 5.0 tokens/s, Running: 1 reqs"
    server = "[2026-01-01 10:00:00] server_args=ServerArgs(model_path='/m', node_rank=0)"
    assert diagnose([batch]).outcome == "ready"
    assert diagnose([metrics]).outcome == "ready"
    assert diagnose([server, batch]).outcome == "waiting"
    assert diagnose([BANNER, metrics]).outcome == "waiting"
    assert (
        diagnose([batch, "[2026-01-01 10:00:00 TP1] Scheduler hit an exception: RuntimeError: CUDA error: misaligned address"]).cause
        == "cuda_error"
    )


def test_sglang_known_by_a_later_line() -> None:
    """The engine may become known only after the line that counts (sgl#2193: vLLM's loader speaks first)."""
    log = [
        "INFO 11-26 14:23:34 weight_utils.py:243] Using model weights format ['*.safetensors']",
        "[2024-11-26 14:25:58] Initialization failed. warmup error: Traceback (most recent call last):",
        '  File "/x/sglang/srt/server.py", line 579, in _wait_and_warmup',
    ]
    assert diagnose(log).cause == "warmup_failed"


# -- families met in odd-numbered threads: wrappers, launchers, kernels, the last word ---------------------------------------

FAMILIES = [
    # Ray guesses what may have killed a worker (verl#4921): none of it was seen
    (
        "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Some common causes include: (1) the "
        "process was killed by the OOM killer, (2) ray stop --force was called, or (3) the worker crashed due to SIGSEGV",
        "failed",
        "ray_actor_died",
    ),
    # a worker of a serving engine that somebody ended (vllm#15295)
    (
        'INFO:     127.0.0.1:51066 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
        "ERROR 03-21 09:12:40 [multiproc_worker_utils.py:120] Worker VllmWorkerProcess pid 412 died, exit code: -15",
        "failed",
        "terminated_by_signal",
    ),
    ("    State:  Waiting\n      Reason:  CrashLoopBackOff\n    Last State:  Terminated\n      Reason:  OOMKilled", "failed", "killed"),
    ("  Normal  Killing  2m  kubelet  Container vllm failed startup probe, will be restarted", "failed", "startup_timeout"),
    ("[123456.7] Memory cgroup out of memory: Killed process 22411 (python3) total-vm:5123kB", "failed", "host_out_of_memory"),
    ('{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause."}}', "failed", "engine_core_died"),
    (
        "vllm serve: error: argument --speculative-config: Value {method: mtp} cannot be converted to <f>.",
        "failed",
        "invalid_argument_value",
    ),
    (
        "RuntimeError: Data processing error: CAS service error : ReqwestMiddleware Error",
        "failed",
        "model_download_failed",
    ),  # torchforge#109
    ("RuntimeError: Mooncake Transfer Engine Return Error.", "failed", "kv_transfer_failed"),
    (
        "Some Ray subprocesses exited unexpectedly:\nraylet [exit code=1]\nRemaining processes will be killed.",
        "failed",
        "ray_worker_not_registered",
    ),
    ("sh: 1: Leader_Node_Address: not found\nError: Missing argument --ray_address", "failed", None),  # kthena#487: the last word
    ("dependency failed to start: container vllm-service exited (1)", "failed", None),
    # who starts the engine waits for it (ray#52499, sgl#4208): it has said nothing
    ("Waiting for vLLM server to be ready...\ncurl: (7) Failed to connect to localhost port 8000", "waiting", "engine_starting"),
    (
        "[Router (Rust)] - INFO - Worker http://0.0.0.0:31000 health check is pending with error: error sending",
        "waiting",
        "engine_starting",
    ),
]


@pytest.mark.parametrize(("log", "outcome", "cause"), FAMILIES, ids=[str(i) for i in range(len(FAMILIES))])
def test_a_family_not_a_wording(log: str, outcome: str, cause: str | None) -> None:
    assert (diagnose(log).outcome, diagnose(log).cause) == (outcome, cause)


def test_a_last_word_that_something_follows_is_no_end() -> None:
    assert diagnose(f"Error: no such theme\n{SHARDS}").outcome == "waiting"
    assert diagnose('Error: no such theme\nINFO:     127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK').outcome == "ready"
    assert diagnose("Waiting for vLLM server to be ready...\ntorch.OutOfMemoryError: CUDA out of memory.").cause == "cuda_out_of_memory"


CLOSING = [
    "(APIServer pid=1) INFO 08-14 09:10:22 [launcher.py:149] [shutdown] API server: shutting down FastAPI HTTP server",
    "(APIServer pid=1) INFO:     Shutting down",
    "(APIServer pid=1) INFO:     Application shutdown complete.",
    "/usr/lib/python3.12/multiprocessing/resource_tracker.py:279: UserWarning: resource_tracker: There appear to be 2 leaked",
]


def test_the_end_of_an_ordered_stop() -> None:
    """Nothing went wrong, and whether it had come up is not in it: only a server that had says so much about its end."""
    assert (diagnose(CLOSING).outcome, diagnose(CLOSING).explanation) == ("undetermined", "it served, and was told to stop")
    assert diagnose([SHARDS, *CLOSING]).outcome != "undetermined"  # a start that somebody stopped
    assert diagnose(["torch.OutOfMemoryError: CUDA out of memory.", *CLOSING]).cause == "cuda_out_of_memory"


def test_a_report_about_a_machine_is_no_start() -> None:
    head = "WARNING 11-08 09:02:31 _custom_ops.py:19] Failed to import from vllm._C with ModuleNotFoundError(\"No module named 'vllm._C'\")"
    assert diagnose(["Collecting environment information...", head, "Is debug build: False"]).outcome == "undetermined"


def test_lines_in_objects() -> None:
    """Docker's json-file and collectors put a line into an object."""
    log = [BANNER, "torch.OutOfMemoryError: CUDA out of memory."]
    packed = [json.dumps({"log": f"{line}\n", "stream": "stderr", "time": "2026-01-01T00:00:00Z"}) for line in log]
    assert diagnose(packed).cause == "cuda_out_of_memory"
    assert diagnose([json.dumps({"levelname": "WARNING", "message": log[1]})]).outcome == "undetermined"  # warned about
