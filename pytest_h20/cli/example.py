"""``python -m pytest_h20 example > my-cluster.yaml``: print the inventory that is shipped, to start from where there is no checkout."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_h20.cli import command_parser
from pytest_h20.config.environments import environments
from pytest_h20.lang.comments import translated

SHIPPED = "h20-2node.yaml"


def main(argv: Sequence[str]) -> int:
    """Print the example; with a name another one of those that are shipped."""
    names = sorted(path.name for path in environments().glob("*.yaml"))
    parser = command_parser("example", __doc__)
    parser.add_argument("name", nargs="?", choices=names, default=SHIPPED, help=f"which one (default: {SHIPPED})")
    print(translated((environments() / parser.parse_args(argv).name).read_text(encoding="utf-8")), end="")
    return 0
