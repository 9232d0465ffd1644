"""Scores the diagnosis against the labelled engine logs: ``python -m tests.corpus_score_engine``.

The corpus is not part of this repository: it lies beside it in ``../shared/corpus`` (``H20_SHARED`` overrides).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pytest_h20.diagnosis.judge import diagnose


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
        return self.outcome == "failed" and self.got_outcome == "ready"


def corpus_dir() -> Path:
    """Where the labelled engine logs lie."""
    shared = os.environ.get("H20_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared"
    return root / "corpus" / "engine"


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
    """Print the scores; exit 1 when a goal is missed (outcome 95 %, cause 90 %, no false "ready")."""
    folder = corpus_dir()
    if not folder.is_dir():
        print(f"no corpus at {folder} (set H20_SHARED)", file=sys.stderr)
        return 2
    rows = score(folder)
    for row in rows:
        if (row.outcome, row.cause) != (row.got_outcome, row.got_cause):
            print(f"{row.file}: label {row.outcome}/{row.cause}, got {row.got_outcome}/{row.got_cause}")
    outcome = sum(r.outcome == r.got_outcome for r in rows) / len(rows)
    cause = sum(r.cause == r.got_cause for r in rows) / len(rows)
    lines = sum(r.line_equal for r in rows) / len(rows)
    false_ready = sum(r.false_ready for r in rows)
    print(f"{len(rows)} logs: outcome {outcome:.1%}, cause {cause:.1%}, decisive line {lines:.1%}, false ready {false_ready}")
    return 0 if outcome >= 0.95 and cause >= 0.90 and false_ready == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
