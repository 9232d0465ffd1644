"""No text that people see is without a translation, and no translation loses what a text says."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "messages.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/messages.py"""
    spec = importlib.util.spec_from_file_location("messages", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["messages"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(tool: ModuleType) -> list[object]:
    found: list[object] = tool.texts()
    return found


def test_every_text_has_its_chinese(tool: ModuleType, texts: list[object]) -> None:
    lacking = [f"{t.where}: {t.template!r}" for t in tool.missing(texts, tool.messages())]
    assert lacking == [], "python tools/messages.py todo ROOM, then take ROOM FILE (docs/architecture.md)"


def test_no_translation_loses_or_makes_up_a_value(tool: ModuleType, texts: list[object]) -> None:
    assert tool.faults(texts, tool.messages()) == []


def test_a_text_is_found_wherever_it_stands(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new sentence in a check, a reason made of two, a word among words; not a pattern, a command, a docstring or a comparison."""
    package = tmp_path / "pytest_h20"
    (package / "checks" / "fabric").mkdir(parents=True)
    (package / "checks" / "fabric" / "new.py").write_text(
        '"""About it."""\n'
        "import re\n"
        'PATTERN = re.compile("a pattern of words")\n'
        'def check(say, n, found):\n    """Says it."""\n'
        '    if found == "not a text":\n        return say.skip("alone")\n'
        '    command = f"cat {n} 2>/dev/null"\n'
        '    return say.fail(f"{n} cable{\'s\' if n != 1 else \'\'} is new" + (f", the last in {found!r}" if found else ""))\n'
    )
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PACKAGE", package)
    found = {t.template: t for t in tool.texts()}
    assert set(found) == {"alone", "{0} cable{1} is new{2}", ", the last in {0}"}
    assert {t.room for t in found.values()} == {"checks.fabric"}
    assert found["{0} cable{1} is new{2}"].free == {1}
    lacking = tool.missing(found.values(), {"checks.fabric": {"alone": "单独"}})
    assert {t.template for t in lacking} == {"{0} cable{1} is new{2}", ", the last in {0}"}


def test_no_command_prints_its_words_past_the_catalogue(tool: ModuleType) -> None:
    """``say`` and ``told`` look a text up; ``print`` of a text does not, though the text has its Chinese."""
    past = []
    for path in sorted((tool.PACKAGE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and node.args and tool._stringish(node.args[0]):
                words = "".join(part for part in tool._parts(node.args[0]) if isinstance(part, str)).strip()
                past += [f"{path.name}:{node.lineno}: {words}"] if tool._for_people(words, telling=True) else []
    assert past == []


@pytest.mark.parametrize(
    ("english", "chinese", "said"),
    [
        ("{0} is gone", "没了", "{0} is lost"),
        ("{0} is gone", "{0} {1} 没了", "{1} is made up"),
        ("{0} is gone", "{0} is gone", "is no Chinese"),
        ("it stands nowhere", "哪里都没有", "stands in no code"),
    ],
)
def test_a_faulty_translation_is_told(tool: ModuleType, english: str, chinese: str, said: str) -> None:
    text = tool.Text("checks", "a.py:1", "{0} is gone", ("it",))
    told = tool.faults([text], {"checks": {english: chinese}})
    assert len(told) == 1
    assert said in told[0]
