"""Cells of the throughput matrix: input length x output length x concurrency."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_h20.core.errors import UsageError

RECIPES = ("steady", "blog")
BLOG_CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 100, 128, 200, 256, 512, 1024)
"""Rows of the write-up's table; its script lists the powers of two, the table also has 100 and 200."""
BLOG_LENGTHS = ((128, 128), (256, 256))
_ID = re.compile(r"in(\d+)-out(\d+)-c(\d+)")


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the matrix. Lengths in tokens; concurrency is the number of requests kept in flight."""

    input_len: int
    output_len: int
    concurrency: int

    def __post_init__(self) -> None:
        for name in ("input_len", "output_len", "concurrency"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"cell: {name} = {value!r}, a whole number from 1 is needed")

    @property
    def id(self) -> str:
        """`in128-out128-c64`"""
        return f"in{self.input_len}-out{self.output_len}-c{self.concurrency}"

    def __str__(self) -> str:
        return self.id

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The reverse of `id`. Raises UsageError."""
        match = _ID.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"cell {text!r}: a form like in128-out128-c64 is needed")
        return cls(*(int(group) for group in match.groups()))

    @property
    def cost(self) -> int:
        """Orders cells by how long they take: tokens of one wave of all streams, cheap first."""
        return self.concurrency * (self.input_len + self.output_len)


def matrix(concurrencies: Iterable[int] = BLOG_CONCURRENCIES, lengths: Iterable[tuple[int, int]] = BLOG_LENGTHS) -> tuple[Cell, ...]:
    """Every combination once, cheap cells first; by default the 26 rows of the write-up."""
    sizes = tuple(lengths)
    cells = {Cell(size[0], size[1], level) for level in concurrencies for size in sizes}
    return tuple(sorted(cells, key=lambda cell: (cell.cost, cell)))


def waves(concurrency: int) -> int:
    """How many requests each stream runs one after another in the `steady` recipe.

    The first wave starts with the joint prefill of all streams and the last one drains; what lies between is the
    steady part. Few streams finish a wave in seconds, so they get more of them: 4 up to 16 streams, 3 up to 128, 2
    above. With the write-up's own latencies the whole matrix takes about 70 minutes so, and 29 with its recipe.
    """
    if concurrency <= 16:
        return 4
    return 3 if concurrency <= 128 else 2


def requests_for(cell: Cell, recipe: str = "steady") -> int:
    """Requests of a cell: `steady` = concurrency x `waves`, `blog` = one per stream (the write-up's num_prompts)."""
    if recipe not in RECIPES:
        raise UsageError(f"recipe {recipe!r}: one of {', '.join(RECIPES)} is needed")
    return cell.concurrency if recipe == "blog" else cell.concurrency * waves(cell.concurrency)
