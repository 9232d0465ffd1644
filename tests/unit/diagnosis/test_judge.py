from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.diagnosis import FatalWatch, diagnose, primary

VLLM = "INFO 04-18 14:08:52 [api_server.py:840] vLLM API server version 0.8.2"
VLLM_READY = "INFO:     Application startup complete."
SGLANG = "[2025-04-05 10:00:00] server_args=ServerArgs(model_path='/m', node_rank=0, nnodes=2)"
BOUND = "[2025-04-05 10:09:00] INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)"
FIRED = "[2025-04-05 10:09:02] The server is fired up and ready to roll!"
STARTUP = "[2025-04-05 10:09:00] INFO:     Application startup complete."


def log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_ready_of_both_engines() -> None:
    vllm, sglang = diagnose(log(VLLM, VLLM_READY)), diagnose(log(SGLANG, STARTUP, BOUND, FIRED))
    assert (vllm.outcome, vllm.decisive_line, str(vllm.version)) == ("ready", VLLM_READY, "0.8.2")
    assert (sglang.outcome, sglang.decisive_line, sglang.engine) == ("ready", FIRED, "sglang")


def test_sglang_is_not_ready_by_uvicorn_s_line() -> None:
    assert diagnose(log(SGLANG, STARTUP)).outcome == "waiting"
    assert diagnose(log(SGLANG, STARTUP, BOUND)).cause == "warmup"


def test_sglang_s_line_is_void_when_its_port_belongs_to_somebody_else() -> None:
    taken = "[2025-04-05 10:09:01] ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use"
    for text in (log(SGLANG, STARTUP, taken, FIRED), log(SGLANG, STARTUP, BOUND, FIRED, taken)):
        assert (diagnose(text).outcome, diagnose(text).cause) == ("failed", "port_in_use")
    assert diagnose(log(SGLANG, FIRED)).outcome != "ready", "the ready line without a bound port proves nothing"


def test_errors_of_clients_leave_a_server_ready() -> None:
    text = log(
        VLLM,
        VLLM_READY,
        '(APIServer pid=1) INFO:     10.0.0.2:54309 - "POST /v1/chat/completions HTTP/1.1" 404 Not Found',
        "ERROR 04-18 15:00:00 [serving_chat.py:200] Error in preprocessing prompt inputs",
        "ERROR 04-18 15:00:00 [serving_chat.py:200] Traceback (most recent call last):",
        "ERROR 04-18 15:00:00 [serving_chat.py:200] ValueError: This model's maximum context length is 4096 tokens.",
    )
    assert diagnose(text).outcome == "ready"


def test_what_users_write_is_no_evidence() -> None:
    prompt = "INFO 04-12 18:37:02 [logger.py:39] Received request cmpl-1: prompt: 'torch.OutOfMemoryError: CUDA out of memory', params"
    args = "INFO 04-12 18:00:00 [api_server.py:841] args: Namespace(chat_template='Killed', note='Engine core initialization failed')"
    assert diagnose(log(VLLM, args, VLLM_READY, prompt)).outcome == "ready"
    assert diagnose(log(VLLM, args)).outcome == "waiting"


def test_an_ordered_stop_is_no_failure() -> None:
    vllm = log(
        VLLM,
        VLLM_READY,
        "INFO:     Shutting down",
        "INFO:     Application shutdown complete.",
        "INFO:     Finished server process [1]",
    )
    sglang = log(
        SGLANG,
        BOUND,
        FIRED,
        "[2025-04-05 11:00:00] SIGTERM received. signum=None frame=None. Draining requests and shutting down...",
        "[2025-04-05 11:00:01] Gracefully exiting... Remaining number of requests 0.",
        "[2025-04-05 11:00:02] kill_process_tree called: parent_pid=1, include_parent=True, pid=1",
    )
    assert diagnose(vllm).outcome == diagnose(sglang).outcome == "ready"


def test_a_server_that_died_after_ready_has_failed() -> None:
    died = log(
        VLLM,
        VLLM_READY,
        "(EngineCore pid=1) ERROR 04-18 15:00:00 [core.py:1] torch.AcceleratorError: CUDA error: misaligned address",
        "(APIServer pid=2) ERROR 04-18 15:00:00 [async_llm.py:1] "
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    )
    assert (diagnose(died).outcome, diagnose(died).cause) == ("failed", "cuda_error")
    killed = log(
        SGLANG,
        BOUND,
        FIRED,
        "[2025-04-05 11:00:00] Subprocess scheduler_0 (pid=1) crashed with exit code -9. Triggering SIGQUIT for cleanup...",
    )
    assert diagnose(killed).cause == "scheduler_killed_oom"


def test_a_killed_scheduler_of_another_node_is_the_cause_not_the_peer_that_lost_it() -> None:
    """SIGKILL of rank 1's scheduler, SGLang 0.5.16 with TP=2 over two nodes of one H200, 2026-11-28. Asked to stop, it says "with 0"."""
    dummy = "[2026-11-28 13:17:07] Dummy health check server started in background thread at 0.0.0.0:8000"
    ended = "[2026-11-28 13:18:51] Scheduler or DataParallelController 114 terminated with {}"
    broken = "[2026-11-28 13:18:51] ERROR:    Application startup failed. Exiting."
    lost = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [10.98.0.2]:24271: Connection reset by peer"
    rank0 = diagnose(
        log(SGLANG, BOUND, FIRED, "[2026-11-28 13:18:50 TP0] Scheduler hit an exception: Traceback (most recent call last):", lost)
    )
    rank1 = diagnose(log(SGLANG, dummy, ended.format(-9), broken))
    found = primary({"node01": rank0, "node02": rank1})
    assert found is not None
    assert (found[0], found[1].cause) == ("node02", "scheduler_killed_oom")
    assert diagnose(log(SGLANG, dummy, ended.format(1), broken)).cause == "child_process_crashed"
    for code in (0, -15):
        assert diagnose(log(SGLANG, dummy, ended.format(code))).cause not in ("scheduler_killed_oom", "child_process_crashed")


def test_a_silent_kill_is_seen_by_what_it_leaves() -> None:
    tracker = (
        "/usr/lib/python3.12/multiprocessing/resource_tracker.py:254: UserWarning: "
        "resource_tracker: There appear to be 1 leaked semaphore objects"
    )
    text = log(SGLANG, BOUND, FIRED, tracker, "  warnings.warn('resource_tracker: There appear to be %d '")
    assert (diagnose(text).outcome, diagnose(text).cause) == ("failed", "killed")
    ordered = log(VLLM, VLLM_READY, "INFO:     Shutting down", tracker)
    assert diagnose(ordered).outcome == "ready"


def test_the_last_server_in_a_file_decides() -> None:
    failed = log("api_server.py: error: unrecognized arguments: --x", VLLM, VLLM_READY)
    assert diagnose(failed).outcome == "ready"
    assert diagnose(log(VLLM, VLLM_READY, VLLM, "OSError: [Errno 98] Address already in use")).cause == "port_in_use"
    assert diagnose(log(VLLM, "OSError: [Errno 98] Address already in use", VLLM)).outcome == "waiting"


def test_two_writers_decide_nothing() -> None:
    text = log(
        VLLM,
        "ERROR 04-18 14:47:42 [engine.py:389] ValueError: Cannot provide a placement group of x within 1800 seconds.",
        "RuntimeError: Engine process failed to start. See stack trace for the root cause.",
        "INFO 04-18 14:10:42 [model_runner.py:1562] Graph capturing finished in 29 secs",
        VLLM_READY,
    )
    assert (diagnose(text).outcome, diagnose(text).cause) == ("undetermined", "two_processes_in_one_log")


def test_a_node_of_rank_1_never_says_ready() -> None:
    peer = SGLANG.replace("node_rank=0", "node_rank=1")
    assert diagnose(log(peer, "[2025-04-05 10:01:00 TP8] Load weight begin. avail mem=95.0 GB")).cause == "weights_loading"
    done = diagnose(log(peer, "[2025-04-05 10:09:00] Dummy health check server started in background thread at 0.0.0.0:8000"))
    assert (done.outcome, done.cause) == ("undetermined", "rank_without_ready_line")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "INFO 04-18 14:09:22 [ray_utils.py:214] Waiting for creating a placement group of specs for 2550 seconds. specs=[",
            "ray_placement_group_pending",
        ),
        ("Loading safetensors checkpoint shards:  21% Completed | 34/163 [01:02<03:58,  1.85s/it]", "weights_loading"),
        ("INFO 04-18 14:20:00 [gpu_model_runner.py:1] Capturing cudagraphs for decoding", "cuda_graph_capture"),
        ("(Worker_TP4 pid=1) [aiter] waiting for baton release at /x/lock_module", "jit_kernel_build"),
        ("", "engine_starting"),
    ],
)
def test_waiting_says_for_what(line: str, cause: str) -> None:
    diagnosis = diagnose(log(VLLM, line))
    assert (diagnosis.outcome, diagnosis.cause) == ("waiting", cause)
    assert diagnosis.sentence().startswith("not ready yet")


def test_a_retry_is_not_the_end() -> None:
    retry = (
        "[W1123 17:24:23.006090274 TCPStore.cpp:340] [c10d] TCP client failed to connect/validate "
        "to host h:1 - retrying (try=0, timeout=20000ms): The client socket has timed out"
    )
    watch = FatalWatch()
    assert watch.feed(SGLANG) is None
    assert watch.feed(retry) is None
    assert watch.diagnosis().outcome == "waiting"


@pytest.mark.parametrize(
    "line",
    [
        "WARNING 04-18 14:09:00 [system_utils.py:299] This can cause errors like `OSError: [Errno 24] Too many open files`.",
        "WARNING 04-18 14:09:00 [x.py:1] ModuleNotFoundError: No module named 'flashinfer', falling back",
        "ERROR 04-18 14:09:00 [__init__.py:44] ImportError: cannot import name 'x' from 'some_plugin'",
        "[2025-04-05 10:00:01] port 29500 is in use. Waiting for 1 seconds for port 29500 to be available.",
        "[2025-04-05 10:00:01] Ignore import error when loading sglang.srt.models.x: No module named 'helion'",
        "[W1123 17:24:23.006 socket.cpp:460] [c10d] The server socket has failed to bind to [::]:29500 "
        "(errno: 98 - Address already in use).",
        "/x/torch/cuda/__init__.py:129: UserWarning: CUDA initialization: The NVIDIA driver on your system is too old",
        "node01:1:1 [0] NCCL INFO Failed to open libibverbs.so[.1]",
        "(Worker pid=1) WARNING 11-23 18:04:24 [symm_mem.py:98] SymmMemCommunicator: CUDA error: operation not supported",
        "WARNING 05-12 09:33:18 [ray_utils.py:199] tensor_parallel_size=16 is bigger than a reserved number of GPUs (8 GPUs)",
        "[2025-04-05 10:00:01 TP0] Using default MoE config. Performance might be sub-optimal! No file /x/H20.json",
        "This command will now block forever until terminated by a signal.",
        "Subprocesses exit with SIGTERM will be treated as graceful, thus NOT reported.",
        "[rank0]:[W1123 17:29:47.74 ProcessGroupNCCL.cpp:1575] Warning: WARNING: destroy_process_group() was not called",
    ],
)
def test_what_engines_say_on_a_good_start_is_not_the_end(line: str) -> None:
    for first in (VLLM, SGLANG):
        watch = FatalWatch()
        assert [watch.feed(first), watch.feed(line), watch.settle()] == [None, None, None]
        assert diagnose(log(first, line)).outcome == "waiting"


def test_nothing_to_read_is_undetermined() -> None:
    for text in ("", "\n\n", "hello\n"):
        assert diagnose(text).outcome == "undetermined"


def test_an_unknown_exception_is_unknown() -> None:
    text = log(VLLM, "Traceback (most recent call last):", '  File "x.py", line 1, in f', "FrobnicationError: the frobnicator is loose")
    diagnosis = diagnose(text)
    assert (diagnosis.outcome, diagnosis.cause, diagnosis.decisive_line) == (
        "failed",
        None,
        "FrobnicationError: the frobnicator is loose",
    )


def test_the_other_node_holds_the_reason() -> None:
    peer_gone = diagnose(
        log(SGLANG, "RuntimeError: [/p/gloo/transport/tcp/pair.cc:535] Read error [192.168.0.1]:36014: Connection reset by peer")
    )
    shard = diagnose(log(SGLANG, "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"))
    waiting = diagnose(log(SGLANG))
    chosen = primary({"node01": peer_gone, "node02": shard, "node03": waiting})
    assert chosen is not None
    assert (chosen[0], chosen[1].cause) == ("node02", "corrupt_safetensors")
    assert primary({"node03": waiting}) is None


def test_text_lines_and_pieces_give_the_same_judgement() -> None:
    text = log(
        VLLM,
        "Loading: 1%\rLoading safetensors checkpoint shards:  21% Completed | 34/163",
        "OSError: [Errno 98] Address already in use",
    )
    whole = diagnose(text)
    assert diagnose(text.split("\n")) == whole
    cut = text.rindex("OSError")
    assert diagnose([text[:cut], text[cut:]]) == whole


def test_the_watch_waits_for_the_cause_behind_a_symptom() -> None:
    watch = FatalWatch()
    lines = [
        SGLANG,
        "[2025-04-05 10:05:00 TP3] Scheduler hit an exception: Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
    ]
    assert [watch.feed(line) for line in lines] == [None, None, None]
    fatal = watch.feed("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB.")
    assert fatal is not None
    assert fatal.id == "cuda_out_of_memory"
    assert watch.feed("torch.OutOfMemoryError: CUDA out of memory.") is None, "told once"


def test_the_watch_settles_on_the_symptom_when_nothing_more_comes() -> None:
    watch = FatalWatch(patience=2)
    watch.feed(SGLANG)
    assert watch.feed("[2025-04-05 10:05:00] Received sigquit from a child process. It usually means the child failed.") is None
    settled = watch.settle()
    assert settled is not None
    assert settled.id == "sigquit_from_child"
    assert watch.diagnosis().cause is None


def test_the_watch_ignores_clients_after_ready() -> None:
    watch = FatalWatch()
    for line in (
        VLLM,
        VLLM_READY,
        "Traceback (most recent call last):",
        "ValueError: User-specified max_model_len (9) is greater than the derived max_model_len",
    ):
        assert watch.feed(line) is None
    assert watch.diagnosis().outcome == "ready"


# ---------------------------------------------------------------------------------------------------------- properties

PIECES = [
    VLLM,
    SGLANG,
    STARTUP,
    "INFO 04-18 14:10:00 [x.py:1] Starting to load model /m...",
    "Loading safetensors checkpoint shards:  21% Completed | 34/163 [01:02<03:58,  1.85s/it]",
    "[2025-04-05 10:05:00 TP3] Scheduler hit an exception: Traceback (most recent call last):",
    '  File "x.py", line 1, in f',
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB.",
    "RuntimeError: Engine core initialization failed.",
    "[2025-04-05 10:05:01] Received sigquit from a child process. It usually means the child failed.",
    "node01:1:1 [0] NCCL INFO Bootstrap : Using xgbe0",
    FIRED,
    "[2025-04-05 10:09:01] ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
    "Killed",
    "",
]
NO_READY = [piece for piece in PIECES if piece not in (STARTUP, FIRED)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(NO_READY), max_size=25), st.integers(0, 2000), st.integers(0, 2000))
def test_no_cut_of_a_log_without_ready_line_is_ready(lines: list[str], start: int, length: int) -> None:
    text = log(*lines)
    assert diagnose(text[start : start + length]).outcome != "ready"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_sglang_without_a_bound_port_is_never_ready(lines: list[str]) -> None:
    text = log(SGLANG, *[line for line in lines if line != VLLM])
    assert diagnose(text).outcome != "ready"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_foreign_text_never_raises_and_is_never_ready(text: str) -> None:
    diagnosis = diagnose(text)
    assert diagnosis.outcome != "ready"
    watch = FatalWatch()
    for line in text.split("\n"):
        watch.feed(line)
    watch.settle()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_the_watch_agrees_with_the_whole_log(lines: list[str]) -> None:
    watch = FatalWatch()
    for line in lines:
        watch.feed(line)
    assert watch.diagnosis() == diagnose(lines)


NPU = (
    "    The device parameters have been replaced with npu in the function below:",
    "    torch.logspace, torch.rand, torch._empty_per_channel_affine_quantized, torch._pin_memory, torch._cudnn_init_dropout_state",
)


def test_a_list_of_torch_s_functions_is_no_list_of_extension_modules() -> None:
    """Ascend's torch_npu prints one in each process: the start was read as ended by a native crash."""
    loading = "Loading safetensors checkpoint shards:  27% Completed | 24/88 [01:03<02:45,  2.58s/it]"
    assert diagnose(log(SGLANG, *NPU, loading)).outcome == "waiting"
    assert diagnose(log(SGLANG, *NPU, STARTUP, BOUND, FIRED)).outcome == "ready"
    wrapped = "Extension modules: numpy.core._multiarray_umath, numpy.linalg._umath_linalg,", "torch._C, torch._C._dynamo.eval_frame"
    assert diagnose(log(SGLANG, *wrapped)).outcome == "failed"


def test_a_usage_without_the_list_of_options_is_a_refusal() -> None:
    platform = "INFO 04-05 11:20:31 __init__.py:190] Automatically detected platform cuda."
    usage = (
        "usage: launch_server.py [-h] --model-path MODEL_PATH [--tokenizer-path TOKENIZER_PATH]",
        "                        [--port PORT]",
    )
    cut = diagnose(log(platform, *usage))
    assert (cut.outcome, cut.cause) == ("failed", None)
    assert diagnose(log(platform, *usage, "", "options:", "  -h, --help  show this help")).outcome != "failed"


def test_the_watchdog_of_torch_ends_a_rank() -> None:
    head = "[rank1]:[E910 10:02:11.433126802 ProcessGroupNCCL.cpp:2252] [PG ID 2 PG GUID 3 Rank 1]  "
    ended = head + "failure detected by watchdog at work sequence id: 38817 PG status: last enqueued work: 38853"
    begun = "[2025-04-05 10:00:20 TP1] Init torch distributed begin."
    got = diagnose(log(SGLANG, begun, ended, "n:1:1 [1] NCCL INFO Connected all trees"))
    assert (got.outcome, got.cause) == ("failed", None)
