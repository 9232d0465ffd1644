"""Writes the pages that are derived from the code, so that they cannot disagree with it.

    python tools/reference.py            write them
    python tools/reference.py --check    only say which are not current; exit status 1 if any

docs/options.md                     from the table in pytest_h20/core/setting.py
docs/inventory.md                   from the models in pytest_h20/config/inventory.py
docs/zh/inventory.md                the same in Chinese, with the words of tools/inventory_zh.py
docs/faults.md                      from the catalogue of faults, as ``python -m pytest_h20.cli.faults`` prints it
docs/checks/*.md                    from the checks, the other pages and the catalogue of faults: tools/checks_pages.py
environments/inventory.schema.json  as ``python -m pytest_h20 schema inventory`` prints it
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pytest_h20.cli.faults import page as faults_page
from pytest_h20.cli.schema import render
from pytest_h20.config import inventory
from pytest_h20.core.setting import OPTIONS, Option
from tools import inventory_zh
from tools.checks_pages import PAGE_FILES

REPOSITORY = Path(__file__).resolve().parents[1]
GENERATED = "<!-- written by tools/reference.py: edit {source} instead -->\n"

OPTIONS_HEAD = """# Options

    pytest --engine=sglang --nodes=my-cluster.yaml

Every option can stand in `pytest.ini` (or `pyproject.toml`, `tox.ini`) under the name in the second column. The command line wins.
The header of a run lists each value that is set and where it came from. Without `--nodes`, `--h20-attach` or `--h20-replay` the
plugin does nothing.

`--nodes` and `--engine` are short forms. A project whose own tests have options of these names keeps them; `--h20-nodes` and
`--h20-engine` always work.

| option | ini | meaning |
|---|---|---|
"""

OPTIONS_TAIL = """
A flag in an ini file is `true` or `false`. A list takes several words:

    [pytest]
    h20_nodes = environments/h20-2node.yaml
    h20_engine = sglang:tuned
    h20_keep = true

pytest-html's own options are worth knowing: `--html=report.html --self-contained-html` writes the report.
"""

INVENTORY_HEAD = """# The inventory

Which machines, which rails, which model, which engines, what is expected of them: one YAML file.

    python -m pytest_h20 discover root@node01 root@node02 > my-cluster.yaml
    pytest --engine=sglang --nodes=my-cluster.yaml --h20-plan

The first command asks the hosts and writes the file; it changes nothing on them. The second prints what a run would do with it and
touches nothing. `environments/h20-2node.yaml` is a complete example: the write-up's cluster.

An unknown field, a wrong type, a value given twice or a missing rail ends the run before anything starts, in one line per problem:

    ERROR: my-cluster.yaml: nodes[0].contrl_interface = "xgbe0": unknown field; accepted here: name, address, ...

File names in it (`limits`, `key`, `known_hosts`, `sha256`) start from the inventory's own folder. Editors that know JSON Schema
complete and check it while you type; put this line at the top:

    # yaml-language-server: $schema=environments/inventory.schema.json

Bold fields are required. "none" means: not given.

"""

PLACES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", inventory.Inventory),
    ("`nodes[*]`", inventory.NodeSpec),
    ("`nodes[*].rails[*]`", inventory.Rail),
    ("`nodes[*].other_hcas[*]`", inventory.ManagementHca),
    ("`ssh`, `nodes[*].ssh`", inventory.Ssh),
    ("`model`", inventory.Model),
    ("`engines.*`", inventory.Engine),
    ("`engines.*.profiles.*`", inventory.Profile),
    ("`engines.*.profiles.*.fits`", inventory.ProfileFits),
    ("`engines.*.profiles.*.container`", inventory.ContainerOptions),
    ("`load`, `engines.*.profiles.*.load`", inventory.LoadSettings),
    ("`soak`", inventory.SoakSettings),
    ("`endpoint`", inventory.EndpointSettings),
    ("`attach`", inventory.Attach),
)
ELSEWHERE = {"Expect": "[expectations](checks-environment.md)", "JsonValue": "any value"}


def options_page() -> str:
    """docs/options.md"""
    rows = [f"| {_cell(_shown(option))} | `{option.dest}` | {_cell(_meaning(option))} |\n" for option in OPTIONS]
    return "".join([GENERATED.format(source="pytest_h20/core/setting.py"), OPTIONS_HEAD, *rows, OPTIONS_TAIL])


def _shown(option: Option) -> str:
    value = f"={option.metavar or 'NAME'}" if option.kind != "flag" else ""
    if option.choices and not option.metavar:
        value = "=" + "|".join(option.choices)
    names = [f"`--{option.name}{value}`"] + ([f"`{option.alias}{value}`"] if option.alias else [])
    return ", ".join(names)


def _meaning(option: Option) -> str:
    more = " May be given several times." if option.kind == "list" and "twice" not in option.help else ""
    return option.help + ("" if option.help.endswith(".") else ".") + more


def inventory_page() -> str:
    """docs/inventory.md"""
    return _inventory(INVENTORY_HEAD, "| field | is | default | meaning |\n|---|---|---|---|\n", str, str)


def chinese_inventory_page() -> str:
    """docs/zh/inventory.md. Raises ``SystemExit`` that names the texts without a translation."""
    missing: list[str] = []

    def translated(text: str) -> str:
        if not text or text.startswith("`"):  # a place in the file is its own name
            return text
        if text not in inventory_zh.TEXTS:
            missing.append(text)
        return inventory_zh.TEXTS.get(text, text)

    def kind(text: str) -> str:
        for pattern, words in inventory_zh.TYPES:
            text = text if text.startswith("`") and pattern.startswith(r"\b") else re.sub(pattern, words, text)
        return text

    page = _inventory(inventory_zh.HEAD, inventory_zh.COLUMNS, translated, kind)
    if missing:
        raise SystemExit("tools/inventory_zh.py: TEXTS lacks: " + "; ".join(map(repr, missing)))
    return page


def _inventory(head: str, columns: str, words: Callable[[str], str], kind: Callable[[str], str]) -> str:
    """``words`` gives texts for people in the page's language, ``kind`` the columns "is" and "default"."""
    anchors = {model.__name__: place for place, model in PLACES}
    parts = [GENERATED.format(source="pytest_h20/config/inventory.py"), head]
    for place, model in PLACES:
        parts.append(f"## {words(place)}\n\n{words(_summary(model))}\n\n")
        parts.append(columns)
        for shown, is_, default, meaning in _rows(model, anchors):
            parts.append(f"| {shown} | {_cell(kind(is_))} | {_cell(kind(default))} | {_cell(words(meaning))} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def _rows(model: type[BaseModel], anchors: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        spec = schema["properties"][name]
        required = field.is_required()
        default = "" if required else _default(field.get_default(call_default_factory=True))
        shown = f"**`{name}`**" if required else f"`{name}`"
        yield shown, _type(spec, anchors), default, field.description or ""


def _type(spec: dict[str, Any], anchors: dict[str, str]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in spec:
        name = str(spec["$ref"]).rsplit("/", 1)[-1]
        return ELSEWHERE.get(name) or f"see {anchors[name]}"
    if "anyOf" in spec:
        return " or ".join(dict.fromkeys(_type(s, anchors) for s in spec["anyOf"] if s.get("type") != "null"))
    if "enum" in spec or "const" in spec:
        return " or ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    kind = spec.get("type")
    if kind == "array":
        if "prefixItems" in spec:
            return "pair"
        return f"list: {_type(spec['items'], anchors)}"
    if kind == "object":
        values = spec.get("additionalProperties") or next(iter(spec.get("patternProperties", {}).values()), None)
        return f"mapping: {_type(values, anchors)}" if isinstance(values, dict) else "mapping"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(str(kind), "any value") + _range(spec)


def _range(spec: dict[str, Any]) -> str:
    if "minimum" in spec and "maximum" in spec:
        return f", {spec['minimum']} to {spec['maximum']}"
    if "minimum" in spec:
        return f", {spec['minimum']:g} or more"
    if "exclusiveMinimum" in spec:
        return f" above {spec['exclusiveMinimum']:g}"
    return ""


def _default(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its own defaults"
    if value in ((), {}, ""):
        return "empty"
    return f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema_file() -> str:
    """environments/inventory.schema.json"""
    return render("inventory")


FILES: dict[str, Callable[[], str]] = {
    "docs/options.md": options_page,
    "docs/inventory.md": inventory_page,
    "docs/zh/inventory.md": chinese_inventory_page,
    "environments/inventory.schema.json": schema_file,
    "docs/faults.md": faults_page,
    **PAGE_FILES,
}


def stale() -> list[str]:
    """The files that are not what the code says."""
    return [
        name
        for name, text in FILES.items()
        if not (REPOSITORY / name).is_file() or (REPOSITORY / name).read_text(encoding="utf-8") != text()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description="Write the pages that are derived from the code")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a file is not current")
    options = parser.parse_args(argv)
    names = stale()
    for name in names:
        if not options.check:
            (REPOSITORY / name).write_text(FILES[name](), encoding="utf-8")
        print(f"{name}: {'not current; run python tools/reference.py' if options.check else 'written'}")
    return int(options.check and bool(names))


if __name__ == "__main__":
    sys.exit(main())
