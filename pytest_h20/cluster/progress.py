"""What a waiting person sees: one line per node, a bar on a terminal, a plain line now and then in CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_h20.engines.base import Stage
from pytest_h20.lang import local

TELL_EVERY_S = 0.5


@dataclass
class StartProgress:
    """Prints the state of every role. ``write`` gets finished lines; on a terminal lines are drawn over each other.

    In CI a node's line is repeated when its stage changes, and every ``every`` wall seconds otherwise. ``tell`` is called with what
    ``show`` was, at most every ``TELL_EVERY_S``, for those who look from outside.
    """

    write: Callable[[str], None]
    terminal: bool = False
    every: float = 30.0
    tell: Callable[[dict[str, Stage | None], float, float], None] = lambda *_: None
    _told: float = 0.0
    _last: dict[str, tuple[str, float]] = field(default_factory=dict)
    _drawn: int = 0

    def phase(self, name: str, detail: str = "") -> None:
        """A new state of the cluster."""
        self._drawn = 0
        self.write(f"h20: {name}" + (f": {detail}" if detail else "") + "\n")

    def show(self, roles: dict[str, Stage | None], seconds: float, limit: float) -> None:
        """The stage of every role after ``seconds`` of at most ``limit`` model seconds."""
        if time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            self.tell(roles, seconds, limit)
        lines = {role: self._line(role, stage, seconds, limit) for role, stage in roles.items()}
        if self.terminal:
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            self.write(up + "".join(f"\x1b[2K{line}\n" for line in lines.values()))
            self._drawn = len(lines)
            return
        for role, line in lines.items():
            stage = roles[role]
            name = stage.name if stage else ""
            before, when = self._last.get(role, ("-", 0.0))
            if name != before or time.monotonic() - when >= self.every:
                self._last[role] = (name, time.monotonic())
                self.write(line + "\n")

    @staticmethod
    def _line(role: str, stage: Stage | None, seconds: float, limit: float) -> str:
        if stage is None:
            what = local("no output yet")
        else:
            what = local(stage.name)
            if stage.done is not None and stage.total:
                filled = round(20 * min(1.0, stage.done / stage.total))
                what += f" [{'#' * filled}{'.' * (20 - filled)}] " + local(f"{stage.done}/{stage.total} {stage.unit}".rstrip())
            elif stage.detail:
                what += f" ({stage.detail})"
        return f"h20:   {role:<12} {what}   {local(f'{seconds:.0f} s of at most {limit:.0f} s')}"
