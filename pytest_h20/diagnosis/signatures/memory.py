"""GPU and host memory: too little of it, or somebody else has it."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

MEMORY = (
    cause(
        "no_memory_for_kv_cache",
        r"No available memory for the cache blocks"
        r"|KV cache is needed, which is larger than the available KV cache memory"
        r"|larger than the maximum number of tokens that can be stored in KV cache"
        r"|max seq len \(\d+\) is larger than the maximum number of tokens|not enough GPU memory available to serve even a single token"
        r"|(?:Prefill|Decode) out of memory\. Try to lower|no room for the full KV pool|pool \(\d+ tokens\) cannot hold even one request",
        "what is left after weights and activations does not hold the KV cache of one full context",
        "raise --gpu-memory-utilization, or lower --max-model-len",
        "F53; vllm#13074; recorded (0.24)",
        stage="kv-cache",
    ),
    cause(
        "gpu_memory_occupied",
        r"Free memory on device .* on startup is less than desired GPU memory utilization",
        "another process holds GPU memory (or the wanted share is too high)",
        "nvidia-smi on every node: end the leftover you own, or lower --gpu-memory-utilization",
        "F54; recorded (0.24)",
        stage="dist-init",
    ),
    cause(
        "memory_profiling_disturbed",
        r"AssertionError: Error in memory profiling|Initial free memory .* current free memory",
        "another process released GPU memory while vLLM measured",
        "one start at a time on a node; check for leftovers",
        "recorded (0.24)",
        stage="kv-cache",
    ),
    cause(
        "memory_capacity_unbalanced",
        r"The memory capacity is unbalanced",
        "one GPU has less free memory than the others: something occupies it",
        "nvidia-smi on every node",
        "F55",
        stage="dist-init",
        engine="sglang",
    ),
    cause(
        "not_enough_memory_static",
        r"Error: Not enough memory\b|\bno GPU memory for the KV|Memory capacity is too small"
        r"|max_running_requests? is zero",
        "the static memory share cannot hold weights and a KV pool",
        "raise --mem-fraction-static (one node of H20-96G: 0.90), or use more GPUs",
        "F52; sgl#4895, #4330",
        stage="kv-cache",
        engine="sglang",
    ),
    cause(
        "cuda_out_of_memory",
        r"(?:CUDA|Cuda|CUDART|HIP|NPU)\b[^.]{0,60}(?<!running )out of memory|torch\.(?:cuda\.)?OutOfMemoryError|^OutOfMemoryError(?:: |  )"
        r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|Failed to CUDA (?:calloc|malloc)"
        r"|NVML_SUCCESS == r INTERNAL ASSERT FAILED at .*CUDACachingAllocator",  # torch asks NVML only to report an OOM
        "a GPU ran out of memory",
        "lower the memory share, the batch or the context; check for a leftover process",
        "F56; sgl#6027, #7094",
        rank=15,
    ),
    cause(
        "host_out_of_memory",
        r"MemoryError\b|\[Errno 12\]|(?:fork|mmap|bytes from file \S+): Cannot allocate memory|DefaultCPUAllocator: (?:can't|not enough) "
        r"|std::bad_alloc|node running low on memory|killed due to memory pressure"
        r"|oom-kill|[Oo]ut of memory: Killed process|OutOfMemory.*Ray|ray\.exceptions\.OutOfMemoryError",
        "the host's memory is used up",
        "dmesg shows the kill; more host memory, fewer loaders, no swap of weights",
        "errno 12",
        rank=20,
        fatal=False,
    ),
)
