"""Comments of a file in the reader's language; keys, values and commands stay."""

from __future__ import annotations

import re

import pytest
import yaml

from pytest_h20 import lang
from pytest_h20.cli.example import main as example
from pytest_h20.config.environments import environments
from pytest_h20.lang.comments import comments, translated

FILE = """\
# One paragraph of words
# on two lines:
#   a command --with=words
# another
name: x   # beside it
  # field: commented out        # beside that
  # indented
url: "a # b"
"""


def test_a_paragraph_is_one_text_and_commands_are_none() -> None:
    assert [*comments(FILE)] == ["One paragraph of words on two lines:", "another", "beside it", "beside that", "indented"]
    assert translated(FILE) == FILE, "in English the file as it stands"


@pytest.mark.parametrize("name", ["h20-2node.yaml", "h20-2node-today.yaml"])
def test_the_example_of_a_chinese_reader_is_the_same_inventory(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with lang.speaking("zh"):
        example([name])
    shown, ours = capsys.readouterr().out, (environments() / name).read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(ours)
    assert [said for said in comments(shown) if not re.search("[\u4e00-\u9fff]", said)] == ["96 GiB"]
