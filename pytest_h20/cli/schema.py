"""``python -m pytest_h20 schema NAME``: the JSON Schemas that are checked in, printed from the code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pytest_h20.cli import command_parser


def _inventory() -> dict[str, Any]:
    from pytest_h20.config.inventory import inventory_schema

    return inventory_schema()


def _verdict() -> dict[str, Any]:
    from pytest_h20.report.model import verdict_schema

    return verdict_schema()


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"inventory": _inventory, "verdict": _verdict}


def render(name: str) -> str:
    """The schema as it is checked in."""
    return json.dumps(SCHEMAS[name](), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print one schema."""
    parser = command_parser("schema", __doc__)
    parser.add_argument("name", choices=sorted(SCHEMAS))
    print(render(parser.parse_args(argv).name), end="")
    return 0
