"""What errors of this package go on with."""

from __future__ import annotations

import pytest

from pytest_h20.core.errors import instead

KNOWN = ("rail-down", "fill-shm")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rail-dwn", " (did you mean rail-down?); there are rail-down, fill-shm"),
        ("x", "; there are rail-down, fill-shm"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_in_whole_sentences(name: str, told: str) -> None:
    assert instead(name, KNOWN) == told


def test_the_name_is_told_as_it_is_typed() -> None:
    assert "did you mean rehearsal:rail-down?" in instead("rail-dwn", KNOWN, "rehearsal:")
