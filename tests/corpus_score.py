"""Scores the NCCL log parser against the labelled logs: ``python -m tests.corpus_score [-v]``.

The redacted set in ``tests/corpus/nccl`` always; the larger set in ``H20_SHARED/corpus/nccl`` too, where it is there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h20.nccl import judge_job, labels, parse_log

KEYS = (
    "transport",
    "gdr",
    "roce",
    "hcas",
    "oob_interface",
    "oob_address",
    "errors",
    "nranks",
    "nnodes",
    "network_selected",
    "confirmed_by_channels",
)
GOAL = 0.98  # of transport and gdr


@dataclass(frozen=True)
class Row:
    """One log: its labels and what the parser says."""

    file: str
    wanted: dict[str, Any]
    got: dict[str, Any]
    verdict: str
    reason: str

    @property
    def false_proof(self) -> bool:
        """The one error that must never happen: proof where the label shows no RDMA, one node, or a fatal error."""
        rdma = self.wanted["transport"] in ("ib", "ofi")
        return self.verdict == "rdma_proven" and (not rdma or self.wanted["nnodes"] in (None, 1) or bool(self.wanted["errors"]))


def folders(kind: str) -> list[Path]:
    """Where labelled logs of a kind (``nccl``, ``engine``) lie: those of this repository, and the larger set where it is."""
    shared = os.environ.get("H20_SHARED")
    larger = (Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared") / "corpus" / kind
    return [Path(__file__).resolve().parent / "corpus" / kind, *([larger] if larger.is_dir() else [])]


def score(folder: Path) -> list[Row]:
    """Judge every log of the index."""
    rows = []
    for entry in (json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines() if line):
        evidence = parse_log((folder / entry["file"]).read_bytes(), entry["file"])
        job = judge_job([evidence])
        rows.append(Row(entry["file"], entry["labels"], labels(evidence, job), job.verdict, job.reason))
    return rows


def main(argv: Sequence[str] = ()) -> int:
    """Print the scores of each folder; exit 1 when a goal is missed."""
    return max(_report(folder, "-v" in argv) for folder in folders("nccl"))


def _report(folder: Path, verbose: bool) -> int:
    rows = score(folder)
    for row in rows:
        for key in KEYS:
            if row.wanted[key] != row.got[key]:
                print(f"{row.file}: {key}: label {row.wanted[key]!r}, got {row.got[key]!r}")
        if verbose:
            print(f"{row.file}: {row.wanted['transport']} -> {row.verdict}: {row.reason}")
    scores = {key: sum(row.wanted[key] == row.got[key] for row in rows) / len(rows) for key in KEYS}
    for key, value in scores.items():
        print(f"  {key:<22} {value:6.1%}")
    false_proofs = [row.file for row in rows if row.false_proof]
    proven = sum(row.verdict == "rdma_proven" for row in rows)
    print(f"{folder}: {len(rows)} logs; RDMA proven {proven}, of these falsely {len(false_proofs)} {' '.join(false_proofs)}")
    return 0 if min(scores["transport"], scores["gdr"]) >= GOAL and not false_proofs else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
