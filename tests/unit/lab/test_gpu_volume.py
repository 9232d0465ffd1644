"""What NCCL's source says that small collectives cost over sockets, against what was counted on two H200 (docs/measured.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab.gpu.volume import Protocol, all_gather, all_reduce, decoded_token, message

MEASURED = (Path(__file__).resolve().parents[3] / "docs" / "measured.md").read_text(encoding="utf-8")
COLUMNS: dict[int, tuple[Protocol, bool]] = {2: ("LL", False), 3: ("Simple", False), 5: ("LL", True), 6: ("Simple", True)}


def rows(head: str) -> list[list[str]]:
    """The body of the first table whose head begins so."""
    lines = MEASURED[MEASURED.index(head) :].splitlines()[2:]
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


@pytest.mark.parametrize("column", COLUMNS)
def test_all_reduces_of_two_ranks_cost_what_was_counted(column: int) -> None:
    protocol, tree = COLUMNS[column]
    seen = 0
    for row in rows("| bytes | ring, NCCL's choice |"):
        size, counted = int(row[0].replace(",", "")), float(row[column])
        expected = all_reduce(size, protocol, tree=tree) / size
        assert counted == pytest.approx(expected, rel=0.05), f"{size} bytes, {protocol}, {'tree' if tree else 'ring'}"
        seen += 1
    assert seen == 6


@pytest.mark.parametrize(("column", "token_bytes"), [(1, 256), (2, 512)])
def test_a_generated_token_costs_what_was_counted_within_15_percent(column: int, token_bytes: int) -> None:
    """Two layers and the embedding are five all-reduces; 1,024 logits of 2 bytes come from each rank."""
    row = next(row for row in rows("| request | Llama sent / expected MB |") if row[0] == "16 in, 1024 out")
    counted = float(re.match(r"[\d.]+", row[column])[0]) * 1e6 / 1024  # type: ignore[index]
    assert decoded_token(5, token_bytes, 2048) / counted == pytest.approx(0.95, abs=0.02), "the rest: vLLM's own messages to its ranks"


def test_small_messages_ride_with_their_announcement() -> None:
    assert (message(0), message(128), message(129)) == (136, 264, 397)
    assert all_reduce(256, "Simple") == 2 * (264 + 136)
    assert all_gather(2048) == 4096 + 4 + 4 * 66
    assert all_reduce(14336, "LL") / 14336 == pytest.approx(2.04, abs=0.005), "one token of R1, which makes two of LL"
