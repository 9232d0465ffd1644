# ruff: noqa: E501  (log lines as they are)
"""KV-transfer logs of a prefill/decode split. Lines as people pasted them (threads beside each), addresses changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.cli import kv
from pytest_h20.diagnosis.kv_transfer import KvVerdict, read_kv

MOONCAKE_RDMA = """\
I20260203 17:42:09.402108 3720681 topology.cpp:120] Device mlx5_9 port 1 is available
I20260203 17:42:09.403347 3720681 transfer_engine_impl.cpp:232] Topology discovery complete. Found 7 HCAs.
I20260203 17:42:09.400249 3720678 rdma_context.cpp:594] Using user-specified GID index: 3 on mlx5_9/ (with network device)
I20260203 17:42:09.401029 3720678 rdma_context.cpp:140] RDMA device: mlx5_9, LID: 0, GID: (GID_Index 3) 00:00:00:00:00:00:00:00:00:00:ff:ff:0a:06:1f:94
I20260203 17:42:09.401104 3720678 rdma_context.cpp:77] Using SIEVE endpoint store
I20260203 17:42:09.403272 3720679 rdma_context.cpp:140] RDMA device: mlx5_4, LID: 0, GID: (GID_Index 3) 00:00:00:00:00:00:00:00:00:00:ff:ff:0a:06:1e:93
"""
"""kvcache-ai/Mooncake#936"""

MOONCAKE_TCP = """\
I0708 09:26:26.330791   362 transfer_engine.cpp:44] Transfer Engine starting. Server: 10.0.0.63:12346, Metadata: http://10.0.0.63:18001/metadata
I0708 09:26:26.331507   362 transfer_engine.cpp:112] Transfer Engine RPC using new RPC mapping, listening on 10.0.0.63:16049
I0708 09:26:26.332921   362 tcp_transport.cpp:241] TcpTransport: listen on port 16050
"""
"""kvcache-ai/Mooncake#602"""

MOONCAKE_FOUND = """\
I0513 11:04:17.446815  5509 transfer_engine.cpp:44] Transfer Engine starting. Server: 10.148.0.107, Metadata: P2PHANDSHAKE, rpc_port: 0
I0513 11:04:17.447018  5509 transfer_engine.cpp:112] Auto-discovering topology...
I0513 11:04:17.447331  5509 transfer_engine.cpp:127] Topology discovery complete. Found 3 HCAs.
"""
"""sglang#6193: cut before a device was opened"""

MOONCAKE_BROKEN = (
    MOONCAKE_RDMA
    + """\
E0325 09:33:41.551047  8274 worker_pool.cpp:294] Worker: Process failed for slice (opcode: 1, source_addr: 0x7ef798060000, length: 65536, \
dest_addr: 0x7f3056060000, local_nic: mlx5_9, peer_nic: 10.0.0.7:15867@mlx5_9, dest_rkey: 2491916, retry_cnt: 0): transport retry counter exceeded
W0325 09:33:41.554718  8274 worker_pool.cpp:308] Too many errors found in local RNIC 10.0.0.5:16077@mlx5_9, mark it inactive
"""
)
"""sglang#21395"""

UCX_RDMA = """\
[1721319197.230251] [ps:143851:0]          parser.c:2314 UCX  INFO  UCX_* env variables: UCX_NET_DEVICES=mlx5_0:1 UCX_PROTO_INFO=y UCX_LOG_LEVEL=info
[1721319202.993450] [ps:143851:0]   +---------------------------+-------------------------------------------------------------+
[1721319202.993461] [ps:143851:0]   | ucp_context_0 inter-node cfg#1 | remote memory write by ucp_put*(multi) from cuda/GPU4 to cuda/dev[4] |
[1721319202.993465] [ps:143851:0]   +---------------------------+------------------------------------------+------------------+
[1721319202.993468] [ps:143851:0]   |                     0..2K | short                                    | rc_mlx5/mlx5_11:1 |
[1721319202.993470] [ps:143851:0]   |                 2049..inf | zero-copy                                | rc_mlx5/mlx5_11:1 50% on path0 and 50% on path1 |
"""
"""The table of openucx (proto_debug.c), as recorded with UCX 1.17"""

UCX_TCP = """\
[1784556793.091727] [host:286911:0] | ucp_context_0 inter-node cfg#2 | remote memory write by ucp_put*(multi) from cuda/GPU0 to cuda |
[1784556793.091729] [host:286911:0] | 0..inf | software emulation | tcp/eth0 |
"""
UCX_CONTROL = """\
[1784556793.091727] [host:286911:0] | ucp_context_0 inter-node cfg#2 | active message by ucp_am_send* from host memory |
[1784556793.091729] [host:286911:0] | 27051..inf | multi-frag zero-copy | rc_mlx5/mlx5_bond_0:1/path0 |
"""
"""nixl#366: \"which is control path, and not the data path\""""

UCX_LOCAL = """\
[1784556793.091727] [host:286911:0] | ucp_context_0 intra-node cfg#2 | remote memory write by ucp_put*(multi) from cuda/GPU0 to cuda/dev[0] |
[1784556793.091729] [host:286911:0] | 0..inf | zero-copy | cuda_ipc/cuda |
"""
UCX_LANES = "[1721319202.977060] [ps:143851:0]  ucp_worker.c:1888 UCX  INFO  worker inter-node cfg#1 rma(rc_mlx5/mlx5_0:1) am(rc_mlx5/mlx5_0:1) ka(tcp/eth0)"
UCX_LANES_TCP = "[1721319202.977060] [ps:143851:0]  ucp_worker.c:1888 UCX  INFO  worker inter-node cfg#1 rma(tcp/eth0) am(tcp/eth0)"
NIXL_ALONE = "Backend UCX was instantiated\nInitialized NIXL agent: prefill-0\n"

CASES: list[tuple[str, str, KvVerdict, str]] = [
    ("mooncake-rdma", MOONCAKE_RDMA, "rdma_proven", "mlx5_9, mlx5_4"),
    ("mooncake-tcp", MOONCAKE_TCP, "tcp", "goes over TCP"),
    ("mooncake-forced", "I0708 09:26:26 362 transfer_engine_impl.cpp:171] MC_FORCE_TCP is set, using TCP transport only", "tcp", "TCP"),
    ("mooncake-two-processes", MOONCAKE_RDMA + MOONCAKE_TCP, "mixed", "TCP and rdma side by side"),
    ("mooncake-found-is-not-opened", MOONCAKE_FOUND, "undetermined", "3 HCAs were found, which is not that one was opened"),
    ("mooncake-broken", MOONCAKE_BROKEN, "undetermined", "transfers failed"),
    ("ucx-rdma", UCX_RDMA, "rdma_proven", "mlx5_11:1"),
    ("ucx-tcp", UCX_TCP, "tcp", "UCX"),
    ("ucx-control-path-only", UCX_CONTROL, "undetermined", "control path"),
    ("ucx-control-path-and-tcp-data", UCX_CONTROL + UCX_TCP, "tcp", "TCP"),
    ("ucx-one-machine", UCX_LOCAL, "intra_node_only", "nothing here crosses nodes"),
    ("ucx-lanes", UCX_LANES, "rdma_proven", "mlx5_0:1"),
    ("ucx-lanes-tcp", UCX_LANES_TCP, "tcp", "TCP"),
    (
        "ucx-allowed-is-not-used",
        "[1.0] [h:1:0] parser.c:2314 UCX  INFO  UCX_* env variables: UCX_TLS=rc_mlx5/mlx5_0:1,tcp",
        "undetermined",
        "no line",
    ),
    ("nixl-backend-is-no-transport", NIXL_ALONE, "undetermined", "NIXL/UCX: no line tells what carried the data"),
    ("nothing", "INFO:     Application startup complete.\n", "undetermined", "no line of Mooncake, NIXL or UCX"),
    ("empty", "", "undetermined", "no line of Mooncake"),
]


@pytest.mark.parametrize(("text", "verdict", "why"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_carried_the_cache(text: str, verdict: KvVerdict, why: str) -> None:
    found = read_kv([("log", text)])
    assert found.verdict == verdict, found.reason
    assert why in found.reason
    assert bool(found.deciding) is (verdict != "undetermined" or "RDMA was opened" in found.reason)
    assert bool(found.advice) is (verdict not in ("rdma_proven", "intra_node_only"))
    assert found.lines == len(text.splitlines())


def test_devices_and_gids_are_told_with_the_lines_that_say_so() -> None:
    found = read_kv([("prefill.log", MOONCAKE_RDMA), ("decode.log", MOONCAKE_RDMA)])
    assert (found.devices, found.gid_indexes) == (("mlx5_9", "mlx5_4"), (3,))
    assert str(found.deciding[0]).startswith("prefill.log:4 I20260203")


RECORDED = Path(__file__).resolve().parents[2] / "corpus" / "recorded"


def recorded(which: str) -> str:
    """Of a prefill server on GPUs, 2026-11-28: SGLang 0.5.16, NIXL 1.5.1, UCX 1.23.0, UCX_PROTO_INFO=y and UCX_LOG_LEVEL=info."""
    return (RECORDED / f"sglang-0.5.16-nixl-2xh200-{which}.txt").read_text(encoding="utf-8")


def test_titles_in_two_rows_are_read() -> None:
    between = read_kv([("prefill.log", recorded("tcp"))])
    assert (between.verdict, len(between.deciding)) == ("tcp", 3), "the lanes, host to host, host to GPU"
    assert "52% on tcp/xgbe1" in between.deciding[1].text
    rows_only = "\n".join(line for line in recorded("tcp").splitlines() if "ucp_worker" not in line)
    assert read_kv([("prefill.log", rows_only)]).verdict == "tcp"
    rdma = rows_only.replace("tcp/xgbe1", "rc_mlx5/mlx5_1:1").replace("tcp/xgbe0", "rc_mlx5/mlx5_0:1")
    assert read_kv([("prefill.log", rdma)]).verdict == "rdma_proven"
    assert read_kv([("prefill.log", recorded("one-node"))]).verdict == "intra_node_only"


def test_what_a_server_writes_before_it_has_a_peer_proves_nothing() -> None:
    """Lanes to itself, and remote memory that is emulated by active messages over what would be RDMA."""
    alone = "\n".join(line for line in recorded("tcp").splitlines() if "cfg#2" not in line and "1795872023" not in line)
    assert "self cfg#0" in alone
    assert read_kv([("decode.log", alone)]).verdict == "undetermined"
    lanes = next(line for line in recorded("tcp").splitlines() if "rma_am" in line)
    assert read_kv([("decode.log", lanes)]).verdict == "tcp"
    assert read_kv([("decode.log", lanes.replace("tcp/", "rc_mlx5/"))]).verdict == "undetermined"


def test_a_row_belongs_to_the_table_of_its_own_thread() -> None:
    """Two threads write at a time: the row of one is not under the header of the other."""
    mixed = """\
[1.0] [host:7:0] | ucp_context_0 inter-node cfg#2 | active message by ucp_am_send* from host memory |
[1.0] [host:7:1] | ucp_context_1 inter-node cfg#3 | remote memory write by ucp_put*(multi) from cuda/GPU0 to cuda |
[1.0] [host:7:0] | 0..inf | multi-frag | tcp/eth0 |
[1.0] [host:7:1] | 0..inf | zero-copy | rc_mlx5/mlx5_0:1 |
"""
    assert read_kv([("log", mixed)]).verdict == "rdma_proven"


@pytest.mark.parametrize(
    "text", ["\0" * 5000, "| " * 5000, "[" * 10_000, "inter-node cfg#1 rma(" * 400, "Worker: Process failed for slice" * 200]
)
def test_garbage_is_read_in_no_time_and_proves_nothing(text: str) -> None:
    assert read_kv([("log", text)]).verdict == "undetermined"


def test_the_command_says_it_and_ends_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.log", tmp_path / "bad.log"
    good.write_text(MOONCAKE_RDMA, encoding="utf-8")
    bad.write_text(UCX_TCP, encoding="utf-8")
    assert kv.main([str(good)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("RDMA PROVEN\n")
    assert "GID index: 3" in told
    assert kv.main([str(bad)]) == 1
    assert "TCP, not RDMA" in capsys.readouterr().out
    assert kv.main(["--json", str(good), str(bad)]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "mixed"
    assert kv.main([str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err
