"""``python -m pytest_h20 kv LOG ...``: what carries the KV cache from prefill to decode, and which lines say so."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from pytest_h20.cli.logs import once, opened
from pytest_h20.core.errors import UsageError
from pytest_h20.diagnosis.kv_transfer import KvVerdict, explain, read_kv
from pytest_h20.lang import told
from pytest_h20.lang.arguments import Parser

TITLES: dict[KvVerdict, str] = {
    "rdma_proven": "RDMA PROVEN",
    "tcp": "TCP, not RDMA",
    "mixed": "MIXED: TCP beside something faster",
    "intra_node_only": "INTRA-NODE ONLY: nothing here crosses nodes",
    "undetermined": "UNDETERMINED: not proven either way",
}


def main(argv: Sequence[str]) -> int:
    """0: RDMA proven. 1: it is not. 2: wrong use."""
    parser = Parser(
        prog="python -m pytest_h20 kv",
        description="Explain the KV-transfer logs of a prefill/decode split (Mooncake, NIXL, UCX), all files together.",
        epilog="Exit status 0: RDMA proven. 1: it is not. 2: wrong use.",
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a log of a prefill or decode server, or - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(list(argv))
    try:
        once("kv", options.logs)
        found = read_kv((name, _text(name)) for name in options.logs)
    except UsageError as error:
        print(told(f"pytest_h20 kv: {error}"), file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"files": options.logs, **dataclasses.asdict(found)}))
    else:
        print("\n".join(explain(found, TITLES)))
    return 0 if found.verdict == "rdma_proven" else 1


def _text(name: str) -> str:
    with opened(name) as log:
        return log.read().decode("utf-8", "replace")
