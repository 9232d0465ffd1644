"""Prints what pip needs to install the lowest versions that pyproject.toml promises: one ``name==version`` per runtime dependency.

python scripts/lowest_versions.py > lowest.txt && pip install -c lowest.txt .
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROMISE = re.compile(r"^([A-Za-z0-9._-]+)>=([0-9][0-9.]*)$")


def lowest(pyproject: str) -> list[str]:
    """The pins. Every dependency must promise exactly a lowest version: ``name>=version``."""
    block = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.M | re.S)
    if block is None:
        raise SystemExit("pyproject.toml: no list of dependencies")
    pins = []
    for entry in re.findall(r'"([^"]+)"', block[1]):
        promise = PROMISE.match(entry)
        if promise is None:
            raise SystemExit(f"pyproject.toml: {entry!r}: write name>=version, so that the lowest version can be tried")
        pins.append(f"{promise[1]}=={promise[2]}")
    return pins


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))) + "\n")
