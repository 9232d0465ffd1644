"""Readers of foreign text take time in proportion to its length: long runs of every kind of character, at two lengths.

Found by it: 80 kB of NUL in an NCCL log took 17 s, 20 kB in a kernel log 7 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from pytest_h20.core.errors import H20Error
from pytest_h20.diagnosis.judge import diagnose
from pytest_h20.engines import stages
from pytest_h20.nccl.reader import parse_log
from pytest_h20.probes import gpu, host, kernel_log, net, perf, rdma, script

RUNS = (
    "\0",
    "a",
    "1",
    " ",
    "\t",
    ":",
    "[",
    "]",
    "(",
    ")",
    "/",
    "-",
    ".",
    "<",
    "|",
    "x",
    "*",
    "\\",
    "'",
    '"',
    "{",
    "#",
    "_",
    "é",
    "a ",
    "1:",
    "a:",
    "[a",
    "](http:",
    "1 ",
    "a.b",
    "> ",
    " : ",
    "Channel ",
    "NET/IB : ",
    "comm ",
    "0x",
    "NCCL ",
    "Using ",
    " via ",
    "[0]",
    "[1]m:1/RoCE ",
    "Error ",
    "\x1b[",
    "100%|",
    "a=b ",
    "a: Link ",
    "mce: ",
)
NCCL = (
    "",
    "n1:12:13 [0] NCCL INFO ",
    "n1:12:13 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE ",
    "n1:12:13 [0] NCCL WARN ",
    "n1:12:13 [0] NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0",
    "n1:12:13 [0] NCCL INFO Bootstrap : Using ",
    "n1:12:13 [0] NCCL INFO NET/Socket : Using ",
)
ENGINE = ("", "(EngineCore pid=1) INFO 01-01 00:00:00 [x.py:1] ", "Traceback (most recent call last):\n", "RuntimeError: ", "NCCL WARN ")


def _stages(text: str) -> None:
    stages.recognise("vllm", text)
    stages.recognise("sglang", text)


READERS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "nccl": (parse_log, NCCL),
    "diagnosis": (diagnose, ENGINE),
    "stages": (_stages, ENGINE),
    "kernel log": (kernel_log.parse_kernel_log, ("source=dmesg\nfirst=0\n> ", "source=dmesg\nfirst=0\n> mlx5_core ")),
    "sections": (script.split, ("@@h20 section a rc=0 out=5 err=0\n",)),
    "listeners": (net.parse_listeners, ("total=1\nlisten\t0.0.0.0:80\t",)),
    "ib_write_bw": (perf.parse_ib_write_bw, ("{",)),
    "all-reduce": (perf.parse_all_reduce, ("", '{"results": ')),
    "topology": (gpu.parse_topology, ("GPU0\tGPU1\n",)),
    "gpus": (gpu.parse_gpus, ("", "<nvidia_smi_log>")),
    "driver": (gpu.parse_driver, ("nvrm=",)),
    "show_gids": (rdma.parse_show_gids, ("",)),
    "ibdev2netdev": (rdma.parse_ibdev2netdev, ("",)),
    "pci": (rdma.parse_pci, ("pci" + "\t1" * 10 + "\t",)),
    "proxies": (host.parse_proxies, ("proxy x=",)),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    with suppress(H20Error):
        read(text)
    return time.process_time() - began


@pytest.mark.parametrize("name", READERS)
def test_twice_the_text_is_no_more_than_about_twice_the_time(name: str) -> None:
    read, heads = READERS[name]
    for head in heads:
        for run in RUNS:
            short, long = (head + run * (size // len(run)) + "\n" for size in (12_500, 100_000))
            took = seconds(read, long)
            if took > 0.25:  # eight times the text: 64 times the time where it is quadratic; noise is left out by measuring again
                ratio = min(seconds(read, long) for _ in range(2)) / max(min(seconds(read, short) for _ in range(3)), 0.002)
                assert ratio < 32, f"{name}: 100 kB of {run!r} after {head!r} take {took:.1f} s, {ratio:.0f} times those of 12.5 kB"
