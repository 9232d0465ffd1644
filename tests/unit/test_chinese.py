"""The Chinese pages keep step with the English ones: headings, commands, options, names and figures are the same."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIRS = {
    "README.md": "README.zh-CN.md",
    **{f"docs/{name}.md": f"docs/zh/{name}.md" for name in ("tour", "accept-a-cluster", "read-the-report", "gate-ci", "inventory")},
}


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _code(text: str) -> list[str]:
    """Lines of fenced and indented blocks."""
    fenced = re.findall(r"^```.*?^```", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return "\n".join(fenced).splitlines() + [line for line in rest.splitlines() if line.startswith("    ")]


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```|^    .*$", "", text, flags=re.M | re.S) if "```" in text else re.sub(r"^    .*$", "", text, flags=re.M)


def _spans(text: str) -> Counter[str]:
    """Inline code; one that goes over a line's end counts with a blank there."""
    return Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(text)))


def _figures(text: str) -> Counter[str]:
    """Numbers outside code and links."""
    bare = re.sub(r"`[^`]+`|\]\([^)]*\)|<!--.*?-->", " ", _prose(text), flags=re.S)
    return Counter(re.findall(r"(?<![A-Za-z0-9_.])\d+(?:\.\d+)?(?![A-Za-z0-9_])", bare))


@pytest.mark.parametrize(("english", "chinese"), PAIRS.items(), ids=PAIRS)
def test_a_chinese_page_keeps_step(english: str, chinese: str) -> None:
    ours, theirs = _text(english), _text(chinese)
    levels = [re.findall(r"^(#+) ", _prose(text), re.M) for text in (ours, theirs)]
    assert levels[1] == levels[0], "headings"
    assert _code(theirs) == _code(ours), "commands"
    assert _spans(theirs) == _spans(ours), "options, files and names"
    assert _figures(theirs) == _figures(ours), "figures"
    assert len(re.findall("[一-鿿]", theirs)) > len(theirs) / 10, "it is in Chinese"


@pytest.mark.parametrize("page", [*PAIRS.values(), "docs/zh/glossary.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Files that are there, and headings that are there."""
    text = _text(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if heading:
            known = [
                re.sub(r"[^\w一-鿿 -]", "", h).strip().replace(" ", "-").lower() for h in re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            ]
            assert heading in known, f"{page}: {target}"


def test_the_glossary_explains_every_gate_word_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", _text("docs/zh/glossary.md"), re.M)[1:]
    assert len(rows) >= 30
    assert len({english for english, _, _ in rows}) == len(rows)
    assert all(re.search("[一-鿿]", meaning) for _, _, meaning in rows)
