"""Each known failure whose log text is known, inside a start that shows it: the primary cause must be named."""

from __future__ import annotations

import pytest

from pytest_h20.diagnosis import BY_ID, SIGNATURES, FatalWatch, diagnose

VLLM = "INFO 04-18 14:08:52 [api_server.py:840] vLLM API server version 0.8.2\n"
VLLM_TAIL = (
    'Traceback (most recent call last):\n  File "/x/vllm/entrypoints/openai/api_server.py", line 1, in run_server\n'
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)
SGLANG = "[2025-04-05 10:00:00] server_args=ServerArgs(model_path='/mnt/models/DeepSeek-R1', node_rank=0)\n"
SGLANG_HEAD = (
    '[2025-04-05 10:05:00 TP3] Scheduler hit an exception: Traceback (most recent call last):\n  File "/x/sglang/srt/a.py", line 1, in f\n'
)
SGLANG_TAIL = "\n[2025-04-05 10:05:01] Received sigquit from a child process. It usually means the child failed.\n"


def vllm(line: str) -> str:
    return (
        f"{VLLM}ERROR 04-18 14:09:00 [core.py:390] Traceback (most recent call last):\nERROR 04-18 "
        f"14:09:00 [core.py:390] {line}\n{VLLM_TAIL}"
    )


def sglang(line: str) -> str:
    return f"{SGLANG}{SGLANG_HEAD}{line}{SGLANG_TAIL}"


IN_SAME_NODE = (
    '  File "/x/vllm/distributed/parallel_state.py", line 1, in in_the_same_node_as\n'
    "ERROR 04-18 14:09:00 [core.py:390] RuntimeError: Application timeout caused pair closure: "
    "Timed out waiting 1800000ms for recv operation to complete"
)

FAILURES = [
    (
        "F01",
        vllm("RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error"),
        "gloo_connect_failed",
    ),
    ("F04", sglang("AssertionError: please provide --dist-init-addr as host:port of head node"), "dist_init_addr_missing"),
    (
        "F06",
        vllm("ValueError: Cannot provide a placement group of placement_group_specs=[{'GPU': 1.0}] within 1800 seconds."),
        "ray_placement_group_timeout",
    ),
    (
        "F06 address",
        "(autoscaler +13s) Error: No available node types can fulfill resource request "
        "{'node:10.0.0.9': 0.001, 'GPU': 1.0}.\n"
        + vllm("ValueError: Cannot provide a placement group of placement_group_specs=[] within 1800 seconds."),
        "ray_node_ip_mismatch",
    ),
    (
        "F07",
        vllm(
            "RuntimeError: Every node should have a unique IP address. Got 2 nodes with node ids ['a', "
            "'b'] and 1 unique IP addresses {'x'}."
        ),
        "ray_duplicate_node_ip",
    ),
    (
        "F08",
        vllm("RuntimeError: Ray does not allocate any GPUs on the driver node. Consider adjusting the Ray placement group"),
        "ray_driver_has_no_gpu",
    ),
    (
        "F09",
        "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.43.0\n    Python: 3.12.9\n",
        "ray_version_mismatch",
    ),
    (
        "F10",
        vllm("ConnectionError: Could not find any running Ray instance. Please specify the one to connect to"),
        "ray_cluster_not_found",
    ),
    (
        "F11",
        f"{SGLANG}[2025-04-05 10:09:00] ERROR:    [Errno 98] error while attempting to bind on "
        f"address ('0.0.0.0', 8000): address already in use\n",
        "port_in_use",
    ),
    (
        "F12",
        sglang(
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local "
            "network address. port: 29500, "
            "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
        ),
        "port_in_use",
    ),
    (
        "F13",
        vllm(
            "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while "
            "trying to connect to (172.17.0.9, 46229)."
        ),
        "master_unreachable",
    ),
    (
        "F14",
        vllm("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/4 clients joined."),
        "peer_never_joined",
    ),
    ("F16", vllm(IN_SAME_NODE).replace("0.8.2", "0.28.0"), "mnnvl_custom_all_reduce_hang"),
    ("F16 elsewhere", vllm(IN_SAME_NODE), "gloo_recv_timeout"),
    (
        "F17",
        vllm("RuntimeError: [/pytorch/gloo/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"),
        "gloo_recv_timeout",
    ),
    (
        "F19",
        VLLM + "INFO:     Application startup complete.\n(EngineCore pid=1) INFO 04-18 15:00:00 "
        "[shm_broadcast.py:1] No available shared memory broadcast block found in 60 seconds.\n"
        "(EngineCore pid=1) ERROR 04-18 15:05:00 [core.py:1] TimeoutError: RPC call to sample_tokens timed out.\n"
        "(APIServer pid=2) ERROR 04-18 15:05:00 [async_llm.py:1] "
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n",
        "execute_model_timeout",
    ),
    (
        "F20 old",
        vllm("ValueError: Tensor parallel size (16) cannot be larger than the number of available GPUs (8)."),
        "world_size_exceeds_gpus",
    ),
    (
        "F20 new",
        vllm("  Value error, World size (16) is larger than the number of available GPUs (8) in this node."),
        "world_size_exceeds_gpus",
    ),
    (
        "F21",
        vllm(
            "ValueError: Failed to import Ray: ModuleNotFoundError(\"No module named 'ray'\"). Please install Ray with `pip install ray`."
        ),
        "ray_not_installed",
    ),
    (
        "F22",
        "usage: api_server.py [-h] [--host HOST]\napi_server.py: error: unrecognized arguments: --enable-reasoning\n",
        "unrecognized_arguments",
    ),
    (
        "F22 bool",
        "usage: api_server.py [-h]\napi_server.py: error: argument "
        "--enable-chunked-prefill/--no-enable-chunked-prefill: ignored explicit argument 'False'\n",
        "boolean_flag_form",
    ),
    ("F23", vllm("ray.exceptions.RayActorError: The actor died unexpectedly before finishing this task."), "ray_actor_died"),
    (
        "F24",
        "node01:1:1 [0] NCCL INFO NET/IB : No device found.\nnode01:1:1 [0] plugin/net.cc:379 NCCL "
        "WARN Failed to initialize any NET plugin\n"
        + sglang("torch.distributed.DistBackendError: NCCL error in: /pytorch/NCCLUtils.cpp:93, invalid usage"),
        "ib_no_device",
    ),
    (
        "F27",
        "node01:1:1 [0] misc/ibvwrap.cc:252 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory\n"
        + vllm("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"),
        "ib_memory_registration_failed",
    ),
    (
        "F28",
        "node01:1:1 [0] transport/net_ib.cc:1296 NCCL WARN NET/IB : Got completion from peer "
        "10.0.0.2<1> with error 12, opcode 0, len 0, vendor err 129\n"
        + sglang("RuntimeError: NCCL error: remote process exited or there was a network error"),
        "ib_completion_error",
    ),
    (
        "F29",
        "node01:1:1 [0] misc/ibvwrap.cc:308 NCCL WARN Call to ibv_modify_qp failed with error "
        "Connection timed out errno 110\n" + sglang("RuntimeError: NCCL error: unhandled system error"),
        "ib_modify_qp_failed",
    ),
    (
        "F32",
        "n:1:1 [0] plugin/net.cc:379 NCCL WARN Failed to initialize any NET plugin\n" + vllm("RuntimeError: NCCL error: invalid usage"),
        "nccl_no_net_plugin",
    ),
    (
        "F33",
        "n:1:1 [0] transport/nvls.cc:1 NCCL WARN Failed to bind NVLink SHARP (NVLS) Multicast "
        "memory of size 2097152 : CUDA error 401\n" + vllm("RuntimeError: NCCL error: unhandled cuda error"),
        "nvls_multicast_failed",
    ),
    (
        "F34",
        "n:1:1 [0] misc/shmutils.cc:72 NCCL WARN Error: failed to extend /dev/shm/nccl-xyz to 9637892 bytes\n"
        "n:1:1 [0] misc/shmutils.cc:110 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-xyz (size 9637888)\n"
        + vllm("RuntimeError: NCCL error: unhandled system error"),
        "shared_memory_too_small",
    ),
    (
        "F35",
        "n:1:1 [0] NCCL WARN Error while attaching to shared memory segment /dev/shm/nccl-abc (size "
        "0), error: No such file or directory (2)\n" + vllm("RuntimeError: NCCL error: unhandled system error"),
        "shared_memory_vanished",
    ),
    (
        "F36",
        vllm("RuntimeError: NCCL Error 1: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
        "nccl_unhandled_cuda_error",
    ),
    (
        "F37",
        f"{SGLANG}[rank3]:[E405 10:20:00 ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught "
        f"collective operation timeout: "
        "WorkNCCL(SeqNum=2, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for "
        "600041 milliseconds\n",
        "collective_timeout",
    ),
    ("F42", f"{SGLANG}Floating point exception (core dumped)\n", "floating_point_exception"),
    ("F43", vllm("RuntimeError: The NVIDIA driver on your system is too old (found version 12020)."), "driver_too_old"),
    (
        "F44",
        vllm(
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has "
            "unsupported display driver / cuda driver combination"
        ),
        "cuda_driver_mismatch",
    ),
    ("F45", vllm("RuntimeError: Error 804: forward compatibility was attempted on non supported HW"), "driver_too_old"),
    (
        "F46",
        vllm("FileNotFoundError: Weight files referenced in index but missing: {'/m/model-00159-of-000163.safetensors'}"),
        "missing_weight_shards",
    ),
    (
        "F46 sgl",
        sglang("ValueError: model.safetensors.index.json references 5 shard file(s) missing from /m"),
        "missing_weight_shards",
    ),
    (
        "F47",
        sglang("safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"),
        "corrupt_safetensors",
    ),
    (
        "F49",
        vllm("OSError: /mnt/models/DeepSeek-R1 does not appear to have a file named configuration_deepseek.py. Checkout"),
        "missing_model_code",
    ),
    (
        "F50",
        vllm("TimeoutError: Timed out waiting for engine core processes to start. This is often caused by slow weight loading"),
        "engine_core_startup_timeout",
    ),
    ("F52", sglang("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."), "not_enough_memory_static"),
    (
        "F53",
        vllm(
            "ValueError: To serve at least one request with the models's max seq len (65536), (4.29 GiB "
            "KV cache is needed, which is larger "
            "than the available KV cache memory (1.0 GiB)."
        ),
        "no_memory_for_kv_cache",
    ),
    (
        "F54",
        vllm("ValueError: Free memory on device (13.45/95.6 GiB) on startup is less than desired GPU memory utilization (0.9, 86 GiB)."),
        "gpu_memory_occupied",
    ),
    (
        "F55",
        sglang("ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes."),
        "memory_capacity_unbalanced",
    ),
    (
        "F56",
        sglang("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 7 has a total capacity of 95.00 GiB"),
        "cuda_out_of_memory",
    ),
    (
        "F57",
        sglang("Exception: Capture cuda graph failed: operation not permitted when stream is capturing"),
        "cuda_graph_capture_failed",
    ),
    (
        "F58",
        f"{SGLANG}[2025-04-05 10:10:00 TP0] Entering DeepGEMM JIT Pre-Compile session. It may take a "
        f"long time (typically 10-20 mins)\n"
        "[rank9]:[E405 10:20:00 ProcessGroupNCCL.cpp:616] [Rank 9] Watchdog caught collective "
        "operation timeout: WorkNCCL(SeqNum=2, OpType=ALLREDUCE)\n",
        "deepgemm_jit_timeout",
    ),
    (
        "F64",
        vllm("TypeError: Error: --enable-auto-tool-choice and --enable-reasoning cannot be enabled at the same time"),
        "tool_choice_conflicts_with_reasoning",
    ),
    ("F72", sglang("Assertion error runtime.cu:56 'nvshmem_team_split_strided(NVSHMEM_TEAM_WORLD, 0) == 0'"), "nvshmem_failed"),
    (
        "reasoning without parser",
        VLLM + "Traceback (most recent call last):\nTypeError: Error: --enable-reasoning requires --reasoning-parser\n",
        "reasoning_parser_required",
    ),
    (
        "TP32",
        vllm("ValueError: The output_size of gate's and up's weight = 64 is not divisible by weight quantization block_n = 128."),
        "tensor_parallel_not_divisible",
    ),
    (
        "OOM while capturing",
        sglang("Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 7"),
        "cuda_out_of_memory",
    ),
    ("killed", f"{VLLM}INFO 04-18 14:10:00 [x.py:1] Starting to load model /m...\nKilled\n", "killed"),
    ("segfault", f"{VLLM}Segmentation fault (core dumped)\n", "segmentation_fault"),
    ("module", vllm("ModuleNotFoundError: No module named 'flashinfer'"), "missing_python_module"),
    ("library", vllm("ImportError: /x/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda"), "missing_shared_library"),
    ("ninja", sglang("FileNotFoundError: [Errno 2] No such file or directory: 'ninja'"), "jit_compile_failed"),
    ("disk", vllm("OSError: [Errno 28] No space left on device: '/root/.cache/vllm/x'"), "disk_full"),
    (
        "SIGTERM while loading",
        f"{VLLM}INFO 04-18 14:10:00 [x.py:1] Starting to load model /m...\nINFO 04-18 14:11:00 [launcher.py:1] Received signal 15\n",
        "terminated_by_signal",
    ),
]


@pytest.mark.parametrize(("log", "cause"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_known_failures_are_named(log: str, cause: str) -> None:
    diagnosis = diagnose(log)
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", cause)
    assert diagnosis.fix
    assert diagnosis.source


@pytest.mark.parametrize(("log", "cause"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_the_watch_ends_the_wait(log: str, cause: str) -> None:
    watch = FatalWatch()
    fired = [s for line in log.splitlines(keepends=True) if (s := watch.feed(line))]
    last = watch.settle()
    assert len(fired) + (last is not None) == 1, "each failure is told exactly once"
    assert watch.diagnosis().cause == cause


def test_the_table_is_well_formed() -> None:
    assert len(BY_ID) == len(SIGNATURES), "ids are unique"
    for signature in SIGNATURES:
        assert signature.id.replace("_", "").isalnum()
        assert signature.id == signature.id.lower()
        assert signature.cause
        assert signature.source
        assert signature.kind != "cause" or (signature.fix and 5 < signature.rank < 60)


def test_the_loudest_line_is_never_the_cause() -> None:
    log = f"{VLLM}{VLLM_TAIL}"
    diagnosis = diagnose(log)
    assert (diagnosis.outcome, diagnosis.cause) == ("failed", None)
    assert "unknown" in diagnosis.sentence()
    assert "engine_core_failed" in diagnosis.also
