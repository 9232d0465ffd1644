"""Whole jobs that are proven, each with one thing wrong: none may be proven any more.

The faults are those that whole public logs were tried with (docs/measured.md); these jobs are synthetic, so that the test is quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest

from pytest_h20.nccl import judge_job, parse_log
from tests.unit.nccl.synthetic import Synthetic

VIA = re.compile(r"via NET/IB/\d+(?:/GDRDMA(?:\(PCI\))?)?")
SOCKETS = Synthetic("2.21.5", network=lambda rank: "Socket", hosts=("other-a", "other-b")).all().decode().splitlines()
Lines = list[str]


def drop(lines: Sequence[str], unwanted: Callable[[str], object]) -> Lines:
    return [line for line in lines if not unwanted(line)]


def once(lines: Sequence[str], at: str, change: Callable[[str], str]) -> Lines:
    """The last line with ``at``, changed."""
    place = max(i for i, line in enumerate(lines) if at in line)
    return [*lines[:place], change(lines[place]), *lines[place + 1 :]]


def first_net(lines: Sequence[str]) -> int:
    return next(i for i, line in enumerate(lines) if " via NET" in line)


def other_day(lines: Sequence[str]) -> Lines:
    return [line.replace("commId 0xabc", "commId 0xfed") if "h20-b" in line else line for line in lines]


FAULTS: dict[str, Callable[[Lines], Lines]] = {
    "one send goes over TCP": lambda ls: once(ls, "[send]", lambda x: VIA.sub("via NET/Socket/0", x)),
    "one receive goes over TCP": lambda ls: once(ls, "[receive]", lambda x: VIA.sub("via NET/Socket/1", x)),
    "one send goes over FastSocket": lambda ls: once(ls, "[send]", lambda x: VIA.sub("via NET/FastSocket/0", x)),
    "the head of a line over TCP is broken": lambda ls: once(
        ls, "[send]", lambda x: VIA.sub("via NET/Socket/0", x).replace("NCCL INFO", "NCC")
    ),
    "of a line over TCP the end is left": lambda ls: once(ls, "[send]", lambda x: VIA.sub("via NET/Socket/0", x[x.index("->") :])),
    "one line is cut in the name": lambda ls: once(ls, "[send]", lambda x: x[: x.index("NET/") + 6]),
    "one line is cut before its network": lambda ls: once(ls, "[receive]", lambda x: x[: x.index(" via")]),
    "one half of a link is gone": lambda ls: drop(ls, lambda x: "Channel 01" in x and " 1[" in x and "[send]" in x),
    "a rank is missing": lambda ls: drop(ls, lambda x: x.startswith("h20-b:1000:")),
    "a rank without the network is missing": lambda ls: drop(ls, lambda x: x.startswith("h20-b:1001:")),
    "a rank's channels are missing": lambda ls: drop(ls, lambda x: x.startswith("h20-a:1001:") and " via " in x),
    "a rank never completed": lambda ls: drop(ls, lambda x: x.startswith("h20-a:1001:") and "COMPLETE" in x),
    "a node is missing": lambda ls: drop(ls, lambda x: x.startswith("h20-b")),
    "a node's receive lines are missing": lambda ls: drop(ls, lambda x: x.startswith("h20-b") and "[receive]" in x),
    "one channel is missing on both sides": lambda ls: drop(ls, lambda x: "Channel 01" in x and " via NET" in x),
    "the first channel is missing on both sides": lambda ls: drop(ls, lambda x: "Channel 00" in x and " via NET" in x),
    "a link is missing on both sides": lambda ls: drop(ls, lambda x: " via NET" in x and re.search(r": 1\[\w+\] -> 2\[", x)),
    "a link of a tree is missing on both sides": lambda ls: drop(
        ls, lambda x: "Channel 01" in x and re.search(r": [02]\[\w+\] -> [02]\[", x)
    ),
    "cut before the connections": lambda ls: ls[: first_net(ls)],
    "cut after the first connection": lambda ls: ls[: first_net(ls) + 1],
    "begins in the connections": lambda ls: ls[first_net(ls) + 1 :],
    "a job over TCP follows": lambda ls: [*ls, *SOCKETS],
    "a job over TCP goes before": lambda ls: [*SOCKETS, *ls],
    "a job over TCP without channels follows": lambda ls: [*ls, *drop(SOCKETS, lambda x: " via " in x)],
    "one node's log is of another job": other_day,
    "a rank connected over FastSocket": lambda ls: [*ls, "h20-b:1001:1501 [1] NCCL INFO NET/FastSocket : Connected data socket 3"],
    "a rank chose TCP": lambda ls: [*ls, "h20-b:1001:1501 [1] NCCL INFO Using network Socket"],
    "only lines with GDRDMA were copied": lambda ls: drop(ls, lambda x: not re.search("GDRDMA|COMPLETE|nNodes", x)),
    "only channels were copied": lambda ls: drop(ls, lambda x: not re.search(" via |COMPLETE|nNodes", x)),
}
VERSIONS = ("2.8.4", "2.12.12", "2.21.5", "2.28.9")
WITH_IDS = {"one node's log is of another job"}  # before 2.16 a communicator has no name of its own


@pytest.mark.parametrize(("version", "fault"), [(v, f) for v in VERSIONS for f in FAULTS if f not in WITH_IDS or v in VERSIONS[2:]])
def test_a_job_with_one_thing_wrong_is_not_proven(version: str, fault: str) -> None:
    whole = Synthetic(version, channels=3, trees=True).all().decode().splitlines()
    assert judge_job([parse_log("\n".join(whole))]).verdict == "rdma_proven"
    changed = FAULTS[fault](whole)
    assert changed != whole
    assert judge_job([parse_log("\n".join(changed))]).verdict != "rdma_proven"


def test_gpudirect_one_way_is_not_gpudirect() -> None:
    lines = Synthetic("2.21.5").all().decode().splitlines()
    job = judge_job([parse_log("\n".join(x.replace("/GDRDMA", "") if "[send]" in x else x for x in lines))])
    assert (job.verdict, job.gdr) == ("rdma_proven", "mixed")


def test_of_a_long_ring_what_is_printed_must_be_there() -> None:
    whole = Synthetic("2.21.5", per_node=12, channels=3, trees=True).all().decode().splitlines()
    assert judge_job([parse_log("\n".join(whole))]).verdict == "rdma_proven"
    job = judge_job([parse_log("\n".join(drop(whole, lambda x: re.search(r"Channel 01/0 : 11\[\w+\] -> 12\[", x))))])
    assert (job.verdict, job.missing) == (
        "undetermined",
        ("the link 11 -> 12 of channel 1, which its ring or tree takes from node to node",),
    )


def nvls(channels: int) -> Lines:
    """A job whose ranks are linked to their like on the other node as well: ranks 0 and 2 are so by the trees."""
    lines = Synthetic("2.21.5", channels=3, trees=True).all().decode().splitlines()
    for host, here, there in (("h20-a", 1, 3), ("h20-b", 3, 1)):
        head = f"{host}:1001:1501 [1] NCCL INFO"
        for n in range(channels):
            lines.append(f"{head} Channel {n:02d}/0 : {there}[1] -> {here}[1] [receive] via NET/IB/0/GDRDMA")
            lines.append(f"{head} Channel {n:02d}/0 : {here}[1] -> {there}[1] [send] via NET/IB/0/GDRDMA")
        lines.append(f"{head} Connected NVLS tree")
    return lines


@pytest.mark.parametrize("channels", [2, 3])
def test_nvls_links_each_pair_on_all_of_its_channels(channels: int) -> None:
    whole = nvls(channels)
    assert judge_job([parse_log("\n".join(whole))]).verdict == "rdma_proven"
    job = judge_job([parse_log("\n".join(drop(whole, lambda x: re.search(r"Channel 00/0 : 1\[\w+\] -> 3\[", x))))])
    assert job.verdict == "undetermined"
    assert job.missing[0].startswith("the link 1 -> 3 of channel 0, which NVLS takes")
