"""The rail map names each GPU with its NIC and what they moved; the record of it is read back."""

from __future__ import annotations

from pathlib import Path

from pytest_h20.core.verdict import Status
from pytest_h20.report.html.rails import pair_table, rail_map
from pytest_h20.report.model import RailPair, RailTraffic
from pytest_h20.report.run import load_run
from tests.unit.report import samples

THERE = RailPair(
    engine="sglang", node="node01", hca="mlx5_4", gpu=3, peer_node="node02", peer_hca="mlx5_4", peer_gpu=3, write_gbps=196.0, latency_us=1.9
)
BACK = RailPair(engine="sglang", node="node02", hca="mlx5_4", gpu=3, peer_node="node01", peer_hca="mlx5_4", peer_gpu=3, write_gbps=88.2)


def traffic(node: str, peer: str) -> RailTraffic:
    return RailTraffic(
        engine="sglang", node=node, hca="mlx5_4", peer_node=peer, peer_hca="mlx5_4", status=Status.PASS, gdr=True, gb_sent=1.0
    )


RAILS = (traffic("node01", "node02"), traffic("node02", "node01"))


def test_the_map_shows_both_gpus_of_a_rail() -> None:
    assert "GPU3 → 196  ← 88.2 GPU3 Gbit/s" in str(rail_map(RAILS, pairs=(THERE, BACK)))


def test_a_rail_that_was_not_measured_has_no_line_of_its_own() -> None:
    assert "Gbit/s" not in str(rail_map(RAILS))
    silent = THERE.model_copy(update={"write_gbps": None})
    assert "Gbit/s" not in str(rail_map(RAILS, pairs=(silent, BACK.model_copy(update={"write_gbps": None}))))
    assert "GPU3 → 196  ← – GPU3 Gbit/s" in str(rail_map(RAILS, pairs=(THERE,)))


def test_the_table_says_whose_memory_it_was() -> None:
    text = str(pair_table((THERE, BACK)))
    assert "node01 GPU3 mlx5_4" in text
    assert "GPU memory" in text
    host = str(pair_table((THERE.model_copy(update={"gpu": None, "peer_gpu": None}),)))
    assert "node01 mlx5_4" in host
    assert "host memory" in host


def test_the_record_is_read_back(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(THERE)
    run.add(THERE.model_copy(update={"write_gbps": 195.0}))
    assert [p.write_gbps for p in load_run(run.path).pairs] == [195.0]
