"""Processes: what they import, how they end, and who waited for them."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

PROCESS = (
    cause(
        "missing_python_module",
        r"(?:ModuleNotFoundError|RaySystemError: System error): No module named '(?!ray'|common_ops')|^ImportError: (?!.*\.so)"
        r"|\bImportError: cannot import name",
        "a Python package that this configuration needs is not in the image",
        "use the official image, or install the package",
        "recorded (0.24)",
        rank=16,
    ),
    cause(
        "package_versions_mismatch",
        r"AttributeError: '_OpNamespace' '\w+' object has no attribute|AttributeError: (?:'?\w*Tokeniz\w+'? )(?:object )?has no attribute"
        r"|is installed with version \S+ which is|flashinfer\S* version .{0,80}does not match|VersionConflict\b|numpy\.dtype size changed"
        r"|compiled using NumPy 1\.x cannot be run|Error: [\w.-]+ ?(?:[<>=!]=|[<>]) ?\d\S* is required for .{0,120}but found",
        "two packages of this installation do not belong together: one calls what the other does not have",
        "one image, nothing upgraded inside it; else the versions that the engine's own requirements name",
        "vllm#13593; vllm-ascend#4229; Qwen3-VL#2058",
        rank=16,
        stage="arguments",
    ),
    cause(
        "no_main_guard",
        r"An attempt has been made to start a new process before",
        "the script that starts the engine starts it again in every child: its start stands outside `if __name__ == '__main__'`",
        "guard the start, or call the engine's own command (vllm serve, python -m sglang.launch_server)",
        "recorded (vLLM 0.24, two H200)",
        rank=14,
    ),
    cause(
        "missing_shared_library",
        r"ImportError: \S+\.so\S*:|Failed to load NCCL library|cannot open shared object file|undefined symbol"
        r"|OSError: lib\S+\.so"
        r"|operator torchvision::\w+ does not exist|Could not load any common_ops library"
        r"|version `(?:GLIBC|CXXABI)\w*_[\d.]+' not found|: invalid ELF header",
        "a shared library is missing or of another build (torch and engine must fit)",
        "one image, nothing upgraded inside it",
        "torch ABI",
        rank=17,
    ),
    cause(
        "engine_core_startup_timeout",
        r"Timed out waiting for engine core processes to start|Timed out waiting for engines to send",
        "the engine core needed longer than VLLM_ENGINE_READY_TIMEOUT_S (600 s)",
        "raise it; put the weights on faster storage or read them once before",
        "F50",
        rank=40,
        stage="loading",
        engine="vllm",
    ),
    cause(
        "startup_timeout",
        r"Server failed to start within the timeout period"
        r"|(?:[Ss]erver|vLLM|SGLang|[Ee]ngine|[Hh]ealth ?-?[Cc]heck)(?:[^.]|\.(?=\S)){0,120} (?:did not|failed to|not)"  # a URL has dots
        r" (?:become |be |get )?(?:ready|healthy|start|respond|pass)(?:[^.]|\.(?=\S)){0,80}(?:within|in|after) \d+"
        r"|failed (?:liveness|startup) probe, will be restarted"
        r"|Timeout(?:Error)?.*waiting for (?:the )?(?:vLLM |SGLang )?(?:server|https?://)|[Tt]imed out (?:after \S+ )?waiting for .*https?://"
        r"|[Hh]ealth ?-?[Cc]heck\b.{0,160}\b(?:timed out|timeout)\b",
        "whoever started the server gave up waiting",
        "the last stage in this log says where it stood; raise the limit if it still moved",
        "corpus",
        rank=44,
    ),
    cause(
        "execute_model_timeout",
        r"RPC call to \w+ timed out|RayChannelTimeoutError|TimeoutError: RPC call|execute_model timed out"
        r"|Timed out waiting for .*execute_model",
        "a worker did not answer the engine in time",
        "a hung collective or a dead worker: last lines of every rank",
        "F19; vllm#46611",
        rank=43,
    ),
    cause(
        "scheduler_killed_oom",
        r"Exit code: -9\b|scheduler\w* \(pid=\d+\) crashed with exit code -9|DataParallelController \d+ terminated with -9"
        r"|[Ss]cheduler[^.]*(?:died"
        r"|exited)[^.]*(?:-9|SIGKILL)|worker .* was killed by signal 9"
        r"|exit(?:ed)?(?: with)?(?: code)?[: ]+-9\b",
        "a process was killed with SIGKILL, most often by the host's out-of-memory killer",
        "dmesg -T | grep -i kill; more host memory or a higher container limit",
        "sgl#15235, gpustack#3848; recorded (0.5.16)",
        rank=48,
    ),
    cause(
        "child_terminated_sigterm_after_ready",
        r"Subprocess \S+ \(pid=\d+\) crashed with exit code -15",
        "a child was ended by SIGTERM while the server ran",
        "find who sent it (a launcher, docker stop, a session's end)",
        "corpus (SGLang)",
        rank=50,
        engine="sglang",
    ),
    cause(
        "child_process_crashed",
        r"Subprocess \S+ \(pid=\d+\) crashed with exit code|Rank \d+ scheduler is dead"
        r"|DataParallelController \d+ terminated with (?!-?(?:0|2|15)\b)"
        r"|[Ss]cheduler(?: process)? (?:died|is dead|exited)",
        "a child process of SGLang ended",
        "its exit code and the first exception above",
        "sgl#15235",
        rank=52,
        engine="sglang",
    ),
    cause(
        "program_error",
        r"^(?:NameError|UnboundLocalError|RecursionError|ZeroDivisionError): ",
        "an error inside the engine's or the model's code, whose words name no other cause",
        "its message and the frames above it: search them among the engine's issues, try another version of the image",
        "Python",
        rank=38,
        fatal=False,
    ),
    cause(
        "more_gpus_than_ranks",
        r"^AssertionError$",
        "a node shows the engine more GPUs than it has ranks there: vLLM tells by that number on which node a rank is",
        "CUDA_VISIBLE_DEVICES with as many GPUs as ranks a node, or use all GPUs of each node",
        "recorded (0.24, two nodes of two H200)",
        rank=20,
        engine="vllm",
        context=r"assert remote_message_queue is not None",
    ),
    cause(
        "worker_died",
        r"Worker ?[Pp]roc \S+ died unexpectedly|[Ww]orker process .*died|WorkerProc died|Process \w+ exited unexpectedly"
        r"|Worker \S+ pid \d+ died(?!, exit code: -15\b)",
        "a vLLM worker process died",
        "its exit code; dmesg for an OOM kill or an Xid; the other nodes' logs",
        "recorded (0.24, two nodes)",
        rank=46,
        engine="vllm",
    ),
    cause(
        "worker_lost_in_setup",
        r"WorkerProc initialization failed due to an exception in a background process",
        "a vLLM worker process ended while it was set up; one that leaves no traceback of its own was killed",
        "the worker's own lines above it; if there are none: dmesg for an OOM kill, and who sends SIGKILL on that node",
        "recorded (0.24, two H200)",
        rank=49,
        engine="vllm",
    ),
    cause(
        "engine_core_died",
        r"engine core exited unexpectedly|[Ee]ngine core proc \S+ died unexpectedly"
        r"|EngineCore_\S+ died unexpectedly|EngineDeadError|AsyncEngineDeadError|MQEngineDeadError"
        r"|Engine loop has died|Engine process .*died|[Ee]ngine is already dead|, terminating server process"
        r"|EngineCore encountered an issue\. See stack trace",
        "vLLM's engine process ended while the server ran",
        "the first exception of EngineCore or Worker lines; dmesg for an OOM kill",
        "recorded (0.24, 0.32)",
        rank=47,
        engine="vllm",
    ),
    cause(
        "segmentation_fault",
        r"Segmentation fault|Segfault encountered|SIGSEGV|Fatal Python error: Segmentation|signal 11\b|exit code -11\b"
        r"|exit(?:ed with)? (?:code|status)[ :]+139\b",
        "a native library crashed",
        "core dump or the Python stack above; newer image",
        "F40; vllm#13136",
        rank=30,
    ),
    cause(
        "bus_error",
        r"Fatal Python error: Bus error|Unexpected bus error encountered|^Bus error\b|Bus error \(core dumped\)|exit code -7\b",
        "memory that was promised is not there: most often /dev/shm of the container is too small",
        "--ipc=host or --shm-size 128G; df /dev/shm; a weight file that is shorter than its size says",
        "vllm#1771; JAX-Toolbox#183",
        rank=30,
    ),
    cause(
        "warmup_failed",
        r"AssertionError: res=<Response \[\d+\]>|Initialization failed\. warmup error|[Ww]arm-?up (?:request )?failed\b",
        "SGLang's own first request failed",
        "502/503: a proxy stands between the server and itself (no_proxy=localhost,127.0.0.1); else the scheduler's log",
        "F15; sgl#16855, #4094",
        rank=36,
        stage="serving",
        engine="sglang",
    ),
    cause(
        "health_check_failed",
        r"Health check failed\. Server couldn't get a response",
        "the server runs but its scheduler no longer answers: it hangs in a collective, or one prefill takes longer than the limit",
        "the last stage of every rank; SGLANG_HEALTH_CHECK_TIMEOUT for long prompts",
        "sgl#10856, #22511, #26482",
        rank=44,
        fatal=False,
        engine="sglang",
    ),
    cause(
        "aborted",
        r"Fatal Python error: Aborted|terminate called after throwing|exit code -6\b|SIGABRT"
        r"|^(?:free|malloc|munmap_chunk|realloc)\(\): |^double free or corruption|^corrupted (?:double-linked list|size)",
        "a native library aborted",
        "the message before the stack names it",
        "recorded (0.5.16)",
        rank=45,
    ),
    cause(
        "killed",
        r"exit(?:ed with)? (?:code|status)[ :]+137\b|\bOOMKilled\b|code=killed, status=9/KILL"
        r"|^(?:Killed|已杀死)$|: +\d+ Killed\b|\b(?:on|by|with) signal:? (?:9\b|SIGKILL)"
        r"|\b[Ee]xited \(137\)|return ?code(?: =|:)? -9\b|died with <Signals\.SIGKILL|\bKilled\s+(?:python|vllm|sglang)",
        "the process was killed with SIGKILL, most often by the host's out-of-memory killer",
        "dmesg -T | grep -i kill",
        "shell",
        rank=48,
    ),
    cause(
        "terminated_by_signal",
        r"\bWorker\w* was terminated\b|\[shutdown\] \w+: trigger received signal=SIG(?:TERM|INT)|[Ss]ignal [Rr]eceived: (?:15|2)\b"
        r"|KeyboardInterrupt: terminated|^(?:\[[^\]]*\] )?KeyboardInterrupt$|\) KeyboardInterrupt$"
        r"|SystemExit: (?:Terminated|15)|^Terminated$|Received signal (?:15|2|SIGTERM|SIGINT)"
        r"|received SIG(?:TERM|INT)|SIG(?:TERM|INT) received(?!.*[Dd]raining)|exit code:? -15\b"
        r"|SignalException: .*got signal: (?:2|15)|slurmstepd: error: \*\*\* \S+ \S+ ON \S+ CANCELLED",
        "somebody ended the process (SIGTERM or SIGINT) before it was ready",
        "find who: the launcher's limit, docker stop, a closed session (no nohup)",
        "corpus (0.10.0)",
        rank=50,
    ),
)
