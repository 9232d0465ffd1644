"""Speculative decoding: what a step gives, what it brings, and that the text is the model's own. Pure: figures in, verdicts out.

Drafts must change nothing but the speed. A draft layer that was not loaded, or belongs to another model, is never taken: everything is
right then, and slower than without. A step that takes drafts unverified is fast, and wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_h20.checks.endpoint.questions import Score
from pytest_h20.checks.frame import Say
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.engines.speculation import Speculation
from pytest_h20.report.model import CellRow

ACCEPTANCE, GAIN, TEXT = "throughput.acceptance", "throughput.draft_gain", "answers.drafts"
TITLES = {
    ACCEPTANCE: "Drafts are accepted",
    GAIN: "Drafts make tokens come faster",
    TEXT: "Drafts change the speed and not the text",
}
LEAST = Limit(
    kind="min",
    value=1.4,
    unit="tokens per step",
    origin=Origin(
        kind="derived",
        detail="half of the 85 % of first drafts that DeepSeek-V3's report sees accepted at the least (arXiv 2412.19437, 5.4.3)",
    ),
)
SIGNIFICANCE = 0.05
FEWEST_STEPS = 32


@dataclass(frozen=True)
class Drafted:
    """What a few greedy answers to plain questions took.

    Attributes:
        tokens: of all answers, without the first of each, which the prefill gives.
        per_step: tokens per step by the engine's own count; None: it does not tell.
        source: where that count stands.
        failed: requests without an answer, and why the first of them failed.
    """

    answers: int
    tokens: int
    per_step: float | None
    source: str = ""
    failed: str = ""

    @property
    def steps(self) -> int:
        """Steps that were looked at."""
        return round(self.tokens / self.per_step) if self.per_step else 0


def acceptance(say: Say, how: Speculation | None, seen: Drafted) -> Verdict:
    """Tokens per step against their floor. Too few steps, or none that was told, is no measurement."""
    asked = str(how) if how is not None else "the engine drafts unasked"
    if seen.failed:
        return say.unknown(f"{seen.failed} ({asked})", "see the endpoint's checks first")
    if seen.per_step is None:
        why = f"{asked}, and neither /metrics nor its answers tell how many drafts are accepted ({seen.answers} answers)"
        return say.unknown(why, "SGLang: enable-metrics; vLLM: do not disable its statistics (disable-log-stats)")
    if seen.steps < FEWEST_STEPS:
        return say.unknown(f"{seen.steps} steps of {seen.answers} answers are too few", "see why the answers are so short")
    return say.judge(
        round(seen.per_step, 3),
        LEAST,
        of=seen.steps,
        reason=f"{asked}: {seen.tokens} tokens in {seen.steps} steps of {seen.answers} greedy answers ({seen.source})",
        action="see that the draft layer is the model's own and was loaded: an engine drafts from random weights without a word",
    )


def gain(say: Say, other: str, mine: Sequence[CellRow], theirs: Sequence[CellRow]) -> Verdict:
    """TPOT with drafts against that of another profile without, over the cells of both. A warning where no cell gains."""
    known = {cell.name: cell.mean_tpot_ms for cell in theirs if cell.mean_tpot_ms and not cell.reason}
    ratios = {c.name: known[c.name] / c.mean_tpot_ms for c in mine if c.mean_tpot_ms and not c.reason and c.name in known}
    if not ratios:
        return say.skip(f"no cell was measured with and without drafts: --engine={other} as well, before this profile")
    best, worst = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    told = f"TPOT against {other}: {ratios[best]:.2f} times as fast at {best}, {ratios[worst]:.2f} times at {worst} ({len(ratios)} cells)"
    if ratios[best] <= 1:
        return say.warn(round(ratios[best], 3), told, action="drafts cost more than they bring: fewer steps, or none")
    return say.judge(
        round(ratios[best], 3),
        Limit(kind="min", value=1.0, unit="times as fast", origin=Origin(kind="builtin", detail="what drafts are for")),
        of=len(ratios),
        reason=told,
        details={"told": told, **{name: round(ratio, 3) for name, ratio in ratios.items()}},
    )


def text(say: Say, without: Score, drafted: Score) -> Verdict:
    """Greedy answers with drafts against those without, by text, and by meaning where the text differs.

    Both engines call their drafts lossless up to the order of sums: a text may part at a near tie, an answer may not be lost by it. One
    that is lost is told; so many that chance does not explain them (one-sided, exact) are red.
    """
    theirs = {grade.id: grade for grade in without.grades if grade.finish != "error"}
    pairs = [(theirs[g.id], g) for g in drafted.grades if g.id in theirs and g.finish != "error"]
    if not pairs:
        return say.unknown("no question was answered both with and without drafts", "see answers.accuracy first")
    same = sum(a.answer == b.answer for a, b in pairs)
    lost = [b.id for a, b in pairs if a.right and not b.right]
    won = sum(b.right and not a.right for a, b in pairs)
    p = _at_least(len(lost), len(lost) + won)
    told = f"{same} of {len(pairs)} greedy texts are equal, {len(lost)} of the others are wrong with drafts only, {won} without only"
    return say.judge(
        round(p, 6),
        Limit(kind="min", value=SIGNIFICANCE, unit="p", origin=Origin(kind="derived", detail="one-sided sign test at the 5 % level")),
        of=len(pairs),
        reason=told + (f": {', '.join(lost[:5])}" if lost else ""),
        action="drafts are taken that the model would not have said: look for a known fault of this version, and serve without until then",
        details={"told": told, "equal": same, "lost": list(lost[:50]), "won": won},
    )


def _at_least(lost: int, of: int) -> float:
    """Chance that at least so many of the questions which only one side answered rightly fall to the other side."""
    return float(sum(math.comb(of, k) for k in range(lost, of + 1)) / 2**of)


def voice(check: str, subject: str) -> Say:
    """What makes the verdicts of one of these checks."""
    return Say(check, TITLES[check], subject)
