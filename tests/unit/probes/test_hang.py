"""What a container tells of what hangs: a real script on real processes, NCCL's own report formats, and when it may be asked."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pytest_h20.probes import hang

# docs.nvidia.com, user guide, RAS: the sample of ras.rst
MISMATCH = """\
Group     Comms     Nodes     Ranks     Ranks     Ranks    Status  Errors
    #  in group  per comm  per node  per comm  in group
    0         1         4         8        32        32   RUNNING  MISMATCH

Warnings
========

#0-0 (27a079b828ff1a75) MISMATCH
  Communicator ranks have different collective operation counts
  26 ranks have launched up to operation 6650
  6 ranks have launched up to operation 6649
  Rank 0 -- GPU 0 managed by process 483072 on node 172.16.64.210
  Rank 2 -- GPU 2 managed by process 483074 on node 172.16.64.210

"""
INCOMPLETE = """\
Group     Comms     Nodes     Ranks     Ranks     Ranks    Status  Errors
    #  in group  per comm  per node  per comm  in group
    0         1         4       7-8        32        32   RUNNING  INCOMPLETE

#0-0 (cf264af53edbe986) INCOMPLETE
  Missing communicator data from 1 rank
  The missing rank: 21
"""
ONE = """\
  15 ranks have launched up to operation 1204
  Rank 3 has launched up to operation 1203 -- GPU 3 managed by process 1 on node 10.0.0.1
"""


def test_the_script_tells_real_processes() -> None:
    """This machine's own: a stopped child is seen as stopped, and the script does not tell itself."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "sglang::scheduler_TP3"])
    try:
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        command = hang.stacks_command()
        command[2] = command[2].replace("/proc/[0-9]*", f"/proc/{child.pid} /proc/self")
        found: tuple[hang.HungProcess, ...] = ()
        while time.monotonic() < deadline and not (found and found[0].state == "T"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            found = hang.parse(done.stdout).processes
        assert [(p.pid, p.state, p.rank) for p in found if p.pid == child.pid] == [(child.pid, "T", 3)]
        assert found[0].threads >= 1
        assert "time.sleep" in found[0].command
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("catches", [True, False])
def test_a_signal_goes_only_to_who_catches_it(catches: bool) -> None:
    """A process without a handler would die of it."""
    code = "import signal, sys, time\n" + ("import faulthandler; faulthandler.register(signal.SIGUSR1)\n" if catches else "")
    code += "print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "up\n"
        command = hang.stacks_command("SIGUSR1")
        command[2] = command[2].replace("/proc/[0-9]*", f"/proc/{child.pid}")
        subprocess.run(command, capture_output=True, timeout=30, check=True)
        if catches:
            assert "most recent call first" in child.stderr.readline()
        assert child.poll() is None
    finally:
        child.kill()
        child.communicate()


def test_py_spys_dump_is_read() -> None:
    text = (
        "== process 77\nName:\tpt_main_thread\nState:\tS (sleeping)\nThreads:\t241\n"
        "command sglang::scheduler_TP11 \nwchan futex_wait_queue\n"
        "-- python\nProcess 77: sglang::scheduler_TP11\nPython v3.12.3 (/usr/bin/python3.12)\n\n"
        'Thread 77 (idle): "MainThread"\n    all_reduce (torch/distributed/distributed_c10d.py:2810)\n    forward (sglang/x.py:1)\n'
        'Thread 90 (idle): "Thread-1"\n    wait (threading.py:359)\n== recorder /tmp/nccl_trace_rank_11 81920\n'
    )
    looked = hang.parse(text)
    assert looked.processes[0] == hang.HungProcess(
        77, "pt_main_thread", "S", 241, "sglang::scheduler_TP11 ", "futex_wait_queue", 11, ("all_reduce", "forward")
    )
    assert looked.recorder == ("/tmp/nccl_trace_rank_11 81920",)


def test_ras_tells_who_is_behind() -> None:
    found = hang.parse_ras([MISMATCH, MISMATCH])
    assert (found.ranks, found.most, found.counts, found.moves) == (32, 6650, {0: 6649, 2: 6649}, False)
    one = hang.parse_ras([ONE, ONE])
    assert (one.most, one.counts) == (1204, {3: 1203})


def test_counts_that_rise_are_no_hang() -> None:
    assert hang.parse_ras([MISMATCH, MISMATCH.replace("6650", "6700")]).moves


def test_ras_tells_who_is_missing() -> None:
    assert hang.parse_ras([INCOMPLETE]).missing == (21,)


def test_ras_that_does_not_answer_says_why() -> None:
    assert hang.parse_ras(["ras: [Errno 111] Connection refused\n"]).failed == "[Errno 111] Connection refused"
    assert hang.parse_ras([""]).failed == "no answer"


def test_the_question_is_nccls_protocol() -> None:
    """A server that answers as src/ras/client_support.cc does; the script asks twice and prints what came."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            client, _ = server.accept()
            with client:
                heard.append(client.recv(1000))
                client.sendall(b"OK\n" + ONE.encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    command = hang.ras_command()
    command[2] = command[2].replace("time.sleep(2)", "time.sleep(0)")
    env = {"NCCL_RAS_ADDR": f"127.0.0.1:{server.getsockname()[1]}", "PATH": "/usr/bin:/bin:" + str(sys.executable).rpartition("/")[0]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env, check=False)
    thread.join(5)
    server.close()
    assert heard == [b"TIMEOUT 5\nVERBOSE STATUS\n"] * 2
    ras = hang.parse(done.stdout).ras
    assert ras is not None
    assert (ras.most, ras.counts, ras.moves) == (1204, {3: 1203}, False)


@pytest.mark.parametrize(
    ("version", "starting", "asked"),
    [
        ("2.21.5", False, False),
        ("2.26.2", True, False),
        ("2.26.5", False, True),
        ("2.27.3", False, False),
        ("2.27.7", False, False),
        ("2.28.9", False, True),
        ("2.28.9", True, False),
        ("2.29.7", True, False),
        ("", False, False),
    ],
)
def test_when_ras_may_be_asked(version: str, starting: bool, asked: bool) -> None:
    allowed, why = hang.may_ask(version, starting)
    assert allowed is asked
    assert bool(why) is not asked


def test_ras_that_is_off_is_not_asked() -> None:
    assert hang.may_ask("2.28.9", False, enabled=False) == (False, "RAS is off (NCCL_RAS_ENABLE=0)")


def test_the_last_collective_of_a_log() -> None:
    log = (
        "node02:77:77 [3] NCCL INFO ncclCommInitRank comm 0x1 rank 11 nranks 16 cudaDev 3 - Init START\n"
        "node02:77:77 [3] NCCL INFO AllReduce: opCount 4b3 sendbuff 0x7 recvbuff 0x7 count 7168\n"
        "node02:77:77 [3] NCCL INFO AllReduce: opCount 4b4 sendbuff 0x7 recvbuff 0x7 count 7168\n"
    )
    assert hang.last_collective(log) == ("AllReduce", 1204)
    assert hang.rank_of(log) == 11
    assert hang.last_collective("nothing") is None
