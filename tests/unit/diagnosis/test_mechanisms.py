"""What decides about text that nobody has seen, whatever its words: whose traceback it is, who crashed, who serves."""

from __future__ import annotations

import pytest

from pytest_h20.diagnosis import diagnose

BANNER = "INFO 04-18 14:08:52 [api_server.py:840] vLLM API server version 0.8.2"
SHARDS = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:09<00:09,  9.1s/it]"
ASGI = [
    "ERROR:    Exception in ASGI application",
    "Traceback (most recent call last):",
    '  File "/opt/vllm/lib/python3.12/site-packages/uvicorn/protocols/http/h11_impl.py", line 403, in run_asgi',
    "    result = await app(  # type: ignore[func-returns-value]",
    "             ^^^^^^^^^^",
]
GOES_ON = [
    *ASGI,
    '  File "/opt/vllm/lib/python3.12/site-packages/vllm/entrypoints/openai/serving_chat.py", line 12, in create',
    "jinja2.exceptions.UndefinedError: 'x' is undefined",
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    "Traceback (most recent call last):",
    '  File "/opt/vllm/lib/python3.12/site-packages/starlette/middleware/errors.py", line 164, in __call__',
    "RuntimeError: CUDA error: an illegal memory access was encountered",
]


@pytest.mark.parametrize("log", [ASGI, GOES_ON, GOES_ON[5:6]], ids=["cut", "chained", "a file of the engine's server"])
def test_the_traceback_of_a_request_shows_a_server(log: list[str]) -> None:
    assert diagnose(log).outcome == "ready"
    assert diagnose([BANNER, SHARDS, *log]).outcome == "waiting"  # another application's: this one loads


def test_the_traceback_of_a_request_that_met_a_dead_engine() -> None:
    dead = [
        *ASGI,
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
    ]
    assert (diagnose(dead).outcome, diagnose(dead).cause) == ("failed", "engine_core_died")
    loop = [
        *ASGI[:2],
        '  File "/x/vllm/engine/async_llm_engine.py", line 359, in run_engine_loop',
        "    has_requests = await self.engine_step()",
    ]
    assert (diagnose(loop).outcome, diagnose(loop).cause) == ("failed", None)


def test_the_traceback_of_an_application_without_an_engine() -> None:
    assert diagnose([line.replace("vllm", "gateway") for line in ASGI]).outcome == "undetermined"


@pytest.mark.parametrize(
    "line",
    [
        'INFO:     10.1.1.1:5 - "POST /v1/completions HTTP/1.1" 200 OK',
        'INFO:     10.1.1.1:5 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request',
        "INFO 01-03 18:37:00 logger.py:37] Received request cmpl-8304-0: prompt: 'RuntimeError: CUDA out of memory', params: Samp",
        "INFO 01-03 18:37:00 async_llm_engine.py:180] Aborted request chat-4656.",
        "WARNING 01-03 18:37:00 scheduler.py:1057] Sequence group 12 is preempted by PreemptionMode.SWAP mode",
        "[2025-05-14 09:31:43] Prefill batch. #new-seq: 2, #new-token: 2, token usage: 0.26, #running-req: 28, #queue-req: 0",
    ],
)
def test_a_line_of_a_server_at_work(line: str) -> None:
    assert diagnose([line]).outcome == "ready"
    assert diagnose([BANNER, line]).outcome == "waiting"
    if "prompt" not in line:
        assert diagnose([line, SHARDS]).outcome == "waiting"  # whoever was asked, this one loads


@pytest.mark.parametrize(
    "line",
    [
        'INFO:     10.1.1.1:5 - "POST /v1/completions HTTP/1.1" 503 Service Unavailable',
        'INFO:     10.1.1.1:5 - "GET /metrics HTTP/1.1" 200 OK',
        'INFO:     10.1.1.1:5 - "POST /v1/load_lora_adapter HTTP/1.1" 200 OK',
    ],
)
def test_what_shows_no_server_at_work(line: str) -> None:
    assert diagnose([line, "vllm/config.py"]).outcome != "ready"


STACKS = {
    "faulthandler": [
        "Fatal Python error: init_sys_streams",
        "Current thread 0x00007f0a (most recent call first):",
        '  File "a.py", line 7 in f',
    ],
    "its modules": ["Extension modules: numpy.core._multiarray_umath, torch._C, torch._C._fft, zmq.backend.cython._zmq (total: 52)"],
    "the middle of its modules": [", numpy.random._mt19937, numpy.random.mtrand, torch._C, torch._C._fft, pandas._libs.lib, pandas._"],
    "absl": ["*** SIGFPE received at time=1709021359 on cpu 44 ***", "PC: @     0x7f3c5f628350  (unknown)  (unknown)"],
    "UCX": ["[gpu07:4242 :0:4242] Caught signal 11 (Segmentation fault: address not mapped to object at address (nil))"],
    "Open MPI": ["[gpu07:4242] *** Process received signal ***", "[gpu07:4242] Signal: Floating point exception (8)"],
    "glibc": ["*** stack smashing detected ***: terminated"],
    "a shell": ["run.sh: line 4:   231 Aborted                 (core dumped) vllm serve /m"],
    "C++ frames": [
        "frame #0: c10::Error::Error(c10::SourceLocation) + 0x96 (0x7b39 in libc10.so)",
        "frame #1: c10::detail + 0x64 (0x7b39 in l",
    ],
    "glibc's frames": ["/lib64/libc.so.6(+0x3ebf0)[0x7ff5003febf0]", "/lib64/libpython3.12.so.1.0(PyObject_Call"],
    "ranks that write over each other": [
        '/x/sglang/scheduler.py  File ", line  in , line   File run_event_loop"""/x/sglang/nvtx.py17"',
        ", line 39",
    ],
    "another library's": ["ERROR 12-20 03:17:19 [engine.py:187]  --- /x/bin/python(_PyEval_EvalFrameDefault+0x29f4) [0x559d06bbe794]"],
}


@pytest.mark.parametrize("lines", STACKS.values(), ids=STACKS)
def test_a_native_crash(lines: list[str]) -> None:
    assert diagnose([BANNER, SHARDS, *lines]).outcome == "failed"
    assert diagnose(lines).outcome == "failed"


def test_a_native_stack_that_was_only_warned_about() -> None:
    """torch prints the stack of what it warns of, too: a peer's store that is not there yet."""
    warning = "[W421 04:13:43.457389636 TCPStore.cpp:125] [c10d] recvValue failed on SocketImpl(fd=84): Connection reset by peer"
    log = [BANNER, SHARDS, warning, "Exception raised from recvBytes at Utils.hpp:678 (most recent call first):", *STACKS["C++ frames"]]
    assert diagnose(log).outcome == "waiting"
    assert diagnose([BANNER, *STACKS["C++ frames"], SHARDS]).outcome == "waiting"  # got over


@pytest.mark.parametrize(
    "file", ["core.py", "v1/engine/core.py", "multiproc_executor.py", "gpu_model_runner.py", "multiproc_worker_utils.py"]
)
def test_an_error_of_the_engine_in_words_that_nobody_knows(file: str) -> None:
    line = f"(Worker_TP0 pid=7) ERROR 11-23 18:09:03 [{file}:77] the frobnicator is loose"
    assert diagnose([BANNER, SHARDS, line]).outcome == "failed"
    assert diagnose([line]).outcome == "failed"
    assert diagnose([BANNER, line, SHARDS]).outcome == "waiting"  # it went on
    assert diagnose([BANNER, SHARDS, line.replace(f"[{file}", "[serving_chat.py")]).outcome == "waiting"  # a request's


def test_what_one_is_told_to_ignore() -> None:
    told = "INFO 04-08 04:00:01 [ray_distributed_executor.py:127] Bye. If you see error log regarding SIGTERM received, please ignore"
    assert (
        diagnose([told, "CRITICAL 04-08 04:00:01 [core_client.py:361] Got fatal signal from worker processes, shutting down."]).cause
        is None
    )
    assert diagnose([BANNER, SHARDS, told]).outcome == "waiting"


def test_a_stop_that_somebody_ordered_from_the_keyboard() -> None:
    line = "^C(EngineCore pid=39) INFO 05-26 19:19:56 [core.py:1155] [shutdown] EngineCore: trigger received signal=SIGINT"
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("failed", "terminated_by_signal")
    assert diagnose([BANNER, "INFO:     Application startup complete.", line]).outcome == "ready"


EXITS = [
    "vllm-1 exited with code 1",
    "systemd[1]: vllm.service: Main process exited, code=exited, status=1/FAILURE",
    "srun: error: gpu07: task 0: Exited with exit code 1",
    "  Warning  BackOff  9s (x3 over 60s)  kubelet  Back-off restarting failed container vllm in pod vllm-0",
    "      Exit Code:    1",
    "mpirun noticed that process rank 3 with PID 412 on node gpu07 exited on signal 7 (Bus error).",
    "subprocess.CalledProcessError: Command '['vllm', 'serve']' died with <Signals.SIGABRT: 6>.",
    "[2026-01-04 02:23:49] INFO model instance r1-0 terminated with return code -9",
]


@pytest.mark.parametrize("line", EXITS)
def test_whoever_saw_it_end(line: str) -> None:
    assert diagnose([BANNER, SHARDS, line]).outcome == "failed"
    assert diagnose([BANNER, "INFO:     Application startup complete.", line]).outcome == "failed"


@pytest.mark.parametrize(
    "line",
    [
        "vllm-1 exited with code 0",
        "Request failed with status code 404",
        "health check failed with code 503",
        "subprocess finished with exit code 0",
        "container stopped with exit status 0",
    ],
)
def test_what_is_no_end_of_it(line: str) -> None:
    assert diagnose([BANNER, SHARDS, line]).outcome == "waiting"


def test_another_service_that_ended() -> None:
    log = [f"vllm-1     | {BANNER}", f"vllm-1     | {SHARDS}", "gateway-1 exited with code 1"]
    assert diagnose(log).outcome == "waiting"
    assert diagnose([*log, "vllm-1 exited with code 1"]).outcome == "failed"


def test_what_vllm_says_without_a_known_stage_is_a_start() -> None:
    line = "INFO 11-15 09:07:04 api_server.py:166] Multiprocessing frontend to use ipc:///tmp/652c for IPC Path."
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("waiting", "engine_starting")
    assert diagnose(["2026-11-15 09:07:04 gateway.py:166 Reading the routes."]).outcome == "undetermined"


def test_vllm_that_says_that_it_is_not_well() -> None:
    line = 'INFO:     10.42.15.50:60988 - "GET /health HTTP/1.1" 500 Internal Server Error'
    assert diagnose([line, *ASGI]).cause == "engine_core_died"
    served = [BANNER, "INFO:     Application startup complete.", line]
    assert (diagnose(served).outcome, diagnose(served).cause) == ("failed", "engine_core_died")
    sglang = "[2026-01-01 10:00:00] server_args=ServerArgs(model_path='/m', node_rank=0)"
    assert diagnose([sglang, line.replace("500 Internal Server Error", "503 Service Unavailable")]).outcome == "waiting"


def test_columns_of_a_logger_and_a_line_that_ends_inside_them() -> None:
    log = [
        "2024-02-15 16:04:21 | INFO | stdout | router init state: Traceback (most recent call last):",
        '2024-02-15 16:04:21 | INFO | stdout |   File "/x/sglang/srt/managers/router/manager.py", line 68, in start_router_process',
        "2024-02-15 16:04:21 | INFO | stdout |     model_client = ModelRpcClient(server_args, port_args)",
        "2024-02-15 16:04:22 | INFO | std",
    ]
    assert diagnose(log).outcome == "failed"
    assert diagnose([*log[:-1], "2024-02-15 16:04:22 | INFO | stdout | Loading weights"]).outcome == "waiting"


@pytest.mark.parametrize(
    "line",
    [
        "ERROR 05-01 01:51:54 [serving_chat.py:898] Error in chat_completion_full_generator - cannot determine if tools should be.",
        "(APIServer pid=1) WARNING 05-01 01:51:54 [protocol.py:70] The following fields were present in the request but ignored: {'x'}",
    ],
)
def test_a_file_that_only_requests_reach(line: str) -> None:
    assert diagnose([line]).outcome == "ready"
    assert diagnose([BANNER, SHARDS, line]).outcome == "waiting"


def test_a_request_to_another_service_of_the_compose_file() -> None:
    log = [
        f"vllm-1     | {BANNER[:60]} Using max model len 4096 (vllm)",
        'gateway-1  | INFO:     1.1.1.1:5 - "POST /v1/completions HTTP/1.1" 200 OK',
    ]
    assert diagnose(["vllm-1     | /vllm/config.py", *log]).outcome == "waiting"


@pytest.mark.parametrize(
    "line",
    [
        "[2026-01-01 10:00:00] TokenizerManager hit an exception: Traceback (most recent call last):",
        "2026-08-07T18:25:43.623Z ERROR xinference.core.worker pid:41 role:local Failed to load model qwen3-rep0",
    ],
)
def test_an_end_in_the_words_of_others(line: str) -> None:
    assert diagnose([line]).outcome == "failed"


def test_the_middle_of_an_argument_dump_is_a_start() -> None:
    dump = (
        "worker_use_ray=False, tensor_parallel_size=8, max_num_seqs=256, disable_log_stats=False, quantization=None, rope_scaling=None, en"
    )
    assert (diagnose([dump]).outcome, diagnose([dump]).cause) == ("waiting", "engine_starting")
    dumped = (
        "(EngineCore_0 pid=416) ERROR 09-03 05:46:25 [dump_input.py:69] Dumping input data for V1 LLM engine (v0.10.1.1) with config: m"
    )
    assert diagnose([dumped, dump]).outcome == "failed"


def test_the_middle_of_a_request_in_any_application() -> None:
    """A folder's name in a path is no engine: neither up nor failed."""
    assert diagnose(ASGI[2:]).outcome == "undetermined"
    broken = [*(ASGI[2][i : i + 80].ljust(90) for i in (0, 80)), "    result = await app(", '  File "/opt/vllm/lib/starlette/ap']
    assert diagnose(broken).outcome == "undetermined"
    assert diagnose([f"vllm-1     | {BANNER}", f"vllm-1     | {SHARDS}", *(f"gateway-1  | {line}" for line in ASGI)]).outcome == "waiting"


SERVES = '(APIServer pid=1) INFO:     127.0.0.1:46411 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error'
BUSY = [
    "Traceback (most recent call last):",
    '  File "/x/lib/python3.12/multiprocessing/process.py", line 314, in _bootstrap',
    "    self.run()",
    '  File "/x/site-packages/vllm/v1/engine/core.py", line 520, in run_busy_loop',
    "    self._process_engine_step()",
]


@pytest.mark.parametrize("behind", [[], ["KeyError: 'unheard of'"]])
def test_the_traceback_of_a_process_of_the_engine_that_served(behind: list[str]) -> None:
    """vllm#19018: the core's own traceback behind a request's 500."""
    assert diagnose([SERVES, *BUSY, *behind]).outcome == "failed"
    assert diagnose([BANNER, "INFO:     Application startup complete.", SERVES, *BUSY, *behind]).outcome == "failed"
    on = 'INFO:     127.0.0.1:46411 - "POST /v1/chat/completions HTTP/1.1" 200 OK'
    assert diagnose([BANNER, "INFO:     Application startup complete.", *BUSY, "KeyError: 'x'", on]).outcome == "ready"  # another child's


def test_an_excerpt_that_ends_with_an_ordered_stop() -> None:
    """vllm#30958, #45288. Of a whole log the question is whether its start was well: it was."""
    stop = "(APIServer pid=1) INFO 12-18 18:30:36 [launcher.py:79] Shutting down Fas"
    assert (diagnose([SERVES, stop]).outcome, diagnose([SERVES, stop]).cause) == ("undetermined", None)
    signal = "(EngineCore pid=9) INFO 05-26 19:19:56 [core.py:1155] [shutdown] EngineCore: trigger received signal=SIGTERM"
    assert (diagnose([SERVES, signal, stop]).outcome, diagnose([SERVES, signal]).cause) == ("undetermined", "terminated_by_signal")
    assert diagnose([BANNER, "INFO:     Application startup complete.", SERVES, stop]).outcome == "ready"
    loading = "(Worker_TP0 pid=7) WARNING 04-03 16:08:24 [multiproc_executor.py:866] WorkerProc was terminated"
    assert (diagnose([SHARDS, loading]).outcome, diagnose([SHARDS, loading]).cause) == ("failed", "terminated_by_signal")
    assert diagnose([SHARDS, "^C", *BUSY[:3]]).cause == "terminated_by_signal"


def test_access_lines_that_were_cut() -> None:
    lines = [
        '[2026-05-28 03:03:03] INFO:     127.0.0.1:37561 - "POST /v1/completions',
        "[2026-05-28 03:03:03 TP0] Load weights took: sglang",
    ]
    assert diagnose(lines).outcome == "ready"
    assert diagnose(['[2026-05-28 03:03:03] INFO:     127.0.0.1:37561 - "P', "sglang/srt"]).outcome != "ready"
    asked = [
        'INFO:     172.18.0.9:45124 - "POST /tokenize HTTP/1.1" 500 Internal Server Error',
        *(line.replace("vllm", "x") for line in ASGI),
    ]
    assert diagnose(asked).outcome == "ready"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "I0820 02:44:20.446192 810 transfer_engine.cpp:44] Transfer Engine starting. Server: 10.0.0.1, Metadata: P2PHANDSHAKE",
            "distributed_init",
        ),
        (
            "(EngineCore pid=1) INFO 08-13 11:34:02 [shm_broadcast.py:802] No available shared memory broadcast block found in 60 seconds.",
            "shm_broadcast_waiting",
        ),
    ],
)
def test_what_a_start_waits_in(line: str, said: str) -> None:
    assert (diagnose([line]).outcome, diagnose([line]).cause) == ("waiting", said)
