"""NCCL and what it runs on: RDMA, NVLink, shared memory, collectives."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause, hint, of_nccl
from pytest_h20.nccl.failures import DEVICES

FABRIC = (
    cause(
        "ib_no_device",
        r"NCCL WARN.*(?:NET/IB.*[Nn]o device|No IB devices)|NET/IB : No device found",
        "NCCL sees no RDMA device in the container",
        DEVICES,
        "F24; vllm PR#42075, nccl#451",
        rank=17,
        fatal=False,
        stage="nccl",
        context=r"Failed to initialize any NET plugin",
    ),
    of_nccl(
        "nccl_no_net_plugin",
        r"NCCL WARN Failed to initialize any NET plugin",
        "Failed to initialize any NET plugin",
        "F32; recorded (2.28.9)",
        rank=18,
    ),
    of_nccl(
        "nccl_no_socket_interface",
        r"NCCL WARN Bootstrap : no socket interface found|no socket interface found",
        "Bootstrap : no socket interface found",
        "recorded (2.28.9)",
        rank=18,
    ),
    of_nccl(
        "nccl_duplicate_gpu",
        r"NCCL WARN Duplicate GPU detected",
        "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 60",
        "recorded (2.28.9)",
        rank=18,
    ),
    of_nccl(
        "ib_completion_error",
        r"Got completion (?:from peer .*?)?(?:with )?(?:error|status)[= ](?:IBV_WC_\w+ ?\()?\d+",
        "NET/IB : Got completion from peer 10.0.0.2<5> with status=12 opcode=0 len=0 vendor err 129 (Recv)",
        "F28; nccl#426",
        rank=20,
    ),
    of_nccl(
        "ib_modify_qp_failed",
        r"ibv_modify_qp failed",
        "Call to ibv_modify_qp failed with error Connection timed out",
        "F29, F30; nccl#769",
        rank=20,
    ),
    of_nccl(
        "ib_memory_registration_failed",
        r"ibv_reg_mr\w* failed|ibv_create_(?:cq|qp) failed.*Cannot allocate memory"
        r"|ibv_reg_\w+ failed with error Cannot allocate memory",
        "Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory",
        "F27; nccl-tests#206",
        rank=20,
    ),
    of_nccl(
        "ib_queue_pair_failed",
        r"ibv_create_(?:qp|cq) failed|ibv_alloc_pd failed|ibv_get_async_event failed"
        r"|local catastrophic error|communicator encountered a fatal error",
        "NET/IB : mlx5_0:1 Got async event : local catastrophic error",
        "corpus (nccl)",
        rank=20,
    ),
    hint(
        "ib_library_missing",
        r"Failed to open libibverbs\.so|dlvsym failed on|undefined symbol: mlx5dv_",
        "the image's RDMA library is absent or older than NCCL wants",
        "ldconfig -p | grep ibverbs in the container; harmless if IB is used all the same",
        "F25, F26; vllm#42750",
    ),
    hint(
        "gpu_direct_rdma_disabled",
        r"GPU Direct RDMA Disabled for HCA",
        "GPUDirect RDMA is off for a device: much slower",
        "nvidia_peermem or dma-buf; NCCL 2.22.3 and older does not see nvidia_peermem",
        "F31; nccl#1676",
    ),
    hint("nccl_uses_sockets", r"Using network Socket", "NCCL goes over TCP, not RDMA", "F24", "F24"),
    of_nccl(
        "nvls_multicast_failed",
        r"Failed to bind NVLink SHARP|CUDA error 401.*[Mm]ulticast|NVLS.*(?:failed|Failed)",
        "Failed to bind NVLink SHARP (NVLS) Multicast memory of size 2097152 : CUDA error 401 'operation not permitted'",
        "F33; nccl#1788",
        rank=18,
    ),
    cause(
        "fabric_manager_not_running",
        r"CUDA_ERROR_SYSTEM_NOT_READY|cudaErrorSystemNotReady|Error 802: system not yet initialized" r"|system not yet initialized",
        "NVSwitch machines need the Fabric Manager, and it does not run",
        "systemctl start nvidia-fabricmanager, same version as the driver",
        "CUDA 802",
        rank=12,
    ),
    of_nccl(
        "shared_memory_too_small",
        r"Error while creating shared memory segment|posix_fallocate failed"
        r"|unable to (?:write to file|open shared memory object) </torch_|Insufficient space in /dev/shm|/dev/shm/nccl-\S+.*No space left",
        "Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)",
        "F34; vllm#1710",
        rank=18,
    ),
    of_nccl(
        "shared_memory_vanished",
        r"Error while attaching to shared memory segment",
        "Error while attaching to shared memory segment /dev/shm/nccl-x (size 9637888)",
        "F35; vllm#18831",
        rank=18,
    ),
    of_nccl(
        "no_route_to_host",
        r"No route to host",
        "socketStartConnect: Connect to 10.0.0.2<45> failed : No route to host",
        "corpus (nccl)",
        rank=20,
    ),
    cause(
        "nccl_unhandled_cuda_error",
        r"unhandled cuda error|NCCL WARN Cuda failure",
        "CUDA failed under NCCL",
        "NCCL_DEBUG=INFO shows the CUDA call above; driver, memory, P2P",
        "F36; vllm#13294",
        rank=30,
        fatal=False,
        stage="nccl",
    ),
    cause(
        "nccl_unhandled_system_error",
        r"unhandled system error",
        "a system call failed under NCCL (network, shared memory)",
        "NCCL_DEBUG=INFO names the call in the WARN above",
        "NCCL",
        rank=43,
        fatal=False,
        stage="nccl",
    ),
    cause(
        "nccl_invalid_usage",
        r"(?:DistBackendError: )?NCCL error.*invalid usage|ncclInvalidUsage",
        "NCCL was asked for something impossible",
        "the NCCL WARN above says what",
        "recorded (2.28.9)",
        rank=32,
        fatal=False,
        stage="nccl",
    ),
    cause(
        "nccl_error",
        r"DistBackendError: NCCL error|ncclSystemError|ncclInternalError|RuntimeError: NCCL (?:E|e)rror",
        "NCCL failed",
        "NCCL_DEBUG=INFO, first WARN of every rank",
        "NCCL",
        rank=43,
        stage="nccl",
    ),
    cause(
        "deepgemm_jit_timeout",
        r"Watchdog caught collective operation timeout",
        "a rank was still compiling DeepGEMM kernels while the others waited",
        "python3 -m sglang.compile_deep_gemm first; keep the cache volume on all nodes; --dist-timeout 3600",
        "F58; sgl#9867, #29170",
        rank=38,
        context=r"DeepGEMM JIT Pre-Compile session",
    ),
    cause(
        "collective_timeout",
        r"Watchdog caught collective operation timeout|watchdog timeout|Watchdog timeout"
        r"|watchdog got stuck for \d+ seconds"
        r"|[Ww]atchdog .*(?:timed out|timeout) \(",
        "one rank was late at a collective operation, or the fabric lost it",
        "compare the last stage of every rank; --dist-timeout 3600 for slow loading",
        "F37; sgl#3606, #10216",
        rank=40,
    ),
    cause(
        "custom_all_reduce_failed",
        r"^Failed: (?:Cuda|CUDA) error \S*custom_all_reduce",
        "the engine's own all-reduce kernel could not share memory between the GPUs; it ends the process at once",
        "--disable-custom-all-reduce; P2P between the GPUs (nvidia-smi topo -p2p r), IOMMU, expandable_segments off",
        "vllm#5613, #9046, #49101",
        rank=18,
        stage="graphs",
    ),
    cause(
        "nvshmem_failed",
        r"nvshmem_\w+.*==? ?0'|NVSHMEM.*(?:error|failed)|nvshmem.*(?:initialization failed|detect topo failed|error)"
        r"|nvshmem\S*:\d+: (?:non-zero status|NULL value)|Unable to initialize any transports|error in nvshmem"
        r"|(?:NVSHMEM|nvshmem) API called before",
        "NVSHMEM, on which DeepEP stands, could not set up between the GPUs or nodes",
        "the first non-zero status names the call; IBGDA and its driver settings (PeerMappingOverride); NVSHMEM_HCA_LIST, "
        "GID index; newer DeepEP",
        "F72; DeepEP#137, #150, #223, #289; sgl#6017, #7888",
        rank=19,
        fatal=False,
    ),
    cause(
        "deepep_failed",
        r"Assertion error \S*(?:deep_ep|DeepEP)\S*:\d+|\bEPException|DeepEP (?:error|(?:\w+ ){0,4}timeout)|deep_ep\S* .*[Tt]imeout",
        "DeepEP refused or lost a dispatch: more tokens than its buffer holds, or a rank that does not answer",
        "a smaller --cuda-graph-max-bs or a larger num_max_dispatch_tokens_per_rank; the other ranks' logs",
        "public logs (SGLang, DeepEP)",
        rank=20,
    ),
    cause(
        "kv_transfer_registration_failed",
        r"Mooncake memory registration failed|Failed to register memory 0x|nixl\S* .*register\w* (?:failed|error)",
        "the KV transfer engine cannot register GPU memory with the RDMA adapter",
        "nvidia_peermem or DMA-BUF on that node; memlock unlimited; the adapters named to the transfer engine",
        "sgl#6193; Mooncake#281, #351",
        rank=20,
        fatal=False,
    ),
    cause(
        "kv_transfer_failed",
        r"KVTransferError|Mooncake transfer failed|Mooncake Transfer Engine Return Error"
        r"|Failed to (?:transfer KV cache|send kv chunk|get kvcache from prefill|mount segment)"
        r"|_transport\.cpp:\d+\] .*(?:[Ff]ailed|[Ee]rror|[Cc]annot|No available)"
        r"|(?:^|\s)E\d{4} \S+ +\d+ (?:transfer_\w+|multi_transport|(?:\w+_)?client|rdma_endpoint|client_service|store_py)\.cpp:\d+\] "
        r"|Handshake failed for request"
        r"|NIXL (?:transfer failure|handshake)|Remote NIXL agent|Unexpected UCX error"
        r"|worker_pool\.cpp:\d+\] Worker: (?:Process failed|Cannot)|Local segment descriptor not found"
        r"|Too many errors found in local RNIC|NIXL_ERR_"
        r"|UCX +ERROR |nixl\w*(?:RemoteDisconnect|BackendError)",
        "the KV cache did not get from the prefill to the decode side: a peer that is gone, or RDMA between them",
        "the other side's log; then the adapters both sides use: same fabric, GID index, ib_write_bw",
        "vllm PR 10884; sgl#8324; Mooncake#2177",
        rank=39,
        fatal=False,
    ),
)
