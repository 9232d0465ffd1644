"""Where a bring-up and a tear-down write what happened. The run folder is one."""

from __future__ import annotations

from typing import Any, Protocol


class Journal(Protocol):
    """Events and files of one run."""

    def event(self, kind: str, **data: Any) -> None:
        """Something happened, now."""

    def evidence(self, name: str, data: bytes | str) -> str:
        """Keep a file; returns its path relative to the run folder."""
