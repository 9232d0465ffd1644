"""The one voice of all checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import pytest_h20
from pytest_h20.checks.endpoint.frame import CheckList
from pytest_h20.checks.frame import Check, Say, Settled
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.probes.script import Missing

ZERO = Limit(kind="max", value=0, unit="GPUs", origin=Origin(kind="builtin", detail="none may be lost"))
SAY = Say("environment.x", "X", "node01", ("node01/x.txt",), "look")


def test_there_is_one_of_them() -> None:
    package = Path(pytest_h20.__file__).parent
    homes = [
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if re.search(r"^class Say\b", path.read_text(), re.MULTILINE)
    ]
    assert homes == ["checks/frame.py"]


@pytest.mark.parametrize(
    ("verdict", "status", "reason"),
    [
        (SAY.judge(0, ZERO, of=8), Status.PASS, ""),
        (SAY.judge(1, ZERO, of=8, reason="GPU 3"), Status.FAIL, "GPU 3"),
        (SAY.judge(0, ZERO, of=0), Status.UNKNOWN, "nothing was looked at"),
        (SAY.judge(0, ZERO, of=0, reason="0 of 0"), Status.UNKNOWN, "nothing was looked at (0 of 0)"),
        (SAY.judge(0, ZERO, of=0, what="GPU"), Status.UNKNOWN, "no GPU came that could be looked at"),
        (SAY.problems([], of=2), Status.PASS, ""),
        (SAY.problems(["a", "b"], of=2), Status.FAIL, "a; b"),
        (SAY.problems([], of=0, what="text"), Status.UNKNOWN, "no text came that could be looked at"),
        (SAY.problems(["no answer"], of=0), Status.FAIL, "no answer"),
        (SAY.fail("broken"), Status.FAIL, "broken"),
        (SAY.warn(3, "odd"), Status.WARN, "odd"),
        (SAY.skip("not here"), Status.SKIP, "not here"),
        (SAY.unknown("silent"), Status.UNKNOWN, "silent"),
    ],
)
def test_every_kind_of_verdict_says_why_and_about_what(verdict: Verdict, status: Status, reason: str) -> None:
    assert (verdict.status, verdict.reason) == (status, reason)
    assert (verdict.check, verdict.title, verdict.subject, verdict.evidence) == ("environment.x", "X", "node01", ("node01/x.txt",))
    assert verdict.action == ("" if status in (Status.PASS, Status.SKIP) else "look")


def test_what_may_stay_unmeasured_is_skipped_and_never_passes() -> None:
    may = Say("environment.x", "X", optional=("environment.*",))
    assert may.unknown("silent").status is Status.SKIP
    assert may.judge(None, ZERO).status is Status.UNKNOWN


def test_a_limit_of_the_users_takes_the_place_of_ours() -> None:
    theirs = Limit(kind="max", value=2, unit="problems", origin=Origin(kind="file", detail="limits.yaml"))
    say = Say("environment.x", "X", limits={"environment.x": theirs})
    assert say.problems(["a", "b"], of=4).status is Status.PASS
    assert say.judge(3, ZERO, of=4).limit == theirs


def test_details_come_as_a_mapping_or_by_name_and_about_keeps_the_rest() -> None:
    here = SAY.about("node01 mlx5_0")
    verdict = here.judge(0, ZERO, details={"measured": 1}, seconds=2.0)
    assert (verdict.subject, verdict.evidence) == ("node01 mlx5_0", ("node01/x.txt",))
    assert verdict.details == {"measured": 1, "seconds": 2.0}
    assert SAY.about("other", ("b.txt",)).skip("s").evidence == ("b.txt",)


ABSENT = Missing("nvidia-smi is not there", "install the driver")


def checked(body: Callable[[Say], Verdict | Iterable[Verdict]]) -> list[Verdict]:
    """What a check of these facts says."""
    check = Check[str]("environment.x", "X", True, (), "look", lambda say, subject: body(say))
    return check.verdicts(SAY, "node01")


def test_a_check_ends_where_a_fact_that_it_needs_is_not_there() -> None:
    (verdict,) = checked(lambda say: say.judge(say.need(ABSENT), ZERO))
    assert (verdict.status, verdict.reason, verdict.action) == (Status.UNKNOWN, str(ABSENT), "install the driver")
    (verdict,) = checked(lambda say: say.judge(say.need(ABSENT, wanted=False), ZERO))
    assert verdict.status is Status.SKIP
    (verdict,) = checked(lambda say: say.judge(say.need(0), ZERO))
    assert verdict.status is Status.PASS


def test_what_was_said_before_a_fact_was_missed_stays_said() -> None:
    def body(say: Say) -> Iterator[Verdict]:
        yield say.judge(1, ZERO, reason="GPU 3")
        yield say.judge(say.need(ABSENT), ZERO)

    assert [v.status for v in checked(body)] == [Status.FAIL, Status.UNKNOWN]


def test_a_check_of_the_api_may_end_early_too() -> None:
    checks = CheckList("endpoint")

    @checks.add("endpoint.x", "X")
    def body(api: Api, say: Say) -> Verdict:
        raise Settled(say.skip("not here"))

    (verdict,) = body(Api(EndpointContext("http://127.0.0.1:9", "vllm", "0.32.0", "m")))
    assert (verdict.check, verdict.status, verdict.reason) == ("endpoint.x", Status.SKIP, "not here")
