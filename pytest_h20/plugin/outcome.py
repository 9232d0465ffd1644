"""What one test contributed: its verdicts, or, when it gave none, what its outcome means for its gate. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.report.model import SetupError


@dataclass(frozen=True)
class Outcome:
    """The verdicts of one test, JSON-safe through ``to_dict``. ``broke``: it failed outside of any check. ``place``: of a test of the
    suite whose outcome is the suite's own word (`pytest_h20.plugin.suite`); empty for any other. ``span``: when its set-up began and
    when it ended (``time.monotonic``, s)."""

    test_id: str
    gate: str | None
    verdicts: tuple[Verdict, ...]
    outcome: str
    reason: str
    broke: bool
    duration_s: float
    when: str = "call"
    place: str = ""
    asserted: bool = False
    span: tuple[float, float] = (0.0, 0.0)

    @property
    def setup_error(self) -> SetupError | None:
        """What the report shows large: a bring-up that failed, or a test that broke outside of any check. A failing assert
        in a test of a gate says what it found."""
        told = self.when == "call" and self.asserted and self.gate is not None
        if self.outcome != "failed" or told or not (self.broke or self.when == "setup"):
            return None
        blocking = next((v for v in self.verdicts if v.status.blocks), None)
        cause = blocking.reason if blocking is not None else ""
        return SetupError(
            test_id=self.test_id,
            title=_last_line(self.reason) if self.broke else blocking.title if blocking else "Set-up failed",
            words="test failed" if self.gate is None and blocking is None else "set-up error",
            cause=cause,
            fix=blocking.action if blocking is not None else "",
            text=self.reason[-20000:],
        )

    def to_dict(self) -> dict[str, Any]:
        """For the way from a worker to the controller."""
        return {**self.__dict__, "verdicts": [v.model_dump(mode="json") for v in self.verdicts]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Outcome:
        """Back from ``to_dict``."""
        return cls(**{**data, "verdicts": tuple(Verdict.model_validate(v) for v in data["verdicts"]), "span": tuple(data["span"])})


def outcome_of(
    test_id: str,
    when: str,
    outcome: str,
    reason: str,
    gate: str | None,
    verdicts: Sequence[Verdict],
    duration: float,
    asserted: bool = False,
) -> Outcome:
    """Complete the verdicts of a test that belongs to a gate.

    A test that passed without a verdict of its own counts as one (a foreign test with plain asserts). One that was skipped is
    ``SKIP`` with its reason. One whose assert does not hold (``asserted``) is ``FAIL``. One that broke before or beside its verdicts
    is ``UNKNOWN``: the check itself could not be made.
    """
    told = list(verdicts)
    failed_by_verdict = outcome != "failed" or any(v.status.blocks for v in told)
    broke = outcome == "failed" and not failed_by_verdict
    if gate is not None and (not told or broke):
        check = f"{gate}.{check_name(test_id)}"
        subject = _parameters(test_id)
        if broke and asserted and when == "call":
            title = check_name(test_id).replace("_", " ")
            reason_line = f"{test_id}: {_last_line(reason)}"
            told.append(_verdict(check, Status.FAIL, title, subject, reason_line, "see the test's own output in the report"))
        elif broke:
            title = "The check itself broke" if when == "call" else "The check could not start"
            told.append(_verdict(check, Status.UNKNOWN, title, subject, _last_line(reason), "see the traceback in the report"))
        elif outcome == "skipped":
            told.append(_verdict(check, Status.SKIP, "Skipped", subject, reason, ""))
        elif outcome == "passed":
            told.append(_verdict(check, Status.PASS, check_name(test_id).replace("_", " "), subject, "", ""))
    return Outcome(test_id, gate, tuple(told), outcome, reason if outcome != "passed" else "", broke, duration, when, asserted=asserted)


def not_measured(test_id: str, gate: str, error: Exception) -> Verdict:
    """The verdict of a check that an error of ours kept from being made."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    check = f"{gate}.{check_name(test_id)}"
    return _verdict(check, Status.UNKNOWN, "The check could be made", _parameters(test_id), lines[0], "mend that, and run it again")


def unreported(gate: str, test_ids: Sequence[str], total: int) -> Verdict:
    """The verdict of a gate of which a part is known, because the run ended before these of its ``total`` tests had reported: what
    holds in it until then is not the gate."""
    reason = f"{len(test_ids)} of the gate's {total} tests did not report: the run ended before them"
    return _verdict(
        f"{gate}.{check_name(test_ids[0])}", Status.UNKNOWN, "Every test of the gate reported", "", reason, "run it again, to its end"
    )


def check_name(test_id: str) -> str:
    """``tests/test_x.py::TestA::test_some_thing[p]`` -> ``some_thing``."""
    name = test_id.split("[", 1)[0].rsplit("::", 1)[-1].removeprefix("test_")
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "test"


def _parameters(test_id: str) -> str:
    return test_id.split("[", 1)[1].rstrip("]") if "[" in test_id else ""


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or [""])[0 if errors else -1].strip()


def _verdict(check: str, status: Status, title: str, subject: str, reason: str, action: str) -> Verdict:
    return Say(check, title, subject).plain(status, reason, action=action)
