"""What is said of the kernel log before anything is started says of how many lines it is said."""

from __future__ import annotations

import pytest

from pytest_h20.checks import all_verdicts
from pytest_h20.core.verdict import Status
from pytest_h20.probes.kernel_log import parse_kernel_log
from tests.unit.probes.cluster import blog_cluster

CHECKS = ("kernel_log", "xid", "sxid", "memory_errors", "disk_errors")


@pytest.mark.parametrize(("lines", "looked_at"), [((), 1), (("[   12.5] mlx5_core 0000:30:00.0 xgbe3: Link up",) * 3, 3)])
def test_a_pass_says_how_many_lines_were_looked_at(lines: tuple[str, ...], looked_at: int) -> None:
    cluster = blog_cluster()
    cluster.other.machine.kernel_lines = [*lines]
    told = {v.check: v for v in all_verdicts(cluster.gather()) if v.subject == "node02"}
    for name in CHECKS:
        verdict = told[f"environment.{name}"]
        assert (verdict.status, verdict.looked_at) == (Status.PASS, looked_at), name


def test_lines_of_any_kind_count() -> None:
    log = parse_kernel_log("source=dmesg\nfirst=0.0\nnow=100\nwritten=0:812 12:3\nmatched=0\n")
    assert (log.lines, log.events) == (815, ())
