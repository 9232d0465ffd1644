"""What names no cause: proofs of failure, stages of a start, remarks."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import hint, symptom, wait

SYMPTOMS = (
    symptom(
        "engine_core_failed",
        r"got fatal signal from worker processes|This might cause deadlock in distributed execution"
        r"|Engine core initialization failed|Failed core proc\(s\)|Engine process failed to start"
        r"|EngineCore failed to start",
        "vLLM's engine did not start",
        "E-nccl",
        "vllm",
    ),
    symptom(
        "worker_failed",
        r"WorkerProc (?:initialization failed|failed to start)",
        "a vLLM worker did not start",
        "recorded (0.24)",
        "vllm",
    ),
    symptom(
        "nvshmem_exits",
        r"nvshmem initialization failed, exiting|aborting due to error in nvshmem",
        "NVSHMEM ends the process",
        "DeepEP#150, #223",
    ),
    symptom(
        "scheduler_exception",
        r"(?:Scheduler|[Tt]okenizer\w*|DataParallel\w*) hit an exception",
        "an SGLang scheduler failed",
        "F48",
        "sglang",
    ),
    symptom(
        "sigquit_from_child",
        r"Received sigquit from a child proces|SIGQUIT received\.",
        "a child of SGLang failed",
        "recorded (0.5.16)",
        "sglang",
    ),
    symptom(
        "application_startup_failed",
        r"Application startup failed\. Exiting",
        "the HTTP application did not start",
        "uvicorn",
        unless=r"DuplicateTimeseries: ",  # SGLang's node 1 starts a second application for its health when it is told to stop
    ),
    symptom(
        "process_tree_killed",
        r"kill_process_tree called: .*include_parent=True",
        "SGLang ends itself",
        "recorded (0.5.16)",
        "sglang",
    ),
    symptom(
        "native_crash",
        r"^Fatal Python error: |^Extension modules: |^(?=\S)(?:.*[, ])?[A-Za-z]\w*\._\w[\w.]*, ?[A-Za-z]\w*[\w.]*\._\w"
        r"|stack smashing detected|\*\*\* (?:SIG(?!TERM|INT)\w+ received at|Process received signal)"
        r"|Caught signal \d+ \(|^Signal: [A-Z]|\bcore dumped\b",
        "a native library ended the process",
        "faulthandler, absl, Open MPI and UCX print this; sgl#4205",
    ),
    symptom(
        "watchdog_ends_process",
        r"\bfailure detected by watchdog at work sequence id: ",
        "torch's watchdog saw a collective operation fail and ends the process",
        "sgl#10216",
    ),
    symptom(
        "launcher_reports_exit",
        r"(?:vLLM|SGLang|server|Server)(?: server| process)* (?:exited with (?:status|code"
        r"|return code) [1-9-]|terminated unexpectedly|exited unexpectedly)"
        r"|\b(?:[Ee]xited|[Tt]erminated|died|finished|stopped|crashed|failed)(?: \w+){0,2} "
        r"(?:(?:exit |return |error )?code|(?:exit )?status(?! code)|signal)[ :=]+(?:SIG(?!TERM|INT)|-?(?!(?:2|15|[45]\d\d)\b)[1-9])"
        r"|died with <Signals\.(?!SIG(?:TERM|INT))|Main process exited, code=(?:exited, status=[1-9]|dumped|killed)|\bExit Code: +[1-9]"
        r"|\b(?:ERROR|[Ee]rror)\b.{0,200}\b[Ff]ailed to (?:launch|start|deploy|load)(?: \w+){0,3} (?:model|engine|server|worker|replica)\b"
        r"|Back-off restarting failed container|\bCrashLoopBackOff\b"
        r"|^(?:\S+ )?(?:vLLM|SGLang)(?: server)? failed to (?:start|launch)|dependency failed to start|[Cc]rashed container\b"
        r"|\b[Ee]xited \((?!0|130|143)\d+\)"
        r"|\b(?:[Ee]xecutor|[Ee]ngine|[Ww]orker|[Ss]cheduler)(?: \w+){0,2} crashed\b",
        "a wrapper saw the server end",
        "corpus; systemd, Docker, Kubernetes, Slurm, mpirun, Python's subprocess",
    ),
    symptom(
        "initialization_failed",
        r"Initialization failed\. (?:controller|detoken|warmup)|Initialization failed\b.*error",
        "SGLang did not initialise",
        "SGLang source",
        "sglang",
    ),
)

WAITING = (
    wait(
        "model_downloading",
        r"\.safetensors: +\d+%\||Fetching \d+ files: |Downloading shards: ",
        "the weights are being downloaded",
        "mount a local copy on every node instead",
        "F51",
    ),
    wait(
        "jit_kernel_build",
        r"waiting for baton release|Begin DeepGEMM Kernels compilation|start build \[|Entering DeepGEMM JIT Pre-Compile|DeepGEMM warmup"
        r"|Try DeepGEMM JIT|DeepGemm\(\w+\) warmup|\bninja\b.*build|Building extension module|[Cc]ompiling .*kernels?\b"
        r"|flashinfer.*JIT|JIT compil(?!ations during)",
        "kernels are being compiled; this can take 10–20 minutes",
        "keep the kernel cache on a volume, on all nodes",
        "F58; corpus (0.16)",
    ),
    wait(
        "cuda_graph_capture",
        r"Capture \S* ?(?:\w+ )*(?:cuda|CUDA) graph begin|Capturing (?:a )?(?:batches|num tokens|CUDA graph"
        r"|cudagraph|the model)|Captur\w+ CUDA graph",
        "CUDA graphs are being captured",
        "wait; if it never moves see F57",
        "F57; corpus",
    ),
    wait(
        "torch_compile",
        r"torch\.compile (?:takes|took)|Dynamo bytecode transform|Compiling a graph|Cache the graph"
        r"|Using cache directory: .*torch_compile|enable_torch_compile=True",
        "torch.compile is at work",
        "20 minutes and more with --enable-torch-compile",
        "F60; write-up",
    ),
    wait(
        "ray_placement_group_pending",
        r"Waiting for creating a placement group|No current placement group found" r"|Creating a new placement group",
        "Ray has not yet given the GPUs",
        "ray status; it gives up after 1800 s, seen at about 2557 s",
        "F06; corpus",
    ),
    wait(
        "workers_starting",
        r"use_ray_spmd_worker|Started engine process|world_size=\d+ rank=|Launching vLLM .* headless"
        r"|Worker ready; awaiting tasks|Reducing Torch parallelism",
        "the worker processes are starting",
        "wait",
        "corpus (0.8)",
    ),
    wait(
        "distributed_init",
        r"Init torch distributed begin|distributed_init_method=|\[Gloo\] Rank|NCCL INFO"
        r"|Transfer Engine (?:starting|RPC using)|Topology discovery complete|message queue communication handle"
        r"|[Cc]ustom allreduce is disabled|\bConnecting to tcp://|is using nccl==|c10d\] The (?:client|server) socket",
        "the ranks are connecting",
        "all nodes must be started; see F03, F14 if it lasts",
        "F14",
    ),
    wait(
        "weights_loading",
        r"Load weight begin|Starting to load model|checkpoint shards:|loading shards:"
        r"|Loading model from|Checkpoint size: |Loading weights|Loading model weights|Time spent downloading weights",
        "the weights are being read",
        "watch k of n; F46 if n is not 163",
        "F46",
    ),
    wait(
        "kv_cache_allocation",
        r"Load weight end|Model loading took|Loading model weights took|Memory profiling"
        r"|KV Cache is allocated|Memory pool end|GPU KV cache size",
        "memory is being measured and the KV cache laid out",
        "wait",
        "E-log",
    ),
    wait(
        "warmup",
        r"init engine \(profile|Starting vLLM (?:API )?server|Available routes are|(?:^|\] )Route: /|Waiting for application startup"
        r"|Start of \w* ?warmup|Uvicorn running on|Application startup complete|Warming up(?! \d+/\d+ for shape)"
        r"|max_total_num_tokens=",
        "the server is warming up",
        "wait; SGLang is ready only with its own ready line",
        "E-log",
    ),
    wait(
        "engine_starting",
        r"vLLM API server version|non-default args|server_args=ServerArgs"
        r"|Waiting for \d+ local, \d+ remote core engine|Resolved architecture: |Using max model len|Chunked prefill is enabled"
        r"|Configuring \w+Worker|Using \w+ (?:\w+ )?backend|Automatically detected platform|█  version"
        r"|Initializing an? (?:V[01] )?LLM engine|[Ee]ngine args: "
        r"|\b(?:tensor_parallel_size|tp_size|mem_fraction_static|enforce_eager|disable_log_stats|disable_log_requests|kv_cache_dtype"
        r"|gpu_memory_utilization|max_num_seqs)=[\w.']+[,)]",
        "the engine has just started",
        "wait",
        "E-log",
    ),
)

HINTS = (
    hint(
        "default_moe_config",
        r"Using default MoE config\. Performance might be sub-optimal",
        "no tuned MoE kernel configuration for this GPU and shape",
        "a newer engine, or a tuned JSON",
        "F62",
    ),
    hint(
        "shm_broadcast_waiting",
        r"No available shared memory broadcast block found",
        "a rank is slow (compile, load) or hung",
        "harmless once; repeated, look at the slow rank",
        "F19; vllm#46611",
    ),
    hint(
        "no_unique_node_warning",
        r"exceeds available GPUs|is bigger than a reserved number of GPUs",
        "normal for TP16 over 8+8 GPUs",
        "nothing",
        "corpus; E-log",
    ),
    hint(
        "host_ip_ignored",
        r"HOST_IP.*(?:ignored|deprecated|not be used)|Found HOST_IP",
        "vLLM ignores HOST_IP",
        "set VLLM_HOST_IP",
        "E-env",
    ),
)
