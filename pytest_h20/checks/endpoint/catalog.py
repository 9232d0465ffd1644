"""Every check of the three gates, in the order in which they run."""

from __future__ import annotations

from pytest_h20.checks.endpoint import answers, errors, generation, reasoning, serving, usage, wire
from pytest_h20.checks.endpoint.frame import Listed

ALONE = frozenset({"endpoint.disconnect", "endpoint.parallel", "endpoint.determinism", "endpoint.prefix_reuse"})
"""Checks that measure what other clients would disturb: the gauge of running requests, equal answers, load."""


def _order(listed: Listed) -> int:
    return 1 if listed.id == "endpoint.dialect" else 0  # last: it reports what all the others saw


ENDPOINT: tuple[Listed, ...] = tuple(
    sorted(
        [
            *serving.CHECKS.checks,
            *usage.CHECKS.checks,
            *generation.CHECKS.checks,
            *wire.CHECKS.checks,
            *errors.CHECKS.checks,
        ],
        key=_order,
    )
)
REASONING: tuple[Listed, ...] = tuple(reasoning.CHECKS.checks)
ANSWERS: tuple[Listed, ...] = tuple(answers.CHECKS.checks)
OWN_TESTS = ("answers.accuracy", "answers.dataset", "answers.compare")
"""Ids that are made by functions of :mod:`answers` with more arguments than an :class:`Api`."""


def all_ids() -> tuple[str, ...]:
    """Every check id of the three gates."""
    return (*(c.id for c in (*ENDPOINT, *REASONING, *ANSWERS)), *OWN_TESTS)
