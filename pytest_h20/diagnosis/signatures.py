"""Known failures of two-node serving as data: what the log says, what it means, what to do, and where that was learnt.

``F01``–``F72`` are the entries of the project's failure catalogue (collected from engine sources and public threads);
"recorded" means that the line stands in a transcript taken from a real server.

How a table row is used (:mod:`pytest_h20.diagnosis.judge`):

* ``kind="cause"``: a root cause. ``fatal=True`` says that the line alone proves that this start is over; otherwise it
  names the cause only once something else proves the failure.
* ``kind="symptom"``: proves failure, never names a cause ("Failed core proc(s)").
* ``kind="wait"``: what a start that is neither ready nor failed is busy with.
* ``kind="hint"``: neither; worth showing beside a cause.

``rank`` orders causes found in one log: 10 = the mistake itself, 20 = the layer where it broke, 30 = a generic error,
40 = somebody waited in vain (the reason stands elsewhere), 50 = somebody ended the process. The lowest wins, then the
first line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pytest_h20.engines.base import EngineName

Kind = Literal["cause", "symptom", "wait", "hint"]


@dataclass(frozen=True)
class Signature:
    """One known line and its meaning."""

    id: str
    pattern: re.Pattern[str]
    cause: str
    fix: str
    source: str
    kind: Kind = "cause"
    rank: int = 10
    fatal: bool = False
    stage: str = ""
    engine: EngineName | None = None
    context: re.Pattern[str] | None = None
    """The signature counts only if this occurs somewhere in the same server's log."""
    band: tuple[str, str] | None = None
    """Versions [first, below) that can show it; a log that does not tell its version is given the benefit of the doubt."""


def _cause(
    id: str,
    pattern: str,
    cause: str,
    fix: str,
    source: str,
    *,
    rank: int = 10,
    fatal: bool = True,
    stage: str = "",
    engine: EngineName | None = None,
    context: str = "",
    band: tuple[str, str] | None = None,
) -> Signature:
    return Signature(
        id,
        re.compile(pattern),
        cause,
        fix,
        source,
        "cause",
        rank,
        fatal,
        stage,
        engine,
        re.compile(context) if context else None,
        band,
    )


def _symptom(id: str, pattern: str, cause: str, source: str, engine: EngineName | None = None) -> Signature:
    fix = "read the first exception above it, on every node"
    return Signature(id, re.compile(pattern), cause, fix, source, "symptom", 90, True, "", engine)


def _wait(id: str, pattern: str, cause: str, fix: str, source: str) -> Signature:
    return Signature(id, re.compile(pattern), cause, fix, source, "wait", 80, False)


def _hint(id: str, pattern: str, cause: str, fix: str, source: str) -> Signature:
    return Signature(id, re.compile(pattern), cause, fix, source, "hint", 85, False)


ARGUMENTS = (
    _cause(
        "unrecognized_arguments",
        r"error: unrecognized arguments: |No such option: -",
        "the command line holds an option that this engine version does not have (removed, renamed, or the other engine's)",
        "remove or rename the option for this version; the dialect tables say how",
        "F22; sgl#4116; recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "unknown_reasoning_parser",
        r"argument --reasoning-parser: invalid choice|Reasoning parser '[^']*' not found"
        r"|[Ii]nvalid reasoning parser|[Uu]nsupported reasoning parser",
        "the reasoning parser's name is not known to this version",
        "vLLM spells it deepseek_r1, SGLang deepseek-r1",
        "engines §1.1/§2.1; recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "boolean_flag_form",
        r"error: argument .*: ignored explicit argument '(?:False|True|false|true)'",
        "an option of the form --x=False was given to a version that has --x / --no-x",
        "write --no-x (vLLM 0.8.5 and later)",
        "F22",
        stage="arguments",
    ),
    _cause(
        "invalid_argument_value",
        r"error: argument [^:]+: (?:invalid|expected|not allowed|ignored)"
        r"|error: the following arguments are required|error: ambiguous option"
        r"|error: one of the arguments",
        "an option has a value that this version does not accept",
        "compare the value with the version's --help",
        "argparse",
        stage="arguments",
    ),
    _cause(
        "reasoning_parser_required",
        r"--enable-reasoning requires --reasoning-parser",
        "--enable-reasoning was given without a parser",
        "add --reasoning-parser deepseek_r1",
        "engines §1.1 (vLLM 0.7.2)",
        stage="arguments",
    ),
    _cause(
        "tool_choice_conflicts_with_reasoning",
        r"--enable-auto-tool-choice and --enable-reasoning cannot be enabled",
        "0.7.x cannot combine tool choice and reasoning",
        "drop one of them, or use vLLM 0.8 or later",
        "F64; vllm#14429",
        stage="arguments",
    ),
    _cause(
        "dist_init_addr_missing",
        r"please provide --dist-init-addr|[Ii]nvalid dist_init_addr|dist_init_addr .*should be",
        "the head's address is missing or not host:port (an IPv6 literal in an old parser)",
        "give --dist-init-addr IPv4:port, the same on both nodes",
        "F04; sgl#7478, #2892",
        stage="arguments",
    ),
    _cause(
        "world_size_exceeds_gpus",
        r"[Tt]ensor parallel size \(\d+\) cannot be larger than the number of available GPUs"
        r"|World size \(\d+\) is larger than the number of available GPUs"
        r"|please ensure that world_size \(\d+\) is less than than max local gpu count"
        r"|nnodes.*must be divisible|world_size .* is larger than .* available GPUs",
        "the tensor parallel size needs more GPUs than the node has, and nothing says how to span nodes",
        "give --distributed-executor-backend ray, or --nnodes/--node-rank/--master-addr; on one node lower the size",
        "F20; recorded (0.24)",
        stage="arguments",
    ),
    _cause(
        "context_length_too_large",
        r"User-specified (?:max_model_len|context_length) \(\d+\) is greater than the derived",
        "the wanted context is longer than the model's",
        "lower --max-model-len / --context-length",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "max_num_batched_tokens_too_small",
        r"max_num_batched_tokens \(\d+\) is smaller than max_model_len"
        r"|max_num_batched_tokens .* must be (?:greater|at least)"
        r"|max_tokens_per_mm_item \(\d+\) is larger than max_num_batched_tokens",
        "chunked prefill is off and one batch cannot hold the longest prompt",
        "raise --max-num-batched-tokens to --max-model-len, or leave chunked prefill on",
        "engines §1.1",
        stage="arguments",
    ),
    _cause(
        "tensor_parallel_not_divisible",
        r"is not divisible by weight quantization block_n"
        r"|attention heads \(\d+\) must be divisible by tensor parallel size"
        r"|is not divisible by (?:the )?(?:tensor parallel|tp)[_ ]size"
        r"|must be divisible by (?:tensor parallel size|tp_size)|AssertionError: \d+ is not divisible by \d+",
        "the model's shapes cannot be cut into this many parts",
        "choose a tensor parallel size that divides the shapes (R1 block FP8: at most 16)",
        "engines §1.8",
        stage="loading",
    ),
    _cause(
        "unsupported_model_architecture",
        r"Model architectures \[.*\] are not supported"
        r"|does not recognize this architecture|Model architecture .* is not supported"
        r"|has no vLLM implementation|[Uu]nsupported architectures?:|Cannot find model module",
        "this engine version does not know the model's architecture",
        "use a newer image, or another model",
        "corpus (0.10.2)",
        stage="arguments",
    ),
    _cause(
        "model_inspection_failed",
        r"Model architectures \[.*\] failed to be inspected",
        "the engine knows the architecture, but could not import the code that implements it",
        "the exception above it says which module or library is missing or broken",
        "vllm#28199",
        rank=32,
        stage="arguments",
    ),
    _cause(
        "trust_remote_code_required",
        r"requires you to execute the (?:configuration|modeling|tokenizer) file"
        r"|set the option `?trust_remote_code=True|contains custom code which must be executed",
        "the model brings its own code, and running it was not allowed",
        "add --trust-remote-code",
        "transformers",
        stage="arguments",
    ),
    _cause(
        "unsupported_quantization",
        r"[Qq]uantization method (?:specified in|\S+ is not supported)|Unknown quantization method"
        r"|is not supported for (?:the current GPU|quantization method)"
        r"|Quantization scheme is not supported"
        r"|does not support (?:fp8|FP8) (?:on|for)|does not match the quantization (?:method|argument)"
        r"|type fp8e4nv not supported in this architecture|Failed to find a kernel that can implement",
        "the quantisation does not fit the model, the GPU or the version",
        "drop --quantization (the checkpoint names its own), or use a GPU that has it",
        "vLLM/SGLang source",
        stage="arguments",
    ),
    _cause(
        "unsupported_dtype",
        r"[Bb]float16 is only supported on GPUs with compute capability" r"|dtype .* is not supported for",
        "the GPU lacks this data type",
        "choose --dtype half, or another GPU",
        "vLLM source",
        stage="arguments",
    ),
    _cause(
        "compute_capability_too_low",
        r"(?:requires|[Mm]inimum) (?:device |compute )?capability"
        r"|no kernel image is available for execution"
        r"|sm_\d+ is not compatible with the current PyTorch",
        "the image's kernels do not cover this GPU",
        "use an image built for this GPU's compute capability",
        "CUDA",
        rank=20,
    ),
)

FILES = (
    _cause(
        "model_not_found",
        r"Repo id must be in the form|Repository Not Found"
        r"|is not a local folder and is not a valid model identifier|Incorrect path_or_model_id"
        r"|model path .* does not exist|Can't load the configuration of"
        r"|Invalid repository ID or local directory specified: '(?!/)",
        "the model folder does not exist in the container (then taken for a Hub name)",
        "check the mount and --model / --model-path on every node",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "missing_config",
        r"Unrecognized model in .*[Ss]hould have a `model_type` key"
        r"|does not appear to have a file named config\.json"
        r"|Invalid repository ID or local directory specified: '/"
        r"|No config(?:\.json)? (?:file )?found",
        "the model folder has no usable config.json",
        "copy config.json; compare both nodes' folders",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "missing_model_code",
        r"does not appear to have a file named (?:configuration|modeling|tokenization)_\w+\.py",
        "the .py files of the model were not copied",
        "copy configuration_deepseek.py and modeling_deepseek.py",
        "F49; vllm-project/aibrix#834",
        stage="arguments",
    ),
    _cause(
        "missing_tokenizer",
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for"
        r"|Unable to load vocabulary from file|does not appear to have a file named tokenizer"
        r"|Failed to load the tokenizer|invalid tiktoken vocab file|Internal: could not parse ModelProto",
        "the tokenizer files are missing or broken",
        "copy tokenizer.json and tokenizer_config.json",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    _cause(
        "missing_tokenizer_vocabulary",
        r"^TypeError: not a string$",
        "sentencepiece was given no vocabulary file: tokenizer.model is not there",
        "copy every tokenizer file of the model",
        "public logs (0.16)",
        stage="arguments",
        context=r"SentencePieceProcessor_LoadFromFile",
    ),
    _cause(
        "corrupt_safetensors",
        r"SafetensorError: |Error while deserializing header|MetadataIncompleteBuffer"
        r"|InvalidHeaderDeserialization|incomplete metadata, file not fully covered"
        r"|file signature not found|PytorchStreamReader failed|unpickling stack underflow",
        "a weight file is truncated or damaged",
        "compare sizes with the index (8 + header + data) and copy that file again",
        "F47; gpustack#815; recorded",
        stage="loading",
    ),
    _cause(
        "missing_weight_shards",
        r"Weight files referenced in index but missing"
        r"|Following weights were not initialized from checkpoint"
        r"|references \d+ shard file\(s\) missing|Cannot find any model weights"
        r"|No safetensors files? found|Cannot find any \S+ files",
        "weight shards that the index names are not there",
        "163 files must be on every node; copy the missing ones",
        "F46; recorded (0.24, 0.32)",
        stage="loading",
    ),
    _cause(
        "git_lfs_pointer_files",
        r"version https://git-lfs\.github\.com|git-lfs.*pointer",
        "the weight files are Git LFS pointers",
        "fetch the content: git lfs pull",
        "weights §5",
        stage="loading",
    ),
    _cause(
        "weight_shape_mismatch",
        r"size mismatch for|AssertionError: Attempted to load weight|KeyError: '(?:model\.)?layers\."
        r"|shape mismatch.*weight|loaded_weight\.shape|start \(\d+\) \+ length \(\d+\) exceeds dimension size",
        "the weights do not fit the model's configuration (another revision, another quantisation)",
        "take config and shards from one revision; F48 asks the same",
        "F48; sgl#3206, #3340",
        rank=20,
        stage="loading",
    ),
    _cause(
        "hf_access_denied",
        r"Access to model .* is restricted|401 Client Error|403 Client Error|GatedRepoError"
        r"|You are trying to access a gated repo|Cannot access gated repo",
        "the Hub refuses access to the model",
        "mount a local copy, or give a token that has access",
        "huggingface_hub",
        stage="arguments",
    ),
    _cause(
        "model_download_failed",
        r"We couldn't connect to '?https://|LocalEntryNotFoundError"
        r"|(?:MaxRetryError|ReadTimeoutError): HTTPSConnectionPool|HTTPSConnectionPool\(host='[^']+', port=\d+\): Read timed out"
        r"|offline mode is enabled|Cannot reach https://"
        r"|An error happened while trying to locate the file on the Hub"
        r"|Failed to resolve '[^']*(?:huggingface|hf-mirror|modelscope)",
        "the engine tried to download from the Hub and could not",
        "mount a local copy and pass its path; HF_HUB_OFFLINE=1 makes it fail at once",
        "F51; sgl#5347",
        rank=19,
        fatal=False,
        stage="arguments",
    ),
    _cause(
        "disk_full",
        r"No space left on device(?!.*nccl)|OSError: \[Errno 28\]|Disk quota exceeded",
        "a file system is full (a cache, /tmp or /dev/shm)",
        "free space; df -h on every node",
        "errno 28",
        rank=20,
        fatal=False,
    ),
    _cause(
        "permission_denied",
        r"PermissionError: \[Errno 13\]|Permission denied: '",
        "the engine may not read or write a path it needs",
        "check owner and mode of the mount",
        "errno 13",
        rank=20,
    ),
    _cause(
        "too_many_open_files",
        r"OSError: \[Errno 24\] Too many open files(?!`)",
        "the limit on open files is too low",
        "--ulimit nofile=1048576 for the container",
        "errno 24",
        rank=20,
    ),
)

MEMORY = (
    _cause(
        "no_memory_for_kv_cache",
        r"No available memory for the cache blocks"
        r"|KV cache is needed, which is larger than the available KV cache memory"
        r"|larger than the maximum number of tokens that can be stored in KV cache"
        r"|max seq len \(\d+\) is larger than the maximum number of tokens",
        "what is left after weights and activations does not hold the KV cache of one full context",
        "raise --gpu-memory-utilization, or lower --max-model-len",
        "F53; vllm#13074; recorded (0.24)",
        stage="kv-cache",
    ),
    _cause(
        "gpu_memory_occupied",
        r"Free memory on device .* on startup is less than desired GPU memory utilization",
        "another process holds GPU memory (or the wanted share is too high)",
        "nvidia-smi on every node: end the leftover you own, or lower --gpu-memory-utilization",
        "F54; recorded (0.24)",
        stage="dist-init",
    ),
    _cause(
        "memory_profiling_disturbed",
        r"AssertionError: Error in memory profiling|Initial free memory .* current free memory",
        "another process released GPU memory while vLLM measured",
        "one start at a time on a node; check for leftovers",
        "recorded (0.24)",
        stage="kv-cache",
    ),
    _cause(
        "memory_capacity_unbalanced",
        r"The memory capacity is unbalanced",
        "one GPU has less free memory than the others: something occupies it",
        "nvidia-smi on every node",
        "F55",
        stage="dist-init",
        engine="sglang",
    ),
    _cause(
        "not_enough_memory_static",
        r"RuntimeError: Not enough memory\. Please try to increase --mem-fraction-static",
        "the static memory share cannot hold weights and a KV pool",
        "raise --mem-fraction-static (one node of H20-96G: 0.90), or use more GPUs",
        "F52; sgl#4895, #4330",
        stage="kv-cache",
        engine="sglang",
    ),
    _cause(
        "cuda_out_of_memory",
        r"(?:CUDA|HIP|NPU) out of memory|torch\.(?:cuda\.)?OutOfMemoryError"
        r"|CUDA error: out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED",
        "a GPU ran out of memory",
        "lower the memory share, the batch or the context; check for a leftover process",
        "F56; sgl#6027, #7094",
        rank=15,
    ),
    _cause(
        "host_out_of_memory",
        r"MemoryError\b|\[Errno 12\]|fork: Cannot allocate memory|DefaultCPUAllocator: (?:can't|not enough) "
        r"|oom-kill|Out of memory: Killed process|OutOfMemory.*Ray|ray\.exceptions\.OutOfMemoryError",
        "the host's memory is used up",
        "dmesg shows the kill; more host memory, fewer loaders, no swap of weights",
        "errno 12",
        rank=20,
        fatal=False,
    ),
)

PORTS = (
    _cause(
        "port_in_use",
        r"\[Errno 98\]|EADDRINUSE|Errno 48\]|[Aa]ddress already in use|port \d+ is (?:already in use"
        r"|not available|occupied)|Port \d+ .*(?:in use|not available)|port(?:_base)? at \d+ is not available"
        r"|port is already allocated"
        r"|failed to listen on any local network address",
        "a port the engine needs is taken by another process",
        "find its owner (ss -ltnp); SGLang: HTTP port and --dist-init-addr port must differ",
        "F11, F12; vllm#8204, #39015; recorded (0.32, 0.5.16)",
        stage="serving",
    ),
    _cause(
        "ray_port_in_use",
        r"(?:raylet|gcs_server).*Address already in use|Failed to bind.*gcs"
        r"|ConnectionError: Ray is trying to start at .* but is already running",
        "the Ray head's port is taken",
        "choose another port, or end the other Ray cluster if it is yours",
        "F10; ray#14098",
        rank=8,
        stage="joining",
    ),
)

RENDEZVOUS = (
    _cause(
        "gloo_connect_failed",
        r"Gloo connectFullMesh failed|gloo.*connect.*(?:timed out|refused)|Connect timeout \[.*gloo",
        "Gloo chose an interface on which the nodes do not reach each other",
        "GLOO_SOCKET_IFNAME = the control interface, inside the containers of both nodes",
        "F01; vllm#13121 (2×8 H100, R1), #5094",
        rank=20,
        stage="dist-init",
    ),
    _hint(
        "hostname_resolves_to_loopback",
        r"Unable to resolve hostname to a \(local\) address",
        "the host name does not resolve to the node's address",
        "fix /etc/hosts in the container; set GLOO_SOCKET_IFNAME",
        "F02; vllm#7074",
    ),
    _cause(
        "hostname_unresolvable",
        r"DistNetworkError: .*(?:no-such-host|Name or service not known)|gai error: -\d+"
        r"|Temporary failure in name resolution|Name or service not known|nodename nor servname"
        r"|getaddrinfo failed",
        "the head's host name cannot be resolved",
        "use its IPv4 address",
        "recorded (0.5.16)",
        rank=20,
        fatal=False,
        stage="dist-init",
    ),
    _cause(
        "master_unreachable",
        r"DistNetworkError: The client socket has (?:timed out|failed to connect)"
        r"|RuntimeError: The client socket has (?:timed out|failed)"
        r"|Error: Connection refused.*TCPStore"
        r"|TCPStore.*: The client socket has timed out after \d+ms.*timed out \(try",
        "this node could not reach the rendezvous address of rank 0",
        "VLLM_HOST_IP / --dist-init-addr must be the head's routable address; open its ports; start rank 0 first",
        "F13, F05; vllm#19670, sgl#2658; recorded (0.5.16)",
        rank=40,
        stage="dist-init",
    ),
    _cause(
        "peer_never_joined",
        r"DistStoreError: Timed out after \d+ seconds waiting for clients" r"|Timed out after \d+ seconds waiting for clients",
        "the other node's ranks never came to the rendezvous",
        "see why the peer did not start; both need the same --dist-init-addr; probe high TCP ports both ways",
        "F14; vllm#16334; recorded (0.5.16)",
        rank=40,
        stage="dist-init",
    ),
    _cause(
        "mnnvl_custom_all_reduce_hang",
        r"Timed out waiting \d+ms for recv operation to complete" r"|Application timeout caused pair closure",
        "vLLM 0.27–0.28 lets a cross-node group try MNNVL custom all-reduce, whose rendezvous blocks before Blackwell",
        "--disable-custom-all-reduce, or vLLM 0.29 and later",
        "F16; vllm#52907",
        rank=35,
        stage="dist-init",
        engine="vllm",
        context=r"in_the_same_node_as|mnnvl|custom_all_reduce",
        band=("0.27.0", "0.29.0"),
    ),
    _cause(
        "gloo_recv_timeout",
        r"Timed out waiting \d+ms for (?:recv|send) operation to complete" r"|Application timeout caused pair closure",
        "a rank waited for another one until Gloo gave up",
        "find the rank that is behind: compare the last stage of both logs",
        "F17; vllm#43420",
        rank=40,
    ),
    _cause(
        "peer_failed_to_load",
        r"could finish the model loading, but there are other ranks that didn't finish loading"
        r"|failed to pass monitoredBarrier",
        "another rank did not finish loading; this one only reports it",
        "read the other node's log: its first exception is the cause",
        "recorded (0.5.16, two nodes)",
        rank=40,
        stage="loading",
    ),
    _cause(
        "peer_node_gone",
        r"(?:Read|Write) error \[.*\]:\d+: Connection reset by peer|Connection closed by peer \["
        r"|gloo.*Connection reset by peer|Broken pipe.*gloo|recvBytes failed"
        r"|failed to recv, got 0 bytes|Connection was likely closed"
        r"|ncclRemoteError|NCCL error: remote process exited or there was a network error",
        "the other node's process ended; this one lost its connection",
        "read the other node's log",
        "recorded (0.5.16, two nodes); corpus",
        rank=42,
    ),
    _hint(
        "nccl_peer_closed",
        r"NCCL WARN .*Connection closed by remote peer|NCCL WARN .*Connection reset by peer",
        "NCCL lost a connection: the peer ended",
        "read the other node's log",
        "recorded (2.28.9)",
    ),
    _cause(
        "message_queue_unreachable",
        r"Custom allreduce is disabled because this process group spans across nodes",
        "the nodes exchange addresses and one is unreachable (IPv6, or the wrong interface)",
        "SGLANG_HOST_IP / VLLM_HOST_IP per node",
        "F03; sgl#4978",
        rank=45,
        fatal=False,
        stage="dist-init",
        context=r"(?:zmq|ZMQ)\S*(?:Error|error)|Connection timed out",
    ),
)

RAY = (
    _cause(
        "ray_placement_group_timeout",
        r"Cannot provide a placement group of",
        "Ray never had the GPUs (or the node address) that were asked for",
        "ray status: 16 GPUs, and VLLM_HOST_IP equal to the Ray node's IP (ray start --node-ip-address)",
        "F06; vllm#13388, #7815",
        stage="placement",
        engine="vllm",
    ),
    _cause(
        "ray_node_ip_mismatch",
        r"No available node types can fulfill resource request .*node:",
        "VLLM_HOST_IP names an address that no Ray node has",
        "ray start --node-ip-address = VLLM_HOST_IP on that node",
        "F06; vllm#7815",
        rank=9,
        fatal=False,
        stage="placement",
    ),
    _cause(
        "ray_duplicate_node_ip",
        r"Every node should have a unique IP address",
        "both nodes got the same VLLM_HOST_IP",
        "set it per node",
        "F07",
        stage="placement",
    ),
    _cause(
        "ray_driver_has_no_gpu",
        r"Ray does not allocate any GPUs on the driver node"
        r"|driver node id .* not included in a placement group|Current node has no GPU available",
        "the head's container offers no GPU to Ray",
        "start the head container with --gpus all; run the API server on a node with GPUs",
        "F08; vllm#2406, #8908",
        stage="placement",
    ),
    _cause(
        "ray_version_mismatch",
        r"Version mismatch: The cluster was started with",
        "the nodes run different Ray or Python versions",
        "use one image digest on both nodes",
        "F09; gpustack#1640",
        stage="joining",
    ),
    _cause(
        "ray_cluster_not_found",
        r"Could not find any running Ray instance|Failed to connect to (?:the )?GCS"
        r"|Unable to connect to GCS|Ray cluster at .* could not be (?:found|reached)"
        r"|node timed out during startup",
        "there is no Ray cluster at that address",
        "start the head first; its port must be free and reachable",
        "F10; ray#14098",
        stage="joining",
    ),
    _cause(
        "ray_not_installed",
        r"Failed to import Ray|Using Ray backend requires installation of ray|No module named 'ray'" r"|Ray is not installed",
        "the image holds no Ray (vLLM 0.18 and later)",
        "use --nnodes/--node-rank/--master-addr, or add Ray to the image",
        "F21",
        stage="joining",
    ),
    _cause(
        "ray_worker_not_registered",
        r"Failed to register worker to Raylet|Unable to register worker with raylet"
        r"|raylet (?:process )?(?:died|exited)|Raylet is terminated",
        "a worker could not talk to its node's raylet",
        "see the raylet's log on that node; versions, /tmp/ray, memory",
        "vllm#13557",
        rank=41,
        stage="joining",
    ),
    _cause(
        "ray_actor_died",
        r"RayActorError|ActorDiedError|The actor died (?:unexpectedly|because)|WorkerCrashedError"
        r"|The actor is dead because its worker process has died"
        r"|A worker died or was killed while executing a task by an unexpected system error"
        r"|Owner's node has crashed|ActorUnavailableError|NodeDiedError",
        "a Ray worker process died",
        "read that worker's log on its node (ray logs), and dmesg for an OOM kill",
        "F23; ray#59778",
        rank=42,
    ),
)

FABRIC = (
    _cause(
        "ib_no_device",
        r"NCCL WARN.*(?:NET/IB.*[Nn]o device|No IB devices)|NET/IB : No device found",
        "NCCL sees no RDMA device in the container",
        "--device /dev/infiniband (or --privileged), IPC_LOCK, memlock unlimited; ibv_devinfo in the container",
        "F24; vllm PR#42075, nccl#451",
        rank=17,
        fatal=False,
        stage="nccl",
        context=r"Failed to initialize any NET plugin",
    ),
    _cause(
        "nccl_no_net_plugin",
        r"NCCL WARN Failed to initialize any NET plugin",
        "NCCL_NET or the allowed devices name something that is not there",
        "F24: give the container its devices; correct NCCL_NET / NCCL_IB_HCA",
        "F32; recorded (2.28.9)",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_no_socket_interface",
        r"NCCL WARN Bootstrap : no socket interface found|no socket interface found",
        "NCCL_SOCKET_IFNAME names an interface the container does not have",
        "compare with ip -br addr in the container; --network host",
        "recorded (2.28.9)",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_duplicate_gpu",
        r"NCCL WARN Duplicate GPU detected",
        "two ranks use the same GPU",
        "one GPU per rank: check CUDA_VISIBLE_DEVICES and the ranks",
        "recorded (2.28.9)",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "ib_completion_error",
        r"Got completion (?:from peer .*)?with (?:error|status=?)\s*\d+",
        "an RDMA transfer failed (12: no answer from the peer; 4: local protection; 5: flushed after another error)",
        "ib_write_bw -x GID per rail; right GID index; PFC/ECN and cables",
        "F28; nccl#426",
        rank=20,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "ib_modify_qp_failed",
        r"ibv_modify_qp failed",
        "a queue pair cannot reach its peer (link-local GID, no route for the rail's subnet)",
        "NCCL_IB_GID_INDEX of the RoCE v2 IPv4 GID per device; ping on every rail; NCCL_CROSS_NIC=0",
        "F29, F30; nccl#769",
        rank=20,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "ib_memory_registration_failed",
        r"ibv_reg_mr\w* failed|ibv_create_(?:cq|qp) failed.*Cannot allocate memory"
        r"|ibv_reg_\w+ failed with error Cannot allocate memory",
        "the container may not lock memory for RDMA",
        "--ulimit memlock=-1 and IPC_LOCK; ulimit -l in the container",
        "F27; nccl-tests#206",
        rank=20,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "ib_queue_pair_failed",
        r"ibv_create_(?:qp|cq) failed|ibv_alloc_pd failed|ibv_get_async_event failed"
        r"|local catastrophic error|communicator encountered a fatal error",
        "the RDMA device refused or broke",
        "dmesg and ibstat on that node; container permissions",
        "corpus (nccl)",
        rank=20,
        fatal=False,
        stage="nccl",
    ),
    _hint(
        "ib_library_missing",
        r"Failed to open libibverbs\.so|dlvsym failed on|undefined symbol: mlx5dv_",
        "the image's RDMA library is absent or older than NCCL wants",
        "ldconfig -p | grep ibverbs in the container; harmless if IB is used all the same",
        "F25, F26; vllm#42750",
    ),
    _hint(
        "gpu_direct_rdma_disabled",
        r"GPU Direct RDMA Disabled for HCA",
        "GPUDirect RDMA is off for a device: much slower",
        "nvidia_peermem or dma-buf; NCCL 2.22.3 and older does not see nvidia_peermem",
        "F31; nccl#1676",
    ),
    _hint("nccl_uses_sockets", r"Using network Socket", "NCCL goes over TCP, not RDMA", "F24", "F24"),
    _cause(
        "nvls_multicast_failed",
        r"Failed to bind NVLink SHARP|CUDA error 401.*[Mm]ulticast|NVLS.*(?:failed|Failed)",
        "NVLink SHARP memory cannot be bound: Fabric Manager or NVSwitch state",
        "restart nvidia-fabricmanager (operator), or NCCL_NVLS_ENABLE=0",
        "F33; nccl#1788",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "fabric_manager_not_running",
        r"CUDA_ERROR_SYSTEM_NOT_READY|Error 802: system not yet initialized" r"|system not yet initialized",
        "NVSwitch machines need the Fabric Manager, and it does not run",
        "systemctl start nvidia-fabricmanager, same version as the driver",
        "CUDA 802",
        rank=12,
    ),
    _cause(
        "shared_memory_too_small",
        r"Error while creating shared memory segment|posix_fallocate failed" r"|/dev/shm/nccl-\S+.*No space left",
        "/dev/shm is too small for NCCL",
        "--shm-size 128G or --ipc=host; df /dev/shm",
        "F34; vllm#1710",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "shared_memory_vanished",
        r"Error while attaching to shared memory segment",
        "the ranks of a node do not share /dev/shm, or somebody cleaned it",
        "--ipc=host; RemoveIPC=no",
        "F35; vllm#18831",
        rank=18,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "no_route_to_host",
        r"No route to host",
        "the nodes do not reach each other on the chosen interface",
        "NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME = the control interface; firewall",
        "corpus (nccl)",
        rank=20,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_unhandled_cuda_error",
        r"unhandled cuda error|NCCL WARN Cuda failure",
        "CUDA failed under NCCL",
        "NCCL_DEBUG=INFO shows the CUDA call above; driver, memory, P2P",
        "F36; vllm#13294",
        rank=30,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_unhandled_system_error",
        r"unhandled system error",
        "a system call failed under NCCL (network, shared memory)",
        "NCCL_DEBUG=INFO names the call in the WARN above",
        "NCCL",
        rank=43,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_invalid_usage",
        r"(?:DistBackendError: )?NCCL error.*invalid usage|ncclInvalidUsage",
        "NCCL was asked for something impossible",
        "the NCCL WARN above says what",
        "recorded (2.28.9)",
        rank=32,
        fatal=False,
        stage="nccl",
    ),
    _cause(
        "nccl_error",
        r"DistBackendError: NCCL error|ncclSystemError|ncclInternalError|RuntimeError: NCCL (?:E|e)rror",
        "NCCL failed",
        "NCCL_DEBUG=INFO, first WARN of every rank",
        "NCCL",
        rank=43,
        stage="nccl",
    ),
    _cause(
        "deepgemm_jit_timeout",
        r"Watchdog caught collective operation timeout",
        "a rank was still compiling DeepGEMM kernels while the others waited",
        "python3 -m sglang.compile_deep_gemm first; keep the cache volume on both nodes; --dist-timeout 3600",
        "F58; sgl#9867, #29170",
        rank=38,
        context=r"DeepGEMM JIT Pre-Compile session",
    ),
    _cause(
        "collective_timeout",
        r"Watchdog caught collective operation timeout|watchdog timeout|Watchdog timeout"
        r"|watchdog got stuck for \d+ seconds"
        r"|[Ww]atchdog .*(?:timed out|timeout) \(",
        "one rank was late at a collective operation, or the fabric lost it",
        "compare the last stage of every rank; --dist-timeout 3600 for slow loading",
        "F37; sgl#3606, #10216",
        rank=40,
    ),
    _cause(
        "custom_all_reduce_failed",
        r"^Failed: (?:Cuda|CUDA) error \S*custom_all_reduce",
        "the engine's own all-reduce kernel could not share memory between the GPUs; it ends the process at once",
        "--disable-custom-all-reduce; P2P between the GPUs (nvidia-smi topo -p2p r), IOMMU, expandable_segments off",
        "vllm#5613, #9046, #49101",
        rank=18,
        stage="graphs",
    ),
    _cause(
        "nvshmem_failed",
        r"nvshmem_\w+.*==? ?0'|NVSHMEM.*(?:error|failed)|nvshmem.*(?:initialization failed|error)" r"|DeepEP (?:error|timeout)",
        "DeepEP/NVSHMEM could not set up",
        "newer DeepEP; IBGDA and its driver settings",
        "F72; DeepEP#137",
        rank=20,
        fatal=False,
    ),
)

CUDA = (
    _cause(
        "no_gpu_visible",
        r"No accelerator \(CUDA|No CUDA GPUs are available"
        r"|DP adjusted local rank \d+ is out of bounds|no CUDA-capable device|Found no NVIDIA driver"
        r"|Failed to infer device type|NVML(?:Error)?.*(?:not found|Not Found)"
        r"|libcuda\.so\S*: cannot open|Device string must not be empty"
        r"|could not select device driver .*capabilities: \[\[gpu|nvml error: driver not loaded",
        "no GPU is visible in the container",
        "--gpus all; CUDA_VISIBLE_DEVICES; nvidia-smi in the container",
        "recorded (0.24, 0.5.16)",
        rank=12,
    ),
    _cause(
        "not_enough_gpus",
        r"CUDA error: invalid device ordinal|local rank \d+ is out of bounds|invalid device ordinal",
        "a rank wants a GPU number that the node does not have",
        "TP per node must not exceed its GPUs",
        "recorded (0.5.16)",
        rank=12,
    ),
    _cause(
        "driver_too_old",
        r"The NVIDIA driver on your system is too old|CUDA driver version is insufficient|Error 35:"
        r"|forward compatibility was attempted|Error 804|unsupported PTX"
        r"|provided PTX was compiled with an unsupported toolchain|cudaErrorInsufficientDriver"
        r"|requirement error: unsatisfied condition: cuda",
        "the driver is older than the image's CUDA needs",
        "R580 for CUDA 13; or an image built for CUDA 12 (vLLM below 0.20, SGLang below 0.5.11); or the matching cuda-compat",
        "F43, F45; vllm#30633, #4940",
        rank=12,
    ),
    _cause(
        "cuda_driver_mismatch",
        r"Error 803|system has unsupported display driver / cuda driver combination",
        "the image's compatibility library shadows a newer driver",
        "LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib",
        "F44; vllm#33447, gpustack#4678",
        rank=12,
    ),
    _cause(
        "floating_point_exception",
        r"Floating point exception",
        "an old cuBLAS on H20 divides by zero",
        "nvidia-cublas-cu12 12.4.5.8 or newer",
        "F42; vllm#4392",
        rank=20,
    ),
    _cause(
        "illegal_memory_access",
        r"illegal memory access was encountered",
        "a GPU kernel accessed memory that is not its own",
        "CUDA_LAUNCH_BLOCKING=1 finds the kernel; another attention or MoE backend; newer image",
        "CUDA 700",
        rank=30,
    ),
    _cause(
        "device_side_assert",
        r"device-side assert triggered|Assertion `.*` failed\.$",
        "a GPU kernel found its input out of range (for instance a token id outside the vocabulary)",
        "the line above names the kernel; check token ids that clients send",
        "recorded (0.5.16)",
        rank=30,
    ),
    _cause(
        "cuda_graph_capture_failed",
        r"Capture (?:cuda|CUDA) graph failed|[Cc]apture.*graph failed"
        r"|operation not permitted when stream is capturing|cudaErrorStreamCapture",
        "CUDA graphs could not be captured",
        "--disable-cuda-graph / --enforce-eager to bisect; smaller graph batch",
        "F57; sgl#3547",
        rank=20,
        stage="graphs",
    ),
    _cause(
        "triton_error",
        r"Triton Error \[CUDA\]|PassManager::run failed|Failures have been detected while processing an MLIR pass",
        "a Triton kernel could not be compiled or loaded for this GPU",
        "an image whose Triton knows this GPU; another attention backend; clear the Triton cache",
        "public logs (0.11.0)",
        rank=28,
        fatal=False,
    ),
    _cause(
        "cublas_failure",
        r"CUBLAS_STATUS_(?!ALLOC)\w+",
        "cuBLAS failed",
        "matching cuBLAS and driver; look for an earlier illegal access",
        "recorded (0.5.16)",
        rank=30,
    ),
    _cause(
        "jit_compile_failed",
        r"No such file or directory: '(?:ninja|nvcc|gcc|g\+\+|cc|clang)'|Ninja is required"
        r"|ninja: build stopped|Ninja build failed|Error building extension|nvcc fatal|\bnvcc: not found"
        r"|Could not find nvcc|CUDA_HOME environment variable is not set|NVCC compilation failed"
        r"|subprocess\.CalledProcessError.*(?:ninja|nvcc|gcc)|CompilationError"
        r"|fatal error: \S+\.h: No such file",
        "kernels had to be compiled at start, and that failed",
        "an image with a compiler and headers, or with pre-built kernels; free disk for the cache",
        "FlashInfer/Triton/DeepGEMM JIT",
        rank=20,
    ),
    _cause(
        "cuda_error",
        r"(?:CUDA|HIP) error: |cudaError\w+|AcceleratorError|Check failed: \(status == cudaSuccess\)",
        "CUDA reported an error",
        "the line names it; dmesg for Xid",
        "CUDA",
        rank=31,
    ),
)

PROCESS = (
    _cause(
        "missing_python_module",
        r"ModuleNotFoundError: No module named '(?!ray')|^ImportError: (?!.*\.so)" r"|\bImportError: cannot import name",
        "a Python package that this configuration needs is not in the image",
        "use the official image, or install the package",
        "recorded (0.24)",
        rank=16,
    ),
    _cause(
        "missing_shared_library",
        r"ImportError: \S+\.so\S*:|cannot open shared object file|undefined symbol" r"|OSError: lib\S+\.so",
        "a shared library is missing or of another build (torch and engine must fit)",
        "one image, nothing upgraded inside it",
        "torch ABI",
        rank=17,
    ),
    _cause(
        "engine_core_startup_timeout",
        r"Timed out waiting for engine core processes to start",
        "the engine core needed longer than VLLM_ENGINE_READY_TIMEOUT_S (600 s)",
        "raise it; put the weights on faster storage or read them once before",
        "F50",
        rank=40,
        stage="loading",
        engine="vllm",
    ),
    _cause(
        "startup_timeout",
        r"Server failed to start within the timeout period|(?:server|Server|vLLM"
        r"|SGLang)[^.]{0,40} (?:did not|failed to) (?:become ready|start|respond)[^.]{0,30}(?:within"
        r"|in) \d+|Timeout(?:Error)?.*waiting for (?:the )?(?:vLLM |SGLang )?server",
        "whoever started the server gave up waiting",
        "the last stage in this log says where it stood; raise the limit if it still moved",
        "corpus",
        rank=44,
    ),
    _cause(
        "execute_model_timeout",
        r"RPC call to \w+ timed out|TimeoutError: RPC call|execute_model timed out" r"|Timed out waiting for .*execute_model",
        "a worker did not answer the engine in time",
        "a hung collective or a dead worker: last lines of every rank",
        "F19; vllm#46611",
        rank=43,
    ),
    _cause(
        "scheduler_killed_oom",
        r"Exit code: -9\b|scheduler\w* \(pid=\d+\) crashed with exit code -9|[Ss]cheduler.*(?:died"
        r"|exited).*(?:-9|SIGKILL)|worker .* was killed by signal 9"
        r"|exit(?:ed)?(?: with)?(?: code)?[: ]+-9\b",
        "a process was killed with SIGKILL, most often by the host's out-of-memory killer",
        "dmesg -T | grep -i kill; more host memory or a higher container limit",
        "sgl#15235, gpustack#3848; recorded (0.5.16)",
        rank=48,
    ),
    _cause(
        "child_terminated_sigterm_after_ready",
        r"Subprocess \S+ \(pid=\d+\) crashed with exit code -15",
        "a child was ended by SIGTERM while the server ran",
        "find who sent it (a launcher, docker stop, a session's end)",
        "corpus (SGLang)",
        rank=50,
        engine="sglang",
    ),
    _cause(
        "child_process_crashed",
        r"Subprocess \S+ \(pid=\d+\) crashed with exit code|Rank \d+ scheduler is dead"
        r"|[Ss]cheduler(?: process)? (?:died|is dead|exited)",
        "a child process of SGLang ended",
        "its exit code and the first exception above",
        "sgl#15235",
        rank=52,
        engine="sglang",
    ),
    _cause(
        "worker_died",
        r"Worker proc \S+ died unexpectedly|[Ww]orker process .*died|WorkerProc died" r"|Process \w+ exited unexpectedly",
        "a vLLM worker process died",
        "its exit code; dmesg for an OOM kill or an Xid; the other node's log",
        "recorded (0.24, two nodes)",
        rank=46,
        engine="vllm",
    ),
    _cause(
        "engine_core_died",
        r"engine core exited unexpectedly|[Ee]ngine core proc \S+ died unexpectedly"
        r"|EngineCore_\S+ died unexpectedly|EngineDeadError|AsyncEngineDeadError|MQEngineDeadError"
        r"|Engine loop has died|Engine process .*died",
        "vLLM's engine process ended while the server ran",
        "the first exception of EngineCore or Worker lines; dmesg for an OOM kill",
        "recorded (0.24, 0.32)",
        rank=47,
        engine="vllm",
    ),
    _cause(
        "segmentation_fault",
        r"Segmentation fault|SIGSEGV|Fatal Python error: Segmentation|signal 11\b|exit code -11\b",
        "a native library crashed",
        "core dump or the Python stack above; newer image",
        "F40; vllm#13136",
        rank=30,
    ),
    _cause(
        "bus_error",
        r"Fatal Python error: Bus error|^Bus error\b|Bus error \(core dumped\)|exit code -7\b",
        "memory that was promised is not there: most often /dev/shm of the container is too small",
        "--ipc=host or --shm-size 128G; df /dev/shm; a weight file that is shorter than its size says",
        "vllm#1771; JAX-Toolbox#183",
        rank=30,
    ),
    _cause(
        "warmup_failed",
        r"AssertionError: res=<Response \[\d+\]>",
        "SGLang's own first request failed",
        "502/503: a proxy stands between the server and itself (no_proxy=localhost,127.0.0.1); else the scheduler's log",
        "F15; sgl#16855, #4094",
        rank=36,
        stage="serving",
        engine="sglang",
    ),
    _cause(
        "aborted",
        r"Fatal Python error: Aborted|terminate called after throwing|exit code -6\b|SIGABRT",
        "a native library aborted",
        "the message before the stack names it",
        "recorded (0.5.16)",
        rank=45,
    ),
    _cause(
        "killed",
        r"^(?:Killed|已杀死)$|: +\d+ Killed\b|\bKilled\s+(?:python|vllm|sglang)",
        "the process was killed with SIGKILL, most often by the host's out-of-memory killer",
        "dmesg -T | grep -i kill",
        "shell",
        rank=48,
    ),
    _cause(
        "terminated_by_signal",
        r"KeyboardInterrupt: terminated|^(?:\[[^\]]*\] )?KeyboardInterrupt$|\) KeyboardInterrupt$"
        r"|SystemExit: (?:Terminated|15)|^Terminated$|Received signal (?:15|2|SIGTERM|SIGINT)"
        r"|received SIG(?:TERM|INT)|SIG(?:TERM|INT) received(?!.*[Dd]raining)|exit code -15\b"
        r"|SignalException: .*got signal: (?:2|15)|slurmstepd: error: \*\*\* \S+ \S+ ON \S+ CANCELLED",
        "somebody ended the process (SIGTERM or SIGINT) before it was ready",
        "find who: the launcher's limit, docker stop, a closed session (no nohup)",
        "corpus (0.10.0)",
        rank=50,
    ),
)

SYMPTOMS = (
    _symptom(
        "engine_core_failed",
        r"Engine core initialization failed|Failed core proc\(s\)|Engine process failed to start"
        r"|EngineCore failed to start",
        "vLLM's engine did not start",
        "nccl-logs §8",
        "vllm",
    ),
    _symptom(
        "worker_failed",
        r"WorkerProc (?:initialization failed|failed to start)",
        "a vLLM worker did not start",
        "recorded (0.24)",
        "vllm",
    ),
    _symptom("scheduler_exception", r"Scheduler hit an exception", "an SGLang scheduler failed", "F48", "sglang"),
    _symptom(
        "sigquit_from_child",
        r"Received sigquit from a child proces|SIGQUIT received\.",
        "a child of SGLang failed",
        "recorded (0.5.16)",
        "sglang",
    ),
    _symptom(
        "application_startup_failed", r"Application startup failed\. Exiting", "the HTTP application did not start", "uvicorn"
    ),
    _symptom(
        "process_tree_killed",
        r"kill_process_tree called: .*include_parent=True",
        "SGLang ends itself",
        "recorded (0.5.16)",
        "sglang",
    ),
    _symptom(
        "launcher_reports_exit",
        r"(?:vLLM|SGLang|server|Server)(?: server| process)* (?:exited with (?:status|code"
        r"|return code) [1-9-]|terminated unexpectedly|exited unexpectedly)",
        "a wrapper saw the server end",
        "corpus",
    ),
    _symptom(
        "initialization_failed",
        r"Initialization failed\. (?:controller|detoken|warmup)|Initialization failed\b.*error",
        "SGLang did not initialise",
        "SGLang source",
        "sglang",
    ),
)

WAITING = (
    _wait(
        "model_downloading",
        r"\.safetensors: +\d+%\||Fetching \d+ files: |Downloading shards: ",
        "the weights are being downloaded",
        "mount a local copy on every node instead",
        "F51",
    ),
    _wait(
        "jit_kernel_build",
        r"waiting for baton release|start build \[|Entering DeepGEMM JIT Pre-Compile|DeepGEMM warmup"
        r"|Try DeepGEMM JIT|\bninja\b.*build|Building extension module|[Cc]ompiling .*kernels?\b"
        r"|flashinfer.*JIT|JIT compil(?!ations during)",
        "kernels are being compiled; this can take 10–20 minutes",
        "keep the kernel cache on a volume, on both nodes",
        "F58; corpus (0.16)",
    ),
    _wait(
        "cuda_graph_capture",
        r"Capture \S* ?(?:\w+ )*(?:cuda|CUDA) graph begin|Capturing (?:batches|num tokens|CUDA graph"
        r"|cudagraph|the model)|Captur\w+ CUDA graph",
        "CUDA graphs are being captured",
        "wait; if it never moves see F57",
        "F57; corpus",
    ),
    _wait(
        "torch_compile",
        r"torch\.compile (?:takes|took)|Dynamo bytecode transform|Compiling a graph|Cache the graph"
        r"|Using cache directory: .*torch_compile|enable_torch_compile=True",
        "torch.compile is at work",
        "20 minutes and more with --enable-torch-compile",
        "F60; write-up",
    ),
    _wait(
        "ray_placement_group_pending",
        r"Waiting for creating a placement group|No current placement group found" r"|Creating a new placement group",
        "Ray has not yet given the GPUs",
        "ray status; it gives up after 1800 s, seen at about 2557 s",
        "F06; corpus",
    ),
    _wait(
        "workers_starting",
        r"use_ray_spmd_worker|Started engine process|world_size=\d+ rank=|Launching vLLM .* headless"
        r"|Worker ready; awaiting tasks|Reducing Torch parallelism",
        "the worker processes are starting",
        "wait",
        "corpus (0.8)",
    ),
    _wait(
        "distributed_init",
        r"Init torch distributed begin|distributed_init_method=|\[Gloo\] Rank|NCCL INFO"
        r"|is using nccl==|c10d\] The (?:client|server) socket",
        "the ranks are connecting",
        "both nodes must be started; see F03, F14 if it lasts",
        "F14",
    ),
    _wait(
        "weights_loading",
        r"Load weight begin|Starting to load model|checkpoint shards:|loading shards:"
        r"|Loading weights|Loading model weights",
        "the weights are being read",
        "watch k of n; F46 if n is not 163",
        "F46",
    ),
    _wait(
        "kv_cache_allocation",
        r"Load weight end|Model loading took|Loading model weights took|Memory profiling"
        r"|KV Cache is allocated|Memory pool end|GPU KV cache size",
        "memory is being measured and the KV cache laid out",
        "wait",
        "engines §1.3",
    ),
    _wait(
        "warmup",
        r"init engine \(profile|Uvicorn running on|Application startup complete|Warming up" r"|max_total_num_tokens=",
        "the server is warming up",
        "wait; SGLang is ready only with its own ready line",
        "engines §2.5",
    ),
    _wait(
        "engine_starting",
        r"vLLM API server version|non-default args|server_args=ServerArgs"
        r"|Automatically detected platform|Initializing a V[01] LLM engine|█  version",
        "the engine has just started",
        "wait",
        "engines §1.3",
    ),
)

HINTS = (
    _hint(
        "default_moe_config",
        r"Using default MoE config\. Performance might be sub-optimal",
        "no tuned MoE kernel configuration for this GPU and shape",
        "a newer engine, or a tuned JSON",
        "F62",
    ),
    _hint(
        "shm_broadcast_waiting",
        r"No available shared memory broadcast block found",
        "a rank is slow (compile, load) or hung",
        "harmless once; repeated, look at the slow rank",
        "F19; vllm#46611",
    ),
    _hint(
        "no_unique_node_warning",
        r"exceeds available GPUs|is bigger than a reserved number of GPUs",
        "normal for TP16 over 8+8 GPUs",
        "nothing",
        "corpus; engines §1.3",
    ),
    _hint(
        "host_ip_ignored",
        r"HOST_IP.*(?:ignored|deprecated|not be used)|Found HOST_IP",
        "vLLM ignores HOST_IP",
        "set VLLM_HOST_IP",
        "engines §1.7",
    ),
)

SIGNATURES: tuple[Signature, ...] = (
    *ARGUMENTS,
    *FILES,
    *MEMORY,
    *PORTS,
    *RENDEZVOUS,
    *RAY,
    *FABRIC,
    *CUDA,
    *PROCESS,
    *SYMPTOMS,
    *WAITING,
    *HINTS,
)

BY_ID: dict[str, Signature] = {s.id: s for s in SIGNATURES}
