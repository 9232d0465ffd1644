"""What pytest repeats at the end of failed and skipped tests, in the reader's language."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_h20 import lang
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.plugin.record import in_their_language

RED = Verdict(
    check="fabric.port_active",
    title="Port active",
    status=Status.FAIL,
    subject="node02 mlx5_3",
    measured="DOWN",
    limit=Limit(kind="equal", value="ACTIVE", origin=Origin(kind="builtin", detail="only an active port carries traffic")),
    reason="state DOWN, physical Disabled",
    evidence=("evidence/probes/node02/rdma.txt",),
)
ENGLISH = RED.text()
CHINESE = """fabric.port_active [node02 mlx5_3]：端口处于 active 状态
  实测 DOWN，要求 ACTIVE（内置：只有 active 的端口才承载流量）
  原因：状态 DOWN，物理状态 Disabled
  证据：evidence/probes/node02/rdma.txt"""


def report(test: Callable[[], object], style: str = "value") -> pytest.TestReport:
    """Of a test of ours that ended so, as pytest makes it."""
    with pytest.raises((Exception, pytest.fail.Exception)) as ended:
        test()
    longrepr = ended.getrepr(style=style)  # type: ignore[arg-type]
    made = pytest.TestReport("test_fabric.py::test_rail", ("test_fabric.py", 1, "test_rail"), {}, "failed", longrepr, "call")
    made.h20 = {}  # type: ignore[attr-defined]
    return made


def test_a_red_check_is_told_in_chinese_and_its_own_report_stays_english() -> None:
    made = report(lambda: pytest.fail(ENGLISH, pytrace=False))
    with lang.speaking("zh"):
        assert in_their_language(made).longreprtext == CHINESE
    assert made.longreprtext == ENGLISH


def test_the_ends_of_logs_below_it_stay_as_they_are() -> None:
    logs = "--- rank0 (rank 0) on node01, end of its log:\nPort active; nothing was looked at\n1 fail, 2 skipped"
    with lang.speaking("zh"):
        told = in_their_language(report(lambda: pytest.fail(f"Port active\n{logs}", pytrace=False))).longreprtext
    assert told.splitlines()[0] == "端口处于 active 状态"
    assert told.splitlines()[2:] == logs.splitlines()[1:]


def test_the_reason_of_a_skipped_test_too() -> None:
    made = pytest.TestReport("t.py::t", ("t.py", 1, "t"), {}, "skipped", ("t.py", 1, "Skipped: only with --h20-slo"), "call")
    made.h20 = {}  # type: ignore[attr-defined]
    with lang.speaking("zh"):
        assert in_their_language(made).longrepr == ("t.py", 1, "Skipped: 只在给出 --h20-slo 时")


def test_a_traceback_and_the_tests_of_others_stay() -> None:
    broke = report(lambda: int("Port active"), style="long")
    others = report(lambda: pytest.fail("Port active", pytrace=False))
    del others.h20
    with lang.speaking("zh"):
        assert in_their_language(broke) is broke
        assert in_their_language(others) is others
