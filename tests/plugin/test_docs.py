"""What docs/ tells people to type works: run where no hardware is needed, parsed where it is."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

from pytest_h20.__main__ import COMMANDS
from pytest_h20.core.setting import OPTIONS
from pytest_h20.plugin import fixtures, hookspecs, short_names
from tests.plugin.foreign import REHEARSAL, pytest_in, write

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("*.md"), REPOSITORY / "README.md", *REPOSITORY.glob("examples/*/README.md")])


@dataclass(frozen=True)
class Command:
    """One command line of a page."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it, without redirections and what follows ``&&``."""
        words = shlex.split(self.line, comments=True)
        for stop in (">", "&&", "|", "<"):
            if stop in words:
                words = words[: words.index(stop)]
        return words

    @property
    def is_pytest(self) -> bool:
        """A run of pytest."""
        return self.words[0] == "pytest" or self.words[:3] == ["python", "-m", "pytest"]

    @property
    def cli(self) -> str | None:
        """The command of ours that it calls."""
        return self.words[3] if self.words[:3] == ["python", "-m", "pytest_h20"] else None

    @property
    def options(self) -> set[str]:
        """The long options on it."""
        return {word.partition("=")[0] for word in self.words if word.startswith("--") and len(word) > 2}

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def text_of(page: Path) -> str:
    """A page."""
    return page.read_text(encoding="utf-8")


def code(page: Path, language: str = "") -> list[str]:
    """The code blocks of a page: fenced with a language, or (no language) indented by four spaces."""
    text = text_of(page)
    if language:
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    bare = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"(?:^    .*\n)+(?:(?:\n)*^    .*\n)*", bare, re.M)
    return [re.sub(r"^    ", "", block, flags=re.M) for block in found]


def commands() -> Iterator[Command]:
    """Every command of every page."""
    for page in PAGES:
        lines = [line for block in code(page) for line in block.splitlines()]
        lines += [line.removeprefix("$ ") for block in code(page, "console") for line in block.splitlines() if line.startswith("$ ")]
        lines += re.findall(r"`(python -m pytest_h20 [^`…]+)`", text_of(page))
        for line in lines:
            if re.match(r"(pytest|python -m pytest(_h20)?) ", line):
                yield Command(page.name, line)


ALL = list(dict.fromkeys(commands()))


def test_the_pages_have_commands() -> None:
    assert len([c for c in ALL if c.is_pytest]) > 20
    assert {c.cli for c in ALL if c.cli} == set(COMMANDS), "every command is shown on some page"


@pytest.fixture(scope="module")
def known_to_pytest() -> set[str]:
    """Every long option that pytest knows here."""
    done = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True, timeout=60)
    return set(re.findall(r"--[a-z][a-z0-9-]+", done.stdout))


@pytest.mark.parametrize("command", [c for c in ALL if c.is_pytest], ids=str)
def test_pytest_knows_the_options(command: Command, known_to_pytest: set[str]) -> None:
    assert command.options <= known_to_pytest


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """``--help`` of every command of ours."""
    found = {}
    for name in COMMANDS:
        argv = [sys.executable, "-m", "pytest_h20", name, "--help"]
        found[name] = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, helps: dict[str, str]) -> None:
    assert helps[name].startswith("usage: ")
    assert f"pytest_h20 {name}" in helps[name]
    assert len(helps[name].splitlines()) > 5


@pytest.mark.parametrize("command", [c for c in ALL if c.cli], ids=str)
def test_our_commands_know_the_options(command: Command, helps: dict[str, str]) -> None:
    assert command.cli in COMMANDS
    assert command.options <= set(re.findall(r"--[a-z][a-z0-9-]+", helps[str(command.cli)]))


# ---------------------------------------------------------------------- run


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume it: an inventory, tests of one's own, logs."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(REPOSITORY / "environments" / "thresholds", folder / "thresholds")
    inventory = text_of(REPOSITORY / "environments" / "h20-2node.yaml")
    asked_for = "".join(code(DOCS / "soak-and-drills.md", "yaml"))
    assert set(yaml.safe_load(asked_for)) == {"soak", "drills"}
    (folder / "my-cluster.yaml").write_text(f"{inventory}{asked_for}", encoding="utf-8")
    write(folder)
    (folder / "tests").mkdir()
    for number, block in enumerate(code(DOCS / "reuse.md", "python")):
        (folder / "tests" / f"test_{number}.py").write_text(block, encoding="utf-8")
    return folder


def runnable(text: str) -> list[Command]:
    """Commands of pytest with this in them, each once."""
    pages = ("index.md", "tour.md", "gate-ci.md", "accept-a-cluster.md", "reuse.md", "soak-and-drills.md")
    found = [c for c in ALL if c.is_pytest and text in c.line and c.page in pages]
    return list({shlex.join(c.words): c for c in found}.values())


@pytest.mark.parametrize("command", runnable("--h20-plan"), ids=str)
def test_plans_of_the_pages(here: Path, command: Command) -> None:
    done = pytest_in(here, *command.words[1:])
    assert done.status == 0, done.output
    assert "# 1. on node01" in done.output
    assert not done.runs


@pytest.mark.parametrize("command", runnable("--nodes=rehearsal"), ids=str)
def test_rehearsals_of_the_pages(here: Path, command: Command) -> None:
    done = pytest_in(here, *command.words[1:], "-p", "no:randomly", timeout=500)
    red = {gate["name"] for gate in done.verdict["gates"] if gate["status"] in ("fail", "unknown")}
    assert done.status == int(bool(red)), done.output[-6000:]
    assert ("NOT ACCEPTED: " if red else "EVERY GATE HOLDS, BUT THIS IS A REHEARSAL RUN: ") in done.output
    if "--h20-fault" in command.options:
        assert "fabric" in red
    else:
        # A rehearsal's seconds are this machine's, many times as fast: its throughput suffers from whatever else runs here, and of a
        # soak's second and a half too little may be left to measure.
        assert red <= {"throughput", "soak"}, done.output[-6000:]
        assert not [g for g in done.verdict["gates"] if g["name"] == "soak" and g["status"] == "fail"], done.output[-6000:]
    if "--h20-soak" in command.options:
        argv = [sys.executable, "-m", "pytest_h20", "soak", str(done.runs[-1])]
        again = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert re.search(
            r"40 bins, [0-9.]+ of 60 min; [1-9][0-9]+ requests answered, 0 failed\n  \w+ +sglang output throughput", again.stdout
        )
    if "--html" in command.options:
        assert "<svg" in (here / "report.html").read_text(encoding="utf-8")


def test_the_pages_have_rehearsals() -> None:
    assert len(runnable("--nodes=rehearsal")) >= 4
    assert len(runnable("--h20-plan")) >= 1


@pytest.mark.parametrize("name", ["inventory", "verdict"])
def test_schemas_are_printed(name: str) -> None:
    argv = [sys.executable, "-m", "pytest_h20", "schema", name]
    assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.startswith("{")


# ---------------------------------------------------------------------- hooks, fixtures, YAML


def test_hooks_of_the_page_are_hooks() -> None:
    functions = [f for b in code(DOCS / "extend.md", "python") for f in ast.parse(b).body if isinstance(f, ast.FunctionDef)]
    specs = dict(inspect.getmembers(hookspecs, inspect.isfunction))
    hooks = [f for f in functions if f.name.startswith("pytest_")]
    assert {f.name for f in hooks} == set(specs)
    assert [f.name for f in functions if f not in hooks and not f.decorator_list] == []
    for function in hooks:
        assert {a.arg for a in function.args.args} <= set(inspect.signature(specs[function.name]).parameters)


def test_hooks_of_the_page_work(tmp_path: Path) -> None:
    limits = (
        "name: ours\norigin: {kind: file}\nmetrics: {output_throughput: {kind: min, unit: tok/s}}\ncells:\n"
        "  - {input: 128, output: 128, concurrency: 1, output_throughput: 5}\n"
        "  - {input: 128, output: 128, concurrency: 8, output_throughput: 5}\n"
    )
    (tmp_path / "limits").mkdir()
    for profile in ("default", "tuned", "dp-attention", "torch-compile"):
        (tmp_path / "limits" / f"sglang-{profile}.yaml").write_text(limits)
    write(tmp_path, conftest="\n\n".join(code(DOCS / "extend.md", "python")), test_it="def test_it(cluster): pass\n")
    done = pytest_in(tmp_path, *REHEARSAL, "-s", "test_it.py")
    assert done.status == 0, done.output
    assert done.check("endpoint.router_name")[0]["status"] == "pass"
    assert "not accepted: " in done.output


def test_the_page_lists_every_fixture() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", text_of(DOCS / "reuse.md"), re.M))
    there = {name for name, value in vars(fixtures).items() if type(value).__name__ == "FixtureFunctionDefinition"}
    assert {name if name == "h20_engine" else f"h20_{name}" for name in table} == there
    assert table - {"h20_engine"} == set(short_names.SCOPES)


def test_yaml_of_the_pages_can_be_read() -> None:
    jobs = [block for block in code(DOCS / "gate-ci.md") if block.startswith("name:")]
    jobs.append(text_of(REPOSITORY / "examples" / "pipelines" / "gitlab-ci.yml"))
    assert len(jobs) == 2
    for block in jobs:
        assert isinstance(yaml.safe_load(block), dict)
        assert set(re.findall(r"--(h20-[a-z-]+)", block)) <= {o.name for o in OPTIONS}


def test_links_between_the_pages_lead_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(page))]
    assert not [f"{p.name} -> {t}" for p, t in links if not t.startswith("http") and not (p.parent / t).exists()]


def test_every_page_is_reachable_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", text_of(DOCS / "index.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} == linked


# ---------------------------------------------------------------------- generated


def reference() -> ModuleType:
    """tools/reference.py"""
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    assert reference().stale() == [], "python tools/reference.py"


def test_every_field_of_the_inventory_is_explained() -> None:
    page = reference().inventory_page()
    rows = re.findall(r"^\| \*{0,2}`\w+`\*{0,2} \|.*\| (.*?) \|$", page, re.M)
    assert len(rows) > 80
    assert all(rows)


def test_inventories_name_their_schema_and_hold_it() -> None:
    """The schema that editors use says the same as the models: of the examples, and of a mistake."""
    schema = json.loads((REPOSITORY / "environments" / "inventory.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in ("h20-2node.yaml", "lab.yaml"):
        data = yaml.safe_load((REPOSITORY / "environments" / name).read_text(encoding="utf-8"))
        assert list(validator.iter_errors(data)) == []
        data["nodes"][0]["contrl_interface"] = "xgbe0"
        assert not validator.is_valid(data)


def test_the_shipped_inventory_is_printed_and_can_be_used(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest_h20", "example"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (REPOSITORY / "environments" / "h20-2node.yaml").read_text(encoding="utf-8")
    shown = re.sub(r"address: 10\.63\.65\.20", "address: 127.9.9.20", done.stdout)  # nobody's: the plan tells which nodes answer
    (tmp_path / "my-cluster.yaml").write_text(shown, encoding="utf-8")
    plan = pytest_in(tmp_path, "--engine=sglang", "--nodes=my-cluster.yaml", "--h20-plan")
    assert plan.status == 0, plan.output
    assert "sglang-default.yaml" in plan.output


def test_no_page_sends_anybody_to_an_index_that_has_no_such_package() -> None:
    pages = [*DOCS.glob("*.md"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "examples").rglob("*.md")]
    assert [p.name for p in pages if re.search(r"pip install '?pytest-h20", p.read_text(encoding="utf-8"))] == []
