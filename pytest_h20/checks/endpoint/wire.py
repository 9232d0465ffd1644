"""The wire: framing of streams, text in every script, slow and vanishing clients, huge bodies, many clients at once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_h20.checks.endpoint.frame import CheckList, differs
from pytest_h20.checks.endpoint.questions import Question, grade, mixed, shipped
from pytest_h20.checks.endpoint.serving import known_question
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.endpoint.client import CHAT, COMPLETIONS, SMALL_IDS, Api
from pytest_h20.endpoint.reply import Reply, prompt_tokens
from pytest_h20.endpoint.sse import read_stream
from pytest_h20.endpoint.wire import Exchange, Pace, Piece

CHECKS = CheckList("endpoint")

SSE = Origin(kind="protocol", detail="WHATWG HTML, server-sent events; OpenAI streaming")
SLOT_FREE_S = 10.0
"""Seconds, times ``time_scale``, within which a vanished client's slot must be free. Built in: both engines poll for a
disconnect every second or on every chunk; a slot that outlives this holds KV cache nobody reads."""

TEXTS: Mapping[str, str] = {
    "chinese": "请逐字复述：两台机器，十六张卡，全部走 RDMA。",
    "emoji": "Repeat: 🚀👩‍👩‍👧‍👦🇨🇳✅ and 👍🏽 done",
    "right_to_left": "كرر: الخادم يعمل. חזור: השרת פועל. end",
    "combining": "Zalgo: e\u0301a\u0308o\u0302 n\u0303 and 𝕳𝖊𝖑𝖑𝖔, ﬁ, \u200bzero",
    "control": 'tab\tquote"backslash\\slash/newline\nline separator\u2028paragraph\u2029end',
}


def stream_problems(exchange: Exchange) -> list[str]:
    """Everything wrong with the framing of a streamed answer. Pure."""
    kind = exchange.header("content-type").split(";")[0].strip().lower()
    problems = differs("content-type", kind, "text/event-stream")
    problems += [] if exchange.ended == "complete" else ["the body ends without its transfer coding's end"]
    whole = read_stream(exchange.pieces)
    problems += list(whole.problems) + differs("[DONE] events", whole.done, 1)
    problems += [f"{len(whole.after_done)} events after [DONE]"] if whole.after_done else []
    bytewise = read_stream(Piece(0.0, exchange.body[at : at + 1]) for at in range(len(exchange.body)))
    if [e.data for e in bytewise.events] != [e.data for e in whole.events]:
        problems.append("cut into single bytes the stream reads differently")
    return problems


@CHECKS.add("endpoint.sse_framing", "Streams are framed as server-sent events", origin=SSE)
def check_sse_framing(api: Api, say: Say) -> Verdict:
    """Chat, completion and Chinese: content type, UTF-8, blank lines, JSON in every event, one ``[DONE]`` at the very end."""
    how = {"stream": True, "stream_options": {"include_usage": True}}
    chinese = next(q.question for q in shipped() if q.language == "zh")
    bodies: dict[str, tuple[str, dict[str, object]]] = {
        "chat": (CHAT, {"messages": [{"role": "user", "content": known_question()}], "max_tokens": 24}),
        "chinese": (CHAT, {"messages": [{"role": "user", "content": chinese}], "max_tokens": 24}),
        "completion": (COMPLETIONS, {"prompt": known_question(), "max_tokens": 24, "ignore_eos": True}),
    }
    problems, reads = [], {}
    for name, (path, body) in bodies.items():
        exchange = api.post(path, {"model": api.ctx.model_id, "temperature": 0, **body, **how})
        if exchange.status != 200:
            problems.append(f"{name}: status {exchange.status}")
            continue
        problems += [f"{name}: {problem}" for problem in stream_problems(exchange)]
        reads[name] = len(exchange.pieces)
    return say.problems(problems, of=sum(reads.values()), reads=dict(reads))


def _unicode(name: str, text: str) -> None:
    @CHECKS.add(f"endpoint.unicode_{name}", f"Text survives both ways: {name.replace('_', ' ')}")
    def check(api: Api, say: Say) -> Verdict:
        """A prompt comes back by ``echo`` unchanged, plain and streamed, whatever the model makes of it."""
        problems = []
        for kind, stream in (("plain", None), ("streamed", True)):
            said = api.complete(text, max_tokens=1, echo=True, stream=stream).choice.said
            if not said.startswith(text):
                problems.append(f"{kind}: {said[: len(text) + 8]!r} does not begin with {text!r}")
        return say.problems(problems, of=2)


for _name, _text in TEXTS.items():
    _unicode(_name, _text)


@CHECKS.add("endpoint.unicode_output", "Generated Chinese is whole characters, streamed and not")
def check_unicode_output(api: Api, say: Say) -> Verdict:
    """Characters of several bytes are cut across tokens; no replacement character may reach a client, in no chunk."""
    problems, characters = [], 0
    for question in [q for q in shipped() if q.language == "zh"][:4]:
        for kind, stream in (("plain", None), ("streamed", True)):
            reply = api.chat(question.question, max_tokens=64, stream=stream)
            said = reply.choice.said
            # Cut by max_tokens, the last character may be half: that is not the server's fault.
            inner = said[:-1] if reply.choice.finish == "length" else said
            characters += sum(not character.isascii() for character in inner)
            if "\ufffd" in inner:
                problems.append(f"{question.id}, {kind}: replacement character in {said!r:.80}")
    return say.problems(problems, of=characters, what="character of several bytes")


@CHECKS.add("endpoint.long_line", "A very long line passes, plain and in one event")
def check_long_line(api: Api, say: Say) -> Verdict:
    """Thousands of characters without a line break, echoed: the answer is one line of more than any usual buffer."""
    unit = f"{known_question()} "
    text = (unit * 4000)[: min(api.max_len - 64, 24_000)]  # a token is a character at least
    problems = []
    for kind, stream in (("plain", None), ("streamed", True)):
        said = api.complete(text, max_tokens=1, echo=True, stream=stream).choice.said
        problems += [] if said.startswith(text) else [f"{kind}: {len(said)} characters came back, {len(text)} were sent"]
    return say.problems(problems, of=2, characters=len(text))


@CHECKS.add("endpoint.huge_body", "A body of 8 MiB is served or refused, and nothing breaks")
def check_huge_body(api: Api, say: Say) -> Verdict:
    """A field nobody knows makes the body huge without making the prompt long: an answer, 400, 413 or 422; alive afterwards."""
    body = {
        "model": api.ctx.model_id,
        "messages": [{"role": "user", "content": known_question()}],
        "max_tokens": 1,
        "h20_padding": "x" * (8 << 20),
    }
    exchange = api.post(CHAT, body, deadline_s=api.ctx.seconds(2))
    problems = [] if exchange.status in (200, 400, 413, 422) else [f"status {exchange.status}: {exchange.body[:120]!r}"]
    dead = api.dead()
    return say.problems(problems + ([f"afterwards: {dead}"] if dead else []), of=1, status=exchange.status)


@CHECKS.add("endpoint.slow_client", "A slow client is served and holds nobody up")
def check_slow_client(api: Api, say: Say) -> Verdict:
    """One request arrives in small pieces, one stream is read slowly; an ordinary request beside them is not held up."""
    pause = 0.15 * min(1.0, api.ctx.time_scale)
    slow_send = Pace(send_piece=64, send_pause_s=pause)
    slow_read = Pace(read_pause_s=pause, reads_paused=8)

    def work(kind: str) -> Reply:
        if kind == "sends slowly":
            return api.chat(known_question(), max_tokens=4, how={"pace": slow_send})
        if kind == "reads slowly":
            return api.chat(known_question(), max_tokens=24, stream=True, how={"pace": slow_read})
        return api.chat(known_question(), max_tokens=4)

    kinds = ["sends slowly", "reads slowly", "ordinary"]
    problems = []
    for kind, reply in zip(kinds, api.together(work, kinds), strict=True):
        problems += [] if reply.ok().choice.finish else [f"{kind}: no finish reason"]
        if reply.stream is not None:
            problems += [f"{kind}: {problem}" for problem in stream_problems(reply.exchange)]
    return say.problems(problems, of=len(kinds))


@CHECKS.add(
    "endpoint.disconnect",
    "A vanished client's slot is freed",
    action="aborted requests keep generating and hold KV cache: look for an abort line in the engine's log",
)
def check_disconnect(api: Api, say: Say) -> Verdict:
    """Hang up in the middle of a long stream; the engine's gauge of running requests falls back long before its natural end.

    Needs an endpoint nobody else uses. The gauge may be stale while nothing runs, so a one-token request refreshes it. Done again, twice at
    most, when the stream seems to have been about to end: the time of a token is not seen in a sample that came in one lump.
    """
    about_to_end = ""
    for _ in range(3):
        told = _hang_up(api, say)
        if isinstance(told, Verdict):
            return told
        about_to_end = told
    return say.unknown(about_to_end, action="this engine is too fast for its context: give the profile a longer max_model_len")


def _hang_up(api: Api, say: Say) -> Verdict | str:
    """What it came to, or in words that the stream may have ended by itself before its slot was free."""
    before = api.running()
    if before is None and api.behind is not None:
        return say.skip("the router in front of prefill and decode has no /metrics: whether their slots become free is not to be seen")
    if before is None:
        return say.unknown("the server tells no number of running requests", action="start SGLang with --enable-metrics")
    tokens = min(api.max_len - 64, 8192)
    sample = api.complete(list(SMALL_IDS[:8]), max_tokens=48, ignore_eos=True, stream=True).ok()
    token_s = (sample.deltas[-1].at_s - sample.deltas[0].at_s) / 47
    during = 0.0

    def leave(body: bytes) -> bool:
        nonlocal during
        events = body.count(b"data:")
        if events < 6:
            return False
        during = max(during, api.running() or 0.0)
        return during > before or events > 400

    exchange = api.post(
        COMPLETIONS,
        {
            "model": api.ctx.model_id,
            "prompt": list(SMALL_IDS[:8]),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        },
        leave=leave,
    )
    gone = time.monotonic()
    if exchange.ended != "left" or during <= before:
        return say.unknown(
            f"the stream {exchange.ended}, running requests {before:g} before and {during:g} during it",
            action="see whether the gauge is updated",
        )
    natural_s = tokens * token_s - (exchange.pieces[-1].at_s - exchange.pieces[0].at_s)
    patience = SLOT_FREE_S * api.ctx.time_scale
    while (running := api.running()) is not None and running > before:
        if time.monotonic() - gone > 2 * patience:
            break
        time.sleep(0.05)
        if time.monotonic() - gone > 0.5:
            api.dead()
    freed_s = time.monotonic() - gone
    facts: dict[str, Any] = {"running_before": before, "running_during": during, "natural_end_s": round(natural_s, 3)}
    if running is None or running > before:
        now = "an unknown number" if running is None else f"{running:g}"
        return say.problems([f"after {freed_s:.1f} s still {now} running, {before:g} before"], of=1, **facts)
    if freed_s > 0.5 * natural_s:
        return f"free after {freed_s:.2f} s, but it would have ended by itself after about {natural_s:.2f} s"
    return say.judge(
        round(freed_s, 3),
        Limit(kind="max", value=patience, unit="s", origin=Origin(kind="builtin", detail="both engines look every second")),
        of=1,
        **facts,
    )


@CHECKS.add(
    "endpoint.parallel",
    "64 different requests at a time get their own answers",
    action="answers are mixed up between requests: do not serve users with this",
)
def check_parallel(api: Api, say: Say) -> Verdict:
    """32 graded questions and 32 completions of different, exactly known lengths at the same time, half of them streamed.

    Every completion must show its own pair of token counts; no question may get another question's exact answer. An answer that did
    not come (the model still thinks) shows nothing: with fewer than half of them this is "could not measure".
    """
    questions = shipped()[:32]
    problems: list[str] = []
    for most in dict.fromkeys((api.budget(min(384, api.ctx.answer_tokens)), api.budget(api.ctx.answer_tokens))):
        replies = _side_by_side(api, questions, most)
        problems += _own_counts(replies)
        answered = [(q, c) for q, c in zip(questions, [r.choice for r in replies[::2]], strict=True) if (c.content or "").strip()]
        if 2 * len(answered) >= len(questions):
            break  # a model that thinks longer than that is asked once more, with as much room as the graded set has
    grades = [grade(question, choice.content, choice.finish or "") for question, choice in answered]
    problems += mixed([question for question, _ in answered], grades)
    if 2 * len(answered) < len(questions) and not problems:
        return say.unknown(
            f"only {len(answered)} of {len(questions)} questions were answered within {most} tokens: what is never said cannot be mixed up",
            action="give the inventory's endpoint.answer_tokens room for the model's thoughts",
        )
    return say.problems(problems, of=len(replies) // 2 + len(answered), answers_right=sum(g.right for g in grades), answers=len(grades))


def _side_by_side(api: Api, questions: Sequence[Question], most: int) -> list[Reply]:
    """Questions and completions of known lengths in turn, all at the same time; at 64 at a time a token may take 0.2 s."""
    patience = {"deadline_s": max(api.ctx.seconds(5), api.ctx.seconds(0.2 * most / 60.0))}

    def work(number: int) -> Reply:
        stream = {"stream": True, "stream_options": {"include_usage": True}} if number % 4 < 2 else {}
        if number % 2:
            at = number // 2
            ids = [SMALL_IDS[(number * 17 + k) % len(SMALL_IDS)] for k in range(9 + at)]
            return api.complete(ids, max_tokens=4 + at % 16, ignore_eos=True, how=patience, **stream)
        return api.chat(questions[number // 2].question, max_tokens=most, how=patience, **stream)

    return api.together(work, list(range(2 * len(questions))))


def _own_counts(replies: Sequence[Reply]) -> list[str]:
    """Completions that do not show their own pair of token counts, and ids that occur twice."""
    problems: list[str] = []
    for number, reply in list(enumerate(replies))[1::2]:
        at = number // 2
        problems += differs(f"request {number}: prompt_tokens", prompt_tokens(reply), 9 + at)
        problems += differs(f"request {number}: completion_tokens", reply.counts.completion, 4 + at % 16)
    ids = [reply.id for reply in replies]
    return problems + ([] if len(set(ids)) == len(ids) else [f"{len(ids) - len(set(ids))} response ids occur twice"])


def alive_after(api: Api) -> Sequence[str]:
    """One problem when the engine does not give a token any more."""
    dead = api.dead()
    return [f"the engine does not answer afterwards: {dead}"] if dead else []


def as_json(value: object) -> bytes:
    """Bytes of a request body."""
    return json.dumps(value, ensure_ascii=False).encode()
