"""The layers as docs/architecture.md draws them: imports point downwards, few know pytest, heavy modules come late."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_h20"
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"

KNOW_PYTEST = {"plugin", "acceptance"}

LAYERS: tuple[tuple[str, set[str]], ...] = (
    ("words", {"core", "lang"}),
    ("ground", {"config", "nodes", "nccl", "load"}),
    ("engines", {"engines"}),
    ("readers", {"probes", "diagnosis", "endpoint"}),
    ("keepers", {"cluster", "report"}),
    ("opinions", {"checks"}),
    ("rehearsal", {"rehearsal"}),
    ("run", {"run"}),
    ("pytest", {"plugin"}),
    ("suite", {"acceptance"}),
    ("command line", {"cli", "__main__"}),
)
"""From the bottom. A room is a package directly below pytest_h20; it imports from its own layer and from below."""

HEAVY = {
    "paramiko": {"nodes"},
    "docker": {"nodes"},
    "openai": {"run", "endpoint", "checks", "plugin"},
    "yaml": {"config", "probes"},
    "sqlalchemy": {"report"},
    "ray": set[str](),
    "torch": {"checks"},  # the burn's script: it is sent into the engine's image, which has it
    "numpy": set[str](),
}
"""Who may import what costs time or is large."""

STARTUP = ("plugin.entry", "core.setting", "plugin.hookspecs", "plugin.fixtures")
"""What every pytest run of the environment imports, whether it asked for a cluster or not."""

RANK = {unit: rank for rank, (_, units) in enumerate(LAYERS) for unit in units}


@dataclass(frozen=True)
class Import:
    """One import statement. ``when``: ``start`` (module level), ``late`` (in a function), ``types`` (TYPE_CHECKING only)."""

    source: str
    line: int
    target: str
    when: str

    @property
    def unit(self) -> str:
        """The unit that imports."""
        return unit_of(self.source)

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def unit_of(module: str) -> str:
    """``pytest_h20.load.run`` -> ``load``; the package itself is ``""``."""
    return module.split(".")[1] if "." in module else ""


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("pytest_h20", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[Import]:
    """All imports of a module, by absolute name."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    yield from _walk(module, tree, "start")


def _walk(module: str, node: ast.AST, when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and when == "start":
            inner = "late"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "types"
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, child.lineno, alias.name, when)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(module, child)
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(module, child.lineno, full if full in MODULES else base, when)
        yield from _walk(module, child, inner)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return str(node.module)
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


ALL = [found for module in MODULES for found in imports_of(module)]
OURS = [found for found in ALL if found.target.split(".")[0] == "pytest_h20"]


def test_every_room_has_its_layer() -> None:
    units = {unit_of(module) for module in MODULES} - {""}
    assert units == set(RANK), "a new room: give it a layer here and in docs/architecture.md"


def test_there_are_rooms_only() -> None:
    assert {path.name for path in PACKAGE.glob("*.*")} == {"__init__.py", "__main__.py", "py.typed"}


def test_imports_point_downwards() -> None:
    upwards = [
        str(found)
        for found in OURS
        if found.when != "types" and found.unit and unit_of(found.target) and RANK[found.unit] < RANK[unit_of(found.target)]
    ]
    assert not upwards


def test_a_class_name_means_one_thing() -> None:
    """Whoever reads ``Progress`` need not ask which of three."""
    homes: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_a_verdict_is_said_in_one_way() -> None:
    """By the frame, or by the judge of a figure: whoever makes one by hand forgets what it looked at, or whose subject it is."""
    built = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Verdict"
    }
    assert built == {"core/verdict.py", "checks/frame.py", "report/model.py"}, "the last takes a record apart into its verdict again"


def test_no_module_needs_itself() -> None:
    """No cycle among the imports that happen when a module is loaded."""
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OURS:
        if found.when == "start" and found.target in MODULES and found.target != found.source:
            edges[found.source].add(found.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done:
            return
        for target in sorted(edges[module]):
            # a package's __init__ may gather what its own modules offer
            if not (target.startswith(module + ".") or module.startswith(target + ".")):
                visit(target, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_room_needs_itself() -> None:
    """No circle among rooms either, whenever the import happens: one can be read, tested and moved without another that needs it."""
    needs: dict[str, set[str]] = {unit: set() for unit in RANK}
    for found in OURS:
        if found.when != "types" and found.unit and unit_of(found.target) not in ("", found.unit):
            needs[found.unit].add(unit_of(found.target))
    while free := [unit for unit, others in needs.items() if not others]:
        needs = {unit: others.difference(free) for unit, others in needs.items() if unit not in free}
    assert not needs, f"these need each other: {needs}"


def test_only_the_shell_knows_pytest() -> None:
    knowing = {found.unit for found in ALL if found.target.split(".")[0] in ("pytest", "_pytest")}
    assert knowing == KNOW_PYTEST


def test_heavy_modules_have_few_doors() -> None:
    wrong = [str(found) for found in ALL if found.target.split(".")[0] in HEAVY and found.unit not in HEAVY[found.target.split(".")[0]]]
    assert not wrong


def test_the_load_generator_travels_alone() -> None:
    """It is copied into containers as a zip file: nothing but the standard library and our errors when it starts."""
    foreign = [
        str(found)
        for found in ALL
        if found.unit == "load"
        and found.when == "start"
        and found.target.split(".")[0] not in sys.stdlib_module_names
        and unit_of(found.target) != "load"
        and found.target != "pytest_h20.core.errors"
    ]
    assert not foreign


def test_start_up_imports_nothing_of_ours_but_itself() -> None:
    wrong = [
        str(found)
        for found in OURS
        if found.source.removeprefix("pytest_h20.") in STARTUP
        and found.when == "start"
        and found.target.removeprefix("pytest_h20.") not in (*STARTUP, "plugin")
    ]
    assert not wrong


def test_start_up_loads_nothing_heavy() -> None:
    """The same, as it really happens."""
    names = ", ".join(f"pytest_h20.{name}" for name in STARTUP)
    heavy = (*HEAVY, "pydantic", "asyncio", "ssl", "pytest_h20.plugin.live", "pytest_h20.config.inventory")
    code = f"import sys, pytest; old = set(sys.modules); import {names}; print(sorted(set({heavy!r}) & set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("layer", "units"), LAYERS, ids=[name for name, _ in LAYERS])
def test_the_page_draws_these_layers(layer: str, units: set[str]) -> None:
    row = re.search(rf"^\| {layer} \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert row is not None, f"docs/architecture.md has no row for {layer}"
    assert set(re.findall(r"`([^`]+)`", row[1])) == units


def test_no_test_imports_another_test() -> None:
    """What several tests share is a module of its own: a test file can be read, moved and run alone."""
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in sorted((PACKAGE.parent / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and re.search(r"(^|\.)test_\w+$", node.module)
        and "acceptance" not in node.module
    ]
    assert not wrong
