"""What is generated: forms, ends, alternatives, repeatability, long prompts, structure. The engine's doing, not the model's."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_h20.checks.endpoint.frame import CheckList, differs
from pytest_h20.checks.endpoint.serving import known_question
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.endpoint.client import SMALL_IDS, Api
from pytest_h20.endpoint.reply import Choice, Reply, prompt_tokens

CHECKS = CheckList("endpoint")

FINISH = ("stop", "length", "tool_calls", "content_filter", "abort")
MIN_REPEAT_SHARE = 0.5
"""Share of repeats that must equal the first answer. Built in: on real kernels the batch's shape and a cached prefix change the
rounding and may flip a near-tie, so single differences happen; a wrong cache or a wrong seed changes every repeat."""


def copying_prompt(salt: int, lines: int = 30) -> str:
    """A list of numbers and the first half of the same list again. Pure.

    What a model says next depends on the whole list, and is no near-tie for a model that can copy: greedy answers then differ
    only when the engine is at fault, not by rounding.
    """
    draw = random.Random(salt)
    rows = [f"{number}: {draw.randrange(1000, 9999)}" for number in range(1, lines + 1)]
    return "A list:\n" + "\n".join(rows) + "\n\nThe same list again:\n" + "\n".join(rows[: lines // 2]) + "\n"


def _both(choice: Choice) -> tuple[str, str]:
    return choice.reasoning or "", choice.content or ""


def _form_problems(reply: Reply, api: Api, object_name: str) -> list[str]:
    choice = reply.choice
    problems = differs("choices", len(reply.choices), 1) + differs("index", choice.index, 0)
    problems += differs("object", reply.object, object_name) + differs("model", reply.model, api.ctx.model_id)
    problems += [] if reply.id else ["no id"]
    problems += [] if choice.finish in FINISH else [f"finish_reason is {choice.finish!r}"]
    problems += [] if choice.said else ["nothing was said"]
    return problems


@CHECKS.add("endpoint.completion", "A plain completion is served")
def check_completion(api: Api, say: Say) -> Verdict:
    """``/v1/completions``: one choice with text, finish reason, id, model and object as documented."""
    reply = api.complete("The capital of France is", max_tokens=12, ignore_eos=True)
    return say.problems(_form_problems(reply, api, "text_completion"), of=1)


@CHECKS.add("endpoint.chat", "A chat is served")
def check_chat(api: Api, say: Say) -> Verdict:
    """``/v1/chat/completions``: one assistant message, finish reason, id, model and object as documented."""
    reply = api.chat(known_question(), max_tokens=12)
    return say.problems(_form_problems(reply, api, "chat.completion") + differs("role", reply.choice.role, "assistant"), of=1)


@CHECKS.add("endpoint.stream_form", "Streamed chunks have the documented form")
def check_stream_form(api: Api, say: Say) -> Verdict:
    """One id over all chunks, role ``assistant`` first, one finish reason and nothing after it, in chat and completion."""
    chat = api.chat(known_question(), max_tokens=12, stream=True).ok()
    plain = api.complete("The capital of France is", max_tokens=12, ignore_eos=True, stream=True).ok()
    problems = differs("object of a chat chunk", chat.object, "chat.completion.chunk")
    problems += differs("object of a completion chunk", plain.object, "text_completion")
    problems += differs("role in the first chunk", chat.deltas[0].role, "assistant")
    for name, reply in (("chat", chat), ("completion", plain)):
        problems += differs(f"{name}: ids", len(reply.ids), 1)
        ends = [at for at, delta in enumerate(reply.deltas) if delta.finish]
        problems += differs(f"{name}: finish reasons", len(ends), 1)
        after = [d for d in reply.deltas[ends[0] + 1 :] if d.content or d.reasoning] if ends else []
        problems += [f"{name}: {len(after)} chunks with text after the finish reason"] if after else []
    chunks = len(chat.deltas), len(plain.deltas)
    texts = sum(bool(d.content or d.reasoning) for d in (*chat.deltas, *plain.deltas))
    return say.problems(problems, of=texts, what="text", chat_chunks=chunks[0], completion_chunks=chunks[1])


def stream_equals(say: Say, ask: Callable[[bool], Reply]) -> Verdict:
    """Plain and streamed greedy answers. Both are repeated, to tell "streams differently" from "differs anyway".

    Blanks around a field are a warning only: SGLang before 0.5 strips them in plain answers and not in streams.
    """
    plain, streamed = [], []
    for _ in range(3):
        plain.append(_both(ask(False).choice))
        streamed.append(_both(ask(True).choice))
        if set(plain) & set(streamed):
            return say.problems([], of=sum(bool("".join(both).strip()) for both in set(plain) & set(streamed)), repeats=len(plain))
    if {tuple(map(str.strip, p)) for p in plain} & {tuple(map(str.strip, p)) for p in streamed}:
        return say.warn(None, f"equal but for blanks around the fields: plain {plain[0]!r:.100}, streamed {streamed[0]!r:.100}")
    if len(set(plain)) == len(set(streamed)) == 1:
        return say.problems([f"plain {plain[0]!r:.200} but streamed {streamed[0]!r:.200}"], of=len(plain))
    return say.unknown(
        f"greedy answers differ anyway: {len(set(plain))} plain and {len(set(streamed))} streamed of 3 each",
        action="see endpoint.determinism",
    )


@CHECKS.add("endpoint.stream_equals_completion", "A streamed completion equals the plain one")
def check_stream_equals_completion(api: Api, say: Say) -> Verdict:
    """At temperature 0 the concatenated stream is the plain text."""
    return stream_equals(say, lambda stream: api.complete(copying_prompt(1), max_tokens=32, ignore_eos=True, stream=stream))


@CHECKS.add("endpoint.stream_equals_chat", "A streamed chat equals the plain one")
def check_stream_equals_chat(api: Api, say: Say) -> Verdict:
    """At temperature 0 the concatenated reasoning and content are those of the plain message."""
    return stream_equals(say, lambda stream: api.chat(known_question(), max_tokens=48, stream=stream))


@CHECKS.add("endpoint.roles", "System, user and assistant turns reach the model")
def check_roles(api: Api, say: Say) -> Verdict:
    """Each role is accepted and lengthens the prompt; content given as parts equals content given as text."""
    user = {"role": "user", "content": known_question()}
    system = {"role": "system", "content": "You are brief and exact."}
    past = [{"role": "user", "content": "Say OK."}, {"role": "assistant", "content": "OK"}]
    parts = {"role": "user", "content": [{"type": "text", "text": known_question()}]}
    alone = prompt_tokens(api.chat([user], max_tokens=1))
    problems = []
    for name, turns in (("system", [system, user]), ("history", [*past, user])):
        count = prompt_tokens(api.chat(turns, max_tokens=1))
        problems += [] if count > alone else [f"{name}: {count} prompt tokens, {alone} without"]
    problems += differs("prompt tokens of content parts", prompt_tokens(api.chat([parts], max_tokens=1)), alone)
    return say.problems(problems, of=3, user_alone=alone)


@CHECKS.add("endpoint.multi_turn", "Every earlier turn is part of the prompt")
def check_multi_turn(api: Api, say: Say) -> Verdict:
    """Over five turns the prompt grows with each; where the server tells them, its tokens hold every word of the history."""
    turns: list[dict[str, str]] = []
    counts = []
    for number in range(5):
        turns.append({"role": "user", "content": f"Turn {number}: remember the number {700 + 13 * number}."})
        counts.append(prompt_tokens(api.chat(turns, max_tokens=1)))
        turns.append({"role": "assistant", "content": f"I remember {700 + 13 * number}."})
    steps = [b - a for a, b in itertools.pairwise(counts)]
    problems = [] if min(steps) > 0 else [f"the prompt does not grow with every turn: {counts}"]
    if max(steps) > 2 * max(1, min(steps)):
        problems.append(f"turns of equal length add unequally: {steps}")
    return say.problems(problems, of=len(steps), prompt_tokens=list(counts))


@CHECKS.add("endpoint.finish_reason", "An answer that ends by itself says stop, a cut one says length")
def check_finish_reason(api: Api, say: Say) -> Verdict:
    """A question of the graded set ends by itself within the answer budget; three tokens of it do not."""
    cut = api.chat(known_question(), max_tokens=3).choice
    whole = api.chat(known_question(), max_tokens=api.budget(api.ctx.answer_tokens), how={"deadline_s": api.ctx.seconds(5)})
    problems = differs("finish_reason when cut", cut.finish, "length")
    if whole.choice.finish == "length":
        return say.unknown(f"{whole.counts.completion} tokens were not enough to finish", action="raise answer_tokens")
    problems += differs("finish_reason at the end", whole.choice.finish, "stop")
    return say.problems(problems, of=2, tokens=whole.counts.completion)


def stop_word(text: str) -> str | None:
    """A piece of a text that first occurs well inside it: three letters or digits in a row. Pure."""
    for at in range(max(1, len(text) // 3), len(text) - 3):
        word = text[at : at + 3]
        if word.isascii() and word.isalnum() and text.find(word) == at:
            return word
    return None


@CHECKS.add("endpoint.stop", "A stop string ends the answer before it")
def check_stop(api: Api, say: Say) -> Verdict:
    """A piece of the model's own greedy text is given as stop: what comes back ends right before it, finish reason ``stop``.

    In a chat (inside the reasoning, where there is one) and in completions, plain and streamed. The stop text must never show.
    """

    def chat(**fields: Any) -> Choice:
        return api.chat(known_question(), max_tokens=48, **fields).choice

    def copying(salt: int) -> Callable[..., Choice]:
        return lambda **fields: api.complete(copying_prompt(salt), max_tokens=48, ignore_eos=True, **fields).choice

    strays: list[str] = []
    repeats: list[bool] = []
    judged = 0
    problems: list[str] = []
    for name, ask in (("chat", chat), ("completion", copying(11)), ("completion", copying(12))):
        full = ask().said if name == "completion" else (ask().reasoning or ask().said)
        word = stop_word(full)
        if word is None:
            continue
        wanted = full[: full.find(word)]
        for kind, stream in (("plain", None), ("streamed", True)):
            choice = ask(stop=[word], stream=stream)
            if choice.said == wanted or word in choice.said or wanted.startswith(choice.said) or choice.said.startswith(wanted):
                judged += 1
                problems += differs(f"{name}, {kind}: text", choice.said, wanted)
                problems += differs(f"{name}, {kind}: finish_reason", choice.finish, "stop")
            else:
                strays.append(f"{name}, {kind}, stop {word!r}: {choice.said!r:.80} instead of {wanted!r:.80}")
                repeats.append(ask().said.startswith(full))
    if judged:
        return say.problems(problems, of=judged, judged=judged, strayed=len(strays))
    if repeats and all(repeats):
        return say.problems(strays, of=len(strays))  # without a stop string the text repeats, with one it never does
    return say.unknown("no repeatable text to take a stop string from", action="see endpoint.determinism")


@CHECKS.add("endpoint.n", "n alternatives come back, numbered and counted", needs=["n"])
def check_n(api: Api, say: Say) -> Verdict:
    """n = 2: indexes 0 and 1, both with an end, completion tokens of both together; streamed too."""
    problems = []
    for name, how in (("plain", {}), ("streamed", {"stream": True, "stream_options": {"include_usage": True}})):
        fields: dict[str, Any] = {"n": 2, "max_tokens": 6, "temperature": 0.7, "ignore_eos": True, **how}
        reply = api.complete(list(SMALL_IDS[:12]), **fields).ok()
        problems += differs(f"{name}: indexes", [c.index for c in reply.choices], [0, 1])
        problems += differs(f"{name}: finish reasons", [c.finish for c in reply.choices], ["length"] * 2)
        problems += differs(f"{name}: completion_tokens", reply.counts.completion, 12)
    return say.problems(problems, of=2)


@CHECKS.add("endpoint.logprobs", "Log-probabilities are those of the tokens that were said")
def check_logprobs(api: Api, say: Say) -> Verdict:
    """One entry per token, none above 0, the greedy token the best of its alternatives, and the tokens make up the text."""
    chat = api.chat(known_question(), max_tokens=6, logprobs=True, top_logprobs=3).choice
    plain = api.complete("The capital of France is", max_tokens=6, ignore_eos=True, logprobs=3).choice
    problems = []
    for name, choice in (("chat", chat), ("completion", plain)):
        if choice.logprobs is None:
            problems.append(f"{name}: none came")
            continue
        problems += differs(f"{name}: entries", len(choice.logprobs), 6)
        for entry in choice.logprobs:
            figure = entry.logprob
            if figure is None or not math.isfinite(figure) or figure > 1e-6:
                problems.append(f"{name}: logprob of {entry.token!r} is {figure}")
            elif entry.top and max(value for _, value in entry.top) > figure + 1e-3:
                problems.append(f"{name}: {entry.token!r} was said at temperature 0 but is not the best: {dict(entry.top)}")
            elif len(entry.top) < 2:
                problems.append(f"{name}: {len(entry.top)} alternatives instead of 3")
        text = "".join(entry.token for entry in choice.logprobs)
        if "\ufffd" not in choice.said and "\ufffd" not in text and "bytes:" not in text:
            problems += differs(f"{name}: text of the tokens", text.strip(), choice.said.strip())
    return say.problems(problems, of=sum(len(choice.logprobs or ()) for choice in (chat, plain)))


@CHECKS.add("endpoint.seed", "The same seed gives the same sample", needs=["seed"])
def check_seed(api: Api, say: Say) -> Verdict:
    """Three samples at temperature 1 with one seed; another seed is recorded beside them."""
    prompt = list(SMALL_IDS[200:212])

    def sample(seed: int) -> str:
        return api.complete(prompt, max_tokens=16, ignore_eos=True, temperature=1, seed=seed).choice.said

    first, *rest = [sample(1234) for _ in range(3)]
    others = {sample(seed) for seed in (1, 2, 3)}
    share = sum(text == first for text in rest) / len(rest)
    limit = Limit(kind="min", value=MIN_REPEAT_SHARE, origin=Origin(kind="builtin", detail="a near-tie may flip once"))
    if others == {first} and share == 1.0:
        return say.unknown("other seeds give the same text too: nothing was sampled", action="see whether temperature is ignored")
    said = sum(bool(text.strip()) for text in (first, *rest))
    return say.judge(share, limit, of=said, reason=f"{sum(t == first for t in rest)} of {len(rest)} repeats equal the first")


@CHECKS.add("endpoint.determinism", "Greedy answers repeat")
def check_determinism(api: Api, say: Say) -> Verdict:
    """Six times the same greedy request, one after the other; the measured rate is in the verdict."""
    texts = [_both(api.chat(known_question(), max_tokens=24).choice) for _ in range(6)]
    share = sum(text == texts[0] for text in texts[1:]) / (len(texts) - 1)
    limit = Limit(kind="min", value=MIN_REPEAT_SHARE, origin=Origin(kind="builtin", detail="batch-dependent rounding may flip a tie"))
    said = sum(bool("".join(text).strip()) for text in texts)
    return say.judge(share, limit, of=said, reason=f"{len(set(texts))} different answers in {len(texts)}", different=len(set(texts)))


@CHECKS.add("endpoint.prefix_reuse", "A cached prefix gives the answer of an uncached one")
def check_prefix_reuse(api: Api, say: Say) -> Verdict:
    """A fresh prompt, then the same four times: the answers from the prefix cache equal the first."""
    prompt = copying_prompt(random.getrandbits(60), lines=40)
    texts, cached = [], []
    for _ in range(5):
        reply = api.complete(prompt, max_tokens=12, ignore_eos=True)
        texts.append(reply.choice.said)
        cached.append(reply.counts.cached)
    share = sum(text == texts[0] for text in texts[1:]) / (len(texts) - 1)
    limit = Limit(kind="min", value=MIN_REPEAT_SHARE, origin=Origin(kind="builtin", detail="a cached prefix may flip a near-tie"))
    reason = f"uncached {texts[0]!r:.60}, cached {texts[1:]!r:.200}"
    return say.judge(share, limit, of=sum(bool(text.strip()) for text in texts), reason=reason, cached_tokens=list(cached))


@CHECKS.add(
    "endpoint.long_context",
    "A prompt up to the limit is taken whole, one above it is refused",
    action="compare max_model_len with the KV cache the engine reports; a shortened prompt answers wrongly without an error",
)
def check_long_context(api: Api, say: Say) -> Verdict:
    """Near the limit: exact prompt tokens and exact output. One token above: a clean 4xx."""
    limit = min(api.max_len, 65_536)
    patience = {"deadline_s": api.ctx.seconds(3)}
    room = [SMALL_IDS[(7 * k) % len(SMALL_IDS)] for k in range(api.max_len + 8)]
    problems = []
    for size in sorted({limit // 2, limit - 16}):
        reply = api.complete(room[:size], max_tokens=4, ignore_eos=True, how=patience).ok()
        problems += differs(f"{size} ids: prompt_tokens", prompt_tokens(reply), size)
        problems += differs(f"{size} ids: completion_tokens", reply.counts.completion, 4)
    over = api.complete(room, max_tokens=4, how=patience)
    if not 400 <= over.status < 500:
        problems.append(f"{len(room)} ids with a context of {api.max_len}: status {over.status}")
    dead = api.dead()
    problems += [f"afterwards: {dead}"] if dead else []
    return say.problems(problems, of=3, max_model_len=api.max_len, longest=limit - 16)


@CHECKS.add(
    "endpoint.needle",
    "Every depth of a long prompt reaches the answer",
    action="part of the prompt is not attended to: sliding window, truncation or a broken KV cache",
)
def check_needle(api: Api, say: Say) -> Sequence[Verdict] | Verdict:
    """One token changed at 5, 50 and 95 % of a prompt near the limit changes the next token's log-probabilities.

    Needs no clever model: a position that is not attended to leaves every figure exactly as it was.
    """
    size = min(api.max_len - 16, 16_384)
    hay = [SMALL_IDS[(11 * k) % len(SMALL_IDS)] for k in range(size)]
    patience = {"deadline_s": api.ctx.seconds(3)}

    def figures(prompt: list[int]) -> Mapping[str, float]:
        entry = api.complete(prompt, max_tokens=1, ignore_eos=True, logprobs=5, how=patience).choice.logprobs
        return dict(entry[0].top) if entry else {}

    before = figures(hay)
    if not before:
        return say.unknown("no log-probabilities came back", action="see endpoint.logprobs")
    problems = []
    for depth in (0.05, 0.5, 0.95):
        at = int(size * depth)
        # Rounding to bfloat16 hides what one token among thousands does, and now and then what 32 do (two H200, FP8): 128 it did not.
        for width in (1, 32, 128):
            changed = [*hay[:at], *(SMALL_IDS[-1 - k % len(SMALL_IDS)] for k in range(width)), *hay[at + width :]][:size]
            if figures(changed) != before:
                break
        else:
            problems.append(f"at {depth:.0%} of {size} tokens nothing changes")
    return say.problems(problems, of=3, prompt_tokens=size)


COLOURS = ("amber", "cobalt", "scarlet")


def structured(api: Api, schema: Mapping[str, Any], **fields: Any) -> Reply:
    """A known question with a JSON schema for the content."""
    form = {"type": "json_schema", "json_schema": {"name": "h20", "schema": schema, "strict": True}}
    return api.chat(
        known_question(),
        max_tokens=api.budget(api.ctx.answer_tokens),
        response_format=form,
        how={"deadline_s": api.ctx.seconds(5)},
        **fields,
    )


@CHECKS.add("endpoint.structured_output", "A JSON schema is obeyed", needs=["structured_output"])
def check_structured_output(api: Api, say: Say) -> Verdict:
    """An enumeration as schema leaves a model no choice but one of three texts, whatever it would rather say."""
    reply = structured(api, {"type": "string", "enum": list(COLOURS)})
    content = (reply.choice.content or "").strip()
    if reply.choice.finish == "length" and not content:
        return say.unknown("the reasoning did not end within the budget", action="raise answer_tokens")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return say.problems([f"content is no JSON: {content!r:.120}"], of=1)
    problems = [] if value in COLOURS else [f"{value!r} is not one of {COLOURS}"]
    dead = api.dead()
    return say.problems(problems + ([f"afterwards: {dead}"] if dead else []), of=1)


TOOL = {
    "type": "function",
    "function": {
        "name": "set_rail",
        "description": "Switch a rail on or off.",
        "parameters": {
            "type": "object",
            "properties": {"state": {"type": "string", "enum": ["on", "off"]}},
            "required": ["state"],
            "additionalProperties": False,
        },
    },
}


@CHECKS.add("endpoint.tool_call", "A named tool is called with valid arguments", needs=["tools", "structured_output"])
def check_tool_call(api: Api, say: Say) -> Verdict:
    """``tool_choice`` names the tool: one call of it, arguments by its schema, finish reason ``tool_calls`` or ``stop``."""
    choice = api.chat(
        known_question(),
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "set_rail"}},
        max_tokens=api.budget(api.ctx.answer_tokens),
        how={"deadline_s": api.ctx.seconds(5)},
    ).choice
    if choice.finish == "length":
        return say.unknown("the call did not end within the budget", action="raise answer_tokens")
    problems = differs("calls", [call.name for call in choice.tool_calls], ["set_rail"])
    for call in choice.tool_calls:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError):
            problems.append(f"arguments are no JSON: {call.arguments!r:.80}")
            continue
        if not isinstance(arguments, dict) or arguments.get("state") not in ("on", "off") or len(arguments) != 1:
            problems.append(f"arguments do not fit the schema: {arguments!r:.80}")
    problems += [] if choice.finish in ("tool_calls", "stop") else [f"finish_reason is {choice.finish!r}"]
    return say.problems(problems, of=len(choice.tool_calls))


STATE_TOOL = {
    "type": "function",
    "function": {
        "name": "read_rail",
        "description": "Read the error counter of a rail.",
        "parameters": {
            "type": "object",
            "properties": {"rail": {"type": "integer"}},
            "required": ["rail"],
            "additionalProperties": False,
        },
    },
}
SEVERAL = "Do three things at once, with a tool call each: read the counter of rail 3, read that of rail 7, and switch the rail on."


@CHECKS.add(
    "endpoint.several_tools",
    "Several tools in one answer are the same streamed and whole",
    action="take the tool parser of this model, and a version whose parser does not lose calls that come in large pieces (sglang#35563)",
    needs=["tools"],
)
def check_several_tools(api: Api, say: Say) -> Verdict:
    """Three calls asked for, the model's own choice of tools (a forced one goes around the parser): names and arguments of the stream, put
    together by index, are those of the whole answer. Drafts bring many tokens in one piece, which parsers were seen to lose calls of
    (sglang#35563), to give one index (sglang#38198) or to run together (sglang#7562). Asked twice when the two differ."""

    def calls(stream: bool) -> tuple[list[tuple[str, object]], list[str]]:
        how = {"deadline_s": api.ctx.seconds(5)}
        reply = api.chat(SEVERAL, tools=[TOOL, STATE_TOOL], max_tokens=api.budget(api.ctx.answer_tokens), stream=stream or None, how=how)
        return _calls(reply.choice)

    for _ in range(2):
        whole, wrong = calls(stream=False)
        streamed, worse = calls(stream=True)
        problems = [f"whole: {w}" for w in wrong] + [f"streamed: {w}" for w in worse] + differs("streamed calls", streamed, whole)
        if not problems:
            break
    if not problems and not whole:
        return say.unknown("the model called no tool, whole or streamed, though three calls were asked for")
    if not problems and len(whole) < 2:
        return say.warn(len(whole), f"the model made {len(whole)} of three calls, streamed as whole: several in one answer were not seen")
    return say.problems(problems, of=max(len(whole), len(streamed)))


def _calls(choice: Choice) -> tuple[list[tuple[str, object]], list[str]]:
    """(name, arguments) of each call in its order, and what is no call."""
    found, wrong = list[tuple[str, object]](), list[str]()
    for call in choice.tool_calls:
        try:
            found.append((call.name, json.loads(call.arguments)))
        except (ValueError, RecursionError):
            wrong.append(f"arguments of {call.name or 'a call without a name'} are no JSON: {call.arguments!r:.80}")
        if call.name not in ("set_rail", "read_rail"):
            wrong.append(f"a call of {call.name!r:.60}")
    ids = [call.id for call in choice.tool_calls]
    if len(set(ids)) < len(ids):
        wrong.append(f"ids {ids} are not of one call each")
    return found, wrong
