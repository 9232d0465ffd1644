"""Where files that belong to the package lie: in a source checkout beside it, in an installed wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def environments() -> Path:
    """The folder with the example inventories and the limits files."""
    inside = _PACKAGE / "environments"
    return inside if inside.is_dir() else _PACKAGE.parent / "environments"
