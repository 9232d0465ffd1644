"""Lines of NCCL that mean the end, prefixes that logs have, and a job made of one log."""

from __future__ import annotations

from pytest_h20.nccl import judge_job, parse_log
from pytest_h20.nccl.model import Job

HEAD = "node1:10:20 [0] NCCL INFO "


def one(*messages: str) -> bytes:
    return "".join(f"{HEAD}{m}\n" for m in messages).encode()


def verdict(log: bytes | str) -> Job:
    return judge_job([parse_log(log, "log")])


FATAL = [
    (
        "transport/net_ib.cc:818 NCCL WARN NET/IB : Got completion with error 12, opcode 1, len 0, vendor err 129",
        "completion error 12 (timeout)",
        True,
    ),
    (
        "transport/net_ib.cc:90 NCCL WARN NET/IB : Got completion from peer 10.0.0.1<5> with error 5, opcode 1, len 0, vendor err 249",
        "completion error 5 (flush)",
        False,
    ),
    (
        "ib.cc:1 NCCL WARN NET/IB: Got completion from peer 1.1.1.1<5> with status=12 opcode=0 len=0 vendor err 129 (Recv) localGid "
        "::ffff:1.1.1.1 remoteGids::ffff:1.1.1.2 hca mlx5_3",
        "completion status 12 (timeout)",
        True,
    ),
    (
        "ib.cc:1 NCCL WARN NET/IB: Got completion from peer 1.1.1.1<5> with status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_SEND(0) "
        "reqSize=1 vendor_err=129 req_type=Recv localGid ::ffff:1.1.1.1 remoteGids::ffff:1.1.1.2 hca mlx5_3",
        "completion status 12 (timeout)",
        True,
    ),
    (
        "ib.cc:1 NCCL WARN NET/IB: Got completion from peer 1.1.1.1<5> with status=IBV_WC_WR_FLUSH_ERR(5) opcode=IBV_WC_SEND(0) "
        "vendor_err=249",
        "completion status 5 (flush)",
        False,
    ),
    (
        "misc/ibvwrap.cc:200 NCCL WARN Call to ibv_modify_qp failed with error Connection timed out",
        "ibv_modify_qp failed: Connection timed out",
        True,
    ),
    (
        "misc/ibvwrap.cc:200 NCCL WARN Call to ibv_modify_qp failed with 110 Connection timed out, on dev mlx5_0:1, curr state INIT, "
        "next state RTR, local GID index 3, local GID ::, remote GID ::",
        "ibv_modify_qp failed: Connection timed out",
        True,
    ),
    (
        "misc/ibvwrap.cc:1 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory",
        "ibv_reg_mr_iova2 failed: Cannot allocate memory",
        True,
    ),
    ("misc/ibvwrap.cc:1 NCCL WARN Call to ibv_create_qp failed", "ibv_create_qp failed", True),
    ("transport/net_ib.cc:80 NCCL WARN NET/IB : Got async event : port error", "async event: port error", True),
    ("misc/socket.cc:1 NCCL WARN socketStartConnect: Connect to 10.0.0.1<5> failed : Connection refused", "connection refused", True),
    (
        "misc/socket.cc:1 NCCL WARN socketPollConnect: Connect to 10.0.0.1<5> returned 113(No route to host) errno 115(x)",
        "no route to host",
        True,
    ),
    ("bootstrap.cc:1 NCCL WARN Bootstrap Root : rank 1 of 4 ranks has already checked in", "rank already checked in", True),
    ("net.cc:1 NCCL WARN Error: network IBX not found", "network IBX not found", True),
    ("net.cc:1 NCCL WARN Failed to initialize any NET plugin", "failed to initialize any NET plugin", True),
]


PREFIXES = [
    "(RayWorkerWrapper pid=811, ip=10.0.0.2) ",
    "(EngineCore_DP0 pid=3) (RayWorkerWrapper pid=44) ",
    "[1,0]<stdout>:",
    "[0] ",
    "2025-11-09 09:12:31.043 +08:00 [1,3]<stderr>:",
    "2024-12-04T01:27:39.073Z ",
    "10.0.0.1: ",
    "vllm-7d9f-abc ",
    "vllm-1  | ",
    "  | 2024-12-04T01:27:39.073Z | ",
    "> ",
    "\x1b[36m(Worker pid=1)\x1b[0m ",
    "[2025-11-09 01:12:30] ",
    '{"log":"',
    "`",
]
