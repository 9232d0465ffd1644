"""Any text is an inventory, limits, or an error in words: never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_h20.config.inventory import Inventory, inventory_schema, parse_inventory, read_yaml
from pytest_h20.config.limits import LimitFile, parse_limits
from pytest_h20.core.errors import H20Error, UsageError

ENVIRONMENTS = Path(__file__).parents[3] / "environments"
INVENTORY = (ENVIRONMENTS / "h20-2node.yaml").read_text(encoding="utf-8")
LIMITS = (ENVIRONMENTS / "thresholds/sglang-default.yaml").read_text(encoding="utf-8")
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["\x00", "\n", "~", "*", "{a,b}", "nan", "-.inf", "1e999", "٣", "\ud7ff", "../..", "root@h:22", "0x10"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS.filter(lambda k: k == k), inner, max_size=3), max_leaves=6
)


def outcome(make: Callable[..., Any], *args: Any) -> Any:
    """What is made, or the words of our error."""
    try:
        return make(*args)
    except H20Error as error:
        return str(error)


def read_inventory(text: str) -> Inventory:
    """As a file with this text."""
    return parse_inventory(read_yaml(text, "x.yaml"), "x.yaml")


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, one in inner for place in places(one, (*way, key)))]


def changed(text: str, data: st.DataObject) -> Any:
    """The document with a few places that hold something else, are gone, or are called otherwise."""
    document = yaml.safe_load(text)
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(places(document)))
        if not way:
            continue
        here = document
        for step in way[:-1]:
            here = here[step]
        match data.draw(st.sampled_from(["set", "drop", "rename"])):
            case "drop":
                del here[way[-1]]
            case "rename" if isinstance(here, dict):
                here[data.draw(SCALARS.filter(lambda k: k == k))] = here.pop(way[-1])
            case _:
                here[way[-1]] = data.draw(VALUES)
    return document


@QUICK
@given(st.data())
def test_a_changed_inventory_is_a_model_or_an_error_in_its_own_words(data: st.DataObject) -> None:
    made = outcome(parse_inventory, changed(INVENTORY, data), "x.yaml")
    assert isinstance(made, Inventory) or ("x.yaml" in made and "key_file" not in made)


@QUICK
@given(st.data())
def test_changed_limits_are_a_model_or_an_error(data: st.DataObject) -> None:
    document = changed(LIMITS, data)
    written = {"x.yaml": str(yaml.safe_dump(document)), "x.json": json.dumps(document, default=str, skipkeys=True)}
    for name, text in written.items():
        made = outcome(parse_limits, text, name)
        assert isinstance(made, LimitFile) or name in made


@QUICK
@given(st.text(max_size=200) | st.text(alphabet="[]{}&*!|>-:, \n\t\"'#%@ab01", max_size=80))
def test_any_text_is_data_or_an_error(text: str) -> None:
    for name in ("x.yaml", "x.json"):
        made = outcome(parse_limits, text, name)
        assert isinstance(made, LimitFile) or name in made
    read = outcome(read_inventory, text)
    assert isinstance(read, Inventory) or "x.yaml" in read


@pytest.mark.parametrize("name", ["x.json", "x.yaml"])
@pytest.mark.parametrize(
    "bomb",
    ["[" * 100_000, '{"a":' * 50_000, "[" * 20_000 + "]" * 20_000, "9" * 100_000, '{"name": ' + "9" * 100_000 + "}", "1e" + "9" * 9],
    ids=["open", "objects", "nested", "digits", "number", "exponent"],
)
def test_a_bomb_is_one_clear_error(bomb: str, name: str) -> None:
    with pytest.raises(UsageError, match="x\\.") as caught:
        parse_limits(bomb, name)
    assert len(str(caught.value)) < 3000


def test_the_docs_say_what_a_glob_of_logs_is() -> None:
    description = inventory_schema()["$defs"]["Attach"]["properties"]["nccl_logs"]["description"]
    assert "~" in description
    assert "braces" in description
