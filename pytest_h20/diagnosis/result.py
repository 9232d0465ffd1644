"""What a judgement says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_h20.engines.base import EngineName, Stage, Version

Outcome = Literal["ready", "waiting", "failed", "undetermined"]


@dataclass(frozen=True)
class Diagnosis:
    """The judgement of one log.

    Attributes:
        cause: snake_case word: the primary cause when failed (None = unknown), what it is busy with when waiting.
        decisive_line: the line that decided, as the engine wrote it: without a tag of whoever carried it, in one piece.
        explanation: the cause as a sentence; fix: what to do; source: where that is known from.
        stage: the furthest stage seen; also: ids of other signatures seen, causes before hints.
        rank: how primary the cause is (10 the mistake itself … 50 somebody ended it; 99 none), to compare nodes.
    """

    outcome: Outcome
    cause: str | None = None
    decisive_line: str = ""
    explanation: str = ""
    fix: str = ""
    source: str = ""
    engine: EngineName | None = None
    version: Version | None = None
    stage: Stage | None = None
    also: tuple[str, ...] = ()
    rank: int = 99

    def sentence(self) -> str:
        """One line for people."""
        if self.outcome == "ready":
            return "ready"
        if self.outcome == "waiting":
            return f"not ready yet: {self.explanation or 'starting'}"
        if self.outcome == "failed":
            if self.cause is None:
                return "failed, cause unknown: no known signature in this log"
            return f"failed: {self.explanation} ({self.cause}) — {self.fix} [{self.source}]"
        return f"undetermined: {self.explanation or 'no engine line in this log'}"
