"""Reads an engine's log and says: ready, waiting, failed or undetermined; and when failed, the primary cause.

The rules, each learnt from recorded or labelled logs:

* The loudest line is a consequence. Causes are ranked (:mod:`.signatures`); symptoms never name a cause.
* A log may hold several servers, one after the other: each start marker (banner, ``server_args=``) opens a new one, and
  the last decides. Two writers at once (the clock jumps back, one failed and one became ready) decide nothing.
* "Ready" needs the engine's own line. It is void when the port could not be bound, and over when the server died
  afterwards. Errors after it that the server survives are its clients' business; an ordered stop leaves it "ready".
* What is quoted is no evidence: argument dumps, usage texts, requests, source lines of tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_h20.diagnosis.signatures import BY_ID, FABRIC, RAY, SIGNATURES, Signature
from pytest_h20.engines.base import EngineName, Stage, Version
from pytest_h20.engines.stages import recognise, strip_ansi
from pytest_h20.errors import UsageError

Outcome = Literal["ready", "waiting", "failed", "undetermined"]


@dataclass(frozen=True)
class Diagnosis:
    """The judgement of one log.

    Attributes:
        cause: snake_case word: the primary cause when failed (None = unknown), what it is busy with when waiting.
        decisive_line: the line that decided, as it stands in the log.
        explanation: the cause as a sentence; fix: what to do; source: where that is known from.
        stage: the furthest stage seen; also: ids of other signatures seen, causes before hints.
        rank: how primary the cause is (10 the mistake itself … 50 somebody ended it; 99 none), to compare nodes.
    """

    outcome: Outcome
    cause: str | None = None
    decisive_line: str = ""
    explanation: str = ""
    fix: str = ""
    source: str = ""
    engine: EngineName | None = None
    version: Version | None = None
    stage: Stage | None = None
    also: tuple[str, ...] = ()
    rank: int = 99

    def sentence(self) -> str:
        """One line for people."""
        if self.outcome == "ready":
            return "ready"
        if self.outcome == "waiting":
            return f"not ready yet: {self.explanation or 'starting'}"
        if self.outcome == "failed":
            if self.cause is None:
                return "failed, cause unknown: no known signature in this log"
            return f"failed: {self.explanation} ({self.cause}) — {self.fix} [{self.source}]"
        return f"undetermined: {self.explanation or 'no engine line in this log'}"


# --------------------------------------------------------------------------------------------------------------- lines

_PREFIX = re.compile(
    r"""^(?:
        \s*\([\w .:/,-]*pid=\d+[^)]*\)[ ]?                                                   # (EngineCore_DP0 pid=41)
      | [\w.-]+[ ]+\|[ ](?=\S)                                                            # vllm-1  | (docker compose)
      | \w{3}[ ]+\d+[ ]\d\d:\d\d:\d\d[ ]\S+[ ][\w.@-]+\[\d+\]:[ ]                              # journald
      | (?:DEBUG|INFO|WARNING|ERROR|CRITICAL)[ ]\d\d-\d\d[ ]\d\d:\d\d:\d\d(?:\.\d+)?[ ]?(?:\[?[\w./-]+\.py:\d+\])?[ ]?
      | \[(?:20\d\d-)?\d\d-\d\d[ T]\d\d:\d\d:\d\d[^\]]*\][ ]?                                # [2026-01-04 02:23:49 TP0]
      | \[rank\d+\]:(?!\[)[ ]?
      | 20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*Z?(?:[+-]\d\d:?\d\d)?[ \t]+(?:std(?:out|err)[ ][FP][ ])?
    )*""",
    re.VERBOSE,
)
_MILD = re.compile(
    r"\b(?:INFO|WARNING|DEBUG)\b(?: \d\d-\d\d \d\d:\d\d:\d\d|:| +\S+\.py:\d+)"  # levels of vLLM, uvicorn, other loggers
    r"|\[W\d{4} \d\d:|(?:User|Future|Deprecation|Runtime|Import)Warning: "  # torch's C++ side, Python's warnings
    r"|ERROR \d\d-\d\d \d\d:\d\d:\d\d \[?__init__\.py"  # vLLM's plugin loader logs a failure and goes on
    r"|Error retrieving (?:safetensors|file list): "  # vLLM asks the Hub about a local folder, and goes on without
)
_LOUD = re.compile(
    r"\bERROR\b|\berror: |Value error, |Error: |Exception: |^Error\b|core dumped|^Segmentation fault|NCCL WARN|No such option"
    r"|^Failed: "
)
_CLOCK = re.compile(r"(?<!\d)(?:20\d\d-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ECHO = re.compile(
    r"server_args=(?:ServerArgs\(|\{)|args: Namespace\(|non-default args:|[Rr]eceived request "
    r"|Initializing a V[01] LLM engine"
    r"|(?:Receive|Finish): obj=|^usage: |^\s+\[-|\[-h\]|\[--[\w-]+|Command: |with command"
    r"|Warning: The argument|prompt: '"
)
_ROUTINE = re.compile(r'HTTP/1\.[01]" \d{3}|(?:Prefill|Decode) batch[,.] #|Avg prompt throughput|GET /health')
"""Lines of a serving engine, the bulk of a long log: none is evidence of anything but serving."""
_BAR = re.compile(r"\d%\||% Completed \|")
_CODE = re.compile(r"^\s{4,}(?:raise|return|if|elif|for|while|with|assert|await|yield|self\.|logger\.|except|try:|\w+ = )")
_IGNORED = re.compile(r"Exception ignored in|Ignore import error")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Timeout|Failure|NotFound|Interrupt)(?:: .*|\(['\"].*\))?$"
)
_TORCH_WARNING = re.compile(r"^(?:\[rank\d+\]:)?\[W\d{3,4} \d\d:")
"""torch's C++ side warns and goes on, whatever it says (a peer's store that closed at the end of an ordered stop)."""
_GUESSES = re.compile(r"There are some potential root causes")
"""Ray lists what may have killed a worker: none of it was seen."""
_CRASH = re.compile(
    r"Scheduler hit an exception|encountered a fatal error|(?:EngineCore|WorkerProc) hit an exception"
    r"|(?:EngineCore|WorkerProc) failed to start"
)
"""The next exception is what went wrong, known or not."""
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")

_START: tuple[tuple[EngineName, re.Pattern[str]], ...] = (
    ("vllm", re.compile(r"vLLM API server version|█ +version \S+|Launching vLLM \(v")),
    ("sglang", re.compile(r"server_args=(?:ServerArgs\(|\{)")),
)
_IS_VLLM = re.compile(
    r"vLLM|\bvllm[/.\s]|VllmWorker|EngineCore|\b(?:INFO|WARNING" r"|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./]+\.py:\d+\]"
)
_IS_SGLANG = re.compile(
    r"\bsglang\b|SGLang|(?:Prefill batch|Decode batch)[,.] #" r"|\[20\d\d-\d\d-\d\d \d\d:\d\d:\d\d[^\]]* (?:DP|TP|PP|EP)\d+"
)
_ENGINE_STRONG: tuple[tuple[EngineName, re.Pattern[str]], ...] = (
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
            r"|api_server\.py: error|vllm serve: error"
        ),
    ),
)
_VERSION_TEXT = re.compile(
    r"vLLM API server version (\S+)|█ +version (\S+)|LLM engine \(v([^)\s]+)\)"
    r"|Launching vLLM \(v([^)\s]+)\)|sglang(?:==| version:? )(\d[\w.]*)"
)
_READY: dict[EngineName, re.Pattern[str]] = {
    "vllm": re.compile(r"Application startup complete\."),
    "sglang": re.compile(r"The server is fired up and ready to roll!"),
}
_SGLANG_BOUND = re.compile(r"Uvicorn running on |\"(?:POST|GET) \S+ HTTP/1\.[01]\" 200|(?:Prefill|Decode) batch")
_NODE_RANK = re.compile(r"\bnode_rank'?[=:] ?(\d+)")
_DUMMY = re.compile(r"Dummy health check server started")
_SHUTDOWN = re.compile(
    r"INFO: +Shutting down$|Application shutdown complete|Gracefully exiting"
    r"|\[shutdown\] API server: |SIG(?:TERM|INT) received|[Rr]eceived signal"
)
_ORDERED = re.compile(
    r"Shutting down FastAPI HTTP server|\[shutdown\] API server: shutdown triggered"
    r"|\[shutdown\] EngineCore: trigger received signal"
)
"""vLLM's API server was told to stop. Its engine may go first: the EngineDeadError that follows is no reason."""
_SERVED = re.compile(r"\"POST /(?:v1/(?:chat/)?completions|generate)\S* HTTP/1\.[01]\" 200")
_TRACKER = re.compile(r"resource_tracker: There appear to be \d+ leaked")

_BACKWARDS_S = 120
"""A clock that jumps back by more than this within one server's log means two writers (the corpus' case: 37 minutes)."""

_WAIT_ORDER = (
    "engine_starting",
    "ray_placement_group_pending",
    "workers_starting",
    "distributed_init",
    "model_downloading",
    "weights_loading",
    "kv_cache_allocation",
    "torch_compile",
    "jit_kernel_build",
    "cuda_graph_capture",
    "warmup",
)
_INSIDE = frozenset({"model_downloading", "jit_kernel_build"})
"""Happens within another stage: while it is the last thing said, it is what the start waits for."""
_WAIT_WINDOW = 50
"""Lines back from the newest waiting line among which the furthest stage is taken: ranks interleave."""

_SAID_ALOUD = 33
"""Causes up to this rank must stand in an error line to end a wait: engines probe, warn and retry while they start."""

_TAIL_LINES = 4
"""The tracker's warning is two lines, a blank may follow."""

_DEATHS = frozenset(
    {
        "engine_core_died",
        "worker_died",
        "child_process_crashed",
        "child_terminated_sigterm_after_ready",
        "scheduler_killed_oom",
        "killed",
        "segmentation_fault",
        "aborted",
        "floating_point_exception",
        "collective_timeout",
        "peer_node_gone",
        "execute_model_timeout",
        "ray_actor_died",
        "sigquit_from_child",
        "scheduler_exception",
        "engine_core_failed",
        "port_in_use",
    }
)
"""What ends a server that was ready. Everything else after ready is a request's trouble."""

_CONSEQUENCES = frozenset({"aborted", "engine_core_died", "worker_died", "child_process_crashed"})
"""Says that a process is gone, not why: the exception it went with is the better line, even if nobody knows it."""

_SELF_KILLS = frozenset({"killed", "scheduler_killed_oom"})
"""Both engines end their own processes with SIGKILL once one has failed."""

_NCCL_INFO = tuple(s for s in FABRIC if s.kind in ("cause", "hint"))
_OTHERS = tuple(s for s in SIGNATURES)
_WAITS = tuple(s for s in SIGNATURES if s.kind == "wait")


@dataclass(frozen=True)
class _Match:
    index: int
    line: str
    signature: Signature
    exception: bool
    fatal: bool
    said: bool
    """Said as an error. What is only mentioned or warned about loses against everything that was."""


def body_of(line: str) -> str:
    """A log line without colours, process tag, time stamp and level. Indentation is kept."""
    text = strip_ansi(line).rstrip()
    return text[_prefix_end(text) :]


def _shape(line: str) -> str:
    """What two ranks saying the same have in common."""
    return re.sub(r"[\d.]+", "", body_of(line))[:60]


def _prefix_end(text: str) -> int:
    match = _PREFIX.match(text)
    return match.end() if match else 0


@dataclass
class _Server:
    """What was gathered about one server's part of a log, line by line."""

    engine: EngineName | None = None
    engine_votes: dict[EngineName, int] = field(default_factory=lambda: {"vllm": 0, "sglang": 0})
    version: Version | None = None
    node_rank: int | None = None
    marked: bool = False
    count: int = 0
    matches: list[_Match] = field(default_factory=list)
    contexts: dict[str, bool] = field(default_factory=dict)
    stage: Stage | None = None
    stage_index: int = -1
    ready_at: int | None = None
    ready_line: str = ""
    ready_candidates: dict[EngineName, tuple[int, str]] = field(default_factory=dict)
    bound: bool = False
    dummy_line: str = ""
    clock: int | None = None
    clock_back_at: int | None = None
    traceback_at: int | None = None
    exception: tuple[int, str] | None = None
    first_exception: tuple[int, str] | None = None
    bare_exception: tuple[int, str] | None = None
    shutdown: bool = False
    served: tuple[int, str] | None = None
    tracker: tuple[int, str] | None = None
    ordered: tuple[int, str] | None = None
    crash_at: int | None = None
    crashes: list[tuple[int, str]] = field(default_factory=list)
    last_line: str = ""

    def add(self, line: str) -> list[_Match]:
        """Take one line (no newline, no carriage return) and return what matched."""
        index = self.count
        self.count += 1
        text = strip_ansi(line).rstrip()
        if not text.strip():
            return []
        self.last_line = line
        body = text[_prefix_end(text) :]
        self._identify(text)
        self._tick(text, index)
        for engine, pattern in _READY.items():
            if pattern.search(body):
                self.ready_candidates[engine] = (index, line)
        if not self.bound and _SGLANG_BOUND.search(body):
            self.bound = True
        if not self.dummy_line and _DUMMY.search(body):
            self.dummy_line = line
        if _ROUTINE.search(body):
            if self.served is None and _SERVED.search(body):
                self.served = (index, line)
            return []
        if _SHUTDOWN.search(body):
            self.shutdown = True
        if self.ordered is None and _ORDERED.search(body):
            self.ordered = (index, line)
        if _TRACKER.search(body):
            self.tracker = (index, line)
        for engine in (self.engine,) if self.engine else ("vllm", "sglang"):
            stage = recognise(engine, text)
            if stage is not None:
                if self.stage is None or stage.order >= self.stage.order:
                    self.stage = stage
                self.stage_index = index
                break
        self._context(body)
        return self._match(index, line, text, body)

    def _identify(self, text: str) -> None:
        if not self.marked:
            for engine, pattern in _START:
                if pattern.search(text):
                    self.engine, self.marked = engine, True
        if not self.marked:
            for engine, pattern in _ENGINE_STRONG:
                if pattern.search(text):
                    self.engine_votes[engine] += 10
            if _IS_VLLM.search(text):
                self.engine_votes["vllm"] += 1
            if _IS_SGLANG.search(text):
                self.engine_votes["sglang"] += 1
            best = max(self.engine_votes.items(), key=lambda item: item[1])
            self.engine = best[0] if best[1] else None
        if self.version is None and (match := _VERSION_TEXT.search(text)):
            try:
                self.version = Version.parse(next(group for group in match.groups() if group))
            except UsageError:
                self.version = None
        if self.node_rank is None and "server_args=" in text and (match := _NODE_RANK.search(text)):
            self.node_rank = int(match.group(1))

    def _tick(self, text: str, index: int) -> None:
        match = _CLOCK.search(text[:120])
        if match is None:
            return
        month, day, hour, minute, second = map(int, match.groups())
        now = (((month * 31 + day) * 24 + hour) * 60 + minute) * 60 + second
        if self.clock is not None and now < self.clock - _BACKWARDS_S and month > 1:
            self.clock_back_at = index
        self.clock = now

    def _context(self, body: str) -> None:
        for signature in _CONTEXTUAL:
            if signature.id not in self.contexts and signature.context and signature.context.search(body):
                self.contexts[signature.id] = True

    def _match(self, index: int, line: str, text: str, body: str) -> list[_Match]:
        found: list[_Match] = []
        if _IGNORED.search(body):
            return found
        is_exception = bool(_EXCEPTION.match(body))
        if _TRACEBACK.search(body):
            self.traceback_at = index
        mild = _MILD.search(text[:200]) is not None
        warning = _TORCH_WARNING.match(body) is not None
        loud = is_exception or _LOUD.search(text) is not None
        if _CRASH.search(body):
            self.crash_at = index
        elif self.crash_at is not None and is_exception:
            self.crashes.append((index, line))
            self.crash_at = None
        if is_exception and not mild and self.traceback_at is not None:
            self.exception = (index, line)
            self.first_exception = self.first_exception or self.exception
        elif is_exception and not mild and self.bare_exception is None:
            self.bare_exception = (index, line)  # the log begins in the middle of its traceback
        if _BAR.search(body) or _ECHO.search(body):
            candidates: tuple[Signature, ...] = _WAITS
        elif "NCCL INFO" in body:
            candidates = _NCCL_INFO + _WAITS
        elif _GUESSES.search(body):
            candidates = RAY
        elif _CODE.match(body) or body.lstrip().startswith(('File "', "^", "~")):
            candidates = ()
        else:
            candidates = _OTHERS
        for signature in candidates:
            if signature.engine is not None and self.engine is not None and signature.engine != self.engine:
                continue
            if signature.pattern.search(body) is None:
                continue
            # What is only mentioned, or warned about, is not the end; a reported death or timeout is, however it is said.
            said = not warning and (signature.rank > _SAID_ALOUD or (loud and not mild))
            fatal = signature.fatal and (signature.kind == "symptom" or said)
            found.append(_Match(index, line, signature, is_exception, fatal, said or signature in _NCCL_INFO))
        self.matches += found
        return found

    # ------------------------------------------------------------------------------------------------------- judgement

    def holds(self, match: _Match) -> bool:
        """A signature with a context counts only once that was seen; one with a version band only inside it."""
        signature = match.signature
        if signature.band is not None and self.version is not None and not self.version.within(*signature.band):
            return False
        return signature.context is None or self.contexts.get(signature.id, False)

    def ready(self) -> tuple[int, str] | None:
        """Index and text of the line that makes this server ready, before asking what came of it."""
        if self.engine is None:
            return None
        ready = self.ready_candidates.get(self.engine)
        if ready is None:
            # The end of a long log: the start is cut off, but requests were answered (one that is cut short by the
            # engine's death is answered too).
            if self.served is None or self.marked or any(m.fatal and m.index < self.served[0] for m in self.matches):
                return None
            return self.served
        if self.engine == "sglang" and not self.bound:
            return None  # the port was never bound, or the part that would show it is missing
        return ready

    def best_cause(self, matches: Iterable[_Match]) -> _Match | None:
        """The most primary cause; among its lines the first that has the form of an exception.

        A mention ("nvcc not found, using the pre-built kernels") explains a failure only if no error was printed at all.
        """
        broken = min((m.index for m in self.matches if m.signature.kind == "symptom"), default=self.count)
        causes = [
            m
            for m in matches
            if m.signature.kind == "cause" and self.holds(m) and not (m.signature.id in _SELF_KILLS and m.index > broken)
        ]
        said = [m for m in causes if m.said]
        if not said and self.first_exception is not None:
            return None
        causes = said or causes
        if not causes:
            return None
        top = min(causes, key=lambda m: (m.signature.rank, m.index))
        same = [m for m in causes if m.signature.id == top.signature.id]
        if top.signature.id in _CONSEQUENCES:
            return same[0]
        return next((m for m in same if m.exception), top)

    def judge(self) -> Diagnosis:
        """The judgement of this server's part of the log."""
        ready = self.ready()
        if ready is not None:
            return self._after_ready(*ready)
        ends = [m for m in self.matches if m.fatal and self.holds(m)]
        if ends:
            cause = self.best_cause(self.matches)
            return self._failed(cause, ends[0])
        if self._vanished():
            return self._killed()
        if self.exception is not None and self.stage_index < self.exception[0]:
            cause = self.best_cause(self.matches)
            return self._failed(cause, None)
        if self.engine == "sglang" and self.node_rank and self.dummy_line:
            return self._plain(
                "undetermined",
                "rank_without_ready_line",
                self.dummy_line,
                "a node of rank 1 or higher: it never prints the ready line, judge rank 0",
            )
        return self._waiting()

    def _after_ready(self, at: int, line: str) -> Diagnosis:
        before = [m for m in self.matches if m.index < at and m.fatal and self.holds(m)]
        if self.engine == "sglang":
            bind = next((m for m in self.matches if m.signature.id == "port_in_use" and m.fatal), None)
            if bind is not None:
                return self._failed(bind, bind)
        if any(m.signature.kind == "symptom" for m in before) and (self.clock_back_at is not None or self.marked):
            decisive = next(m for m in reversed(before) if m.signature.kind == "symptom")
            return self._plain(
                "undetermined",
                "two_processes_in_one_log",
                decisive.line,
                "two servers wrote this log at the same time: one failed, one became ready",
            )
        after = [m for m in self.matches if m.index > at]
        death = next((m for m in after if m.fatal and m.signature.id in _DEATHS and self.holds(m)), None)
        if death is not None and self.ordered is not None and self.ordered[0] < death.index:
            return self._ended("terminated_by_signal", self.ordered[1])
        if death is not None:
            runtime = [m for m in after if m.signature.stage not in ("arguments", "loading")]
            # "SIGTERM received" is the order to stop, not what went wrong afterwards.
            return self._failed(self.best_cause(m for m in runtime if m.signature.id != "terminated_by_signal"), death, at)
        if self._vanished():
            return self._killed()
        signal = next((m for m in after if m.signature.id == "terminated_by_signal"), None)
        if signal is not None and not self.shutdown:
            return self._ended("terminated_by_signal", signal.line)
        return self._plain("ready", None, line, "")

    def _vanished(self) -> bool:
        """A process killed with SIGKILL says nothing; its helper's complaint about what it left behind ends the log."""
        return self.tracker is not None and not self.shutdown and self.count - self.tracker[0] <= _TAIL_LINES

    def _killed(self) -> Diagnosis:
        return self._ended("killed", self.tracker[1] if self.tracker else self.last_line)

    def _ended(self, id: str, line: str) -> Diagnosis:
        """Somebody ended the server; ``line`` shows it."""
        signature = BY_ID[id]
        return replace(self._plain("failed", id, line, signature.cause, signature), rank=signature.rank)

    def _failed(self, cause: _Match | None, end: _Match | None, since: int = -1) -> Diagnosis:
        """Judge a failure; lines up to ``since`` (the ready line) had no part in it."""
        crash = next((c for c in self.crashes if c[0] > since), None)
        if cause is not None:
            signature = cause.signature
            because = signature.id in _CONSEQUENCES and crash is not None and crash[0] < cause.index
            line = crash[1] if crash is not None and because else cause.line
            return replace(self._plain("failed", signature.id, line, signature.cause, signature), rank=signature.rank)
        first = self.first_exception[1] if self.first_exception and self.first_exception[0] > since else None
        if first is None and self.bare_exception and end and since < self.bare_exception[0] < end.index:
            first = self.bare_exception[1]
        line = (crash and crash[1]) or first or (end.line if end else self.last_line)
        return self._plain("failed", None, line, "no known signature in this log")

    def _waiting(self) -> Diagnosis:
        waits = [m for m in self.matches if m.signature.kind == "wait"]
        if not waits:
            if self.stage is not None:
                return self._plain("waiting", "engine_starting", self.last_line, "the engine is starting")
            return self._plain("undetermined", None, self.last_line, "")
        newest = waits[-1].index
        recent = [m for m in waits if m.index > newest - _WAIT_WINDOW]
        best = waits[-1]
        if best.signature.id not in _INSIDE:
            best = max(recent, key=lambda m: (_WAIT_ORDER.index(m.signature.id), m.index))
        if not _BAR.search(best.line):
            # Every rank says it: the first one tells since when. A progress bar is the other way round.
            shape = _shape(best.line)
            best = next(m for m in recent if m.signature.id == best.signature.id and _shape(m.line) == shape)
        return self._plain("waiting", best.signature.id, best.line, best.signature.cause, best.signature)

    def _plain(
        self, outcome: Outcome, cause: str | None, line: str, explanation: str, signature: Signature | None = None
    ) -> Diagnosis:
        return Diagnosis(
            outcome=outcome,
            cause=cause,
            decisive_line=line,
            explanation=explanation,
            fix=signature.fix if signature else "",
            source=signature.source if signature else "",
            engine=self.engine,
            version=self.version,
            stage=self.stage,
            also=self._also(cause),
        )

    def _also(self, chosen: str | None) -> tuple[str, ...]:
        order = {"cause": 0, "symptom": 1, "hint": 2}
        seen: dict[str, tuple[int, int]] = {}
        for match in self.matches:
            kind = match.signature.kind
            if kind in order and match.signature.id != chosen and self.holds(match):
                seen.setdefault(match.signature.id, (order[kind], match.signature.rank))
        return tuple(sorted(seen, key=lambda id: seen[id]))


_CONTEXTUAL = tuple(s for s in SIGNATURES if s.context is not None)


def split_lines(text: str) -> Iterator[str]:
    """Lines as a terminal would have shown them: progress bars that overwrite each other are lines of their own."""
    for line in text.split("\n"):
        if "\r" in line:
            yield from (piece for piece in line.split("\r") if piece)
        else:
            yield line


def _is_start(text: str) -> bool:
    return any(pattern.search(text) for _, pattern in _START)


class Reader:
    """Feeds lines to one server after the other. Used for whole logs and for logs that still grow."""

    def __init__(self) -> None:
        self._server = _Server()

    @property
    def server(self) -> _Server:
        """The newest server in this log."""
        return self._server

    def feed(self, line: str) -> list[_Match]:
        """Take one line."""
        text = strip_ansi(line)
        if _is_start(text) and (self._server.marked or self._over()):
            self._server = _Server()
        return self._server.add(line)

    def _over(self) -> bool:
        """An unmarked part before the first banner is a server of its own only if it came to an end."""
        server = self._server
        return server.ready() is not None or any(m.fatal for m in server.matches)


def diagnose(log: str | Iterable[str]) -> Diagnosis:
    """Judge a whole log.

    Args:
        log: its text, or its lines in order (with or without newline), or pieces of it that end at line ends.
    """
    reader = Reader()
    for line in split_lines(log) if isinstance(log, str) else _lines(log):
        reader.feed(line)
    return reader.server.judge()


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Lines of a log given line by line, or in pieces that end at line ends."""
    for piece in pieces:
        yield from split_lines(piece.removesuffix("\n"))


def primary(diagnoses: Mapping[str, Diagnosis]) -> tuple[str, Diagnosis] | None:
    """Among the logs of several nodes the one whose cause is most primary: (node, diagnosis), or None if none failed.

    A rank that only lost its peer, or waited for it in vain, is never chosen while another log holds the reason.
    """
    failed = [(node, d) for node, d in diagnoses.items() if d.outcome == "failed"]
    return min(failed, key=lambda item: item[1].rank) if failed else None


class FatalWatch:
    """Watches a growing log and says, within the line that proves it, that this start is over.

    >>> watch = FatalWatch()
    >>> watch.feed("launch_server.py: error: unrecognized arguments: --enable-reasoning").id
    'unrecognized_arguments'

    A symptom ("Scheduler hit an exception") is held back until its cause appears, ``patience`` lines went by, or
    :meth:`settle` is called because nothing more comes (two quiet seconds, or the process ended).
    """

    def __init__(self, patience: int = 400) -> None:
        self._reader = Reader()
        self._patience = patience
        self._pending: _Match | None = None
        self._waited = 0
        self.fatal: Signature | None = None
        """The signature that ended it, once certain."""

    def feed(self, line: str) -> Signature | None:
        """Take one line (it may hold overwritten progress bars). Returns the signature once, when it becomes certain."""
        result: Signature | None = None
        for piece in split_lines(line.rstrip("\n")):
            result = self._feed(piece) or result
        return result

    def _feed(self, line: str) -> Signature | None:
        before = self._reader.server
        matches = self._reader.feed(line)
        server = self._reader.server
        if server is not before:  # the engine was started again in the same log
            self._pending, self.fatal, self._waited = None, None, 0
        if self.fatal is not None:
            return None
        ready = server.ready() is not None
        ends = [m for m in matches if m.fatal and server.holds(m) and (not ready or m.signature.id in _DEATHS)]
        if self._pending is None and ends:
            self._pending, self._waited = ends[0], 0
        if self._pending is None:
            return None
        self._waited += 1
        if server.judge().cause is not None or self._waited > self._patience:
            return self.settle()
        return None

    def settle(self) -> Signature | None:
        """Nothing more comes for now: decide with what is there. Returns the signature if that is news."""
        if self.fatal is not None or self._pending is None:
            return None
        diagnosis = self.diagnosis()
        if diagnosis.outcome != "failed":
            self._pending = None
            return None
        self.fatal = BY_ID[diagnosis.cause] if diagnosis.cause else self._pending.signature
        return self.fatal

    def diagnosis(self) -> Diagnosis:
        """The judgement of everything seen so far."""
        return self._reader.server.judge()
