"""Damage can only weaken a verdict: what is not proven never becomes proven by cutting, splicing, interleaving or prefixing.

The base logs are not proven for reasons that are spread over the whole log: no small cut can remove them. (A log from which the
only fatal line is missing looks like a good log to anybody.)
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.nccl import judge_job, labels, parse_log
from tests.corpus_score import folders
from tests.unit.nccl.examples import EXAMPLES
from tests.unit.nccl.lines import PREFIXES
from tests.unit.nccl.synthetic import BASES, Synthetic

ALIEN = ("other-1", "other-2")


CHANNEL = b"other:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 2[0] [send] via NET/IB/0/GDRDMA\n"
FOREIGN = [
    b"Setting up MemoryEfficientCrossAttention. Query dim is 320\n",
    b"[repeated 27x across cluster]",
    b"\n",
    b"\r",
    b"   ",
    b"\x00",
    b"NCCL INFO ",
    b"NCCL WARN ",
    b"h20-a:1000:1500 [0] NCCL INFO ",
    CHANNEL,
    Synthetic("2.21.5", hosts=ALIEN).node(0).replace(b"0xabc123def4567890", b"0x1234"),
    Synthetic("2.7.8", hosts=ALIEN, network=lambda rank: "Socket").all(),
]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[int, bytes]:
    index = draw(st.integers(0, len(BASES) - 1))
    log = BASES[index]
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(log)))
        kind = draw(st.sampled_from(["cut", "foreign", "own", "prefix", "weave", "join", "tail"]))
        if kind == "cut":
            log = log[:at] + log[at + draw(st.integers(1, 120)) :]
        elif kind == "foreign":
            log = log[:at] + draw(st.sampled_from(FOREIGN)) + log[at:]
        elif kind == "own":  # a piece of the same log is written into the middle of a record
            start = draw(st.integers(0, len(log)))
            log = log[:at] + log[start : start + draw(st.integers(1, 200))] + log[at:]
        elif kind == "prefix":
            prefix = draw(st.sampled_from(PREFIXES)).encode()
            log = b"".join(prefix + line for line in log.splitlines(True))
        elif kind == "weave":
            lines, seed = log.splitlines(True), draw(st.randoms(use_true_random=False))
            other = draw(st.sampled_from([b for b in FOREIGN if b.count(b"\n") > 1])).splitlines(True)
            for line in other:
                lines.insert(seed.randint(0, len(lines)), line)
            log = b"".join(lines)
        elif kind == "join":
            log = log[:at] + log[at:].replace(b"\n", b"", draw(st.integers(1, 5)))
        else:
            log = log[: max(at, len(log) - 150)]
    return index, log


@settings(max_examples=EXAMPLES, deadline=None)
@given(damaged())
def test_damage_never_proves(case: tuple[int, bytes]) -> None:
    index, log = case
    assert judge_job([parse_log(BASES[index])]).verdict != "rdma_proven"
    job = judge_job([parse_log(log)])
    assert job.verdict != "rdma_proven", (index, job.reason)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=2000) | st.text(max_size=2000).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    evidence = parse_log(data)
    assert judge_job([evidence]).verdict != "rdma_proven"
    assert labels(evidence)["transport"] in ("undetermined", "socket", "ib", "ofi", "p2p_shm_only")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same(data: st.DataObject) -> None:
    _, log = data.draw(damaged())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=8)))
    pieces = [log[a:b] for a, b in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    assert parse_log(pieces, "x") == parse_log(log, "x")


@pytest.mark.parametrize("folder", folders("nccl"), ids=lambda p: p.parent.parent.name)
def test_no_two_cases_of_the_corpus_prove_each_other(folder: Path) -> None:
    logs: list[Path] = sorted(folder.glob("*.log"))
    evidences = [parse_log(p.read_bytes(), p.name) for p in logs]
    alone = [judge_job([e]).verdict for e in evidences]
    for i, first in enumerate(evidences):
        for j in range(i + 1, len(evidences)):
            if "rdma_proven" not in (alone[i], alone[j]):
                assert judge_job([first, evidences[j]]).verdict != "rdma_proven", (first.source, evidences[j].source)
