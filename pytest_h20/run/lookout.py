"""Somebody looks at the engine while tests wait for it: what ends is told at once, not when the last request is given up. A worker that is
killed leaves the others in a collective: vLLM 0.24 answered nothing for 60 s, while its node had known at once (docs/measured.md)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytest_h20.core.errors import H20Error

EVERY_S = 2.0


class Lookout:
    """A thread that calls ``look`` until that says True (there is no more to see) or ``end`` is called. Errors of a node are waited out."""

    def __init__(self, look: Callable[[], bool], every_s: float = EVERY_S) -> None:
        self._look, self._every_s = look, every_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="h20-lookout", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            try:
                if self._look():
                    return
            except (H20Error, OSError):
                continue

    @property
    def ending(self) -> bool:
        """Whether what is seen from now on counts no more."""
        return self._ending.is_set()

    def end(self, patience_s: float = 10.0) -> None:
        """Before anything is stopped."""
        self._ending.set()
        self._thread.join(patience_s)
