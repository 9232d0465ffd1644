"""The texts of the code that people see, and which of them have no Chinese yet.

    python tools/messages.py                     # per room: how many texts, how many without a translation
    python tools/messages.py todo checks.fabric  # those without one: key, tab, text; below each where it stands
    python tools/messages.py take checks.fabric FILE   # lines "key, tab, Chinese" into pytest_h20/lang/zh/checks.fabric.json

A text is found where it stands, by the syntax tree: a string, or an f-string whose values became numbered places. ``-`` as its Chinese says
that it is the same in every language: a command, a pattern, a name. Terms: docs/zh/glossary.md.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_h20.lang.comments import comments

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pytest_h20"
CATALOGUE = PACKAGE / "lang" / "zh"

SPLIT = ("checks", "report")
"""Rooms whose folders are rooms of their own here: ``checks.fabric``."""
ONLY_ERRORS = {"core", "rehearsal", "load", "__main__"}
"""Rooms of which people see the texts of errors only; ``ALSO`` are the modules that say more."""
ALSO = {"core/gpus.py", "core/setting.py", "core/verdict.py", "load/canary.py", "load/sanity.py", "load/share.py", "rehearsal/canaries.py"}
NOT_SEEN = {"lang", "cli/faults.py", "report/export.py", "report/junit.py", "report/github.py", "report/calibrate.py", "report/handoff.py"}
"""Machines read it, it is a file to be edited, or it is this."""

PRINTED = ("h20-2node.yaml", "h20-2node-today.yaml")
"""Inventories that ``example`` prints for operators, with their comments; the others are those of the lab."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MACHINERY = _words(
    "compile search match fullmatch findall finditer sub split rsplit getattr setattr hasattr get startswith endswith removeprefix "
    "removesuffix strip lstrip rstrip replace encode decode partition rpartition find count index Path open ValueError AssertionError "
    "TypeError KeyError RuntimeError NotImplementedError Field TypeVar "
    "import_module execute literal_eval getLogger run_script addoption addini add_marker fnmatchcase"
)
"""What is given to these is no text for people."""
MACHINE_WORDS = _words(
    "class_ encoding errors key id help metavar mode dest alias pattern name prog epilog description weak context unless code argv band"
)
"""Nor is what has these names as an argument."""
ARGUMENTS = _words("add_argument ArgumentParser Parser add_parser add_argument_group Option")
"""What makes a command line: of what is given to these, ``help``, ``description`` and ``epilog`` are texts, and an option's second word."""
TEXTS = _words("reason action unit title what caption label detail meaning fix cause hint")
"""What has these names is, even a single word."""
TELLING = _words("skip fail warn unknown tag term chip _section _folded Missing svg _same _table join")
"""What is given to these is, even a single word."""
PATTERNED = {"cause": 2, "of_nccl": 3, "symptom": 2, "wait": 2, "hint": 2, "Failure": 0}
"""Of these the first arguments are an id and a pattern."""

_LISTS = re.compile(r"(WORDS|TITLES|TERMS|COLUMNS|METRICS|NAMES|names|head|words|COUNT_WORDS)$")
"""Lists and functions of these names hold texts, even single words."""
_PLACE = re.compile(r"\{\d+\}")
_FILLED = re.compile(r"\{\w*(?:[:!][^{}\s]+)?\}")
_PERCENT = re.compile(r"%[-+0-9.]*[sdrgfx]")
_CHINESE = re.compile("[\u3000-\u9fff\uff00-\uffef]")
_PROSE = re.compile(r"[(\"'“]?[A-Za-z][A-Za-z'’-]+[).,;:?!\"'”]*")
_SHELL = re.compile(
    r"\$\(|2>|<<|&&| \|\| |\\s|\\d|\(\?[:P=!i]|\.\*|\[\^|printf |exec |/dev/null|;\s*do\b|<[a-z]+[ >]"  # a shell's, a pattern, markup
    r"|^SELECT |^INSERT |^CREATE |^mode IN|^AND r|margin-left|^left: "
)


@dataclass(frozen=True)
class Text:
    """One text. ``free``: places that hold a word of the code's own choice (a plural's s), which a translation may leave out."""

    room: str
    where: str
    template: str
    places: tuple[str, ...] = ()
    free: frozenset[int] = frozenset()

    @property
    def key(self) -> str:
        """A short name, the same as long as the text is."""
        return hashlib.sha256(self.template.encode()).hexdigest()[:7]


def room_of(path: Path) -> str:
    """``checks.fabric`` of pytest_h20/checks/fabric/rails.py; ``report`` of pytest_h20/report/terminal.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] in SPLIT and len(parts) > 2 else parts[0]


def texts() -> list[Text]:
    """Every text of the package, each once: where it stands first."""
    found: dict[str, Text] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        local = path.relative_to(PACKAGE).as_posix()
        if local in NOT_SEEN or local.split("/")[0] in NOT_SEEN:
            continue
        room = room_of(path)
        walk = _Walk(path, room, only_errors=room in ONLY_ERRORS and local not in ALSO)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        walk.about = " ".join((ast.get_docstring(tree) or "").replace("``", "").split())
        walk.visit(tree)
        for text in walk.found:
            found.setdefault(text.template, text)
    for name in PRINTED:
        path = ROOT / "environments" / name
        for said in comments(path.read_text(encoding="utf-8")) if path.is_file() else ():
            found.setdefault(said, Text("environments", f"environments/{name}", said))
    return list(found.values())


class _Walk:
    """The texts of one module."""

    def __init__(self, path: Path, room: str, *, only_errors: bool) -> None:
        self.path = path.relative_to(ROOT).as_posix()
        self.room = room
        self.only_errors = only_errors
        self.words = False
        self.about = ""
        self.found: list[Text] = []

    def visit(self, node: ast.AST, *, telling: bool = False, error: bool = False) -> None:
        """``telling``: even a single word is a text here. ``error``: inside of an error's text."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.expr) and _stringish(node):
            self._take(node, telling, error)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.visit(node.value, telling=_names(node.target), error=error)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            outer, self.words = self.words, bool(_LISTS.search(node.name)) or node.name == "outcome"
            for child in (*node.decorator_list, *node.body):
                self.visit(child)
            self.words = outer
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self.visit(node.value, telling=self.words, error=error)
        elif isinstance(node, ast.Subscript):
            self.visit(node.value, telling=telling, error=error)
        elif isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                if not isinstance(side, (ast.Constant, ast.Tuple, ast.Set, ast.List)):
                    self.visit(side, telling=telling, error=error)
        elif isinstance(node, ast.IfExp):
            self.visit(node.test, error=error)
            self.visit(node.body, telling=telling, error=error)
            self.visit(node.orelse, telling=telling, error=error)
        elif isinstance(node, ast.Call):
            self._call(node, telling, error)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and not (isinstance(key, ast.Constant) and isinstance(key.value, str) and " " not in key.value):
                    self.visit(key, error=error)
                self.visit(value, telling=telling, error=error)
        elif isinstance(node, ast.Assign):
            self.visit(node.value, telling=any(map(_names, node.targets)), error=error)
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child, telling=telling, error=error)

    def _call(self, node: ast.Call, telling: bool, error: bool) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in MACHINERY:
            if isinstance(node.func, ast.Attribute):
                self.visit(node.func.value, error=error)
            if name in ("get", "removeprefix", "replace"):
                for argument in node.args[1:]:
                    self.visit(argument, telling=telling, error=error)
            return
        if name in ARGUMENTS or name == "command_parser":
            self._arguments(node, name)
            return
        self.visit(node.func, error=error)
        error = error or (name.endswith(("Error", "Answer", "Failure", "refuse")) and name[0].isupper())
        skipped = PATTERNED.get(name, 0) if self.room in ("diagnosis", "nccl") else int(name == "tag")
        for argument in node.args[skipped:]:
            self.visit(argument, telling=name in TELLING, error=error)
        for keyword in node.keywords:
            if keyword.arg not in MACHINE_WORDS:
                self.visit(keyword.value, telling=keyword.arg in TEXTS, error=error)

    def _arguments(self, node: ast.Call, name: str) -> None:
        """What ``--help`` prints of a command or of one option."""
        told = [keyword.value for keyword in node.keywords if keyword.arg in ("help", "description", "epilog")]
        told += node.args[1:2] if name == "Option" else []
        told += [ast.Constant(self.about, lineno=1)] if name == "command_parser" else []
        for text in told:
            self.visit(text, telling=True, error=True)

    def _take(self, node: ast.expr, telling: bool, error: bool) -> None:
        template = ""
        places: list[str] = []
        free: set[int] = set()
        for part in _parts(node):
            if isinstance(part, str):
                template += part.replace("{", "{{").replace("}", "}}")
                continue
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            if isinstance(part, ast.Constant):  # a place of "{}" or "%s": what fills it stands elsewhere
                template += f"{{{len(places)}}}"
                places.append(str(part.value))
                continue
            sides = (inner.body, inner.orelse) if isinstance(inner, ast.IfExp) else (inner.left,) if isinstance(inner, ast.BinOp) else ()
            if sides and all(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides):
                free.add(len(places))
            template += f"{{{len(places)}}}"
            places.append(ast.unparse(inner))
            self.visit(inner, telling=telling, error=error)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            self.visit(node.right, error=error)
        template = template.strip()
        telling = telling or (self.room == "report.html" and re.fullmatch("[A-Z][a-z-]+", template) is not None)
        if (error or not self.only_errors) and _for_people(template, telling):
            self.found.append(Text(self.room, f"{self.path}:{node.lineno}", template, tuple(places), frozenset(free)))


def _names(target: ast.expr) -> bool:
    """Whether what is assigned to this is a text, even a single word."""
    return isinstance(target, ast.Name) and (target.id in TEXTS or _LISTS.search(target.id) is not None)


def _stringish(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _stringish(node.left) or _stringish(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _parts(node: ast.expr) -> Iterator[str | ast.expr]:
    """Words and places in turn. ``"{} of it"`` and ``"%d of it" % n`` have places too: somebody fills them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _format_parts(node.value, _FILLED)
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from (str(value.value),) if isinstance(value, ast.Constant) else (value,)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        yield from _format_parts(str(node.left.value), _PERCENT)
    elif isinstance(node, ast.BinOp) and _stringish(node):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield node


def _format_parts(text: str, places: re.Pattern[str]) -> Iterator[str | ast.expr]:
    words = places.split(text)
    yield words[0]
    for place, after in zip(places.finditer(text), words[1:], strict=True):
        yield ast.Constant(place.group())
        yield after


def _for_people(template: str, telling: bool) -> bool:
    """Whether a text is words, and not a name, a pattern, a command or a format."""
    bare = _PLACE.sub(" ", template)
    if _SHELL.search(bare) or not re.search("[A-Za-z]{2}", bare):
        return False
    words = [word for word in bare.split() if _PROSE.fullmatch(word) and (telling or re.search("[a-z]{2}", word))]
    if telling:
        return bool(words) and not re.fullmatch(r"[a-z0-9_]*[_/.=:][a-z0-9_/.=:-]*", template)
    return bool(words) and (len(bare.split()) > 1 or "{" in template)


def messages() -> dict[str, dict[str, str]]:
    """What is translated: ``{room: {English: Chinese}}``."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CATALOGUE.glob("*.json"))}


def missing(found: Iterable[Text], known: Mapping[str, Mapping[str, str]]) -> list[Text]:
    """Texts without a translation, in any room: one text has one."""
    translated = {english for room in known.values() for english in room}
    return [text for text in found if text.template not in translated]


def faults(found: Iterable[Text], known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is wrong with translations: a place that is lost or made up, a text twice, a text that is in no code."""
    by_template = {text.template: text for text in found}
    told, seen = [], dict[str, str]()
    for room, entries in known.items():
        for english, chinese in entries.items():
            if english in seen:
                told.append(f"{room}: {english!r} is in {seen[english]} too")
            seen[english] = room
            text = by_template.get(english)
            if text is None and room != "more":
                told.append(f"{room}: {english!r} stands in no code; python tools/messages.py tidy")
                continue
            if chinese:
                ours, theirs = set(_PLACE.findall(english)), set(_PLACE.findall(chinese))
                lost = {place for place in ours - theirs if text is None or int(place[1:-1]) not in text.free}
                told += [f"{room}: {english!r}: {place} is lost" for place in sorted(lost)]
                told += [f"{room}: {english!r}: {place} is made up" for place in sorted(theirs - ours)]
                if not _CHINESE.search(chinese):
                    told.append(f"{room}: {english!r}: {chinese!r} is no Chinese; what is the same in every language has the empty text")
    return told


def write(room: str, entries: Mapping[str, str], found: Iterable[Text]) -> None:
    """A room's file, in the order of the code."""
    order = {text.template: number for number, text in enumerate(found)}
    listed = dict(sorted(entries.items(), key=lambda item: (order.get(item[0], -1), item[0])))
    (CATALOGUE / f"{room}.json").write_text(json.dumps(listed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def take(room: str, lines: Iterable[str], found: list[Text]) -> int:
    """Lines of ``key, tab, Chinese`` into the room's file; how many."""
    mine = {text.key: text for text in found}
    entries = dict(messages().get(room, {}))
    count = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, _, chinese = line.rstrip("\n").partition("\t")
        if key not in mine or not chinese.strip():
            print(f"line {number}: {line.strip()!r}: left out: a key of `todo {room}`, a tab and the Chinese are needed")
            continue
        words = chinese.strip().replace("\\n", "\n")
        entries[mine[key].template] = words if _CHINESE.search(words) else ""
        count += 1
    write(room, entries, found)
    return count


def tidy(found: list[Text]) -> None:
    """Leave out what stands in no code any more."""
    standing = {text.template for text in found}
    for room, entries in messages().items():
        if room != "more":
            write(room, {english: words for english, words in entries.items() if english in standing}, found)


def main(argv: list[str]) -> int:
    """See above."""
    found = texts()
    known = messages()
    open_ = missing(found, known)
    if not argv:
        rooms = sorted({text.room for text in found})
        for room in rooms:
            print(f"{room:<22}{sum(t.room == room for t in found):>6} texts{sum(t.room == room for t in open_):>6} without")
        print(f"{'':<22}{len(found):>6} texts{len(open_):>6} without")
        print(*faults(found, known), sep="\n")
    elif argv[0] == "todo" and len(argv) == 2:
        for text in (t for t in open_ if t.room == argv[1]):
            print(f"{text.key}\t{text.template}".replace("\n", "\\n"))
            print(f"#   {text.where}" + "".join(f"  {{{n}}}={p[:50]}" for n, p in enumerate(text.places)).replace("\n", " "))
    elif argv[0] == "take" and len(argv) == 3:
        print(take(argv[1], Path(argv[2]).read_text(encoding="utf-8").splitlines(), found), "taken")
        print(*faults(found, messages()), sep="\n")
    elif argv == ["tidy"]:
        tidy(found)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
