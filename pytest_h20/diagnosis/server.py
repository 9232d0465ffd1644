"""What was gathered about one server, and the judgement of it. The rules stand in :mod:`.judge`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pytest_h20.core.errors import UsageError
from pytest_h20.diagnosis import lines
from pytest_h20.diagnosis.families import FRAMES, LONGEST, NAMELESS, Raised, first_named, named_by_frame
from pytest_h20.diagnosis.result import Diagnosis, Outcome
from pytest_h20.diagnosis.signatures import BY_ID, FABRIC, SIGNATURES, Signature
from pytest_h20.engines.base import EngineName, Stage, Version
from pytest_h20.engines.stages import recognise

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

_MESSAGE_LINES = 6
"""The message of an exception may go on for some lines; what they say was said as an error."""

_RAISED = 64
"""Exceptions of a log that are looked at: after so many all ranks have said theirs."""

_WRAPPED = 40
"""A line shorter than this was not broken by a terminal's edge."""

_BROKEN = 800
"""Characters of a line put together again from its pieces."""

_LOADING = frozenset({"model_downloading", "weights_loading", "kv_cache_allocation", "torch_compile", "cuda_graph_capture"})
"""While one of these goes on, no server of the engine listens."""

_SURE = 1000
"""Votes (a line gives up to 11) after which nobody is asked any more whose log this is."""

_TAIL_LINES = 6
"""The tracker's warning is two lines (more where a terminal broke them), a blank may follow."""

DEATHS = frozenset(
    {
        "engine_core_died",
        "worker_died",
        "child_process_crashed",
        "child_terminated_sigterm_after_ready",
        "scheduler_killed_oom",
        "killed",
        "segmentation_fault",
        "aborted",
        "native_crash",
        "launcher_reports_exit",
        "bus_error",
        "custom_all_reduce_failed",
        "floating_point_exception",
        "collective_timeout",
        "peer_node_gone",
        "execute_model_timeout",
        "ray_actor_died",
        "sigquit_from_child",
        "scheduler_exception",
        "engine_core_failed",
        "nvshmem_exits",
        "port_in_use",
    }
)
"""What ends a server that was ready. Everything else after ready is a request's trouble."""

_CONSEQUENCES = frozenset({"aborted", "engine_core_died", "worker_died", "child_process_crashed"})
"""Says that a process is gone, not why: the exception it went with is the better line, even if nobody knows it."""

_LAST_RESORT = _CONSEQUENCES | {"worker_lost_in_setup"}
"""An exception of the engine that names a cause by itself is the better one."""

_SELF_KILLS = frozenset({"killed", "scheduler_killed_oom"})
"""Both engines end their own processes with SIGKILL once one has failed."""

_NCCL_INFO = tuple(s for s in FABRIC if s.kind in ("cause", "hint"))
_OTHERS = tuple(s for s in SIGNATURES)
_WAITS = tuple(s for s in SIGNATURES if s.kind == "wait")
_CONTEXTS = frozenset(p for s in SIGNATURES for p in (s.context, s.unless) if p is not None)


@dataclass(frozen=True)
class Match:
    """One signature found in one line."""

    index: int
    line: str
    signature: Signature
    exception: bool
    fatal: bool
    said: bool
    """Said as an error. What is only mentioned or warned about loses against everything that was."""
    bare: bool = False
    """Nothing but this stands in the line, and no logger calls it harmless: what people copy out of an error."""


@dataclass
class Server:
    """What was gathered about one server's part of a log, line by line."""

    engine: EngineName | None = None
    engine_votes: dict[EngineName, int] = field(default_factory=lambda: {"vllm": 0, "sglang": 0})
    version: Version | None = None
    node_rank: int | None = None
    marked: bool = False
    count: int = 0
    matches: list[Match] = field(default_factory=list)
    contexts: set[re.Pattern[str]] = field(default_factory=set)
    stage: Stage | None = None
    stage_index: int = -1
    ready_at: int | None = None
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
    shut: tuple[int, str] | None = None
    reported: bool = False
    served: tuple[int, str] | None = None
    served_last: int = -1
    requested: tuple[int, str] | None = None
    asked: bool = False
    in_request: bool = False
    warned: bool = False
    erred: tuple[int, str] | None = None
    last_word: int = -1
    launching: str = ""
    spoke: bool = False
    announced: bool = False
    answered: tuple[int, str] | None = None
    usage: tuple[int, str] | None = None
    tracker: tuple[int, str] | None = None
    ordered: tuple[int, str] | None = None
    torn_at: int | None = None
    up_at: int | None = None
    services: set[str] = field(default_factory=set)
    api_pids: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    loads: bool = False
    inside_traceback: bool = False
    crashed_at: int = -1
    previous: tuple[int, str, str, str] | None = None
    whole: tuple[int, str, str, str] | None = None
    crash_at: int | None = None
    message_until: int = -1
    crashes: list[tuple[int, str]] = field(default_factory=list)
    native: bool = False
    frames: list[str] = field(default_factory=list)
    raised: list[Raised] = field(default_factory=list)
    last_line: str = ""

    def add(self, line: str) -> list[Match]:
        """Take one line (no newline, no carriage return) and return what matched."""
        index = self.count
        self.count += 1
        text = lines.shown(line)
        if not text.strip():
            return []
        self.last_line = line
        body = text[lines.prefix_end(text) :]
        self._identify(text)
        self._tick(text, index)
        if text.startswith("^C"):
            self.matches.append(Match(index, line, BY_ID["terminated_by_signal"], False, True, True))
        if not body.strip() or (self.previous and lines.cut_in_prefix(text, self.previous[2].removesuffix(self.previous[3]))):
            return []
        for engine, pattern in lines.READY.items():
            if pattern.search(body):
                self._ready_line(engine, index, line, text)
        self.api_pids.update(lines.API_PID.findall(text))
        self.started.update(lines.STARTED.findall(body))
        if lines.ENGINE_UP.search(body):
            self.up_at = index
        if lines.TORN.search(body):
            self.torn_at = index
        if not self.bound and lines.SGLANG_BOUND.search(body):
            self.bound = True
        if not self.dummy_line and lines.DUMMY.search(body):
            self.dummy_line = line
        if lines.ROUTINE.search(body):
            if self.services and self._foreign(text):
                return []
            if lines.SERVED.search(body):
                self.served = self.served or (index, line)
                self.served_last = index
            if not self.asked and lines.MODEL_ASKED.search(body):
                self.asked = True
            if self.announced and self.answered is None and lines.ANSWERED.search(body):
                self.answered = (index, line)
            if "/health " in body and lines.UNHEALTHY.search(body):
                self.matches.append(Match(index, line, BY_ID["engine_core_died"], False, True, True))
                return self.matches[-1:]
            return []
        if not self.spoke and lines.OWN.search(text):
            self.spoke = True
        if lines.SHUTDOWN.search(body):
            self.shutdown = True
        if lines.CLOSED.search(body):
            self.shut = (index, line)
        if lines.REPORT.search(body):
            self.reported = True
        if not self.announced and lines.ANNOUNCED.search(body):
            self.announced = True
        if self.ordered is None and lines.ORDERED.search(text):
            self.ordered = (index, line)
        if lines.USAGE.match(body):
            self.usage = (index, line)
        elif lines.HELP.match(body):
            self.usage = None
        if lines.TRACKER.search(body):
            self.tracker = (index, line)
        if lines.LAUNCHES.search(text):
            self.launching = line
        for engine in (self.engine,) if self.engine else ("vllm", "sglang"):
            stage = recognise(engine, text)
            if stage is not None:
                if self.stage is None or stage.order >= self.stage.order:
                    self.stage = stage
                self.stage_index = index
                break
        self._context(body)
        found = self._match(index, line, text, body)
        found += self._across(index, line, text, body)
        self.previous = (index, line, text, body)
        if any(m.signature.id in _LOADING for m in found):
            self.loads, self.served = True, None
            if self.up_at is None:  # it goes on loading: the ready line was not the engine's
                self.ready_candidates.pop("vllm", None)
        return found

    def _foreign(self, text: str) -> bool:
        """Did another service of the same compose file print this line?"""
        service = lines.SERVICE.match(text)
        return service is not None and bool(self.services) and service[1] not in self.services

    def _ready_line(self, engine: EngineName, index: int, line: str, text: str) -> None:
        """Take uvicorn's or SGLang's ready line, unless something shows that another application printed it."""
        if self._foreign(text):
            return
        if engine == "vllm" and self.up_at is None and self.loads:
            return  # vLLM says more between its last weight and uvicorn's line
        if engine == "vllm" and self.api_pids and self.started and not self.started & self.api_pids:
            self.started.clear()
            return
        self.ready_candidates[engine] = (index, line)

    def _across(self, index: int, line: str, text: str, body: str) -> list[Match]:
        """What a terminal's edge has broken in the middle: signatures that lie across the break before this line."""
        if not self._continues(text) or self.whole is None or len(self.whole[2]) > _BROKEN:
            self.whole = (index, line, text, body)
            return []
        index, first, head, begun = self.whole
        text = f" {text}" if first.endswith(" ") else text  # it broke at a blank
        self.whole = (index, first + line, head + text, begun + text)
        if lines.IN_FRAME.match(begun + text):
            self.in_request |= (lines.OF_APPLICATION.search(begun + text) or lines.REQUEST.search(begun + text)) is not None
            self.inside_traceback |= not self.in_request
        return self._match(*self.whole, seam=len(begun))

    def _continues(self, text: str) -> bool:
        """Could the line before have been broken by a terminal's edge, and this be its rest?"""
        before = self.previous
        if before is None or len(before[2]) < _WRAPPED or text[:1].isspace() or lines.prefix_end(text):
            return False
        return lines.BEGINS.match(text) is None and lines.BAR.search(text) is None

    def _identify(self, text: str) -> None:
        if not self.marked:
            for engine, pattern in lines.START:
                if pattern.search(text):
                    self.engine, self.marked = engine, True
                    self._served_by(text)
        if not self.marked and max(self.engine_votes.values()) < _SURE:
            for engine, pattern in lines.ENGINE_STRONG:
                if pattern.search(text):
                    self.engine_votes[engine] += 10
                    self._served_by(text)
            if lines.IS_VLLM.search(text):
                self.engine_votes["vllm"] += 1
            if lines.IS_SGLANG.search(text):
                self.engine_votes["sglang"] += 1
            best = max(self.engine_votes.items(), key=lambda item: item[1])
            self.engine = best[0] if best[1] else None
        if self.version is None and (match := lines.VERSION_TEXT.search(text)):
            try:
                self.version = Version.parse(next(group for group in match.groups() if group))
            except UsageError:
                self.version = None
        if self.node_rank is None and "server_args=" in text and (match := lines.NODE_RANK.search(text)):
            self.node_rank = int(match.group(1))

    def _served_by(self, text: str) -> None:
        service = lines.SERVICE.match(text)
        if service:
            self.services.add(service[1])

    def _tick(self, text: str, index: int) -> None:
        match = lines.CLOCK.search(text[:120])
        if match is None:
            return
        month, day, hour, minute, second = map(int, match.groups())
        now = (((month * 31 + day) * 24 + hour) * 60 + minute) * 60 + second
        if self.clock is not None and now < self.clock - _BACKWARDS_S and month > 1:
            self.clock_back_at = index
        self.clock = now

    def _context(self, body: str) -> None:
        self.contexts.update(pattern for pattern in _CONTEXTS - self.contexts if pattern.search(body))

    def _match(self, index: int, line: str, text: str, body: str, seam: int | None = None) -> list[Match]:
        """Signatures of a line; with ``seam`` of two lines put together, and only those that lie across the seam."""
        found: list[Match] = []
        if lines.IGNORED.search(body):
            return found
        if self.services and (exited := lines.SERVICE_EXITED.match(body)) and exited[1] not in self.services:
            return found
        is_exception = bool(lines.EXCEPTION.match(body))
        mild = lines.MILD.search(text[:200]) is not None
        warning = lines.TORCH_WARNING.match(body) is not None
        loud = is_exception or lines.LOUD.search(text) is not None
        if seam is None:
            self._exception(index, line, text, body, is_exception, mild)
        if lines.BAR.search(body) or lines.ECHO.search(body):
            candidates: tuple[Signature, ...] = _WAITS
        elif "NCCL INFO" in body:
            candidates = _NCCL_INFO + _WAITS
        elif (
            lines.CODE.match(body)
            or (seam is None and self._quoted() and lines.CODE.match(f"    {body.lstrip()}"))
            or body.lstrip().startswith(('File "', "^", "~"))
        ):
            candidates = ()
        else:
            candidates = _OTHERS
        guesses = lines.GUESSES.search(body)
        sure = body[: guesses.start()] if guesses else body
        for signature in candidates:
            seen = signature.search(sure)
            if seen is None or (seam is not None and not seen.start() < seam < seen.end()):
                continue
            # What is only mentioned, or warned about, is not the end; a reported death or timeout is, however it is said.
            said = not warning and (signature.rank > _SAID_ALOUD or (loud and not mild))
            fatal = signature.proves(body) and (signature.kind == "symptom" or said) and (not self.in_request or signature.id in DEATHS)
            told = said or index <= self.message_until or signature in _NCCL_INFO
            bare = not mild and not warning and seen.start() == 0
            found.append(Match(index, line, signature, is_exception, fatal, told, bare))
        self.matches += found
        return found

    def _quoted(self) -> bool:
        """Behind the line that names a file of a traceback stands its source, even where the indentation was lost."""
        return self.previous is not None and lines.IN_FRAME.match(self.previous[3]) is not None

    def _exception(self, index: int, line: str, text: str, body: str, is_exception: bool, mild: bool) -> None:
        """Follow tracebacks: where one begins, which line is its exception, whether the log ends inside it."""
        in_stack = lines.IN_STACK.search(body) is not None
        self.native |= in_stack
        framed = lines.IN_FRAME.match(body) is not None
        if worker := lines.WORKER_SAYS.search(body):
            self.raised.append(Raised(index, line, (NAMELESS + worker[2])[:LONGEST], (worker[1],)))
        if framed:
            self.frames = [*self.frames[1 - FRAMES :], body.strip()]
        elif is_exception and not mild and not self.in_request and len(self.raised) < _RAISED:
            self.raised.append(Raised(index, line, body.strip()[:LONGEST], tuple(self.frames)))
        elif self.raised and index <= self.message_until and not mild and not self.in_request and not lines.TRACEBACK.search(body):
            self.raised[-1].goes_on(body)
        if '", line' in body and lines.ENGINE_LOOP.search(body):
            self.crashed_at = index
            self.inside_traceback, self.in_request, self.requested = True, False, None
        elif (of_engine := lines.REQUEST.search(text)) or lines.OF_APPLICATION.search(body):
            self.in_request, self.inside_traceback = True, False
            if of_engine and not self._foreign(text):
                self.requested = self.requested or (index, line)
        elif self.in_request and (is_exception or framed or lines.FRAME.match(body) or lines.TRACEBACK.search(body)):
            return
        elif lines.TRACEBACK.search(body):
            self.traceback_at, self.inside_traceback, self.in_request = index, True, False
            self.frames.clear()
        elif framed or (in_stack and not self.warned):
            self.inside_traceback = True  # of a traceback whose head is cut off
        elif (
            not lines.FRAME.match(body)
            and not self._quoted()
            and (
                is_exception or not (lines.AT_ERROR.search(text) or ((self.inside_traceback or self.in_request) and self._continues(text)))
            )
        ):
            self.inside_traceback = self.in_request = False
        if not in_stack and body.strip():
            self.warned = lines.TORCH_WARNING.match(body) is not None
        if ("ERROR" in text or "CRITICAL" in text) and lines.OF_CORE.search(text):
            self.erred = (index, line)
        if not mild and not self.in_request and lines.LAST_WORD.search(text):
            self.last_word = index
        if is_exception and not mild:
            self.message_until = index + _MESSAGE_LINES
        elif mild:
            self.message_until = -1
        if lines.CRASH.search(body):
            self.crash_at = self.crashed_at = index
        elif self.crash_at is not None and is_exception:
            self.crashes.append((index, line))
            self.crash_at = None
        if is_exception and not mild and self.traceback_at is not None:
            self.exception = (index, line)
            self.first_exception = self.first_exception or self.exception
        elif is_exception and not mild and self.bare_exception is None:
            self.bare_exception = (index, line)  # the log begins in the middle of its traceback

    # ------------------------------------------------------------------------------------------------------- judgement

    def holds(self, match: Match) -> bool:
        """A signature with a context counts only once that was seen, one with an "unless" until then; one with a version band only
        inside it; one of an engine never in the other's log."""
        signature = match.signature
        if signature.engine is not None and self.engine is not None and signature.engine != self.engine:
            return False
        if signature.band is not None and self.version is not None and not self.version.within(*signature.band):
            return False
        return (signature.context is None or signature.context in self.contexts) and signature.unless not in self.contexts

    def ready(self) -> tuple[int, str] | None:
        """Index and text of the line that makes this server ready, before asking what came of it."""
        ready = self.ready_candidates.get(self.engine) if self.engine else None
        if ready is None:
            # The end of a long log: the start is cut off, but requests were answered (one that is cut short by the
            # engine's death is answered too).
            served = self.answered or self._at_work()
            if served is None or any(m.fatal and m.index < served[0] and self.holds(m) for m in self.matches):
                return None
            return served
        if self.engine == "sglang" and not self.bound and (self.marked or not self._waited_before(ready[0])):
            return None  # the port was never bound, or the part that would show it is missing (an excerpt shows stages instead)
        return ready

    def _at_work(self) -> tuple[int, str] | None:
        """Where an excerpt without a start shows a server at work. A request's error shows one too, but not of which application."""
        if self.marked or self.dummy_line or not (self.engine or self.asked):
            return None
        return self.served or self.requested

    def _waited_before(self, index: int) -> bool:
        return any(m.index < index and m.signature.kind == "wait" for m in self.matches)

    def best_cause(self, matches: Iterable[Match]) -> Match | None:
        """The most primary cause; among its lines the first that has the form of an exception.

        A mention ("nvcc not found, using the pre-built kernels") explains a failure only if no error was printed at all.
        """
        broken = min(
            (m.index for m in self.matches if m.signature.kind == "symptom" and m.signature.id != "launcher_reports_exit"),
            default=self.count,
        )
        causes = [
            m for m in matches if m.signature.kind == "cause" and self.holds(m) and not (m.signature.id in _SELF_KILLS and m.index > broken)
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
        if self._ordered_before(ends):
            return self._ended("terminated_by_signal", self.ordered[1] if self.ordered else "")
        if self._told_to_stop(ends):
            return self._stopped(self.last_line)
        if ends:
            cause = self.best_cause(self.matches)
            return self._failed(cause, ends[0])
        if self._vanished():
            return self._killed()
        wrong = max(seen[0] for seen in (self.exception, self.erred, (-1, "")) if seen)
        if self.inside_traceback or wrong > self.stage_index:
            cause = self.best_cause(self.matches)
            if cause is None and not self._seen():
                return self._plain("undetermined", None, self.last_line, "a program broke off, and nothing shows that it is an engine")
            return self._failed(cause, None)
        if self.usage is not None:  # what was refused is cut off
            return self._failed(self.best_cause(self.matches), None, self.usage[0])
        if not self.marked and (excerpt := self._excerpt()):
            return excerpt
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
        death = next((m for m in after if m.fatal and m.signature.id in DEATHS and self.holds(m)), None)
        if death is not None and self.ordered is not None and self.ordered[0] < death.index:
            if self.torn_at is not None and self.torn_at > self.ordered[0]:
                return self._ended("terminated_by_signal", self.ordered[1])
            return self._stopped(line)
        if death is not None:
            runtime = [m for m in after if m.signature.stage not in ("arguments", "loading")]
            # "SIGTERM received" is the order to stop, not what went wrong afterwards.
            return self._failed(self.best_cause(m for m in runtime if m.signature.id != "terminated_by_signal"), death, at)
        if self._vanished():
            return self._killed()
        if self.crashed_at > at and (self.inside_traceback or self.served_last < self.crashed_at):
            return self._failed(None, None, at)
        if self.ordered is not None and self.ordered[0] > at and not self.ready_candidates:
            return self._stopped(line)
        signal = next((m for m in after if m.signature.id == "terminated_by_signal"), None)
        if signal is not None and not self.shutdown:
            return self._ended("terminated_by_signal", signal.line)
        return self._plain("ready", None, line, "")

    def _stopped(self, line: str) -> Diagnosis:
        """It was told to stop after ``line`` had shown it up: its start was well; of an excerpt without the start nobody asks that."""
        told = self.ordered or self.shut
        if self.ready_candidates or told is None:
            return self._plain("ready", None, line, "")
        signal = next((m for m in self.matches if m.signature.id == "terminated_by_signal"), None)
        return self._plain("undetermined", signal.signature.id if signal else None, told[1], "it served, and was told to stop")

    def _excerpt(self) -> Diagnosis | None:
        """An excerpt without the server's start, and nothing moved after the error in it: people copied out the failure."""
        waits = [m.index for m in self.matches if m.signature.kind == "wait" and lines.MOVES.search(m.line)]
        progress = max([-1 if self.engine is None else self.stage_index, *waits])
        told = [m for m in self.matches if m.index >= progress and (m.said or m.bare)]
        cause = self.best_cause(told) or next((m for m in told if m.bare and m.signature.kind == "cause" and self.holds(m)), None)
        spoken = max(self.last_word, self.bare_exception[0] if self.bare_exception else -1)
        if cause is None and (spoken < progress or spoken < 0 or (self.bare_exception is None and spoken < self.count - _TAIL_LINES)):
            return None
        return self._failed(cause, Match(self.count, self.last_line, BY_ID["engine_core_failed"], False, True, True))

    def _seen(self) -> bool:
        """Is it an engine's, what broke off here? Whoever shows nothing but an exception, or a native stack, is believed."""
        return self.engine is not None or self.native or bool(self.raised)

    def _ordered_before(self, ends: list[Match]) -> bool:
        """The start was told to stop before anything had gone wrong. (A script that uses the engine without a server stops
        it the same way when it has finished: it has no banner.)"""
        if self.ordered is None or not self.marked or "[shutdown]" not in self.ordered[1]:
            return False
        return not ends or (self.ordered[0] < ends[0].index and not self.crashes and self.first_exception is None)

    def _told_to_stop(self, ends: list[Match]) -> bool:
        """An excerpt of an ordered stop and nothing else: only a server that has come up says so much about its end."""
        if self.marked or self.shut is None or self.exception is not None or self.bare_exception is not None:
            return False
        if any(m.signature.id != "terminated_by_signal" for m in ends) or self.last_word > self.shut[0]:
            return False
        begun = any(m.signature.kind == "wait" for m in self.matches) or self.stage is not None
        return not begun and self.spoke and self.engine is not None

    def _vanished(self) -> bool:
        """A process killed with SIGKILL says nothing; its helper's complaint about what it left behind ends the log."""
        return self.tracker is not None and not self.shutdown and self.count - self.tracker[0] <= _TAIL_LINES

    def _killed(self) -> Diagnosis:
        return self._ended("killed", self.tracker[1] if self.tracker else self.last_line)

    def _ended(self, id: str, line: str) -> Diagnosis:
        """Somebody ended the server; ``line`` shows it."""
        signature = BY_ID[id]
        return replace(self._plain("failed", id, line, signature.cause, signature), rank=signature.rank)

    def _failed(self, cause: Match | None, end: Match | None, since: int = -1) -> Diagnosis:
        """Judge a failure; lines up to ``since`` (the ready line) had no part in it."""
        if self.engine is not None and (cause is None or cause.signature.id in _LAST_RESORT) and (family := self._family(since)):
            cause = family
        crash = next((c for c in self.crashes if c[0] > since), None)
        if cause is not None:
            signature = cause.signature
            because = signature.id in _CONSEQUENCES and crash is not None and crash[0] < cause.index
            line = crash[1] if crash is not None and because else cause.line
            meaning, fix = signature.words(lines.body_of(cause.line))
            return replace(self._plain("failed", signature.id, line, meaning, signature), rank=signature.rank, fix=fix)
        first = self.first_exception[1] if self.first_exception and self.first_exception[0] > since else None
        if first is None and self.bare_exception and end and since < self.bare_exception[0] < end.index:
            first = self.bare_exception[1]
        line = (crash and crash[1]) or first or (end.line if end else self.last_line)
        return self._plain("failed", None, line, "no known signature in this log")

    def _family(self, since: int) -> Match | None:
        """The cause that the engine's own exceptions show by what they are about, or the last frame of a traceback that was cut."""
        symptoms = {m.index for m in self.matches if m.signature.kind == "symptom"}
        if found := first_named(r for r in self.raised if r.index > since and r.index not in symptoms):
            return Match(found[0].index, found[0].line, BY_ID[found[1]], True, True, True)
        if self.inside_traceback and self.frames and not self.raised and (id := named_by_frame(self.frames[-1])):
            return Match(self.count, self.last_line, BY_ID[id], False, True, True)
        return None

    def _waiting(self) -> Diagnosis:
        waits = [m for m in self.matches if m.signature.kind == "wait" and (self.engine or not lines.ANYBODY.search(m.line))]
        if self.reported and not self.marked:
            waits = [m for m in waits if m.signature.id != "engine_starting"]
        if not waits:
            stuck = next((m for m in reversed(self.matches) if m.signature.id == "shm_broadcast_waiting"), None)
            if stuck is not None:
                return self._plain("waiting", stuck.signature.id, stuck.line, stuck.signature.cause, stuck.signature)
            if self.engine is not None and (self.stage is not None or self.spoke) and not self.reported:
                return self._plain("waiting", "engine_starting", self.last_line, "the engine is starting")
            if self.launching:
                return self._plain("waiting", "engine_starting", self.launching, "its launcher waits for the engine")
            return self._plain("undetermined", None, self.last_line, "")
        newest = waits[-1].index
        recent = [m for m in waits if m.index > newest - _WAIT_WINDOW]
        best = waits[-1]
        if best.signature.id not in _INSIDE:
            best = max(recent, key=lambda m: (_WAIT_ORDER.index(m.signature.id), m.index))
        if not lines.BAR.search(best.line):
            # Every rank says it: the first one tells since when. A progress bar is the other way round.
            shape = lines.shape(best.line)
            best = next(m for m in recent if m.signature.id == best.signature.id and lines.shape(m.line) == shape)
        return self._plain("waiting", best.signature.id, best.line, best.signature.cause, best.signature)

    def _plain(self, outcome: Outcome, cause: str | None, line: str, explanation: str, signature: Signature | None = None) -> Diagnosis:
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
