"""How a log was copied does not change what it shows: prefixes, wraps, colours, line ends, other programs' lines, missing lines."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.nccl import judge_job, labels, parse_log
from pytest_h20.nccl.model import Expected
from tests.unit.nccl.lines import PREFIXES, one
from tests.unit.nccl.synthetic import BASES, Synthetic

EXAMPLES = 60  # each reads a log of the corpus
LOGS = sorted((Path(__file__).resolve().parents[2] / "corpus" / "nccl").glob("*.log"))
MORE_PREFIXES = [*PREFIXES, "0: ", "[rank3]: ", "Nov 28 09:00:01 n1 vllm[123]: ", "I1128 09:00:00.1 99 x.py:1] ", "\t", "pod/x-0 c "]
OTHERS = [
    b"INFO 09-12 x.py:1] Loading weights took 3 s\n",
    b"Setting up attention. Query dim is 320\n",
    b"2025-01-01 00:00:00 INFO hello: 1:2 [0] via Using x\n",
    b"(Worker pid=7) WARN 1:2:3 [4] NET\n",
]


@functools.cache
def shown(path: Path) -> tuple[bytes, str, bool | None, str]:
    """A log of the corpus, and its transport, GPUDirect and verdict as it stands."""
    log = path.read_bytes()
    return log, *facts(log)


def facts(log: bytes) -> tuple[str, bool | None, str]:
    evidence = parse_log(log, "log")
    job = judge_job([evidence])
    told = labels(evidence, job)
    return told["transport"], told["gdr"], job.verdict


def wrapped(log: bytes, width: int) -> bytes:
    """As a terminal of this width wraps it."""
    return b"".join(line[i : i + width] + b"\n" for line in log.split(b"\n") for i in range(0, max(len(line), 1), width))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.sampled_from(LOGS), st.integers(80, 240))
def test_a_wrap_changes_nothing(path: Path, width: int) -> None:
    log, *expected = shown(path)
    assert list(facts(wrapped(log, width))) == expected, (path.name, width)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.sampled_from(LOGS), st.sampled_from([*MORE_PREFIXES, "CRLF", "colour", "others"]), st.integers(0, 99))
def test_a_prefix_a_colour_or_other_lines_change_nothing(path: Path, how: str, seed: int) -> None:
    log, *expected = shown(path)
    lines, chance = log.splitlines(True), random.Random(seed)
    if how == "CRLF":
        copy = log.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    elif how == "colour":
        copy = b"".join(b"\x1b[36m" + line.rstrip(b"\n") + b"\x1b[0m\n" for line in lines)
    elif how == "others":
        copy = b"".join(line + (chance.choice(OTHERS) if chance.random() < 0.3 and line.endswith(b"\n") else b"") for line in lines)
    else:
        copy = b"".join(how.encode() + line for line in lines)
    assert list(facts(copy)) == expected, (path.name, how, seed)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.integers(0, len(BASES) - 1), st.sampled_from([b"", b"Socket", b"via", b"Channel", b"comm", b"[0]", b"[1]", b"h20-b"]), st.data())
def test_lines_that_are_missing_prove_nothing(index: int, pattern: bytes, data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 10_000)))
    share = chance.choice([0.0, 0.1, 0.5, 1.0])
    lines = [line for line in BASES[index].splitlines(True) if pattern not in line or chance.random() >= share]
    if not b"".join(lines).count(b"WARN") and b"WARN" in BASES[index]:
        return  # without its only fatal line a log is a good one to anybody
    assert judge_job([parse_log(b"".join(lines))], Expected(nranks=4, nnodes=2)).verdict != "rdma_proven"


@pytest.mark.parametrize("version", ["2.7.8", "2.12.12", "2.21.5", "2.28.9"])
def test_without_its_channel_lines_no_job_is_proven(version: str) -> None:
    log = Synthetic(version).all()
    assert judge_job([parse_log(log)]).verdict == "rdma_proven"
    rest = b"".join(line for line in log.splitlines(True) if b" via " not in line)
    assert b"NET/IB" in rest
    assert judge_job([parse_log(rest)]).verdict != "rdma_proven"


def test_a_channel_line_wrapped_before_its_suffix() -> None:
    cut = one("Channel 00/0 : 10[2] -> 2[2] [send] via NET/IBext_v8/12") + b"/GDRDMA\n"
    assert labels(parse_log(cut))["gdr"] is True
    other = one("Channel 00/0 : 10[2] -> 2[2] [send] via NET/IBext_v8/12/GDRDMA") + b"INFO ready\n"
    assert not parse_log(other).damaged_channels
    assert all(c.intact for c in parse_log(other).channels)


def test_a_level_as_nccl_2_2_wrote_it() -> None:
    log = (
        "n1:1:2 [0] INFO Using internal Network Socket\nn1:1:2 [0] INFO comm 0x7fa4 rank 0 nranks 2\n"
        "n1:1:3 [0] include/socket.h:360 WARN Call to connect failed : Connection timed out\n"
    )
    told = labels(parse_log(log))
    assert (told["network_selected"], told["nranks"], told["errors"]) == ("Socket", 2, ["connection timed out"])
    masked = "*name* [0] include/socket.h:185 WARN Call to connect failed : Connection refused\n"
    assert labels(parse_log(masked))["errors"] == ["connection refused"]
    assert not labels(parse_log("worker 1:2 [0] WARN Call to connect failed : Connection refused\n"))["errors"]


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("Last error: NET/IB : Got completion from peer 10.0.0.1<5> with error 12, opcode 0, len 0, vendor err 129",
         "completion error 12 (timeout)"),
        ("[rank1]: Call to ibv_modify_qp failed with error No such device", "ibv_modify_qp failed: No such device"),
        ("(Runner pid=1) Cuda failure 217 'peer access is not supported between these two devices'",
         "cuda failure: peer access is not supported between these two devices"),
        ("[rank1]: socketStartConnect: Connect to 10.0.0.1<5> failed : Connection refused", "connection refused"),
    ],
)  # fmt: skip
def test_a_failure_whose_head_was_not_copied(line: str, label: str) -> None:
    assert labels(parse_log(line + "\n"))["errors"] == [label]


@pytest.mark.parametrize(
    "line",
    [
        "NET/IB: IbDev 0 Port 1 qpn 3904 mtu 5",
        "NET/IB: Dev 0 Port 1 qpn 11706 mtu 5 LID 3",
        "transport/net_ib.cc:771 Ib Alloc Size 552 pointer 0x7f",
    ],
)
def test_a_queue_pair_is_infiniband_and_no_proof(line: str) -> None:
    evidence = parse_log(one(line))
    assert labels(evidence)["transport"] == "ib"
    assert judge_job([evidence]).verdict == "undetermined"
    assert labels(parse_log(one(line, "Channel 00/0 : 0[0] -> 8[0] [send] via NET/Socket/0")))["transport"] == "socket"


def test_a_tree_that_names_a_far_rank_shows_a_second_node() -> None:
    local = "Channel 00/0 : 2[2] -> 3[3] via P2P/IPC/read"
    assert labels(parse_log(one(local, "Trees [0] 1/3/-1->0->-1 [1] 1/-1/-1->0->-1")))["transport"] == "p2p_shm_only"
    assert labels(parse_log(one(local, "Trees [0] 1/8/-1->0->-1 [1] 1/-1/-1->0->8")))["transport"] == "undetermined"


def test_a_communicator_line_cut_behind_its_size() -> None:
    evidence = parse_log(one("ncclCommInitRank comm 0xf07d5f0 rank 1 nranks 2 cudaDev 1 nvmlDev 1 b"))
    assert labels(evidence)["nranks"] == 2
    assert evidence.damaged


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.sampled_from(["2.7.8", "2.12.12", "2.21.5", "2.28.9"]), st.sampled_from(["", *MORE_PREFIXES]), st.integers(0, 999))
def test_a_proof_stays_one_among_other_lines(version: str, prefix: str, seed: int) -> None:
    chance = random.Random(seed)
    others = [*OTHERS, b"x" * chance.randint(60, 140) + b"\n", b"  and more\n", b"42\n"]
    lines = [prefix.encode() + line for line in Synthetic(version).all().splitlines(True)]
    log = b"".join(line + (chance.choice(others) if chance.random() < 0.5 else b"") for line in lines)
    job = judge_job([parse_log(log)])
    assert (job.verdict, job.gdr) == ("rdma_proven", "all"), job.reason
