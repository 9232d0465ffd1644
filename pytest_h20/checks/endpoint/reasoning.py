"""Reasoning is split from the answer: in plain and streamed answers, cut anywhere, switched off, with whatever text is in the way.

vLLM's own parser tests feed texts into the parser. At an endpoint a text can be forced in three ways, and each row of that table
is restated by the one that fits: SGLang's ``/separate_reasoning`` (runs the server's parser on a given text), ``logit_bias``
(forces single tokens such as ``</think>`` or a newline on any model), and ``max_tokens`` (cuts at a chosen token).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from pytest_h20.checks.endpoint.frame import CheckList, differs
from pytest_h20.checks.endpoint.generation import COLOURS, TOOL, stream_equals, structured
from pytest_h20.checks.endpoint.serving import known_question
from pytest_h20.checks.frame import Say, Settled
from pytest_h20.core.verdict import Origin, Verdict
from pytest_h20.endpoint.client import COMPLETIONS, SMALL_IDS, Api
from pytest_h20.endpoint.reply import REASONING_FIELDS, Choice, Reply, TextsOnly, UnexpectedAnswer, prompt_tokens

CHECKS = CheckList("reasoning")

START, END = "<think>", "</think>"
FORCE, FORBID = 100, -100
"""``logit_bias`` that makes a token certain or impossible (OpenAI: -100 … 100)."""

PARSERS = Origin(kind="vendor", detail="deepseek_r1 reasoning parser of both engines and its tests")


def ask(api: Api, stream: bool = False, **fields: Any) -> Reply:
    """The known question, with room to end by itself."""
    given = {"max_tokens": api.budget(api.ctx.answer_tokens), **fields}
    return api.chat(known_question(), stream=stream or None, how={"deadline_s": api.ctx.seconds(5)}, **given).ok()


def whole(api: Api, stream: bool = False) -> Reply:
    """The known question's whole answer, asked once and looked at by several checks; its exchange is evidence of each."""
    return api.once(f"whole answer, stream={stream}", lambda: ask(api, stream=stream))


def both(api: Api, **fields: Any) -> list[tuple[str, Choice]]:
    """The known question's answer, plain and streamed."""
    return [(name, ask(api, stream=stream, **fields).choice) for name, stream in (("plain", False), ("streamed", True))]


def tag_problems(choice: Choice) -> list[str]:
    """Tags in fields of an answer that ended by itself. Pure."""
    problems = []
    for name, text in (("content", choice.content), ("reasoning", choice.reasoning)):
        problems += [f"{tag} in the {name}: {text!r:.100}" for tag in (START, END) if tag in (text or "")]
    return problems


def order_problems(reply: Reply) -> list[str]:
    """Reasoning after content in a stream. Both in one chunk are fine: that is where the tag was. Pure."""
    seen_content = 0
    for number, delta in enumerate(reply.deltas):
        if delta.reasoning and seen_content:
            return [f"chunk {number} brings reasoning {delta.reasoning!r:.40} after {seen_content} chunks with content"]
        seen_content += bool(delta.content)
    return []


def text_in(name: str, choice: Choice, field: str) -> list[str]:
    """A field that must hold no text, and does. Pure."""
    value = getattr(choice, field)
    return [f"{name}: {field} {value!r:.60}"] if (value or "").strip() else []


def _need_the_end(say: Say, reply: Reply) -> None:
    """The check ends where the answer was cut at the budget."""
    if reply.choice.finish == "length":
        why = f"{reply.choice.said[:60]!r}… did not end within the token budget"
        raise Settled(say.unknown(why, action="raise answer_tokens"))


ACTION = "start the engine with the reasoning parser of its version (see the dialect); F63-F66 are the known ways this breaks"


@CHECKS.add("reasoning.split", "A plain answer has its reasoning apart", action=ACTION, needs=["reasoning"])
def check_split(api: Api, say: Say) -> Verdict:
    """Both fields hold text (F63: all in content; F66: the field has another name in this version)."""
    reply = whole(api)
    problems = [] if reply.choice.reasoning else ["no reasoning in any field"]
    if reply.choice.reasoning and not (reply.choice.content or "").strip():
        _need_the_end(say, reply)
        problems.append("no content")
    return say.problems(problems, of=1, fields=list[JsonValue](sorted(reply.seen.reasoning_fields)))


@CHECKS.add("reasoning.split_stream", "A streamed answer has its reasoning apart", action=ACTION, needs=["reasoning"])
def check_split_stream(api: Api, say: Say) -> Verdict:
    """Both kinds of chunk come."""
    reply = whole(api, stream=True)
    problems = [] if any(d.reasoning for d in reply.deltas) else ["no chunk brings reasoning"]
    if not problems and not any((d.content or "").strip() for d in reply.deltas):
        _need_the_end(say, reply)
        problems.append("no chunk brings content")
    return say.problems(problems, of=len(reply.deltas), fields=list[JsonValue](sorted(reply.seen.reasoning_fields)))


@CHECKS.add("reasoning.order", "Reasoning comes first, then the answer", action=ACTION, needs=["reasoning"])
def check_order(api: Api, say: Say) -> Verdict:
    """No reasoning after the first content."""
    reply = whole(api, stream=True)
    both = min(sum(bool(d.reasoning) for d in reply.deltas), sum(bool(d.content) for d in reply.deltas))
    return say.problems(order_problems(reply), of=both, what="stream with reasoning and an answer", chunks=len(reply.deltas))


@CHECKS.add("reasoning.no_tags", "No tag reaches a client", action=ACTION, needs=["reasoning"])
def check_no_tags(api: Api, say: Say) -> Verdict:
    """``<think>`` and ``</think>`` in no field, plain and streamed."""
    problems, texts = [], 0
    for name, stream in (("plain", False), ("streamed", True)):
        choice = whole(api, stream=stream).choice
        texts += bool((choice.content or "").strip())  # only then has the model said </think>
        problems += [f"{name}: {problem}" for problem in tag_problems(choice)]
    return say.problems(problems, of=texts, what="whole answer")


@CHECKS.add("reasoning.stream_equals_message", "The chunks add up to the message", action=ACTION, needs=["reasoning"])
def check_stream_equals_message(api: Api, say: Say) -> Verdict:
    """Reasoning and content of the stream, joined, are those of the plain answer; repeated when greedy answers differ anyway."""
    return stream_equals(say, lambda stream: ask(api, stream=stream))


@CHECKS.add("reasoning.cut", "Cut while reasoning, everything is reasoning", action=ACTION, needs=["reasoning"])
def check_cut(api: Api, say: Say) -> Verdict:
    """max_tokens 1, 3 and 8: no content (null in vLLM, empty in SGLang), ``length``, no half tag; plain and streamed (F65)."""
    problems = []
    for k in (1, 3, 8):
        for name, choice in both(api, max_tokens=k):
            where = f"{name}, max_tokens {k}"
            problems += [f"{where}: content {choice.content!r:.60}"] if choice.content else []
            problems += differs(f"{where}: finish_reason", choice.finish, "length") + tag_problems(choice)
            if k > 1 and not choice.reasoning:
                problems.append(f"{where}: no reasoning")
    return say.problems(problems, of=6)


@CHECKS.add("reasoning.cut_anywhere", "Cut at any point, the fields stay right", action=ACTION, needs=["reasoning"])
def check_cut_anywhere(api: Api, say: Say) -> Verdict:
    """At cuts through the whole answer: no tag, and both fields are beginnings of the whole answer's fields.

    Content only when the reasoning is complete. Around the tag every single token is a cut where the answer is short.
    """
    full = whole(api)
    total = full.counts.completion or 0
    reasoning, content = full.choice.reasoning or "", full.choice.content or ""
    if total < 4:
        return say.unknown(f"the whole answer has {total} tokens", action="see reasoning.split")
    cuts = sorted({max(1, total * part // 10) for part in range(1, 10)} | set(range(max(1, total - 6), total)))
    if total <= 64:
        inside = len(reasoning) * total // max(1, len(reasoning) + len(content))
        cuts = sorted(set(cuts) | set(range(max(1, inside - 2), min(total, inside + 4))))
    replies = api.together(lambda k: ask(api, max_tokens=k, stream=bool(k % 2)), cuts, workers=8)
    problems, strayed = [], 0
    for k, reply in zip(cuts, replies, strict=True):
        choice = reply.choice
        problems += [f"cut at {k}: {problem}" for problem in tag_problems(choice)]
        if not reasoning.startswith(choice.reasoning or ""):
            strayed += 1  # the greedy text went another way: nothing to compare with
            continue
        if choice.content and (choice.reasoning or "").strip() != reasoning.strip():
            problems.append(f"cut at {k}: content {choice.content!r:.40} beside unfinished reasoning")
        if not content.strip().startswith((choice.content or "").strip().rstrip("\ufffd")):
            problems.append(f"cut at {k}: content {choice.content!r:.40} is no beginning of {content!r:.60}")
    repeated = len(cuts) - strayed if reasoning else 0
    return say.problems(problems, of=repeated, what="cut answer that repeats", cuts=list(cuts), answers_that_strayed=strayed)


@CHECKS.add("reasoning.lossless", "Splitting loses nothing", action=ACTION, needs=["reasoning"])
def check_lossless(api: Api, say: Say) -> Verdict:
    """Reasoning, tag and content together are the raw text: SGLang unsplit, vLLM by completing the templated prompt's ids."""
    raw = _raw_text(api)
    if raw is None:
        return say.skip(f"{api.ctx.who} has no way to get the unsplit text of a chat")
    choice = whole(api).choice
    before, tag, after = raw.partition(END)
    if not tag:
        return say.unknown("the raw text has no </think> within the budget", action="raise answer_tokens")
    got = ((choice.reasoning or "").strip(), (choice.content or "").strip())
    want = (before.removeprefix(START).strip(), after.strip())
    if got != want and ask(api).choice.said != choice.said:
        return say.unknown("greedy answers differ anyway, so nothing can be compared", action="see endpoint.determinism")
    return say.problems(differs("reasoning", got[0], want[0]) + differs("content", got[1], want[1]), of=sum(map(bool, want)), what="text")


def _raw_text(api: Api) -> str | None:
    most = api.budget(api.ctx.answer_tokens)
    if not api.why_not("separate_reasoning"):
        return ask(api, separate_reasoning=False).choice.content
    ids = api.chat_ids([{"role": "user", "content": known_question()}])
    if ids is None:
        return None
    return api.complete(ids, max_tokens=most, how={"deadline_s": api.ctx.seconds(5)}).choice.content


# ---------------------------------------------------------------- forced tokens


@dataclass(frozen=True)
class Forcing:
    """What it takes to force tokens: their ids, proved to work on this server. ``why`` says why not."""

    end: int = -1
    newline: int = -1
    why: str = ""


def forcing(api: Api) -> Forcing:
    """Ids of ``</think>`` and a newline, and a proof that ``logit_bias`` decides what is said."""
    reason = api.why_not("logit_bias")
    if reason:
        return Forcing(why=reason)
    end, newline = api.end_think_id, api.token_ids("\n")
    if end is None or not newline:
        return Forcing(why=f"{api.ctx.who} does not tell the id of {END} (no tokenize route, or it is no single token)")
    try:
        said = api.complete(list(SMALL_IDS[:4]), max_tokens=2, logit_bias={str(end): FORCE}).choice.said
    except TextsOnly:
        raise
    except UnexpectedAnswer as error:
        return Forcing(why=f"logit_bias is not served: {error}")
    if said != END * 2:
        return Forcing(why=f"logit_bias did not force {END}: {said!r:.60}")
    return Forcing(end, newline[-1])


def _forced(api: Api, say: Say, force: Sequence[str], k: int) -> list[tuple[str, Choice]]:
    """Plain and streamed answers of k forced tokens. The check ends where they cannot be had."""
    ids = forcing(api)
    if ids.why:
        known = api.why_not("logit_bias") or (api.ctx.engine == "sglang" and "does not tell the id" in ids.why)
        raise Settled(say.skip(ids.why) if known else say.unknown(ids.why))
    bias = {str({"end": ids.end, "newline": ids.newline}[name]): FORCE for name in force}
    return both(api, max_tokens=k, ignore_eos=True, logit_bias=bias)


@CHECKS.add("reasoning.empty", "Empty reasoning is empty", action=ACTION, needs=["reasoning"], origin=PARSERS)
def check_empty(api: Api, say: Say) -> Verdict:
    """``</think>`` as the only token: no reasoning, no content, no tag (parser test "shortest")."""
    answers = _forced(api, say, ["end"], 1)
    problems = []
    for name, choice in answers:
        problems += text_in(name, choice, "reasoning") + text_in(name, choice, "content")
    return say.problems(problems, of=len(answers))


@CHECKS.add("reasoning.newline_only", "Newlines alone are reasoning", action=ACTION, needs=["reasoning"], origin=PARSERS)
def check_newline_only(api: Api, say: Say) -> Verdict:
    """Four forced newlines before any tag: nothing of it is content (parser test "new line")."""
    answers = _forced(api, say, ["newline"], 4)
    problems = []
    for name, choice in answers:
        problems += [f"{name}: content {choice.content!r:.60}"] if choice.content else []
        problems += text_in(name, choice, "reasoning")
    return say.problems(problems, of=len(answers))


@CHECKS.add("reasoning.tag_in_content", "A tag inside the answer stays in the answer", action=ACTION, needs=["reasoning"], origin=PARSERS)
def check_tag_in_content(api: Api, say: Say) -> Verdict:
    """Three forced ``</think>``: the first ends the reasoning, the others are text, as in code that prints the tag."""
    answers = _forced(api, say, ["end"], 3)
    problems = []
    for name, choice in answers:
        problems += differs(f"{name}: content", (choice.content or "").strip(), END * 2)
        problems += text_in(name, choice, "reasoning")
    return say.problems(problems, of=len(answers))


@CHECKS.add("reasoning.user_tags", "Tags in the user's text do not end the reasoning", action=ACTION, needs=["reasoning"])
def check_user_tags(api: Api, say: Say) -> Verdict:
    """The question holds both tags; with ``</think>`` forbidden to the model, all it says must be reasoning."""
    ids = forcing(api)
    bias = {} if ids.why else {"logit_bias": {str(ids.end): FORBID}}
    problems, said = [], 0
    for text in (f"What does {END} mean?", f"Explain `{START}x{END}` in this code: print('{END}')", f"{END}"):
        for name, stream in (("plain", None), ("streamed", True)):
            choice = api.chat(text, max_tokens=8, stream=stream, **bias).choice
            said += bool(choice.said.strip())
            if (choice.content or "").strip() and (bias or not choice.reasoning):
                problems.append(f"{name}: {text!r}: content {choice.content!r:.60}, reasoning {choice.reasoning!r:.40}")
            elif not choice.said:
                problems += [f"{name}: {text!r}: nothing was said"] if bias and choice.finish == "length" else []
    return say.problems(problems, of=said, what="text", tag_forbidden=bool(bias))


# ---------------------------------------------------------------- history, switches, counts


@CHECKS.add("reasoning.not_fed_back", "Earlier reasoning is not fed back", action=ACTION, needs=["reasoning"])
def check_not_fed_back(api: Api, say: Say) -> Sequence[Verdict]:
    """An earlier turn's reasoning, in its own field or before ``</think>`` in the content, adds no token to the prompt."""
    thought = "First I think about something long and then about something else. " * 6
    question = {"role": "user", "content": known_question()}

    def count(past: Mapping[str, str]) -> int:
        turns = [{"role": "user", "content": "Say OK."}, {"role": "assistant", **past}, question]
        return prompt_tokens(api.chat(turns, max_tokens=1))

    bare = count({"content": "OK"})
    heard = max(0, count({"content": f"OK. {thought}"}) - bare)  # an engine that drops whole turns feeds nothing back either
    verdicts = []
    for name in REASONING_FIELDS:
        found = differs("prompt tokens with the reasoning", count({"content": "OK", name: thought}), bare)
        verdicts.append(say.about(name).problems(found, of=heard, what="token of an earlier turn"))
    within = count({"content": f"{thought}{END}OK"})
    found = differs("prompt tokens with the reasoning", within, bare)
    verdicts.append(say.about("in the content").problems(found, of=heard, what="token of an earlier turn"))
    return verdicts


@CHECKS.add("reasoning.separate_false", "separate_reasoning=false joins both", action=ACTION, needs=["reasoning", "separate_reasoning"])
def check_separate_false(api: Api, say: Say) -> Verdict:
    """SGLang: everything, ``</think>`` included, in ``content``; the reasoning field empty; plain and streamed."""
    problems, joined = [], 0
    for name, choice in both(api, separate_reasoning=False):
        joined += END in (choice.content or "")
        problems += [f"{name}: reasoning {choice.reasoning!r:.60}"] if choice.reasoning else []
        if END not in (choice.content or "") and choice.finish != "length":
            problems.append(f"{name}: no {END} in content {choice.content!r:.80}")
    return say.problems(problems, of=joined, what="whole answer")


@CHECKS.add("reasoning.include_false", "include_reasoning=false leaves it out", action=ACTION, needs=["reasoning", "include_reasoning"])
def check_include_false(api: Api, say: Say) -> Verdict:
    """vLLM from 0.10.1: no reasoning at all, the answer as ever, no tag; plain and streamed."""
    problems, answers = [], 0
    for name, choice in both(api, include_reasoning=False):
        problems += [f"{name}: reasoning {choice.reasoning!r:.60}"] if choice.reasoning else []
        problems += [f"{name}: {problem}" for problem in tag_problems(choice)]
        answers += bool((choice.content or "").strip())
        if not (choice.content or "").strip() and choice.finish != "length":
            problems.append(f"{name}: no content")
    thoughts = bool((whole(api).choice.reasoning or "").strip())  # where nothing is thought, nothing is left out
    return say.problems(problems, of=answers if thoughts else 0, what="thought and answer")


SWITCH = ["reasoning", "thinking_switch", "chat_template_kwargs"]
SWITCH_ACTION = (
    "take the reasoning parser of this model (vLLM: deepseek_v3, deepseek_v4, qwen3, glm45; SGLang: deepseek-v3, deepseek-v4, qwen3, "
    "glm45): R1's takes all for "
    "reasoning where there is none (sglang#9457)"
)


@CHECKS.add("reasoning.switched_off", "Switched off, there is an answer and no reasoning", action=SWITCH_ACTION, needs=SWITCH)
def check_switched_off(api: Api, say: Say) -> Verdict:
    """Plain and streamed: all of it is content, no tag. Asked once more without the switch it thinks again."""
    problems, answers = [], 0
    for name, stream in (("plain", False), ("streamed", True)):
        choice = ask(api, stream=stream, chat_template_kwargs=api.thinking(False)).choice
        answers += bool((choice.content or "").strip())
        problems += [f"{name}: reasoning {choice.reasoning!r:.60}"] if choice.reasoning else []
        problems += [] if (choice.content or "").strip() else [f"{name}: no content"]
        problems += [f"{name}: {problem}" for problem in tag_problems(choice)]
    problems += [] if ask(api).choice.reasoning else ["switched on again: no reasoning"]
    return say.problems(problems, of=answers)


@CHECKS.add("reasoning.switched_off_stream", "Switched off, the chunks add up to the message", action=SWITCH_ACTION, needs=SWITCH)
def check_switched_off_stream(api: Api, say: Say) -> Verdict:
    """As with thinking; repeated when greedy answers differ anyway."""
    return stream_equals(say, lambda stream: ask(api, stream=stream, chat_template_kwargs=api.thinking(False)))


@CHECKS.add("reasoning.token_count", "Reasoning tokens are counted", needs=["reasoning"])
def check_token_count(api: Api, say: Say) -> Verdict:
    """Cut in the reasoning, all tokens are reasoning tokens; of a whole answer some are. vLLM's count is a recorded 0."""
    shape = api.ctx.shape
    if shape.reasoning_tokens_path is None:
        return say.skip(f"{api.ctx.who} does not count reasoning tokens")
    if not shape.reasoning_tokens_trusted:
        told = ask(api, max_tokens=4).counts.reasoning
        return say.skip(f"{api.ctx.who} tells {told} reasoning tokens whatever it says (recorded from vLLM 0.32.0: always 0)")
    problems = []
    for k in (1, 6):
        problems += differs(f"cut at {k}: reasoning tokens", ask(api, max_tokens=k).counts.reasoning, k)
    full = whole(api)
    counted, total = full.counts.reasoning, full.counts.completion or 0
    if full.choice.finish != "length" and not (counted is not None and 0 < counted < total):
        problems.append(f"whole answer: {counted} reasoning tokens of {total}")
    streamed = ask(api, stream=True, max_tokens=6, stream_options={"include_usage": True})
    problems += differs("streamed, cut at 6: reasoning tokens", streamed.counts.reasoning, 6)
    return say.problems(problems, of=4, whole=[counted, total])


@CHECKS.add("reasoning.with_tools", "Reasoning is split beside a tool call", action=ACTION, needs=["reasoning", "tools"])
def check_with_tools(api: Api, say: Say) -> Verdict:
    """Tools offered: reasoning apart as ever, no tag in content or arguments; plain and streamed."""
    problems, ended = [], 0
    for name, choice in both(api, tools=[TOOL]):
        ended += choice.finish != "length"
        problems += [f"{name}: {problem}" for problem in tag_problems(choice)]
        problems += [] if choice.reasoning else [f"{name}: no reasoning"]
        problems += [f"{name}: tag in the arguments of {c.name}" for c in choice.tool_calls if START in c.arguments or END in c.arguments]
    return say.problems(problems, of=ended, what="whole answer")


@CHECKS.add("reasoning.with_schema", "Reasoning is split beside structured output", action=ACTION, needs=["reasoning", "structured_output"])
def check_with_schema(api: Api, say: Say) -> Verdict:
    """A schema binds the content only: free reasoning first, then one of three texts; streamed as well."""
    problems = []
    for name, stream in (("plain", None), ("streamed", True)):
        choice = structured(api, {"type": "string", "enum": list(COLOURS)}, stream=stream).choice
        if choice.finish == "length":
            return say.unknown(f"{name}: did not end within the budget", action="raise answer_tokens")
        problems += [f"{name}: {problem}" for problem in tag_problems(choice)]
        problems += [] if choice.reasoning else [f"{name}: no reasoning"]
        try:
            value = json.loads(choice.content or "")
        except (ValueError, RecursionError):
            value = None
        problems += [] if value in COLOURS else [f"{name}: content {choice.content!r:.60} is none of {COLOURS}"]
    return say.problems(problems, of=2)


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Example:
    """One row of the parser tests: a generated text, and what must come of it (outer blanks aside)."""

    id: str
    text: str
    reasoning: str
    content: str


ROWS: tuple[Example, ...] = (
    Example("simple", "This is a reasoning section</think>This is the rest", "This is a reasoning section", "This is the rest"),
    Example(
        "with_think",
        "<think>This is a reasoning section</think>This is the rest",
        "This is a reasoning section",
        "This is the rest",
    ),
    Example("complete", "This is a reasoning section</think>", "This is a reasoning section", ""),
    Example("complete_with_think", "<think>This is a reasoning section</think>", "This is a reasoning section", ""),
    Example("unfinished", "This is content", "This is content", ""),
    Example("unfinished_with_think", "<think>This is a reasoning section", "This is a reasoning section", ""),
    Example("multiple_lines", "This\nThat</think>This is the rest\nThat", "This\nThat", "This is the rest\nThat"),
    Example("multiple_lines_with_think", "<think>This\nThat</think>This is the rest\nThat", "This\nThat", "This is the rest\nThat"),
    Example("shortest", "</think>This is the rest", "", "This is the rest"),
    Example("shortest_with_think", "<think></think>This is the rest", "", "This is the rest"),
    Example(
        "newline",
        "<think>This is a reasoning section\n</think>\n\nThis is the rest",
        "This is a reasoning section",
        "This is the rest",
    ),
    Example("newline_only", "\n\n</think>\n\nThis is the rest", "", "This is the rest"),
    Example("tag_in_code", "Think.</think>Print it: `print('</think>')`", "Think.", "Print it: `print('</think>')`"),
    Example("chinese", "先想一想。\n</think>\n\n答案是 391。", "先想一想。", "答案是 391。"),
    Example("angle_brackets", "Is 3 < 4 and </th fine?</think>Yes: 3 < 4.", "Is 3 < 4 and </th fine?", "Yes: 3 < 4."),
)


BY_TAG: tuple[Example, ...] = (
    *(row for row in ROWS if row.text.startswith("<think>")),
    Example("tag_in_code_with_think", "<think>Think.</think>Print it: `print('</think>')`", "Think.", "Print it: `print('</think>')`"),
    Example("no_thought", "This is content", "", "This is content"),
    Example("no_thought_lines", "One line.\n\nAnother: 3 < 4.", "", "One line.\n\nAnother: 3 < 4."),
    Example("no_thought_chinese", "答案是 391。", "", "答案是 391。"),
)
"""Of parsers for models that can be told not to think: what begins without a tag is the answer."""

BY_TAG_PARSERS = ("deepseek-v3", "deepseek-v4", "deepseek-v41", "qwen3", "glm45")
"""``reasoning_parser.py`` of 0.5.23: ``Qwen3Detector``, those built on it, and ``DeepSeekV4Detector`` are not forced."""

EXAMPLES: Mapping[str, tuple[Example, ...]] = {"deepseek-r1": ROWS, **dict.fromkeys(BY_TAG_PARSERS, BY_TAG)}
"""SGLang's name of a parser -> its rows."""


@CHECKS.add(
    "reasoning.parser_table",
    "The parser splits every known text rightly",
    action=ACTION,
    needs=["reasoning", "parse_route"],
    origin=PARSERS,
)
def check_parser_table(api: Api, say: Say) -> Sequence[Verdict]:
    """Each row of the parser tests through SGLang's ``/separate_reasoning``, one verdict per row: those of the profile's parser where it
    has rows of its own, else of DeepSeek-R1's, which every SGLang has."""
    verdicts = []
    parser = api.ctx.parser_name if api.ctx.parser_name in EXAMPLES else "deepseek-r1"
    for row in EXAMPLES[parser]:
        exchange = api.post("/separate_reasoning", {"text": row.text, "reasoning_parser": parser})
        try:
            value = json.loads(exchange.body) if exchange.status == 200 else None
        except (ValueError, RecursionError):
            value = None
        if exchange.status == 404 and api.behind is not None:
            return [say.skip("the router in front of prefill and decode has no /separate_reasoning")]
        if not isinstance(value, dict):
            verdicts.append(say.about(row.id).unknown(f"/separate_reasoning: status {exchange.status}: {exchange.body[:100]!r}"))
            continue
        problems = differs("reasoning", str(value.get("reasoning_text") or "").strip(), row.reasoning)
        problems += differs("content", str(value.get("text") or "").strip(), row.content)
        verdicts.append(say.about(row.id).problems(problems, of=2))
    return verdicts


@CHECKS.add("reasoning.completions_unsplit", "Plain completions are not split", needs=["reasoning"])
def check_completions_unsplit(api: Api, say: Say) -> Verdict:
    """``/v1/completions`` is raw in both engines: its choices have ``text`` and no reasoning field."""
    exchange = api.post(COMPLETIONS, {"model": api.ctx.model_id, "prompt": "1, 2, 3, 4,", "max_tokens": 8, "temperature": 0})
    choices = json.loads(exchange.body).get("choices", [{}]) if exchange.status == 200 else [{}]
    problems = differs("status", exchange.status, 200)
    problems += [f"field {name} in a completion" for name in REASONING_FIELDS if choices[0].get(name)]
    problems += [] if isinstance(choices[0].get("text"), str) else ["no text"]
    return say.problems(problems, of=sum(bool(choice.get("text")) for choice in choices))
