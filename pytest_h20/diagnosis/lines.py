"""What a single line of a log is: its prefix, its level, whether it is evidence at all, and which event it reports."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_h20.engines.base import EngineName
from pytest_h20.engines.stages import strip_ansi
from pytest_h20.nccl.records import plain

PREFIX = re.compile(
    r"""^(?:
        \s*\([\w .:/,=-]*pid=\d+[^)]*\)[ ]?                                                   # (EngineCore_DP0 pid=41)
      | [\w.-]*[ ]+\|[ ]                                                                   # vllm-1  | (docker compose)
      | \[?pod/[\w./-]+\]?:?[ ] | (?=[a-z0-9-]*\d)[a-z][a-z0-9-]+-[a-z0-9]{5,10}[ ][a-z][\w-]*[ ]  # kubectl --prefix, stern
      | (?=[\w.-]*\d)(?![\w.]*\.[A-Z_])[a-z][\w.-]*:[ ]                                     # node01: (pdsh, mpirun)
      | \d+:[ ] | \[\d+\][ ] | [ ]{1,6}\d{1,6}[ \t]{1,2} | \d{1,6}(?:[ \t]{2}|[ ]$)                                   # srun -l, cat -n
      | [-*][ ] | \^C                                                                # a list; what a terminal shows of Ctrl-C
      | >[ ]? | [|][ ]+ | `[ ]? | [ ]{1,3}(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ])        # quoted, in a table, as code, framed
      | ["'“](?=(?:\w+\.)*[A-Z]\w*(?:Error|Exception):[ ])                               # an exception in quotes
      | \((?:EngineCore|APIServer|Worker)\w*\)[ ]+                                          # a tag that lost its pid
      | (?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ](?:\.\.\.[ ])?\[?[\w./-]+\.py:\d+\][ ]?             # a level that lost its time
      | (?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ]*[|][ ](?:[\w.:/-]+[ ]*[|-][ ])*                # a level in a row of columns
      | \w{3}[ ]+\d+[ ]\d\d:\d\d:\d\d[ ]\S+[ ][\w.@-]+\[\d+\]:[ ]                              # journald
      | (?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ]\d\d-\d\d[ ]\d\d:\d\d:\d\d(?:\.\d+)?[ ]?(?:\[?[\w./-]+\.py:\d+\])?[ ]?
      | \[(?:20\d\d-)?\d\d-\d\d[ T]\d\d:\d\d:\d\d[^\]]*\][ ]?                                # [2026-01-04 02:23:49 TP0]
      | \[rank\d+\]:(?!\[)[ ]?
      | 20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*Z?(?:[+-]\d\d:?\d\d)?[ \t](?:[ \t]*(?=[A-Z]{4}))?(?:std(?:out|err)[ ][FP][ ])?
    )*""",
    re.VERBOSE,
)
BEGINS = re.compile(
    r"\([\w .:/,=-]*pid=\d+|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)(?:: |\b.{0,30}\d\d:\d\d:\d\d)|\[?20\d\d-\d\d-\d\d[ T]|\[rank\d+\]"
    r"|Traceback \(most recent|\s*File \"|\S+:\d+:\d+ \[\d+\] NCCL |(?:\w+\.)*[A-Z]\w*(?:Error|Exception): |\*\*\* "
    r"|\[[EWI]\d{3,4} \d|[EWI]\d{4} \d\d:\d\d"
)
"""How lines of engines, and of what runs in their processes, begin."""
MILD = re.compile(
    r"\b(?:INFO|WARNING|DEBUG)\b(?: \d\d-\d\d \d\d:\d\d:\d\d|:| +\S+\.py:\d+)"  # levels of vLLM, uvicorn, other loggers
    r"|\[W\d{3,4} \d\d:|(?:^|\s)[IW]\d{4} \d\d:\d\d:\d\d\.\d+ "
    r"|(?:User|Future|Deprecation|Runtime|Import)Warning: "  # torch's C++ side, Python's warnings
    r"|ERROR \d\d-\d\d \d\d:\d\d:\d\d \[?__init__\.py"  # vLLM's plugin loader logs a failure and goes on
    r"|Error retrieving (?:safetensors|file list): "  # vLLM asks the Hub about a local folder, and goes on without
)
LOUD = re.compile(
    r"\b(?:ERROR|CRITICAL)\b|\berror: |Value error, |Error: |Exception: |^Error\b|core dumped|^Segmentation fault|Segfault encountered"
    r"|^terminate called after throwing|Failed to initialize NVML: |/ld: cannot find|: block: \[\d+,\d+,\d+\], thread: |^docker: "
    r"|NCCL WARN|No such option|nvidia-container-cli: |Error response from daemon|torch\._(?:dynamo|inductor)\.exc\.|NVRM: Xid"
    r"|^Failed: |non-zero status: -?[1-9]|: NULL value |aborting due to error in|^Search for `cudaError|^Memory access fault by GPU"
    r"|(?:^|\s)[EF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\]"  # glog: Mooncake
    r"|\[20\d\d-\d\d-\d\d [\d:,]+ [EC] \d+ \d+\] "  # Ray's core
    r"|\[[EF](?:\d{3,4} [\d:.]+)? [\w/]+\.cpp:\d+\]"  # torch's C++ side
    r"|oom-kill:|Killed process \d+"  # the kernel
)
LAUNCHES = re.compile(
    r"\b(?:[Ss]tarting|[Ll]aunching|[Pp]rovisioning|[Dd]eploying) (?:new version of |the )?"
    r"(?:vLLM|SGLang|model instance|Deployment\(|\S+ with VLLMModel)"
    r"|\b[Ww]aiting for (?:\S+ ){0,3}(?:server|engine|vLLM|SGLang|RUNNING)\b|health check is pending"
    r"|replicas that have taken more than \d+s to be (?:scheduled|initialized)|[Ss]tarted initializing replica|[Ss]tartup probe failed: "
)
"""Whoever starts the engine says that it has, or waits for it: all that is known where the engine itself says nothing."""
LAST_WORD = re.compile(
    r"^(?:Error|ERROR|FATAL|Fatal|fatal)\b|\[(?:ERROR|FATAL|fatal|E|F)\]"
    r"|(?:^|\s)(?:F|E(?=.{1,60}\.cc:))\d{4} \d\d:\d\d:\d\d\.\d+ "  # Triton; Mooncake's .cpp goes on with another adapter
)
"""Said at the end of an excerpt in which nothing goes on, by whatever program: there it ended."""
CLOCK = re.compile(r"(?<!\d)(?:20\d\d-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")
ECHO = re.compile(
    r"server_args=(?:ServerArgs\(|\{)|args: Namespace\(|non-default args:|[Rr]eceived request "
    r"|Initializing a V[01] LLM engine"
    r"|(?:Receive|Finish): obj=|^usage: |^\s+\[-|\[-h\]|\[--[\w-]+|Command: |with command"
    r"|Warning: The argument|prompt: '"
)
ROUTINE = re.compile(
    r'HTTP/1\.[01]" \d{3}| - "(?:GET|POST) /|(?:Prefill|Decode) batch[,.] #|Avg prompt throughput|GET /health'
    r"|#retracted_reqs: |\bSpecDecoding metrics: "
    r"|\b(?:Received|Added|Finished|Aborted|Aborting) request \S|Sequence group \S+ is preempted"
)
"""Lines of a serving engine, the bulk of a long log: none is evidence of anything but serving."""
COLOUR = re.compile(r"(?:ESC|\^\[|\\x1b|\\u001b|\\033|\ufffd)\[[\d;]*m|\[\d{1,2}(?:;\d{1,3})*m")
"""A colour whose escape character was lost, or written out, on the way to a web page."""
BAR = re.compile(r"\d%\||% Completed \|")
AFTER_BAR = re.compile(r"\r|(?<=(?:it/s|s/it)\])(?=[\[(A-Z])")
"""A bar is overwritten, or another process writes on behind it."""
CODE = re.compile(r"^\s{4,}(?:raise|return|if|elif|for|while|with|assert|await|yield|self\.|logger\.|except|try:|\w+ = )")
IGNORED = re.compile(r"Exception ignored in|Ignore import error|please ignore\b|\bras/\w+\.cc:\d+ NCCL WARN")
"""NCCL's RAS service wants one port per host: that a second process does not get it harms nobody."""
EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Timeout|Failure|NotFound|Interrupt)"
    r"(?:\(\w+\))?(?::(?: .*)?|\(['\"].*| {2,}Trac.*)?$|^(?:[a-z_]\w*\.)+(?:[A-Z]\w+|gaierror|timeout): |^(?:Exception|SystemExit): "
)
TORCH_WARNING = re.compile(r"^(?:\[rank\d+\]:)?\[W\d{3,4} \d\d:")
"""torch's C++ side warns and goes on, whatever it says (a peer's store that closed at the end of an ordered stop)."""
GUESSES = re.compile(r"There are some potential root causes|Some common causes include")
"""Ray lists what may have killed a worker: none of what follows was seen."""
WORKER_SAYS = re.compile(r"Exception in worker \w+ while processing method (\w+): (.+), Traceback \(most recent call last\)")
"""vLLM's V0: the message of an exception without its class, before its traceback."""
USAGE = re.compile(r"^usage: (?:launch_server|api_server|vllm|sglang|__main__)\b.*\[-h\]")
HELP = re.compile(r"^(?:options|optional arguments|positional arguments):$")
"""argparse prints the usage before what it refuses, and before the list of all options where somebody asked for help."""
CRASH = re.compile(
    r"(?:Scheduler|[Tt]okenizer\w*|DataParallel\w*|EngineCore|WorkerProc) hit an exception|encountered a fatal error"
    r"|(?:EngineCore|WorkerProc) failed to start|AsyncLLM output_handler failed|Engine background task failed"
    r"|Exception in worker \w+ while processing method|Initialization failed\. warmup"
)
"""The next exception is what went wrong, known or not."""
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
AT_ERROR = re.compile(r"\bERROR \d\d-\d\d \d\d:\d\d:\d\d ")
"""vLLM logs a traceback line by line at this level: some lose their indentation on the way."""
IN_FRAME = re.compile(r'^\s*File "[^"]+", line \d+,? in |^File \S+\.py:\d+, in |^-+> \d+ ')
"""A frame as Python, its fault handler and IPython print it."""
IN_STACK = re.compile(
    r"^frame #\d+: |^#\d+ +0x|^ *(?:PC: )?@ +0x[0-9a-f]|^ *--- .*\[0x|^\S*\.so[\w.]*\(.*\+0x|\*\*\* BACKTRACE|^=+ backtrace"
    r"|\(most recent call first\)|File .{0,120}\bline .{0,120}File "
)
"""A stack of a native library: what it ends, ends the process, unless the line above it only warned."""
REQUEST = re.compile(
    r'Exception in ASGI application|Error in \w+ (?:completion )?stream|/entrypoints/openai/(?:\w+/)*serving\w*\.py"'
    r'|", line \d+,? in extract_tool_calls|Error trying to handle streaming tool call'
    r"|\b(?:ERROR|WARNING) \d\d-\d\d \d\d:\d\d:\d\d \[?(?:[\w.-]+/)*(?:serving\w*|protocol|\w*tool_parser)\.py:\d+\]"
    r"|\b[Ee]rror (?:in|while )?processing (?:the )?request\b"
)
"""What follows, or this traceback, is of one request: the server that prints it goes on, unless its engine died."""
OF_APPLICATION = re.compile(
    r'/uvicorn/protocols/\w+/|/starlette/_exception_handler\.py"|/fastapi/routing\.py", line \d+, in (?:app|run_endpoint_function)\b'
    r'|/starlette/routing\.py", line \d+, in lifespan\b|/(?:collect_env|bench\w*)\.py", line \d+'
)
"""So is this one, but any FastAPI application's, or of a program beside the server: it shows no engine's server."""
ENGINE_LOOP = re.compile(
    r'", line \d+,? in (?:run_engine_loop|engine_step|_raise_exception_on_finish|_log_task_completion|run_busy_loop|output_handler'
    r"|run_engine_core|run_scheduler_process|_bootstrap)\b"
)
"""A traceback through here is the end of an engine's process, whoever prints it."""
OF_CORE = re.compile(
    r"\b(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?(?:[\w.-]+/)*"
    r"(?:core|core_client|dump_input|engine|\w*executor|\w*worker(?:_utils|_base)?|\w*model_runner)"
    r"\.py:\d+\]"
)
"""vLLM's engine or a worker of it reports an error, in whatever words: requests fail elsewhere."""
FRAME = re.compile(
    r"^\s+\S|^\s*$|^File |^-+> \d|^[│╭╰]|^\S+\.py:\d+ in |^[\^~.]+$|^\([A-Z]\w*(?: [\w=]*)?$|^During handling of|^The above exception was"
)
"""What stands inside a traceback: a log that ends here ends in the middle of an exception."""

START: tuple[tuple[EngineName, re.Pattern[str]], ...] = (
    ("vllm", re.compile(r"vLLM API server version|█ +version \S+|Launching vLLM \(v")),
    ("sglang", re.compile(r"server_args=(?:ServerArgs\(|\{)")),
)
IS_VLLM = re.compile(
    r"vLLM|\bvllm[/.\s]|VllmWorker|EngineCore|\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./]+\.py:\d+\]"
)
OWN = re.compile(
    r"\b(?:INFO|WARNING|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./-]+\.py:\d+\]|\b[Ee]ngine args: "
    r"|^\[20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] [A-Z]"
)
"""An engine says something."""
UNHEALTHY = re.compile(r'"GET /health HTTP/1\.[01]" 50[03]')
"""vLLM answers this only once its engine has died; SGLang says it while it starts."""
IS_SGLANG = re.compile(
    r"\bsglang\b(?!\.bench|')|SGLang|(?:Prefill batch|Decode batch)[,.] #" r"|\[20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[^\]]* (?:DP|TP|PP|EP)\d+"
)
ENGINE_STRONG: tuple[tuple[EngineName, re.Pattern[str]], ...] = (
    (
        "sglang",
        re.compile(
            r"/sglang/|sglang\.launch_server|launch_server\.py: error|sglang serve: error"
            r"|The server is fired up|sglang is using nccl"
        ),
    ),
    (
        "vllm",
        re.compile(
            r"/vllm/|vllm\.entrypoints|vLLM is using nccl|\(EngineCore|\(APIServer|VllmWorker"
            r"|api_server\.py: error|vllm serve: error|\bAsyncEngineArgs\("
        ),
    ),
)
VERSION_TEXT = re.compile(
    r"vLLM API server version (\S+)|█ +version (\S+)|LLM engine \(v([^)\s]+)\)"
    r"|Launching vLLM \(v([^)\s]+)\)|sglang(?:==| version:? )(\d[\w.]*)"
)
READY: dict[EngineName, re.Pattern[str]] = {
    "vllm": re.compile(r"Application startup complete\."),
    "sglang": re.compile(r"The server is fired up and ready to roll!"),
}
SGLANG_BOUND = re.compile(r"Uvicorn running on |\"(?:POST|GET) \S+ HTTP/1\.[01]\" 200|(?:Prefill|Decode) batch")
NODE_RANK = re.compile(r"\bnode_rank'?[=:] ?(\d+)")
DUMMY = re.compile(r"Dummy health check server started")
SHUTDOWN = re.compile(
    r"INFO: +Shutting down$|Application shutdown complete|Gracefully exiting"
    r"|\[shutdown\] (?:API server|EngineCore): |SIG(?:TERM|INT) received|[Rr]eceived signal"
)
ORDERED = re.compile(
    r"launcher\.py:\d+\] Shutting down|\[shutdown\] API server: shutdown triggered"
    r"|\[shutdown\] EngineCore: trigger received signal|systemd\[\d+\]: Stopping "
)
"""vLLM's server was told to stop. Its engine may go first: the EngineDeadError that follows is no reason (vllm#48745)."""
TORN = re.compile(r'HTTP/1\.[01]" 5\d\d|Exception in ASGI application|Error in \w+ (?:completion )?stream')
"""A request did not get its answer."""
ENGINE_UP = re.compile(
    r"Starting vLLM (?:API )?server|Available routes are|(?:^|\] )Route: /"
    r"|init engine \(profile|Graph capturing finished|[Ss]upported_?[ ]?tasks"
)
"""What vLLM prints between the end of its loading and uvicorn's line: before it, that line is another application's."""
ANYBODY = re.compile(r"Application (?:startup|shutdown) |Uvicorn running on |Started server process|Waiting for application|NCCL INFO ")
"""uvicorn's lines: every FastAPI application prints them. NCCL's: so does every training job, and long after its start."""
API_PID = re.compile(r"\(A(?:PI|pi)Server\w* pid=(\d+)\)")
STARTED = re.compile(r"Started server process \[(\d+)\]")
SERVICE = re.compile(r"^([\w.-]+)[ ]+\|[ ]")
"""The name of the service that docker compose puts before a line."""
SERVICE_EXITED = re.compile(r"^([\w.-]+) exited with code \d+")
"""And how it says that one ended."""
SERVED = re.compile(
    r"\"POST /(?:v1/(?!load|unload)|generate|invocations|score|v?\d?/?rerank|pooling|classify|tokenize|encode)\S*"
    r"(?: HTTP/1\.[01]\"(?! 503)|$)"
    r"|\"GET /(?:v1/models|health|ping)\S* HTTP/1\.[01]\" 200"
    r"|Avg (?:prompt|generation) throughput: |\bSpecDecoding metrics: "
    r"|Decode batch[,.] #running-req: [1-9]|Prefill batch.{1,200}(?:unning-req|#queue-req): [1-9]"
    r"|#retracted_reqs: "
    r"|\b(?:Received|Added|Finished|Aborted|Aborting) request \S|Sequence group \S+ is preempted"
)
"""A request was answered, well or badly, or is being."""
MODEL_ASKED = re.compile(
    r"\"POST /(?:v1/(?:chat|completions|embeddings|responses|messages|score|rerank|audio)|generate|(?:de)?tokenize|pooling|invocations)\b"
)
"""Only an engine, or what stands before one, is asked this."""
CLOSED = re.compile(r"INFO: +Shutting down$|Application shutdown complete|\[shutdown\] API server: ")
"""The HTTP server says so: it had come up."""
REPORT = re.compile(
    r"^(?:Collecting environment information|Is debug build: |CUDA used to build PyTorch: |Libc version: )|/collect_env\.py\W{1,3}line"
)
"""A report about a machine: the engine is imported for it, not started."""
ANNOUNCED = re.compile(r"Starting vLLM (?:API )?server(?: \d+)? on http")
ANSWERED = re.compile(r"\"(?:GET /v1/models|POST /v1/(?:chat/)?completions)\S* HTTP/1\.[01]\" 200")
"""After the announcement this proves what uvicorn's line says, where somebody filtered that out."""
MOVES = re.compile(r"^(?!.*NCCL INFO)|NCCL INFO .*(?: via (?:NET|P2P|SHM)/|Init COMPLETE|Connected all)")
"""NCCL prints INFO lines while it fails, too: only these show that it goes on."""
TRACKER = re.compile(r"resource_tracker: There appear to be \d+ leaked")


def shown(line: str) -> str:
    """A line as it was printed: without colours, a screen's frame, and what a web page made of it (NCCL's reader cleans alike)."""
    text = COLOUR.sub("", strip_ansi(line))
    if "│" in text or "](" in text or "&" in text:
        text = plain(text.encode("utf-8", "replace")).decode("utf-8", "replace")
    return text.rstrip("` \t\r\n")


def body_of(line: str) -> str:
    """A log line without colours, process tag, time stamp and level. Indentation is kept."""
    text = shown(line)
    return text[prefix_end(text) :]


def shape(line: str) -> str:
    """What two ranks saying the same have in common."""
    return re.sub(r"[\d.]+", "", body_of(line))[:60]


def prefix_end(text: str) -> int:
    """Where the message begins: behind everything that loggers, Ray, Docker and systemd put before it."""
    match = PREFIX.match(f"{text} ")  # of an empty message only the prefix is left
    return min(match.end(), len(text)) if match else 0


def cut_in_prefix(text: str, prefix: str) -> bool:
    """Does this line end inside what stood before the message of the line before?"""
    return len(text) < len(prefix) and _DIGITS.sub("0", prefix).startswith(_DIGITS.sub("0", text))


def split_lines(text: str) -> Iterator[str]:
    """Lines as a terminal would have shown them: progress bars that overwrite each other are lines of their own."""
    for line in text.split("\n"):
        if "\r" in line or AFTER_BAR.search(line):
            yield from (piece for piece in AFTER_BAR.split(line) if piece)
        else:
            yield line


_DIGITS = re.compile(r"\d+")
LONGEST = 8192
"""Characters of a line that are looked at. Engines print argument dumps of some thousand; our patterns need no more."""


def clip(line: str) -> str:
    """A line's beginning and end: patterns go over what somebody made endless only once, and nobody quotes a megabyte."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 3 // 4]} ... {line[-LONGEST // 4 :]}"


def is_start(text: str) -> bool:
    """A server announces itself: what follows is another log than what came before."""
    return any(pattern.search(text) for _, pattern in START)
