"""docs/checks/GATE.md: every check by its id, with what it judges, what to do, the faults that turn it red, and the threads behind them.

Nothing is written here that is not written elsewhere: titles and next steps come from the code, rows from the other pages of docs/, faults
from the rehearsal's catalogue, threads from docs/sources.md. ``python tools/reference.py`` writes the pages.
"""

from __future__ import annotations

import ast
import fnmatch
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from pytest_h20.checks import CLUSTER_CHECKS, NODE_CHECKS, RAIL_CHECKS
from pytest_h20.checks.endpoint.catalog import ANSWERS, ENDPOINT, REASONING
from pytest_h20.cli.faults import linked
from pytest_h20.core.verdict import GATE_TITLES, GateName
from pytest_h20.rehearsal.faults import CATALOGUE, Fault

DOCS = Path(__file__).resolve().parents[1] / "docs"
GATES = "|".join(gate.value for gate in GateName)
ID = re.compile(rf"^(?:{GATES})\.[a-z0-9_]+$")
CODE = re.compile(r"\bF\d\d\b")
THREAD = re.compile(r"\[[^\]]+\]\(https://github\.com/[^)]+/(?:issues|pull)/\d+\)")
DO, SAYS = "what to do", "what it says"
"""Columns of the other pages that have a place of their own here."""
MADE = "<!-- written by tools/reference.py (tools/checks_pages.py): edit the check, its page or the fault instead -->\n"
HEAD = """# Gate `{gate}`: every check

{title}. For who sees one of these ids in a report: what it judges, what turns it red, what to do, and where it happened to others.
A fault is one that the rehearsal can make: `pytest --engine=sglang --nodes=rehearsal:quick --h20-fault=NAME` ([all](../faults.md)).
"""
NO_STEP = "the verdict itself names the next step, made for what it found"


@dataclass
class Row:
    """What a page of docs/ says of a check: page, and column to text."""

    page: str
    cells: dict[str, str]


@dataclass
class Entry:
    """One check. ``judges``: sentences; ``steps``: what its code says to do; ``rows``: of other pages; ``faults``: which turn it red."""

    id: str
    judges: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@cache
def entries() -> dict[str, Entry]:
    """Every check that a gate has, in the order of its id."""
    found: dict[str, Entry] = {}

    def of(check: str) -> Entry:
        return found.setdefault(check, Entry(check))

    for listed in (*NODE_CHECKS.values(), *RAIL_CHECKS.values(), *CLUSTER_CHECKS.values()):
        of(listed.id).judges += [listed.title + ".", listed.description]
        steps = (_PLACE.sub("…", step) for step in (listed.action, *_actions(listed.function)))
        of(listed.id).steps += list(dict.fromkeys(filter(None, steps)))
    for asked in (*ENDPOINT, *REASONING, *ANSWERS):
        of(asked.id).judges += [asked.title + "."]
        of(asked.id).steps += list(dict.fromkeys(filter(None, (asked.action, *_actions(inspect.unwrap(asked.run))))))
    for fault in CATALOGUE.values():
        for check in fault.red:
            of(check).faults.append(fault)
    rows = list(_rows())
    for cell, _ in rows:
        for name in _ids(cell, ()):
            of(name)
    for cell, row in rows:
        for name in _ids(cell, tuple(found)):
            of(name).rows.append(row)
    for name, entry in found.items():
        if name.endswith(".kernel_log") and not entry.rows:
            entry.rows.append(
                Row("checks-load.md", {"red when": "the kernel of a node wrote a line that means a fault while this gate ran"})
            )
    return dict(sorted(found.items()))


_PLACE = re.compile(r"\{\w+\}")
"""A value of the rail in the action of a check."""


def _actions(function: Callable[..., object]) -> Iterator[str]:
    """The next steps that stand in a check's own code, values as ``…``."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if not isinstance(node, ast.Call):
            continue
        told = [word.value for word in node.keywords if word.arg == "action"]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "unknown":
            told += node.args[1:2]
        for value in told:
            text = _literal(value)
            if text:
                yield text


def _literal(value: ast.expr) -> str:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in value.values)
    return ""


def _rows() -> Iterator[tuple[str, Row]]:
    """First cell and row of every table of docs/ that begins with checks."""
    for page in sorted((*DOCS.glob("checks-*.md"), DOCS / "soak-and-drills.md")):
        columns: list[str] = []
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if not cells or set(line) <= set("|- :"):
                columns = columns if cells else []
            elif not columns:
                columns = cells
            elif _ids(cells[0], ()):
                yield cells[0], Row(page.name, dict(zip(columns[1:], cells[1:], strict=False)))


def _ids(cell: str, known: tuple[str, ...]) -> list[str]:
    """The checks that a first cell names: ```soak.answers`, `.text`, `.rail_*` ``. Those with a star among the known ones."""
    gate, found = "", list[str]()
    for word in re.findall(r"`([^`]+)`", cell):
        name = gate + word if word.startswith(".") else word
        gate = name.partition(".")[0]
        found += [name] if ID.match(name) else fnmatch.filter(known, name) if "." in name and "*" in name else []
    return found


@cache
def _threads() -> dict[str, str]:
    """F-number -> what is seen, and its threads, of docs/sources.md."""
    found = {}
    for line in (DOCS / "sources.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^\| (F\d\d) \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            links = ", ".join(THREAD.findall(cells[-1]))
            found[match[1]] = f"[{match[1]}](../sources.md#failures): {cells[1]}" + (f" ({links})" if links else "")
    return found


def page(gate: GateName) -> str:
    """docs/checks/GATE.md"""
    parts = [MADE, HEAD.format(gate=gate.value, title=GATE_TITLES[gate])]
    parts += [_section(entry) for name, entry in entries().items() if name.partition(".")[0] == gate.value]
    return parts[0] + "\n".join(parts[1:]).rstrip() + "\n"


def _section(entry: Entry) -> str:
    lines = [f"## {entry.id}", ""]
    told = {name: text for row in entry.rows for name, text in row.cells.items() if text and text != "—"}
    seen = " ".join([*(fault.source for fault in entry.faults), *told.values(), *entry.judges])
    judges = [entry.judges[0], told.pop(SAYS)] if SAYS in told and entry.judges else entry.judges
    if judges:
        lines.append(f"- **Judges**: {linked(_moved(' '.join(filter(None, judges)).replace('``', '`')))}")
    steps = [_moved(told.pop(DO))] if DO in told else entry.steps
    lines += [f"- **{_label(name)}**: {linked(_moved(text))}" for name, text in told.items()]
    lines.append(f"- **What to do**: {linked('; or '.join(steps) or NO_STEP)}")
    for fault in sorted(entry.faults, key=lambda f: f.name):
        lines.append(f"- **Fault** `{fault.name}`: {fault.sentence}{_source(fault)}")
    for code in sorted(set(CODE.findall(seen)) & set(_threads())):
        lines.append(f"- **Seen by others**: {_threads()[code]}")
    for name in dict.fromkeys(row.page for row in entry.rows):
        lines.append(f"- **More**: [{_heading(name)}](../{name})")
    return "\n".join(lines) + "\n"


def _source(fault: Fault) -> str:
    told = re.sub(r"\bissue \d+(; |: |$)", "", fault.source).strip()
    return f" ({linked(told)})" if re.sub(r"F\d\d[,; ]*", "", told) else ""


@cache
def _heading(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _label(column: str) -> str:
    return column[:1].upper() + column[1:] if column else "When"


def _moved(text: str) -> str:
    """Links of a page in docs/, as they read one folder deeper."""
    return re.sub(r"\]\((?!https?:)([^)]+)\)", r"](../\1)", text)


PAGE_FILES: dict[str, Callable[[], str]] = {f"docs/checks/{gate.value}.md": partial(page, gate) for gate in GateName}
