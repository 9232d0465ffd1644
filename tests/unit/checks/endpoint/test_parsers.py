"""Rows of the parser tests, by parser: those of models that can be told not to think have answers without a tag."""

from __future__ import annotations

import pytest

from pytest_h20.checks.endpoint.reasoning import BY_TAG, EXAMPLES, ROWS
from pytest_h20.core.verdict import Status
from pytest_h20.endpoint.client import Api
from tests.unit.checks.endpoint.running import ALL, context
from tests.unit.endpoint.engine import Engine


def red(parser: str, *faults: str) -> tuple[int, set[str]]:
    """(verdicts, rows that are not right)."""
    with Engine("sglang", "0.5.16", faults=frozenset(faults)) as server:
        verdicts = ALL["reasoning.parser_table"].run(Api(context(server, parser_name=parser)))
    return len(verdicts), {v.subject for v in verdicts if v.status is not Status.PASS}


@pytest.mark.parametrize(
    ("parser", "rows"),
    [
        ("deepseek-r1", ROWS),
        ("qwen3", BY_TAG),
        ("glm45", BY_TAG),
        ("deepseek-v3", BY_TAG),
        ("deepseek-v4", BY_TAG),
        ("", ROWS),
        ("kimi", ROWS),
    ],
)
def test_each_parser_is_held_against_its_own_rows(parser: str, rows: tuple[object, ...]) -> None:
    assert red(parser) == (len(rows), set())


def test_r1s_parser_for_a_model_that_may_not_think_is_caught() -> None:
    """sglang#9457: the whole answer is taken for reasoning."""
    assert red("qwen3", "parser_always_thinks")[1] == {"no_thought", "no_thought_lines", "no_thought_chinese"}
    assert red("deepseek-r1", "parser_always_thinks")[1] == set()


def test_a_greedy_parser_is_caught_whatever_its_name() -> None:
    assert "tag_in_code_with_think" in red("glm45", "parser_last_tag")[1]


def test_rows_have_names_of_their_own() -> None:
    for rows in EXAMPLES.values():
        assert len({row.id for row in rows}) == len(rows)
