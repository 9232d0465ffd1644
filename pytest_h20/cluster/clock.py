"""Time as the cluster sees it. A rehearsal runs compressed: one wall second is ``scale`` model seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Monotonic model time. ``scale`` 1.0 is real time; 60.0 means that a model minute takes a second."""

    scale: float = 1.0

    def now(self) -> float:
        """Model seconds since an arbitrary moment."""
        return time.monotonic() * self.scale

    def sleep(self, seconds: float) -> None:
        """Wait for this many model seconds."""
        time.sleep(max(0.0, seconds) / self.scale)

    def wall(self, seconds: float) -> float:
        """Model seconds as wall seconds, never below 2 s: sockets and processes do not run compressed."""
        return max(2.0, seconds / self.scale)
