"""CHANGELOG.md can be read: groups, sections in them, bullets in these, and nothing between."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_bullet_stands_in_a_section() -> None:
    """A bullet after an empty line belongs to nothing that a reader has seen."""
    blocks = TEXT[TEXT.index("\n### ") :].strip().split("\n\n")
    assert len(blocks) > 10
    for block in blocks:
        first, *rest = block.splitlines()
        if first.startswith(("## ", "### ")):
            assert not rest, first
            continue
        assert re.match(r"\*\*[^*]+\*\*", first), f"no section, no group: {first[:80]}"
        assert rest, first
        assert rest[0].startswith("- "), first
        assert all(re.match(r"- \S|  \S", line) for line in rest), first


def test_no_section_stands_twice_and_no_group_is_empty() -> None:
    names = re.findall(r"^(?:#+ (.+)|\*\*([^*]+)\*\*)", TEXT, re.M)
    assert len(names) == len(set(names))
    assert not re.search(r"^### .+\n\n(?=#|\Z)", TEXT, re.M)
