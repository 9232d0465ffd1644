"""From a text as it came out to the template it was made of, and to its translation.

A catalogue is a mapping of templates: what stands in the code as ``f"{node} is {skew:+.3f} s from {first}"`` is there as
``"{0} is {1} s from {2}": "{0} 与 {2} 相差 {1} 秒"``. What stood in a place is translated in turn, where it is one of our texts: reasons
are made of reasons. A text that no template makes is taken apart at its punctuation, and its parts are looked up. An empty
translation says that the text is the same in every language: a command, a name.

Of several templates that fit the one is taken that leaves the least English, then the one that says most itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from string import Formatter
from threading import get_ident

FOLDER = Path(__file__).parent
_WORD = re.compile(r"[A-Za-z]+")
_LETTERS = re.compile(r"[A-Za-z]")
_KEPT = re.compile(r"\b(?:token|rail|rank|prompt|GPU|NCCL|RDMA|Gbit/s|tok/s)\b")
"""Words that Chinese operators use as they are: docs/zh/glossary.md."""
_OPEN = (",", ";", "(")
"""No value ends so: the text goes on there."""
_CHOSEN = re.compile(r"[a-z]{0,4}")
"""What may stand in a place that a translation leaves out: the s of a plural, a verb."""
_HAN = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
_BLANK = re.compile("(?<=[，。：；（）]) (?! )|(?<! ) (?=[，。：；（）])")
"""A blank beside a sign that brings its own; two and more are a column."""
_QUANTITY = re.compile(r"([-+±≈]?\d[\d.,\u202f]*(?: ?[-–…x×/] ?\d[\d.,]*)?) ?(?=[A-Za-z%])(.+)", re.S)
_LABEL = re.compile(r"((?:[\w./\[\]-]+, )*[\w./\[\]-]+(?: \([^()\s]*\))?): (.+)", re.S)
"""A text about nodes, rails or gates, which are named before it."""
_GATE = re.compile(r"gate (\w+)(?:: (.+))?", re.S)
_NAME = re.compile(r"[\w.-]+")
_ID = re.compile(r".*[0-9_./=-].*|\W*", re.S)
"""A figure, a name of a file, a node or an option: no word of a sentence."""
_FILE = re.compile(r"\S+\.[a-z]{2,5}(?::\d+)*")
_CUT = re.compile(r"[\s,;:(.]")
_MARKED = re.compile(r"([^A-Za-z0-9(\s'\"`{<\[/$#*~+-] )(?=\S)(.+)", re.S)
"""A sign before a text: a tick, a dash."""
_QUOTED = re.compile(r"""(['"`]).*\1""", re.S)
_QUOTE = re.compile(r"(?<![\w)\ue000-\uf8ff])'(?=[^']*\w)(?:[^']|(?<=\w)'(?=\w))* (?:[^']|(?<=\w)'(?=\w))*'(?!\w)")
"""Words that somebody else said, as Python quotes them; the apostrophe of a word is none."""
_KEPT_AS_IS = re.compile("[\ue000-\uf8ff]")
"""What stands for such words while the text around them is translated."""
_SEPARATORS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile("\n"), "\n", "\n"),
    (re.compile("; "), "；", "; "),
    (re.compile(r"(?<=[.?!]) (?=[A-Z0-9])"), "", " "),
    (re.compile(" [–—] "), " – ", " "),
    (re.compile(" · "), " · ", " · "),
    (re.compile(": "), "：", ": "),
    (re.compile(", and |, "), "，", ", "),
    (re.compile(" and "), " 和 ", " and "),
    (re.compile(" or "), " 或 ", " or "),
)
"""Where a text is taken apart, strongest first, what stands there in Chinese, and what a text must have for it."""
_SOURCED = re.compile(r"(.*\S) (\[[^\[\]]*\])", re.S)
"""A text and the codes of its sources."""
_BRACKETS = re.compile(r"(.*\S) \(((?:[^()]|\([^()]*\))*)\)([.:,;]?)", re.S)
_INSIDE = re.compile(r"\(((?:[^()]|\([^()]*\))*)\)([.:,;]?)", re.S)
LONGEST = 700
"""A longer line is no sentence of ours, but for those that a template makes."""
ENOUGH = 8
"""A template with fewer letters of its own fits many texts by accident."""
FEW = 5
"""One with fewer than these, and no punctuation, fits any sentence: its places must be figures or names."""
MOST = 5
"""So many templates that fit are tried."""


@dataclass(frozen=True)
class Template:
    """One message: English and Chinese, both with numbered places."""

    english: str
    chinese: str

    @cached_property
    def parts(self) -> tuple[str | int, ...]:
        """Words and places in turn."""
        return tuple(_parts(self.english))

    @cached_property
    def weight(self) -> int:
        """How much it says itself: its letters."""
        return sum(len(_LETTERS.findall(part)) for part in self.parts if isinstance(part, str))

    @cached_property
    def runs(self) -> tuple[str | tuple[int, ...], ...]:
        """Words, and places that stand side by side, which are one: where one ends is decided by what is in them."""
        found: list[str | tuple[int, ...]] = []
        for part in self.parts:
            before = found[-1] if found else ""
            if isinstance(part, str):
                found.append(part)
            elif isinstance(before, tuple):
                found[-1] = (*before, part)
            else:
                found.append((part,))
        return tuple(found)

    @cached_property
    def label(self) -> bool:
        """Whether it is a word before a colon: what comes after that is whatever it is, a command, a list of files."""
        return re.fullmatch(r"[#A-Za-z ]+: \{0\}", self.english) is not None

    @cached_property
    def longest(self) -> str:
        """The longest of its words in a row, which is looked for first."""
        return max((part for part in self.parts if isinstance(part, str)), key=len, default="")

    @cached_property
    def bare(self) -> bool:
        """Whether it is little more than a preposition between its places."""
        return self.weight < FEW and all(part.replace(" ", "").isalpha() for part in self.parts if isinstance(part, str) and part.strip())

    def anchors(self) -> Iterator[str]:
        """Whole words that every text of it has."""
        for at, part in enumerate(self.parts):
            if isinstance(part, str):
                for match in _WORD.finditer(part):
                    begins = match.start() > 0 or at == 0
                    if begins and (match.end() < len(part) or at == len(self.parts) - 1):
                        yield match.group()

    @cached_property
    def words(self) -> frozenset[str]:
        """The same, to be looked for at once."""
        return frozenset(self.anchors())

    @cached_property
    def kept(self) -> frozenset[int]:
        """The places that the translation has too."""
        return frozenset(part for part in _parts(self.chinese) if isinstance(part, int))

    def places(self, text: str) -> list[tuple[tuple[int, ...], str]] | None:
        """What stands in each place, or places side by side, of a text it made; None when it did not."""
        found, at, place = list[tuple[tuple[int, ...], str]](), 0, None
        for number, run in enumerate(self.runs):
            if isinstance(run, tuple):
                place = run
                continue
            last = number == len(self.runs) - 1
            begins = at if place is None else len(text) - len(run) if last else text.find(run, at)
            ends = begins + len(run)
            if begins < at or not text.startswith(run, begins) or (last and ends != len(text)):
                return None
            if place is not None:
                found.append((place, text[at:begins]))
            at, place = ends, None
        if place is not None:
            found.append((place, text[at:]))
        lost = (value for run, value in found if self.kept.isdisjoint(run))
        cut = any(value.rstrip()[-1:] in _OPEN for _, value in found if value.strip())
        return None if cut or not all(_CHOSEN.fullmatch(value) for value in lost) else found


def _parts(template: str) -> Iterator[str | int]:
    for words, place, _, _ in Formatter().parse(template):
        if words:
            yield words
        if place is not None:
            yield int(place)


class Catalogue:
    """Templates by the rarest word in them."""

    def __init__(self, messages: Mapping[str, str]) -> None:
        self._exact: dict[str, str] = {}
        self._by_word: dict[str, list[Template]] = {}
        self._anywhere: list[Template] = []
        self._known: dict[str, str] = {}
        self._asked: set[tuple[int, str]] = set()
        templates = []
        for english, chinese in messages.items():
            if "{" not in english and "}" not in english:
                self._exact[english] = chinese or english
            else:
                templates.append(Template(english, chinese or english))
        seen: dict[str, int] = {}
        words = [(template, template.words) for template in templates]
        for _, anchors in words:
            for word in anchors:
                seen[word] = seen.get(word, 0) + 1
        for template, anchors in words:
            if anchors:
                self._by_word.setdefault(min(anchors, key=lambda w: (seen[w], -len(w), w)), []).append(template)
            else:
                self._anywhere.append(template)

    def text(self, text: str) -> str:
        """A text in Chinese."""
        if not _LETTERS.search(text):
            return text
        if (found := self._known.get(text)) is not None:
            return found
        asked = (get_ident(), text)
        if asked in self._asked:  # of itself it is made of nothing else
            return text
        inner = text.strip()
        start = text.index(inner)
        self._asked.add(asked)
        try:
            said = self._of(inner)
            found = text[:start] + said + text[start + len(inner) :]
            if said != inner:
                found = _BLANK.sub("", found)
        finally:  # a signal ends this anywhere: only what is finished is known
            self._asked.discard(asked)
        if len(self._known) > 50_000:
            self._known.clear()
        self._known[text] = found
        return found

    def _of(self, text: str) -> str:
        found = self._exact.get(text)
        if found is not None:
            return found
        if text.endswith(".") and (found := self._exact.get(text[:-1])) is not None:
            return f"{found}。"
        if _QUOTED.fullmatch(text) or _NAME.fullmatch(text):
            return text
        if quotes := _QUOTE.findall(text):
            numbers = iter(range(len(quotes)))
            around = _QUOTE.sub(lambda _: f"'{chr(0xE000 + next(numbers))}'", text)
            if (said := self.text(around)) != around:
                return _KEPT_AS_IS.sub(lambda match: quotes[ord(match[0]) - 0xE000][1:-1], said)
        if len(reasons := _by_gate().split(text)) > 1:
            return "；".join(map(self.text, reasons))
        if (match := _GATE.fullmatch(text)) and _gates(match[1]):
            return f"关卡 {match[1]}" + (f"：{' -> '.join(map(self.text, match[2].split(' -> ')))}" if match[2] else "")
        if (match := _LABEL.fullmatch(text)) and _gates(match[1]):
            rest = self.text(match[2])
            said = f"{match[1]}{'：' if _HAN.search(rest) else ': '}{rest}"
            whole, _ = self._by_template(text)
            return min(said, whole, key=_english) if whole.startswith(match[1]) else said
        if _names(text.split(", "), self._exact):
            return text
        if match := _MARKED.fullmatch(text):
            return match[1] + self.text(match[2])
        best, doubtful = self._by_template(text)
        if best == text or doubtful or _english(best):
            taken = [*self._apart(text)] if len(text) <= LONGEST or "\n" in text else []
            best = min([*taken, best] if doubtful else [best, *taken], key=_english)
        return best

    def _by_template(self, text: str) -> tuple[str, bool]:
        """By the template that leaves the least English, and whether that is doubtful: it seems to reach into texts beside it."""
        options = []
        for template, places in self._fitting(text):
            doubtful = any("; " in value for _, value in places)
            doubtful = doubtful or (isinstance(template.parts[0], int) and re.search("[:,] ", places[0][1]) is not None)
            options.append((self._filled(template, places), doubtful))
        return min((o for o in options if o[0] != text), key=lambda o: (_english(o[0]), o[1]), default=(text, False))

    def _with_joint(self, text: str) -> str:
        """A text that begins with a comma or the like of its own, else the same as it was: ``, took 3 s``."""
        found = self._exact.get(text.strip())
        fitting = [(template, places) for template, places in self._fitting(text.strip()) if template.english[0] == text[0]]
        return found or min((self._filled(*each) for each in fitting), key=_english, default=text)

    def _fitting(self, text: str) -> list[tuple[Template, list[tuple[tuple[int, ...], str]]]]:
        words = set(_WORD.findall(text))
        candidates = [t for word in words for t in self._by_word.get(word, ()) if t.longest in text and t.words <= words]
        candidates += [t for t in self._anywhere if t.longest in text]
        candidates.sort(key=lambda t: (-t.weight, -len(t.english)))
        found = []
        for template in candidates:
            places = template.places(text)
            if places is not None and (
                template.weight >= ENOUGH or template.label or all(self._one(value, template.bare) for _, value in places)
            ):
                found.append((template, places))
                if len(found) == MOST:
                    break
        return found

    def _one(self, value: str, name: bool = False) -> bool:
        """One word, a figure with its unit, or mostly a text of ours: what may stand in a template that says little itself. ``name``:
        the word must be a figure or a name."""
        value = value.strip()
        if len(value.split(" ")) == 1 and (not name or _ID.fullmatch(value.rstrip(".:"))):
            return True
        if all(" " not in part and (part.isupper() or _ID.fullmatch(part.rstrip(".:"))) for part in value.split(", ")):
            return True
        if (match := _QUANTITY.fullmatch(value)) and len(match[2].split(" ")) <= 3:
            return True
        return _english(self.text(value)) * 2 < _english(value)

    def _filled(self, template: Template, places: Sequence[tuple[tuple[int, ...], str]]) -> str:
        values = {place: value for run, text in places for place, value in zip(run, self._shared(text, len(run)), strict=True)}
        return _joined([part if isinstance(part, str) else values.get(part, "") for part in _parts(template.chinese)])

    def _shared(self, text: str, places: int) -> list[str]:
        """What stands in places side by side, translated: cut where the least English is left, else all in the first."""
        if places == 1:
            return [self.text(text)]
        if _FILE.fullmatch(text):  # and where in it: no word of ours, whatever it is called
            return [text, *[""] * (places - 1)]
        cuts = [len(text), *[match.start() for match in _CUT.finditer(text)][:40], 0]
        options = ([self.text(text[:cut]), self.text(text[cut:])] for cut in cuts)
        first, _ = best = min(options, key=lambda pair: _english("".join(pair)))
        if places == 2:
            return best
        cut = next(cut for cut in cuts if self.text(text[:cut]) == first)
        return [first, *self._shared(text[cut:], places - 1)]

    def _whole(self, parts: list[str], joints: list[str]) -> tuple[list[str], list[str]]:
        """The same, but for parts that are one text of ours together, whose own punctuation is that of the separator."""
        kept, between = parts[:1], list[str]()
        for joint, part in zip(joints, parts[1:], strict=True):
            both = kept[-1] + joint + part
            if both in self._exact:
                kept[-1] = both
            else:
                kept.append(part)
                between.append(joint)
        return kept, between

    def _apart(self, text: str) -> Iterator[str]:
        """The text with its parts translated, by each kind of punctuation in turn."""
        if match := _QUANTITY.fullmatch(text):
            one = match[1] == "1" and self._exact.get(f"{match[2]}s")
            yield f"{match[1]} {one or self.text(match[2])}"
        if match := _LABEL.fullmatch(text):
            rest = self.text(match[2])
            if rest != match[2]:
                yield f"{self.text(match[1])}{'：' if _HAN.search(rest) else ': '}{rest}"
        if (match := _SOURCED.fullmatch(text)) and (said := self.text(match[1])) != match[1]:
            yield f"{said} {match[2]}"
        if match := _INSIDE.fullmatch(text):
            inside = self.text(match[1])
            if inside != match[1]:
                yield f"（{inside}）{match[2]}"
        if match := _BRACKETS.fullmatch(text):
            before, inside = self.text(match[1]), self.text(match[2])
            if (before, inside) != (match[1], match[2]):
                yield f"{before}（{inside}）{match[3]}"
        if text.endswith(".") and (said := self.text(text[:-1])) != text[:-1]:
            yield f"{said}。"
        for separator, ours, sign in _SEPARATORS:
            if sign not in text:
                continue
            parts, joints = self._whole(*_split(separator, text))
            if not joints:
                continue
            if joints[0] == ", " and _names(parts[1:] if len(parts) > 2 else parts, self._exact):
                continue
            # a part may begin with its own joint: ", took {0}" is one text of ours
            whole: dict[int, str] = {}
            for at, (joint, part) in enumerate(zip(joints, parts[1:], strict=True), 1):
                if joint[0] in ",;" and (said := self._with_joint(joint + part)) != joint + part:
                    whole[at] = said
            done = [whole.get(at, self.text(part)) for at, part in enumerate(parts)]
            joints = ["" if at in whole else joint for at, joint in enumerate(joints, 1)]
            if done != parts:
                pieces = done[:1]
                for before, joint, after in zip(done, joints, done[1:], strict=False):
                    sentence = joint == " " and not _HAN.match(before[-1:])  # one that stays as it is
                    pieces += [ours if joint and not sentence and _HAN.search(before + after) else joint, after]
                yield _joined(pieces)
                return


def _joined(pieces: Sequence[str]) -> str:
    """Pieces in a row, without the blank that would stand between two Chinese characters."""
    text = ""
    for piece in filter(None, pieces):
        if piece[0] == " " and _HAN.match(text[-1:]) and _HAN.match(piece.lstrip()):
            piece = piece.lstrip()
        elif text[-1:] == " " and _HAN.match(piece) and _HAN.match(text.rstrip()[-1:]):
            text = text.rstrip()
        text += piece
    return text


def _names(parts: Sequence[str], known: Mapping[str, str]) -> bool:
    """Whether it is a list of names, of which some may happen to be words of ours."""
    return len(parts) > 1 and all(_NAME.fullmatch(part) for part in parts) and any(part not in known for part in parts)


@cache
def _by_gate() -> re.Pattern[str]:
    """Where the reason of one gate ends and that of another begins."""
    from pytest_h20.core.verdict import GateName

    name = f"(?:{'|'.join(gate.value for gate in GateName)})"
    return re.compile(f"; (?={name}(?:, {name})*: )")


def _gates(label: str) -> bool:
    """Whether it names gates: ids, which stay as they are."""
    from pytest_h20.core.verdict import GateName

    return set(label.split(", ")) <= {gate.value for gate in GateName}


def _split(separator: re.Pattern[str], text: str) -> tuple[list[str], list[str]]:
    """The parts of a text and what stands between them; what is in brackets or between backticks stays together."""
    parts, joints, begins, seen, depth, quoted = [], [], 0, 0, 0, False
    for match in separator.finditer(text):
        between = text[seen : match.start()]
        depth += between.count("(") - between.count(")")
        quoted ^= between.count("`") % 2 == 1
        seen = match.start()
        if (depth <= 0 and not quoted) or match.group() == "\n":
            parts.append(text[begins : match.start()])
            joints.append(match.group())
            begins = match.end()
    return [*parts, text[begins:]], joints


def _english(text: str) -> int:
    """How much English is left in a text."""
    return len(_LETTERS.findall(_KEPT.sub("", text)))


def load(language: str) -> dict[str, dict[str, str]]:
    """The messages of every room, ``{room: {English: translation}}``, from ``lang/<language>/<room>.json``."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / language).glob("*.json"))}


@cache
def chinese() -> Catalogue:
    """The Chinese catalogue, read once in a process."""
    return Catalogue({english: words for room in load("zh").values() for english, words in room.items()})
