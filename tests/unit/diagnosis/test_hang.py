"""A hang in one sentence: one silent rank, all silent, nothing known."""

from __future__ import annotations

from pytest_h20.diagnosis.hang import HangFacts, HungRank, numbers, ranks_of, sentence
from pytest_h20.probes.hang import HungProcess, Ras


def _ranks(*behind: int, number: int = 1204) -> tuple[HungRank, ...]:
    return tuple(HungRank(r, f"node0{1 + r // 8}", "S", "AllReduce", number - (r in behind)) for r in range(16))


def test_one_silent_rank_and_what_its_kernel_said() -> None:
    """The other node's lines are not its."""
    facts = HangFacts(
        "no token came", 60.0, _ranks(3), kernel=(("node02", "Xid 79", 400.0), ("node01", "Xid 31", 11.0)), gpus={"node01": [100.0] * 8}
    )
    said = sentence(facts)
    assert said == (
        "no token came for 60 s: ranks 0-2, 4-15 wait in all-reduce 1204; rank 3 never entered: its last is all-reduce 1203; "
        "its node's kernel log has Xid 31 11 s earlier"
    )


def test_all_silent() -> None:
    said = sentence(HangFacts("no token came", 60.0, _ranks(), gpus={"node01": [100.0] * 8, "node02": [0.0] * 8}))
    assert "all 16 ranks have entered all-reduce 1204, and none leaves it" in said
    assert "GPUs in use: node01 100 %, node02 0 %" in said


def test_a_stopped_process_is_named() -> None:
    ranks = tuple(HungRank(r, "node01", "T" if r == 5 else "S") for r in range(8))
    said = sentence(HangFacts("the engine is not ready", 1800.0, ranks, kernel=(("node02", "Xid 31", 9.0),)))
    assert "the process of rank 5 on node01 is stopped (SIGSTOP or a debugger)" in said
    assert "node02's kernel log has Xid 31 9 s earlier" in said


def test_without_nccl_the_stacks_say_it() -> None:
    ranks = tuple(HungRank(r, "node01", "S", stack=("load_model",) if r == 3 else ("all_reduce", "forward")) for r in range(4))
    assert "ranks 0-2 wait in all_reduce(); rank 3 is in load_model()" in sentence(HangFacts("no token came", 60.0, ranks))


def test_nothing_known_says_so() -> None:
    said = sentence(HangFacts("no token came", 60.0, unseen=("node02 (stacks: timed out)", "NCCL's RAS (NCCL 2.27.7: crashes)")))
    assert (
        said == "no token came for 60 s: no rank told where it is; not seen: node02 (stacks: timed out), NCCL's RAS (NCCL 2.27.7: crashes)"
    )


def test_counts_that_rise_are_told_as_such() -> None:
    assert "NCCL's counts still rise" in sentence(HangFacts("no token came", 60.0, _ranks(3), moves=True))


def test_a_rank_that_does_not_answer_nccl() -> None:
    ras = Ras(16, "AllReduce", 1204, {}, (11,))
    ranks = ranks_of({"node02": [HungProcess(7, state="T", rank=11)]}, {}, ras, {})
    said = sentence(HangFacts("no token came", 60.0, ranks, ras.missing))
    assert "ranks 0-10, 12-15 wait in all-reduce 1204; rank 11 does not answer NCCL any more" in said
    assert "rank 11 on node02 is stopped" in said


def test_what_nccl_says_now_is_newer_than_its_log() -> None:
    ranks = ranks_of({}, {0: ("AllReduce", 900), 1: ("AllReduce", 900)}, Ras(2, "", 1204, {1: 1203}), {0: "node01", 1: "node02"})
    assert [(r.rank, r.node, r.operation, r.number) for r in ranks] == [(0, "node01", "AllReduce", 1204), (1, "node02", "AllReduce", 1203)]


def test_numbers() -> None:
    assert numbers([3]) == "rank 3"
    assert numbers([0, 1, 2, 8, 10, 9]) == "ranks 0-2, 8-10"
