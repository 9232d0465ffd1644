"""Each replica behind the address asked by itself where the engine lets one be named, else all of them often enough. No pytest in here.

How a data-parallel rank is named: vLLM reads the header ``X-data-parallel-rank`` on its completions and chat routes (vllm#42330), SGLang
the field ``routed_dp_rank``, ``data_parallel_rank`` in older versions, of ``/generate`` (sglang#38729). Both answer with 200 and spread the
requests where they do not know it, so the last rank is asked first, and must be seen to have answered.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pytest_h20.checks import replicas as checks
from pytest_h20.checks.replicas import ReplicaAnswer
from pytest_h20.checks.under_load import Alone, canary, is_right, nonce_of, words_of
from pytest_h20.cluster.http import ask
from pytest_h20.core.errors import TransportError
from pytest_h20.core.verdict import Verdict
from pytest_h20.load import LoadPlan, Target
from pytest_h20.load.canary import Canary
from pytest_h20.load.server_metrics import get_text
from pytest_h20.run.canaries import ask_one
from pytest_h20.run.throughput import Load

AT_ONCE = 16
SETTLES_S = 5.0
"""Until a counter of the engine's has moved, at most."""
_COUNTED = re.compile(r'^vllm:prompt_tokens(?:_total)?\{[^}\n]*?engine="(\d+)"[^}\n]*\} (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Ranks:
    """The replicas that an engine tells of (0: nothing). ``named``: where each can be asked by itself; empty: ``why`` not."""

    count: int
    named: tuple[Target, ...] = ()
    why: str = ""


def replicas(load: Load) -> list[Verdict]:
    """Every replica that can be named, or all together."""
    say = checks.voice(load.label)
    if why := load.no_canaries:
        return [say.skip(why)]
    if load.alone.form is None or not load.alone.right:
        return [say.unknown(f"nothing can be asked: the engine answered no question rightly even alone ({load.alone.why})")]
    ranks = ranks_of(load.target)
    if ranks.named:
        load.write(f"h20: replicas: {ranks.count}, each asked by itself\n")
        asked = few(load.alone, load.session.seed)
        said = _answers(load, [(target, one) for target in ranks.named for one in asked])
        each = len(asked)
        return [checks.by_itself(say, {f"rank {rank}": said[rank * each : (rank + 1) * each] for rank in range(ranks.count)})]
    if ranks.count <= 1 and not load.endpoint.cluster.attached:
        return [say.skip("one replica: this run started the engine, and it tells of no further data-parallel rank")]
    replies: list[ReplicaAnswer] = []
    questions = many(load.alone, load.session.seed)
    while not checks.enough(replies):
        more = checks.ALL if replies else checks.FIRST
        replies += _answers(load, [(load.target, one) for one in questions[len(replies) : more]])
    return [checks.together(say, replies, ranks.why or "how many replicas are behind the address cannot be seen")]


def few(alone: Alone, seed: int) -> list[Canary]:
    """What each replica that can be named is asked: all of them the same."""
    assert alone.form is not None
    ids = random.Random(f"{seed} each").sample(alone.right, min(checks.EACH, len(alone.right)))
    return [canary(alone.form, ids[at % len(ids)], "question") for at in range(checks.EACH)]


def many(alone: Alone, seed: int) -> list[Canary]:
    """What whoever answers is asked. A router that knows prefixes sends the same prompt to the same worker: where the model
    understands it, each begins with something else."""
    assert alone.form is not None
    dice = random.Random(f"{seed} all")
    made = []
    for at in range(checks.ALL):
        one = canary(alone.form, alone.right[at % len(alone.right)], "question")
        text = f"[{nonce_of(dice)}] {words_of(one.id)}"
        made.append(replace(one, prompt=alone.form.prompt(text)) if alone.nonces else one)
    return made


def _answers(load: Load, asked: Sequence[tuple[Target, Canary]]) -> list[ReplicaAnswer]:
    scale = load.session.clock.scale
    plan = LoadPlan(seed=load.session.seed, time_scale=scale, request_timeout_s=120.0 * scale)

    def one(item: tuple[Target, Canary]) -> ReplicaAnswer:
        target, wanted = item
        text, ended = ask_one(target, plan, wanted, load.canary_tokens, stops=True)
        return ReplicaAnswer(wanted.id, ended and is_right(wanted.id, text), text)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, asked))


# ---------------------------------------------------------------- who is there
def ranks_of(target: Target) -> Ranks:
    """The data-parallel ranks that an engine tells of, each with its address when naming one is seen to work."""
    try:
        return _sglang(target) if target.dialect == "sglang" else _vllm(target)
    except TransportError as error:
        return Ranks(0, why=f"the engine's data-parallel ranks could not be seen: {error}")


def _sglang(target: Target) -> Ranks:
    count = 0
    for path in ("/get_server_info", "/server_info"):
        told = ask(target.url, path, headers=target.headers).json()
        size = told.get("dp_size") if isinstance(told, dict) else None
        count = size if isinstance(size, int) and size > 0 else count
        if count:
            break
    if count <= 1:
        return Ranks(count)
    named = tuple(replace(target, extra_body={**target.extra_body, "routed_dp_rank": r, "data_parallel_rank": r}) for r in range(count))
    body = {"text": "1 + 1 =", "sampling_params": {"max_new_tokens": 1, "temperature": 0}, **named[-1].extra_body}
    answer = ask(target.url, "/generate", body=body, headers=target.headers, timeout=60.0).json()
    meta = answer.get("meta_info") if isinstance(answer, dict) else None
    who = meta.get("dp_rank") if isinstance(meta, dict) else None
    if who == count - 1:
        return Ranks(count, named)
    return Ranks(count, why=f"{count} data-parallel ranks, of which none can be named: rank {count - 1} was asked, {who!r} answered")


def _vllm(target: Target) -> Ranks:
    before = _counted(target)
    count = len(before)
    if count <= 1:
        return Ranks(count)
    name = "X-data-parallel-rank"
    named = tuple(replace(target, headers={**target.headers, name: str(rank)}) for rank in range(count))
    body = {"model": target.model, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0}
    for _ in range(3):
        ask(target.url, "/v1/completions", body=body, headers=named[-1].headers, timeout=60.0)
    deadline = time.monotonic() + SETTLES_S
    while (after := _counted(target)) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    moved = [rank for rank in after if after[rank] > before.get(rank, 0.0)]
    if moved == [count - 1]:
        return Ranks(count, named)
    who = ", ".join(map(str, moved)) or "none"
    return Ranks(count, why=f"{count} data-parallel ranks, of which none can be named: {name}: {count - 1} was sent, {who} counted it")


def _counted(target: Target) -> dict[int, float]:
    """Prompt tokens by data-parallel rank, from /metrics."""
    address = target.metrics_address()
    text = "" if address is None else get_text(target, address, address.path or "/metrics", 10.0) or ""
    return {int(rank): float(value) for rank, value in sorted(_COUNTED.findall(text), key=lambda found: int(found[0]))}
