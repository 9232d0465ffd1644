"""Scores the diagnosis against the labelled engine logs: ``python -m tests.corpus_score_engine``.

The redacted set in ``tests/corpus/engine`` always; the larger set in ``H20_SHARED/corpus/engine`` too, where it is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pytest_h20.diagnosis.judge import diagnose
from tests.corpus_score import folders


@dataclass(frozen=True)
class Row:
    """One log: what the label says and what we said."""

    file: str
    outcome: str
    cause: str | None
    got_outcome: str
    got_cause: str | None
    line_equal: bool

    @property
    def false_ready(self) -> bool:
        """The one error that must never happen."""
        return self.outcome != "ready" and self.got_outcome == "ready"


def score(folder: Path) -> list[Row]:
    """Judge every log of the index."""
    rows = []
    for entry in (json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines() if line):
        with (folder / entry["file"]).open(encoding="utf-8", errors="replace", newline="") as log:
            got = diagnose(log.read())
        labels = entry["labels"]
        line = got.decisive_line.strip()
        rows.append(
            Row(
                entry["file"],
                labels["outcome"],
                labels["cause"],
                got.outcome,
                got.cause,
                line.startswith(labels["decisive_line"].strip()[:400]),
            )
        )
    return rows


def main() -> int:
    """Print the scores of each folder; exit 1 when a goal is missed (outcome 95 %, cause 90 %, no false "ready")."""
    return max(_report(folder) for folder in folders("engine"))


def _report(folder: Path) -> int:
    rows = score(folder)
    for row in rows:
        if (row.outcome, row.cause) != (row.got_outcome, row.got_cause):
            print(f"{row.file}: label {row.outcome}/{row.cause}, got {row.got_outcome}/{row.got_cause}")
    outcome = sum(r.outcome == r.got_outcome for r in rows) / len(rows)
    cause = sum(r.cause == r.got_cause for r in rows) / len(rows)
    lines = sum(r.line_equal for r in rows) / len(rows)
    false_ready = sum(r.false_ready for r in rows)
    print(f"{folder}: {len(rows)} logs: outcome {outcome:.1%}, cause {cause:.1%}, decisive line {lines:.1%}, false ready {false_ready}")
    return 0 if outcome >= 0.95 and cause >= 0.90 and false_ready == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
