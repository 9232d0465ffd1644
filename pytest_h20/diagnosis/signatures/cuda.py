"""The driver, the GPUs and the kernels that run, or are compiled, on them."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

CUDA = (
    cause(
        "no_gpu_visible",
        r"No accelerator \(CUDA|No CUDA GPUs are available"
        r"|DP adjusted local rank \d+ is out of bounds|no CUDA-capable device|cudaErrorNoDevice|Found no NVIDIA driver"
        r"|Failed to infer device type|NVML(?:Error)?.*(?:not found|Not Found)"
        r"|libcuda\.so\S*: cannot open|Device string must not be empty"
        r"|could not select device driver .*capabilities: \[\[gpu|nvml error: driver not loaded|unresolvable CDI devices nvidia",
        "no GPU is visible in the container",
        "--gpus all; CUDA_VISIBLE_DEVICES; nvidia-smi in the container",
        "recorded (0.24, 0.5.16)",
        rank=12,
    ),
    cause(
        "not_enough_gpus",
        r"CUDA error: invalid device ordinal|local rank \d+ is out of bounds|invalid device ordinal|cudaErrorInvalidDevice\b",
        "a rank wants a GPU number that the node does not have",
        "TP per node must not exceed its GPUs",
        "recorded (0.5.16)",
        rank=12,
    ),
    cause(
        "cuda_in_forked_process",
        r"Cannot re-initialize CUDA in forked subprocess",
        "CUDA was used before the workers were forked",
        "VLLM_WORKER_MULTIPROC_METHOD=spawn",
        "vLLM documentation (troubleshooting)",
        rank=14,
    ),
    cause(
        "driver_too_old",
        r"The NVIDIA driver on your system is too old|CUDA driver version is insufficient|Error 35:"
        r"|forward compatibility was attempted|Error 804|cudaErrorCompatNotSupported|cudaErrorUnsupportedPtx|unsupported PTX"
        r"|provided PTX was compiled with an unsupported toolchain|cudaErrorInsufficientDriver"
        r"|requirement error: unsatisfied condition: cuda",
        "the driver is older than the image's CUDA needs",
        "R580 for CUDA 13; or an image built for CUDA 12 (vLLM below 0.20, SGLang below 0.5.11); or the matching cuda-compat",
        "F43, F45; vllm#30633, #4940",
        rank=12,
    ),
    cause(
        "cuda_driver_mismatch",
        r"Error 803|cudaErrorSystemDriverMismatch|system has unsupported display driver / cuda driver combination",
        "the image's compatibility library shadows a newer driver",
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib",
        "F44; vllm#33447, gpustack#4678",
        rank=12,
    ),
    cause(
        "driver_library_mismatch",
        r"(?:Failed to initialize NVML: )?[Dd]river/library version mismatch",
        "the driver's library is not of the kernel module that runs: the driver was upgraded under it",
        "reboot the node, or unload and load the nvidia modules while nothing uses the GPUs",
        "NVML 18",
        rank=11,
    ),
    cause(
        "gpu_hardware_error",
        r"uncorrectable (?:ECC|NVLink) error|cudaError(?:ECC|Nvlink)Uncorrectable|Unable to determine the device handle for [Gg][Pp][Uu]"
        r"|GPU has fallen off the bus|GPU is lost|NVRM: Xid .*: (?:48|63|64|74|79|92|94|95|119|120)\b",
        "the GPU itself failed",
        "dmesg for its Xid and PCI address; nvidia-smi -q -d ECC,ROW_REMAPPER; take the node out until it is reset or replaced",
        "NVIDIA's Xid catalogue",
        rank=11,
    ),
    cause(
        "floating_point_exception",
        r"Floating point exception",
        "an old cuBLAS on H20 divides by zero",
        "nvidia-cublas-cu12 12.4.5.8 or newer",
        "F42; vllm#4392",
        rank=20,
    ),
    cause(
        "illegal_memory_access",
        r"illegal memory access was encountered|^Memory access fault by GPU|CUDA error: unspecified launch failure"
        r"|cudaError(?:IllegalAddress|LaunchFailure)|CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED)",
        "a GPU kernel accessed memory that is not its own",
        "CUDA_LAUNCH_BLOCKING=1 finds the kernel; another attention or MoE backend; newer image",
        "CUDA 700",
        rank=30,
    ),
    cause(
        "invalid_resource_handle",
        r"(?:CUDA|Cuda|CUDART|HIP) (?:runtime )?error\b.{0,300}invalid resource handle|cudaErrorInvalidResourceHandle",
        "memory or a stream of one process or GPU was used in another: peer memory of the engine's own all-reduce, as a rule",
        "--disable-custom-all-reduce; the same CUDA_VISIBLE_DEVICES order in every rank; expandable_segments off",
        "CUDA 400; an illegal access may follow it",
        rank=29,
    ),
    cause(
        "device_side_assert",
        r"device-side assert triggered|cudaErrorAssert\b|CUDA_ERROR_ASSERT\b|Assertion `.*` failed\.$",
        "a GPU kernel found its input out of range (for instance a token id outside the vocabulary)",
        "the line above names the kernel; check token ids that clients send",
        "recorded (0.5.16)",
        rank=30,
    ),
    cause(
        "cuda_graph_capture_failed",
        r"[Cc]apture.*graph failed(?!: \S*gloo)"
        r"|\bCannot call \S+ during CUDA graph capture|operation not permitted when stream is capturing|cudaErrorStreamCapture",
        "CUDA graphs could not be captured",
        "--disable-cuda-graph / --enforce-eager to bisect; smaller graph batch",
        "F57; sgl#3547; it wraps the error that broke the capture, where the log shows one",
        rank=31,
        stage="graphs",
    ),
    cause(
        "triton_error",
        r"Triton Error \[CUDA\](?!: (?:an illegal memory|out of memory))|PassManager::run failed"
        r"|Failures have been detected while processing an MLIR pass|PTXASError|ptxas[\w-]* fatal|OutOfResources: out of resource",
        "a Triton kernel could not be compiled or loaded for this GPU",
        "an image whose Triton knows this GPU; another attention backend; clear the Triton cache",
        "public logs (0.11.0)",
        rank=28,
        fatal=False,
    ),
    cause(
        "kernel_rejected",
        r"Error in function '\w*(?:Prefill|Decode)With\w*KVCache\w*' at |FlashInfer Internal Error"
        r"|Assertion error \([^)]*\.(?:hpp|cuh?):\d+\)"
        r"|cutlass_gemm_caller, .*Error|Mismatched Tensor on argument #\d+ when calling",
        "a GPU kernel cannot work with this model's shapes or data types",
        "another attention or GEMM backend; the default KV cache type; another image",
        "public logs (vLLM 0.21–0.27, SGLang 0.5.13)",
        rank=28,
    ),
    cause(
        "cublas_failure",
        r"CUBLAS_STATUS_(?!ALLOC)\w+",
        "cuBLAS failed",
        "matching cuBLAS and driver; look for an earlier illegal access",
        "recorded (0.5.16)",
        rank=30,
    ),
    cause(
        "jit_compile_failed",
        r"No such file or directory: '(?:ninja|nvcc|gcc|g\+\+|cc|clang)'|Ninja is required"
        r"|ninja: build stopped|Ninja build failed|Error building extension|nvcc fatal|\bnvcc: not found"
        r"|Could not find nvcc|CUDA_HOME environment variable is not set|NVCC compilation failed"
        r"|NVCC version should be|\bjit/compiler\.hpp:\d+"
        r"|CalledProcessError.*(?:ninja|nvcc|gcc|clang)|CompilationError"
        r"|fatal error: \S+\.h(?:pp)?: No such file|cannot find -l\w+|Failed to find C compiler"
        r"|error: command '\S*(?:nvcc|gcc|g\+\+)' failed"
        r"|\d+ errors? detected in the compilation of|NVRTC_ERROR|nvrtc: error",
        "kernels had to be compiled at start, and that failed",
        "an image with a compiler and headers, or with pre-built kernels; free disk for the cache",
        "FlashInfer/Triton/DeepGEMM JIT",
        rank=20,
    ),
    cause(
        "torch_compile_failed",
        r"torch\._(?:dynamo|inductor)\.exc\.\w+|\bInductorError\b|BackendCompilerFailed",
        "torch.compile could not compile the model",
        "--enforce-eager / without --enable-torch-compile to bisect; an image with a compiler; clear the compile cache",
        "torch",
        rank=31,
    ),
    cause(
        "cuda_error",
        r"(?:CUDA|HIP) error: |CUDA kernel errors might be asynchronously reported"
        r"|CUDA unknown error|cudaError\w+|AcceleratorError|Check failed: \(status == cudaSuccess\)",
        "CUDA reported an error",
        "the line names it; dmesg for Xid",
        "CUDA",
        rank=32,
    ),
)
