"""One bad replica of sixteen is seen, a healthy set is not called bad, and nothing asked is no pass; which rank a request may name."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.checks import replicas as checks
from pytest_h20.checks.replicas import ALL, EACH, FIRST, OF, ReplicaAnswer, by_itself, enough, together
from pytest_h20.checks.under_load import SLIP, Alone, allowed
from pytest_h20.cluster.http import HttpAnswer
from pytest_h20.core.errors import TransportError
from pytest_h20.core.verdict import Status
from pytest_h20.load import Target
from pytest_h20.load.canary import FORMS
from pytest_h20.run import replicas

RECORDED = Path(__file__).resolve().parents[2] / "corpus" / "recorded"
SAY = checks.voice("vllm")


def said(right: int, wrong: int) -> list[ReplicaAnswer]:
    return [ReplicaAnswer("unit-km", True, "7")] * right + [ReplicaAnswer("unit-gram", False, "qxzv wkp")] * wrong


def tail(n: int, p: float, most: int) -> float:
    """The chance of at most so many of n."""
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(most + 1))


def test_one_bad_replica_of_sixteen_is_missed_in_less_than_one_of_a_hundred_runs() -> None:
    unmet = (1 - 1 / OF) ** FIRST
    assert unmet + tail(ALL, 1 / OF, allowed(ALL)) < 0.01


def test_healthy_replicas_are_called_bad_in_less_than_one_of_a_thousand_runs() -> None:
    assert 1 - tail(ALL, SLIP, allowed(ALL)) < 0.001
    assert 16 * (1 - tail(EACH, SLIP, allowed(EACH))) < 0.005, "each of sixteen asked by itself"


def test_it_stops_asking_when_all_are_right_and_asks_on_when_one_was_not() -> None:
    assert not enough(said(FIRST - 1, 0))
    assert enough(said(FIRST, 0))
    assert not enough(said(FIRST - 1, 1))
    assert enough(said(ALL - 1, 1))


def test_the_bad_one_is_named() -> None:
    verdict = by_itself(SAY, {**{f"rank {n}": said(4, 0) for n in range(16)}, "rank 5": said(0, 4)})
    assert (verdict.status, verdict.measured, verdict.looked_at) == (Status.FAIL, 1, 16)
    assert "rank 5: 4 of 4 answers wrong (unit-gram: 'qxzv wkp')" in verdict.reason


def test_a_slip_of_a_healthy_one_is_left_alone() -> None:
    verdict = by_itself(SAY, {f"rank {n}": said(3, 1) if n == 3 else said(4, 0) for n in range(16)})
    assert (verdict.status, verdict.looked_at) == (Status.PASS, 16)
    assert together(SAY, said(ALL - 2, 2), "none can be named").status is Status.PASS


def test_all_together_one_in_sixteen_is_red() -> None:
    verdict = together(SAY, said(ALL - ALL // 16, ALL // 16), "none can be named")
    assert (verdict.status, verdict.looked_at) == (Status.FAIL, ALL)


def test_nothing_asked_and_too_little_asked_is_no_pass() -> None:
    assert by_itself(SAY, {}).status is Status.UNKNOWN
    assert by_itself(SAY, {"rank 0": said(4, 0), "rank 1": []}).status is Status.UNKNOWN
    assert together(SAY, [], "none can be named").status is Status.UNKNOWN
    assert together(SAY, said(FIRST - 1, 0), "none can be named").status is Status.UNKNOWN


# ---------------------------------------------------------------- naming a rank
class Engine:
    """A server with data-parallel ranks; ``heeds``: it goes to the rank that a request names, else it spreads them."""

    def __init__(self, ranks: int, heeds: bool) -> None:
        self.tokens, self.heeds, self.turn = [100.0] * ranks, heeds, 0

    def serve(self, wanted: int | None) -> int:
        self.turn += 1
        rank = wanted if self.heeds and wanted is not None else self.turn % len(self.tokens)
        self.tokens[rank] += 5
        return rank

    def ask(self, url: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 10.0) -> HttpAnswer:
        if path in ("/get_server_info", "/server_info"):
            return HttpAnswer(200, b'{"dp_size": %d}' % len(self.tokens))
        if path == "/generate":
            return HttpAnswer(200, b'{"text": "2", "meta_info": {"dp_rank": %d}}' % self.serve(body["routed_dp_rank"]))
        self.serve(int((headers or {})["X-data-parallel-rank"]))
        return HttpAnswer(200, b"{}")

    def metrics(self, *_: object) -> str:
        return "".join(f'vllm:prompt_tokens_total{{engine="{rank}",model_name="m"}} {count}\n' for rank, count in enumerate(self.tokens))


@pytest.fixture(name="engine")
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine(*request.param)
    monkeypatch.setattr(replicas, "ask", engine.ask)
    monkeypatch.setattr(replicas, "get_text", engine.metrics)
    monkeypatch.setattr(replicas, "SETTLES_S", 0.0)
    return engine


@pytest.mark.parametrize("engine", [(16, True)], indirect=True)
@pytest.mark.parametrize("dialect", ["sglang", "vllm"])
def test_a_rank_that_can_be_named_is_asked_by_itself(dialect: str, engine: Engine) -> None:
    ranks = replicas.ranks_of(Target("http://127.0.0.1:1", dialect, "m"))
    assert (ranks.count, len(ranks.named), ranks.why) == (16, 16, "")
    fifth = ranks.named[5]
    assert (fifth.extra_body.get("routed_dp_rank"), fifth.headers.get("X-data-parallel-rank")) in ((5, None), (None, "5"))


@pytest.mark.parametrize("engine", [(4, False)], indirect=True)
@pytest.mark.parametrize("dialect", ["sglang", "vllm"])
def test_an_engine_that_ignores_the_name_is_seen_to(dialect: str, engine: Engine) -> None:
    """Both answer 200 and spread the requests (sglang#38729)."""
    ranks = replicas.ranks_of(Target("http://127.0.0.1:1", dialect, "m"))
    assert (ranks.count, ranks.named) == (4, ())
    assert "none can be named" in ranks.why


def test_the_counters_of_a_real_engine_with_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.24.0 with --data-parallel-size 2 on two H200, after six times four requests of 50 tokens, half of them named."""
    monkeypatch.setattr(replicas, "get_text", lambda *_: (RECORDED / "vllm-0.24-dp2-metrics.txt").read_text(encoding="utf-8"))
    assert replicas._counted(Target("http://127.0.0.1:1", "vllm", "m")) == {0: 600.0, 1: 600.0}


@pytest.mark.parametrize("engine", [(1, False)], indirect=True)
@pytest.mark.parametrize("dialect", ["sglang", "vllm"])
def test_one_rank_is_one_replica(dialect: str, engine: Engine) -> None:
    assert replicas.ranks_of(Target("http://127.0.0.1:1", dialect, "m")) == replicas.Ranks(1)


def test_a_server_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> HttpAnswer:
        raise TransportError("no answer")

    monkeypatch.setattr(replicas, "ask", gone)
    assert replicas.ranks_of(Target("http://127.0.0.1:1", "sglang", "m")).count == 0


def test_no_two_prompts_begin_alike_where_the_model_understands_that() -> None:
    """A router that knows prefixes would ask one worker only."""

    def beginnings(nonces: bool) -> set[str]:
        asked: Sequence[Any] = replicas.many(Alone(FORMS[0], ("unit-km", "unit-gram"), 20, nonces), 7)
        assert len(asked) == ALL
        return {one.prompt[:30] for one in asked}

    assert len(beginnings(True)) == ALL
    assert len(beginnings(False)) == 2
