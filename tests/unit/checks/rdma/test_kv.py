"""``rdma.kv_transfer``: the reader's word as a verdict, from files on a node."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.checks.rdma.kv import judged
from pytest_h20.core.verdict import Status
from pytest_h20.diagnosis.kv_transfer import KvTransfer, KvVerdict
from pytest_h20.nodes.local import LocalNode
from pytest_h20.run.endpoint import kv_transfer
from pytest_h20.run.settings import Session

MOONCAKE_RDMA = "I20260203 17:42:09 3720678 rdma_context.cpp:140] RDMA device: mlx5_9, LID: 0, GID: (GID_Index 3) 00:00:ff:ff:0a:06:1f:94\n"
MOONCAKE_TCP = "I0708 09:26:26 362 tcp_transport.cpp:241] TcpTransport: listen on port 16050\n"


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        ("rdma_proven", Status.PASS),
        ("tcp", Status.FAIL),
        ("mixed", Status.FAIL),
        ("intra_node_only", Status.UNKNOWN),
        ("undetermined", Status.UNKNOWN),
    ],
)
def test_only_what_is_proven_passes(verdict: KvVerdict, status: Status) -> None:
    told = judged(KvTransfer(verdict, "why"), 2, "cluster", ("evidence/kv",))
    assert told.status is status
    assert told.looked_at == (2 if status in (Status.PASS, Status.FAIL) else None)


def test_no_file_is_no_measurement() -> None:
    assert judged(KvTransfer("rdma_proven", "why"), 0, "cluster", ()).status is Status.UNKNOWN


def session(tmp_path: Path, logs: dict[str, str] | None) -> Session:
    def evidence(name: str, data: bytes) -> str:
        return name

    attach = None if logs is None else SimpleNamespace(kv_logs=logs)
    nodes = {name: LocalNode(name) for name in logs or {}}
    found: Any = SimpleNamespace(inventory=SimpleNamespace(attach=attach), nodes=nodes, folder=SimpleNamespace(evidence=evidence))
    return cast("Session", found)


def test_logs_of_both_sides_are_read_where_the_inventory_says(tmp_path: Path) -> None:
    (tmp_path / "prefill-0.log").write_text(MOONCAKE_RDMA, encoding="utf-8")
    (tmp_path / "decode.log").write_text(MOONCAKE_RDMA, encoding="utf-8")
    both = {"node01": f"{tmp_path}/prefill*.log", "node02": f"{tmp_path}/decode.log"}
    verdict = kv_transfer(session(tmp_path, both), "sglang")
    assert verdict is not None
    assert (verdict.status, verdict.looked_at) == (Status.PASS, 2)
    assert verdict.evidence == ("kv/sglang/node01/prefill-0.log", "kv/sglang/node02/decode.log")
    (tmp_path / "decode.log").write_text(MOONCAKE_TCP, encoding="utf-8")
    mixed = kv_transfer(session(tmp_path, both), "sglang")
    assert mixed is not None
    assert mixed.status is Status.FAIL


def test_one_side_alone_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "prefill-0.log").write_text(MOONCAKE_RDMA, encoding="utf-8")
    verdict = kv_transfer(session(tmp_path, {"node01": f"{tmp_path}/prefill*.log", "node02": f"{tmp_path}/decode.log"}), "sglang")
    assert verdict is not None
    assert verdict.status is Status.UNKNOWN
    assert "no log was found on node02" in verdict.reason


def test_nothing_is_asked_of_a_deployment_in_one_piece(tmp_path: Path) -> None:
    assert kv_transfer(session(tmp_path, None), "sglang") is None
    assert kv_transfer(session(tmp_path, {}), "sglang") is None
