"""Token counts: exact, in every form in which the server tells them. A count that is off by one is a fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_h20.checks.endpoint.frame import CheckList, differs
from pytest_h20.checks.endpoint.serving import known_question
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint.client import SMALL_IDS, Api
from pytest_h20.endpoint.reply import Usage, prompt_tokens

CHECKS = CheckList("endpoint")


def _sum_problems(usage: Usage, where: str) -> list[str]:
    if None in (usage.prompt, usage.completion, usage.total):
        return [f"{where}: usage lacks a count: {sorted(usage.keys)}"]
    return differs(f"{where}: total_tokens", usage.total, (usage.prompt or 0) + (usage.completion or 0))


@CHECKS.add("endpoint.max_tokens", "max_tokens is obeyed and counted exactly")
def check_max_tokens(api: Api, say: Say) -> Verdict:
    """With ``ignore_eos``, max_tokens = k gives exactly k completion tokens and finish_reason ``length``, in both routes."""
    problems = []
    for k in (1, 2, 17):
        for kind, reply in (
            ("completion", api.complete(list(SMALL_IDS[:8]), max_tokens=k, ignore_eos=True)),
            ("chat", api.chat(known_question(), max_tokens=k, ignore_eos=True)),
        ):
            problems += differs(f"{kind}, max_tokens {k}: completion_tokens", reply.ok().counts.completion, k)
            problems += differs(f"{kind}, max_tokens {k}: finish_reason", reply.choice.finish, "length")
    return say.problems(problems, of=6)


@CHECKS.add("endpoint.max_completion_tokens", "max_completion_tokens means the same as max_tokens", needs=["max_completion_tokens"])
def check_max_completion_tokens(api: Api, say: Say) -> Verdict:
    """The newer name of the field, which the openai client uses for reasoning models."""
    reply = api.chat(known_question(), max_completion_tokens=5, ignore_eos=True)
    return say.problems(differs("completion_tokens", reply.ok().counts.completion, 5), of=1)


@CHECKS.add("endpoint.usage_prompt", "Prompt tokens of a token-id prompt are its length")
def check_usage_prompt(api: Api, say: Say) -> Verdict:
    """A prompt of n ids has n tokens: nothing added, nothing dropped, nothing truncated."""
    problems = []
    for n in (1, 5, 64, 257):
        reply = api.complete(list(SMALL_IDS[:n]), max_tokens=1, ignore_eos=True)
        problems += differs(f"{n} ids: prompt_tokens", prompt_tokens(reply), n)
    return say.problems(problems, of=4)


@CHECKS.add("endpoint.usage_sum", "total_tokens is the sum of both")
def check_usage_sum(api: Api, say: Say) -> Verdict:
    """In plain and streamed answers, chat and completion."""
    how: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    replies = {
        "chat": api.chat(known_question(), max_tokens=3),
        "completion": api.complete(list(SMALL_IDS[:9]), max_tokens=3, ignore_eos=True),
        "streamed chat": api.chat(known_question(), max_tokens=3, **how),
        "streamed completion": api.complete(list(SMALL_IDS[:9]), max_tokens=3, ignore_eos=True, **how),
    }
    return say.problems([p for where, reply in replies.items() for p in _sum_problems(reply.ok().counts, where)], of=len(replies))


@CHECKS.add("endpoint.usage_tokenizer", "Prompt tokens agree with the server's tokenizer")
def check_usage_tokenizer(api: Api, say: Say) -> Verdict:
    """A second witness: ``/tokenize`` (vLLM, with the chat template), SGLang's ``/v1/tokenize`` or its native ``/generate``."""
    messages = [{"role": "user", "content": known_question()}]
    counted = prompt_tokens(api.chat(messages, max_tokens=1))
    templated = api.chat_ids(messages)
    if templated is not None:
        return say.problems(differs("prompt_tokens of the chat", counted, len(templated)), of=1, witness="/tokenize with messages")
    text = "What is 17 * 23? 中文 and English."
    in_text = prompt_tokens(api.complete(text, max_tokens=1))
    if api.ctx.engine == "sglang":
        ids = api.generate_ids(text)
        witness = "/generate with input logprobs"
    else:
        ids, witness = api.token_ids(text, special=True), str(api.ctx.shape.tokenize_route)
    if ids is None:
        return say.skip(f"{api.ctx.who} has no route that tells the tokens of a prompt")
    return say.problems(differs("prompt_tokens of the text", in_text, len(ids)), of=1, witness=witness)


@CHECKS.add("endpoint.usage_stream", "include_usage sends one usage chunk, last and equal")
def check_usage_stream(api: Api, say: Say) -> Sequence[Verdict] | Verdict:
    """Exactly one chunk without choices before ``[DONE]``, equal to the plain answer's usage; none unasked (F67)."""
    plain = api.complete(list(SMALL_IDS[:16]), max_tokens=7, ignore_eos=True).ok()
    asked = api.complete(list(SMALL_IDS[:16]), max_tokens=7, ignore_eos=True, stream=True, stream_options={"include_usage": True}).ok()
    silent = api.complete(list(SMALL_IDS[:16]), max_tokens=7, ignore_eos=True, stream=True).ok()
    problems = differs("usage chunks", len(asked.usage_chunks), 1)
    if asked.usage_chunks:
        last, counts = asked.usage_chunks[-1], plain.counts
        problems += differs("prompt_tokens", last.prompt, counts.prompt)
        problems += differs("completion_tokens", last.completion, counts.completion)
        stream = asked.stream
        if stream is not None and stream.objects and stream.objects[-1][1].get("choices") != []:
            problems.append("the usage chunk is not the last one before [DONE]")
    return say.problems(problems, of=len(asked.usage_chunks), unasked_usage_chunks=len(silent.usage_chunks))


@CHECKS.add("endpoint.usage_continuous", "continuous_usage_stats counts on every chunk")
def check_usage_continuous(api: Api, say: Say) -> Verdict:
    """Counts rise by what the chunk brought, never fall, and end at the total."""
    reply = api.complete(
        list(SMALL_IDS[:16]),
        max_tokens=12,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ).ok()
    counted = [delta.usage.completion for delta in reply.deltas if delta.usage is not None]
    if not counted:
        reason = api.why_not("continuous_usage")
        return say.skip(reason) if reason else say.fail("no chunk carries usage")
    numbers = [c for c in counted if c is not None]
    problems = [] if len(numbers) == len(counted) else ["a chunk's usage lacks completion_tokens"]
    problems += [] if numbers == sorted(numbers) else [f"the counts fall: {numbers}"]
    problems += [] if numbers and numbers[-1] <= 12 and numbers[0] >= 0 else [f"the counts leave 0..12: {numbers}"]
    problems += differs("final completion_tokens", reply.counts.completion, 12)
    problems += [f"prompt_tokens changes: {d.usage.prompt}" for d in reply.deltas if d.usage and d.usage.prompt != 16][:1]
    return say.problems(problems, of=len(numbers), counts=list(numbers))
