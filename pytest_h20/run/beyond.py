"""Cells after the write-up's own, which stay first and comparable: overload and recovery, a sweep of shapes, the chat route, and the
search for the largest concurrency that keeps a service level. No pytest in here."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_h20.checks import beyond
from pytest_h20.checks.beyond import Level, Pass, Sought
from pytest_h20.checks.frame import Say
from pytest_h20.checks.throughput import doubts, why_doubted
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load import Cell, CellResult, LoadPlan, Slo
from pytest_h20.load.bench_serving import read_records
from pytest_h20.load.canary import FORMS, Canary
from pytest_h20.load.metrics import meets
from pytest_h20.load.prompts import WORDS, Prompt, PromptRecipe, PromptSource
from pytest_h20.load.run import run_cell
from pytest_h20.load.server_metrics import get_text, series
from pytest_h20.load.target import BaseUrl, Target
from pytest_h20.probes.script import Missing
from pytest_h20.report.model import CellRow
from pytest_h20.run.throughput import Load, lateness

OVERLOAD_STREAMS, OVERLOAD_TOKENS, OVERLOAD_OUTPUT = (64, 256), 1024, 256
"""Streams of an overload (least, most), the tokens of each as long as that many streams are enough, and the longest answer."""

SHAPE_STREAMS, SHAPE_REQUESTS, SHAPE_INPUT, SHAPE_OUTPUT = 8, 24, (64, 2048), (64, 256)
"""The sweep: requests at a time, requests of a pass, and from which to which lengths."""

CHAT_STREAMS = 16
SLO_CELLS = 6
"""At most so many further cells are measured to find the largest concurrency."""


# ---------------------------------------------------------------- overload


def kv_pool(target: Target) -> int | None:
    """Tokens that the engine's KV cache holds, all its data-parallel ranks together, as it says itself; None: it does not say.

    ``/metrics``: ``sglang:max_total_num_tokens``; the labels of ``vllm:cache_config_info``. Else SGLang's ``/get_server_info``.
    """
    address = target.metrics_address()
    if address is None:
        return None
    text = get_text(target, address, address.path or "/metrics", 10.0) or ""
    told = series(text).get("sglang:max_total_num_tokens")
    if told:
        return int(sum(told))
    pools = [int(n) for n in re.findall(r'^vllm:cache_config_info\{[^}\n]*?kv_cache_size_tokens="(\d+)"', text, re.MULTILINE)]
    if not pools:
        for labels in re.findall(r"^vllm:cache_config_info\{([^}\n]*)\}", text, re.MULTILINE):
            blocks, size = (re.search(rf'(?:^|,){name}="(\d+)"', labels) for name in ("num_gpu_blocks", "block_size"))
            pools += [int(blocks[1]) * int(size[1])] if blocks and size else []
    if pools:
        return sum(pools)
    try:
        info: Any = json.loads(get_text(target, address, "/get_server_info", 10.0) or "null")
    except ValueError:
        return None
    one = info.get("max_total_num_tokens") if isinstance(info, dict) else None
    return int(one) * int(info.get("dp_size") or 1) if isinstance(one, int) and one > 0 else None


def overload_cell(pool: int, context: int | None) -> Cell:
    """The cell that asks for ``beyond.OVER`` times the pool: long prompts, since a long decode would take long, and answers that grow past
    what was there when they were let in."""
    wanted = math.ceil(beyond.OVER * pool)
    streams = min(max(OVERLOAD_STREAMS[0], math.ceil(pool / OVERLOAD_TOKENS)), OVERLOAD_STREAMS[1])
    if context is not None:
        streams = max(streams, math.ceil(wanted / (0.9 * context)))
    each = math.ceil(wanted / streams)
    output = min(OVERLOAD_OUTPUT, max(1, each // 8))
    return Cell(max(1, each - output), output, streams)


def overload(load: Load) -> list[Verdict]:
    """Past the KV pool, back to the first cell of 16 streams, and its figure again."""
    subject = load.label
    pool = kv_pool(load.target)
    if pool is None:
        why = "the engine does not tell the size of its KV cache (SGLang: --enable-metrics): nobody knows what would be too much"
        return [_unknown(beyond.OVERLOAD, "The engine is pushed past its KV cache", subject, why)]
    base = _nearest(load, 16)
    first = _figure_of(load, base)
    cell = overload_cell(pool, context_of(load))
    load.write(f"h20: overload: {cell.concurrency} streams of {cell.input_len} + {cell.output_len} tokens, a KV cache of {pool}\n")
    plan = _plan(load, requests=cell.concurrency, canaries=())
    result, machines = load.watching("overload", lambda: run_cell(load.target, cell, plan))
    server = result.server
    why = "; ".join(result.requests.first_failures[:2]) or result.stopped
    found = beyond.overload(
        f"{subject} {cell.id}",
        server.put_back if server is not None else None,
        server.kv_use_max if server is not None else None,
        result.requests.complete,
        result.requests.planned or cell.concurrency,
        pool,
        why,
    )
    if found.status is not Status.PASS or first is None:
        return [found, *machines]
    again, record, then = _again(load, base, "overload")
    return [found, beyond.recovery(f"{subject} {base.id}", first, record, why_doubted(doubts(again), record.late)), *machines, *then]


# ---------------------------------------------------------------- shapes


def sweep(seed: int, context: int | None, count: int = SHAPE_REQUESTS) -> list[tuple[int, int]]:
    """(input, output) lengths, log-uniform: as many short ones as long ones. The same seed gives the same."""
    dice = random.Random(seed)
    most = min(SHAPE_INPUT[1], (context or SHAPE_INPUT[1]) // 2)
    longest = min(SHAPE_OUTPUT[1], max(1, (context or 4 * SHAPE_OUTPUT[1]) // 4))

    def length(low: int, high: int) -> int:
        return round(math.exp(dice.uniform(math.log(min(low, high)), math.log(high))))

    return [(length(SHAPE_INPUT[0], most), length(SHAPE_OUTPUT[0], longest)) for _ in range(count)]


def shapes(load: Load) -> list[Verdict]:
    """The same shapes twice, with other contents: what is compiled for a shape is there the second time, no cached prefix is."""
    lengths = sweep(load.session.seed, context_of(load))
    cell = Cell(max(i for i, _ in lengths), max(o for _, o in lengths), SHAPE_STREAMS)
    passes: list[Pass] = []
    machines: list[Verdict] = []
    late = None
    for number in (1, 2):
        prompts = tuple(_fresh(load, number, at, *both) for at, both in enumerate(lengths))
        plan = _plan(load, requests=len(prompts), prompts=PromptRecipe("jsonl", prompts, source="shapes"), canaries=())
        plan = replace(plan, records_path=str(load.folder / f"shapes-{number}.requests.jsonl"), seed=plan.seed + number)
        rehearsal = load.session.rehearsal
        if rehearsal is not None:
            rehearsal.late()
        result, seen = load.watching(f"shapes-{number}", functools.partial(run_cell, load.target, cell, plan))
        machines += seen
        late = lateness(result, rehearsal.late(), load.session.clock.scale) if rehearsal is not None else None
        records = read_records(plan.records_path or "") if Path(plan.records_path or "").exists() else []
        passes.append(beyond.seen_in(records, result.tpot.median, len(prompts)))
        load.write(f"h20: shapes, pass {number}: longest wait {passes[-1].stall_ms:.0f} ms, median TPOT {result.tpot.median or 0:.4g} ms\n")
    return [beyond.shapes(load.label, passes[0], passes[1], late), *machines]


def _fresh(load: Load, number: int, at: int, input_len: int, output_len: int) -> Prompt:
    cell = Cell(input_len, output_len, SHAPE_STREAMS)
    source = PromptSource(PromptRecipe(), cell, load.dialect, load.target.ids(), load.session.seed + number)
    return source.prompt(at)


# ---------------------------------------------------------------- the chat route


def chat(load: Load) -> list[Verdict]:
    """The cell nearest to 16 streams, through ``/v1/chat/completions``."""
    base = _nearest(load, CHAT_STREAMS)
    first = _figure_of(load, base)
    native = load.session.folder.view().cells
    known = next((c for c in native if c.engine == load.label and c.name == base.id), None)
    if first is None or known is None:
        return [_unknown(beyond.CHAT, "The chat route is as fast as the engine's own", load.label, f"{base.id} was not measured before")]
    again, record, machines = _again(load, base, "chat", dialect="chat")
    wrong = [f for f in doubts(again) if f.rule not in ("usage", "littles_law")]  # words are not tokens in every model: told, no doubt
    return [beyond.chat_route(f"{load.label} {base.id}", known, record, why_doubted(wrong, record.late)), *machines]


# ---------------------------------------------------------------- a level that was promised


def largest(load: Load, promised: str) -> list[Verdict]:
    """The largest concurrency that keeps ``promised`` at the first lengths: from the cells that were measured, and a few more."""
    slo, share = Slo.parse(promised), load.settings.slo_share
    lengths = min((c.input_len + c.output_len, c.input_len, c.output_len) for c in load.cells)[1:]
    mine = [c for c in load.cells if (c.input_len, c.output_len) == lengths]
    folder = load.folder
    levels = [Level(c.concurrency, _kept(folder / f"{c.id}.requests.jsonl", slo)) for c in mine]
    levels = [one for one in levels if one.share is not None]
    most = 2 * max(c.concurrency for c in mine)
    machines: list[Verdict] = []
    for _ in range(SLO_CELLS):
        wanted = beyond.next_level(levels, share, most)
        if wanted is None:
            break
        cell = Cell(*lengths, wanted)
        load.watch()
        apart = replace(load, subfolder="slo")
        result = apart.run(cell, 1)
        machines += apart.machines_of(cell, 1)
        kept = _kept(Path(result.records_path or ""), slo) if not doubts(result) else None
        levels.append(Level(wanted, kept))
    found = beyond.largest(f"{load.label} in{lengths[0]}-out{lengths[1]}", levels, share, f"{promised} in {share:.0%} of requests")
    return [found, *machines]


def _kept(path: Path, slo: Slo) -> float | None:
    """Part of the requests of a cell that kept the level; None: there is no record."""
    if not path.is_file():
        return None
    records = [r for r in read_records(str(path)) if not r.canary]
    return sum(r.complete and meets(r, slo) for r in records) / len(records) if records else None


# ---------------------------------------------------------------- in common


def context_of(load: Load) -> int | None:
    """Tokens of a request that the engine claims: what it was started with, else what it says of itself."""
    profile = load.endpoint.target.profile
    given = profile.max_model_len or profile.flags.get("context-length") or profile.flags.get("max-model-len")
    if isinstance(given, int) and given > 0:
        return given
    address = BaseUrl.parse(load.target.url)
    try:
        cards: Any = json.loads(get_text(load.target, address, f"{address.path}/v1/models", 10.0) or "null")
        told = [card.get("max_model_len") for card in cards["data"] if card.get("id") == load.endpoint.model]
    except (ValueError, TypeError, KeyError, AttributeError):
        told = []
    known = next((int(length) for length in told if isinstance(length, int) and length > 0), None)
    return known or _context_of_model(load)


def _context_of_model(load: Load) -> int | None:
    """``max_position_embeddings`` of the model's config.json on the head: what an engine takes that was told nothing."""
    from pytest_h20.run.facts import published_facts

    facts = published_facts(load.session, load.label)
    node = None if facts is None else facts.probes.nodes.get(load.endpoint.target.head.name)
    if node is None or isinstance(node.model_folder, Missing) or isinstance(node.model_folder.config, Missing):
        return None
    length = node.model_folder.config.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else None


def _nearest(load: Load, streams: int) -> Cell:
    """The measured cell nearest to so many streams, the shortest of those."""
    return min(load.cells, key=lambda c: (abs(math.log(c.concurrency / streams)), c.input_len + c.output_len))


def _figure_of(load: Load, cell: Cell) -> float | None:
    """The output rate of a cell of this run; measured now when it was not selected. None: it could not be believed."""
    known = [c for c in load.session.folder.view().cells if c.engine == load.label and c.name == cell.id]
    if not known:
        load.judge(load.run(cell))
        known = [c for c in load.session.folder.view().cells if c.engine == load.label and c.name == cell.id]
    return known[0].output_throughput if known and not known[0].reason else None


def _again(load: Load, cell: Cell, where: str, dialect: str = "") -> tuple[CellResult, CellRow, list[Verdict]]:
    """A cell once more: its result, its record, and how the machines were."""
    load.watch()  # by the one that ends it
    apart = replace(load, subfolder=where, speaks=dialect)
    result = apart.run(cell, 1)
    return result, apart.record(result, 1), apart.machines_of(cell, 1)


def _plan(load: Load, **fields: Any) -> LoadPlan:
    scale = load.session.clock.scale
    base = LoadPlan(
        seed=load.session.seed,
        time_scale=scale,
        warmup=0,
        processes=0,
        metrics_every_s=max(0.05, 1.0 / scale),
        request_timeout_s=3600.0,
    )
    load.folder.mkdir(parents=True, exist_ok=True)
    return replace(base, **fields)


def _unknown(check: str, title: str, subject: str, reason: str) -> Verdict:
    action = "see why in the engine's log, or leave it out: load.beyond in the inventory"
    return Say(check, title, subject).unknown(reason, action)


def chosen(load: Load, name: str) -> str:
    """Why a cell of these is not measured; empty when it is."""
    if name not in load.settings.beyond:
        return f"load.beyond does not name {name!r}"
    if load.foreign:
        return "another generator sends the load (--h20-load)"
    if load.session.settings.calibrate:
        return "a calibration measures the cells of the matrix only"
    return ""


def done(found: Sequence[Verdict], load: Load) -> list[Verdict]:
    """The verdicts, with where their records lie."""
    return [v.model_copy(update={"evidence": v.evidence or (f"load/{load.folder.name}",)}) for v in found]


# ---------------------------------------------------------------- long work

LONG_SHARE, TOGETHER_SHARE, TOGETHER = 0.95, 0.4, 4
"""Part of the context that one long prompt takes, that each of several at once takes, and how many those are."""

_SHORT, _SHORT_PART = (600, 2400), 6
"""Words of two short prompts (the longer one in no more words than that part of the context): they tell how many tokens a word has, and
whether the model gives codes back at all."""

_SEEK = "Write down all the codes that this text names, in order, with commas between, and nothing else.\n\n{text}\n\nWhich codes are they?"
_CODE = re.compile(r"\b\d{5}\b")
_CODES_TOKENS = 256


def long_work(load: Load) -> list[Verdict]:
    """A prompt of 95 % of the context, four of 40 % at once, and a long answer."""
    found, machines = load.watching("long-work", lambda: _long_work(load))
    return [*found, *machines]


def short_words(context: int) -> tuple[int, int]:
    """Words of the two short prompts at this context: a word may be three tokens, and the answer needs room, too."""
    most = min(_SHORT[1], max(4 * beyond.CODES, context // _SHORT_PART))
    return most // 4, most


def long_words(context: int, share: float, measured: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Tokens and words of a prompt that takes ``share`` of the context and leaves room for its answer. ``measured``: words and tokens of
    the two short ones."""
    (few, least), (more, most) = measured
    tokens = min(int(share * context), context - _CODES_TOKENS - 64)
    return tokens, max(few, int(few + (tokens - least) * (more - few) / (most - least)))


def sought_text(words: int, codes: Sequence[str], dice: random.Random) -> str:
    """A question after ``codes`` that are spread over so many words.

    All words come equally often: with words drawn at random one prompt had 2 % more tokens a word than the short ones that were counted,
    4,113 with its answer where the context had 4,096, and the engine's refusal of it was told as the engine's fault.
    """
    said: list[str] = []
    while len(said) < words:
        said += dice.sample(WORDS, len(WORDS))
    ends = [words * at // len(codes) for at in range(len(codes) + 1)]
    parts = [" ".join(said[low:high]) for low, high in itertools.pairwise(ends)]
    text = " ".join(f"{part}. The code of part {at} is {code}." for at, (part, code) in enumerate(zip(parts, codes, strict=True), 1))
    return _SEEK.format(text=text)


def _long_work(load: Load) -> list[Verdict]:
    context = context_of(load)
    titles = {
        beyond.LONG_PROMPT: "Nearly all of the claimed context is read",
        beyond.LONG_TOGETHER: "Several long prompts at once are read and answered",
        beyond.LONG_ANSWER: "A long answer comes to its end",
    }
    if context is None:
        why = "neither the server nor the model's config.json tells how much context it claims"
        return [_unknown(check, title, load.label, why) for check, title in titles.items()]
    dice = random.Random(load.session.seed)
    few, more = short_words(context)
    short = [_sought(load, [words], dice)[0] for words in (few, more)]
    counts = [one.tokens for one in short]
    if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
        why = f"short prompts of text: {short[0].words}; {short[1].words}"
        return [_unknown(check, title, load.label, why) for check, title in titles.items()]
    measured = ((few, counts[0]), (more, counts[1]))
    must = load.endpoint.target.inventory.model.kind == "deepseek-r1"
    found = []
    for check, share, several in ((beyond.LONG_PROMPT, LONG_SHARE, 1), (beyond.LONG_TOGETHER, TOGETHER_SHARE, TOGETHER)):
        tokens, words = long_words(context, share, measured)
        seen = _sought(load, [words] * several, dice)
        load.write(f"h20: {several} x {tokens} tokens: {'; '.join(one.words for one in seen)}\n")
        found.append(beyond.long_prompts(check, titles[check], f"{load.label} {several} x {tokens}", tokens, seen, short[1], must=must))
    wanted = min(load.settings.long_answer, context // 4)
    cell = Cell(min(128, context // 4), wanted, 1)
    result = run_cell(load.target, cell, _plan(load, requests=1, canaries=()))
    complete = result.requests.complete
    why = "; ".join(result.requests.first_failures[:1])
    return [*found, beyond.long_answer(f"{load.label} {cell.id}", wanted, result.tokens.output if complete else None, why)]


def _sought(load: Load, lengths: Sequence[int], dice: random.Random) -> list[Sought]:
    """Prompts of so many words each, at once: which of their codes came back."""
    form = load.alone.form or FORMS[0]
    canaries, codes = [], []
    for number, words in enumerate(lengths):
        mine = [str(n) for n in dice.sample(range(10_000, 100_000), beyond.CODES)]
        canaries.append(Canary(str(number), "question", form.prompt(sought_text(words, mine, dice)), form.end, form.opens))
        codes.append(mine)
    result = run_cell(
        load.target,
        Cell(1, _CODES_TOKENS, len(lengths)),
        _plan(load, requests=len(lengths), canaries=tuple(canaries), records_path=str(load.folder / f"long-{max(lengths)}.requests.jsonl")),
    )
    records = {r.number: r for r in read_records(result.records_path or "")} if result.requests.sent else {}
    seen = []
    for mine, answer in zip(codes, sorted(result.canaries, key=lambda one: int(one.id)), strict=False):
        record = records.get(answer.number)
        if record is None or not record.complete or record.prompt_tokens is None:
            seen.append(Sought(None, failed=f"{answer.outcome}: {answer.detail}"))
            continue
        said = set(_CODE.findall(answer.text))
        seen.append(Sought(record.prompt_tokens, tuple(code in said for code in mine)))
    lost = len(lengths) - len(seen)
    return [*seen, *[Sought(None, failed=result.stopped or "; ".join(result.requests.first_failures[:1]) or "not sent")] * lost]
