"""Everything that carries words or a result can be read on its ground, on light and on dark screens: WCAG 2.1, 1.4.3 and 1.4.11."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pytest_h20.report.html

STYLE = Path(pytest_h20.report.html.__file__).with_name("style.css").read_text(encoding="utf-8")
BLOCKS = re.findall(r":root \{([^}]*--h20[^}]*)\}", STYLE)
LIGHT, DARK = (dict(re.findall(r"--h20-([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in BLOCKS)
TEXT = [(word, ground) for word in ("text", "muted", "link", "good", "bad", "warn", "none") for ground in ("bg", "soft")]
TEXT += [(word, f"{word}-bg") for word in ("good", "bad", "warn", "none")]
DRAWN = [(f"s{number}", "bg") for number in range(4)]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_the_guideline_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_every_word_and_line_can_be_read(palette: dict[str, str]) -> None:
    poor = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in TEXT}
    assert {pair: round(value, 2) for pair, value in poor.items() if value < 4.5} == {}
    lines = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in DRAWN}
    assert {pair: round(value, 2) for pair, value in lines.items() if value < 3} == {}


def test_both_screens_have_every_colour_and_paper_is_light() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE
