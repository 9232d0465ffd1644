"""Every check of the three gates, in the order in which they run."""

from __future__ import annotations

from pytest_h20.endpoint import (
    checks_answers,
    checks_errors,
    checks_generation,
    checks_reasoning,
    checks_serving,
    checks_usage,
    checks_wire,
)
from pytest_h20.endpoint.checking import Listed

ALONE = frozenset({"endpoint.disconnect", "endpoint.parallel", "endpoint.determinism", "endpoint.prefix_reuse"})
"""Checks that measure what other clients would disturb: the gauge of running requests, equal answers, load."""


def _order(listed: Listed) -> int:
    return 1 if listed.id == "endpoint.dialect" else 0  # last: it reports what all the others saw


ENDPOINT: tuple[Listed, ...] = tuple(
    sorted(
        [
            *checks_serving.CHECKS.checks,
            *checks_usage.CHECKS.checks,
            *checks_generation.CHECKS.checks,
            *checks_wire.CHECKS.checks,
            *checks_errors.CHECKS.checks,
        ],
        key=_order,
    )
)
REASONING: tuple[Listed, ...] = tuple(checks_reasoning.CHECKS.checks)
ANSWERS: tuple[Listed, ...] = tuple(checks_answers.CHECKS.checks)
OWN_TESTS = ("answers.accuracy", "answers.dataset", "answers.compare")
"""Ids that are made by functions of :mod:`checks_answers` with more arguments than an :class:`Api`."""


def all_ids() -> tuple[str, ...]:
    """Every check id of the three gates."""
    return (*(c.id for c in (*ENDPOINT, *REASONING, *ANSWERS)), *OWN_TESTS)
