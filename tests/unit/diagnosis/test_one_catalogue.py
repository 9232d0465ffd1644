"""NCCL's failures mean one thing, whoever reads the log: ``nccl`` and ``diagnose`` take it from one catalogue."""

from __future__ import annotations

import pytest

from pytest_h20.diagnosis import SIGNATURES, diagnose
from pytest_h20.nccl import parse_log

HEAD = "node01:346:346 [0] "
WARNS = [
    ("bootstrap.cc:114 NCCL WARN Bootstrap : no socket interface found", "nccl_no_socket_interface"),
    ("net.cc:1 NCCL WARN Failed to initialize any NET plugin", "nccl_no_net_plugin"),
    ("init.cc:1 NCCL WARN Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 60", "nccl_duplicate_gpu"),
    (
        "net_ib.cc:1 NCCL WARN NET/IB : Got completion from peer 10.0.0.2<5> with status=12 opcode=0 len=0 vendor err 129 (Recv)",
        "ib_completion_error",
    ),
    (
        "net_ib.cc:1 NCCL WARN NET/IB : Got completion from peer 10.0.0.2<5> with error 4, opcode 0, len 0, vendor err 81",
        "ib_completion_error",
    ),
    ("ibvwrap.cc:1 NCCL WARN Call to ibv_modify_qp failed with error No such device errno 19", "ib_modify_qp_failed"),
    ("ibvwrap.cc:1 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory", "ib_memory_registration_failed"),
    ("net_ib.cc:1 NCCL WARN NET/IB : mlx5_0:1 Got async event : local catastrophic error", "ib_queue_pair_failed"),
    ("shm.cc:1 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)", "shared_memory_too_small"),
    ("shm.cc:1 NCCL WARN Error while attaching to shared memory segment /dev/shm/nccl-x (size 9637888)", "shared_memory_vanished"),
    ("socket.cc:1 NCCL WARN socketStartConnect: Connect to 10.0.0.2<45> failed : No route to host", "no_route_to_host"),
]


@pytest.mark.parametrize(("warn", "cause"), WARNS, ids=[f"{i} {row[1]}" for i, row in enumerate(WARNS)])
def test_both_readers_say_the_same(warn: str, cause: str) -> None:
    diagnosis = diagnose([HEAD + warn])
    (error,) = parse_log(HEAD + warn + "\n").errors
    assert diagnosis.cause == cause
    assert (diagnosis.explanation, diagnosis.fix) == (error.meaning, error.action)
    assert error.action


def test_every_cause_that_nccl_words_is_held_here() -> None:
    assert {s.id for s in SIGNATURES if s.nccl} - {"nvls_multicast_failed"} == {cause for _, cause in WARNS}


def test_two_statuses_of_one_cause_have_their_own_advice() -> None:
    """An answer that never comes is looked for in the network, a refused memory access on the node."""
    timeout, protection = (diagnose([HEAD + warn]) for warn, cause in WARNS if cause == "ib_completion_error")
    assert "ib_write_bw" in timeout.fix
    assert "nvidia_peermem" in protection.fix
