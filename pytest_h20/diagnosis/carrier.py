"""What came between the engine and us: a tag before every line (a pod's name, a collector's labels), and the edge where lines were broken.

Neither is known by name. A tag is what every line begins with, digits aside, and behind which lines begin as engines begin them. An edge
is a length that no line exceeds and several lines, unlike each other, reach exactly; what follows them goes on where they stop.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from pytest_h20.diagnosis.lines import BEGINS, CRASH, LONGEST, prefix_end
from pytest_h20.diagnosis.signatures import SIGNATURES
from pytest_h20.engines.stages import strip_ansi

LOOKED_AT = 2000
"""Lines at the beginning of a log that show what stands before each and where they break."""
FIRST_LOOK = 8
"""Lines of a growing log after which that is looked at first; then whenever there are twice as many."""
FEWEST = 3
"""Lines that share a tag, or reach an edge: of fewer it may be chance."""
LONGEST_TAG = 160
NARROWEST, WIDEST = 60, 400
"""Columns of terminals and log viewers."""
SAMPLE = 200

BAR_BEGINS = re.compile(r"[A-Z][\w -]{2,60}(?:\([^)]*\))?: +\d+%")
GLOG = re.compile(r"[IWEF]\d{4} [\d:.]+ +\d+ (?P<place>[\w./-]+:\d+)\] ?")
_DIGITS = re.compile(r"\d+")


def unfold(lines: Iterable[str]) -> Iterator[str]:
    """The lines as the engine wrote them: without a common tag, and in one piece."""
    source = map(_opened, lines)
    head = list(islice(source, LOOKED_AT))
    undo = Undo(carried(head))
    for line in chain(head, source):
        yield from undo.push(line)
    yield from undo.rest()


Step = re.Pattern[str] | int
"""What to take off: a tag, or an edge at that many characters."""


def carried(head: list[str]) -> tuple[Step, ...]:
    """What was done to these lines after the engine had written them, the last of it first."""
    steps: list[Step] = []

    def take(step: Step) -> None:
        nonlocal head
        steps.append(step)
        undo = Undo((step,))
        head = [text for line in head for text in undo.push(line)] + undo.rest()

    for _ in range(2):  # broken, then tagged; or tagged, then broken
        if tag := _tag(head):
            take(tag)
        width = _width(head)
        if not width and (tag := _tag(head, known=True)) and (width := _width([_without(tag, line) for line in head])):
            take(tag)  # a tag that we know; but it stands before every piece
        if not width:
            break
        take(width)
    return tuple(steps)


class Undo:
    """Takes off what was :func:`carried`, line by line."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._stages = [_Joiner(step) if isinstance(step, int) else step for step in steps]

    def push(self, line: str) -> list[str]:
        """The lines that are whole now."""
        return self._through(0, [line])

    def rest(self) -> list[str]:
        """What waited for its other half, at the end."""
        done: list[str] = []
        for i, stage in enumerate(self._stages):
            if isinstance(stage, _Joiner):
                done += self._through(i + 1, stage.rest())
        return done

    def _through(self, first: int, texts: list[str]) -> list[str]:
        for stage in self._stages[first:]:
            if isinstance(stage, _Joiner):
                texts = [whole for text in texts for whole in stage.push(text)]
            else:
                texts = [_without(stage, text) for text in texts]
        return texts


class Growing:
    """The same for a log that still grows: who carries it shows only after some lines, and then holds for those before, too."""

    def __init__(self) -> None:
        self._head: list[str] = []
        self._steps: tuple[Step, ...] = ()
        self._undo = Undo(())
        self._next_look = FIRST_LOOK

    def push(self, line: str) -> tuple[bool, list[str]]:
        """The lines that are whole now. True: not these, but all from the first line on, for they are to be read otherwise."""
        line = _opened(line)
        if len(self._head) < LOOKED_AT:
            self._head.append(line)
            if len(self._head) == self._next_look:
                self._next_look *= 2
                if self._look():
                    return True, [text for earlier in self._head for text in self._undo.push(earlier)]
        return False, self._undo.push(line)

    def rest(self) -> tuple[bool, list[str]]:
        """The same for what waited, where nothing more comes for now."""
        anew = len(self._head) < LOOKED_AT and self._look()
        again = [text for line in self._head for text in self._undo.push(line)] if anew else []
        return anew, again + self._undo.rest()

    def _look(self) -> bool:
        """Is it carried otherwise than was thought?"""
        steps = carried(self._head)
        if steps == self._steps:
            return False
        self._steps, self._undo = steps, Undo(steps)
        return True


def _opened(line: str) -> str:
    """What a collector has put into an object, one a line (Docker's json-file, structured loggers): the text in it."""
    if not line.startswith('{"'):
        return line
    try:
        packed = json.loads(line)
    except ValueError:
        return line
    text = packed.get("log", packed.get("MESSAGE"))
    if text is None and (level := packed.get("levelname", packed.get("level"))) and isinstance(packed.get("message"), str):
        text = f"{str(level).upper()}: {packed['message']}"
    return text.rstrip("\r\n") if isinstance(text, str) else line


def _tag(lines: Sequence[str], known: bool = False) -> re.Pattern[str] | None:
    """What stands before every line and says nothing: it, as a pattern whose numbers may differ; None if there is no such thing.

    Without ``known`` behind what :mod:`.lines` knows to stand before lines, and only if lines begin as well without it.
    """
    texts = [text if known else text[prefix_end(text) :] for text in map(strip_ansi, lines) if text.strip()]
    if stamp := _stamp(texts):
        return stamp
    heads = [_DIGITS.sub("0", text[:LONGEST_TAG]) for text in texts]
    if len(set(heads)) < FEWEST:
        return None
    shared = _shared(heads)
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    as_it_is = 0 if known else sum(1 for text in sample if BEGINS.match(text))
    best, found = min(as_it_is, FEWEST - 1), None
    for end in range(1, len(shared) + 1):
        if shared[end - 1].isalnum() or shared[end - 1] in "._-/" or shared[:end].isspace():
            continue
        tag = re.compile(_DIGITS.sub(r"\\d+", re.escape(shared[:end])))
        score = sum(1 for text in sample if (seen := tag.match(text)) and BEGINS.match(text, seen.end()))
        if score > best:
            best, found = score, tag
    said = found.match(next(text for text in sample if found.match(text))) if found else None
    return None if said and (CRASH.search(said[0]) or any(s.search(said[0]) for s in SIGNATURES)) else found


def _stamp(texts: Sequence[str]) -> re.Pattern[str] | None:
    """glog's stamp, if one place in one program prints all that have one: whoever hands the lines on. Its level is not theirs."""
    seen = [found for text in texts if (found := GLOG.match(text))]
    place, times = Counter(found["place"] for found in seen).most_common(1)[0] if seen else ("", 0)
    different = {_DIGITS.sub("0", found.string[found.end() :]) for found in seen}
    if times < max(FEWEST, 0.9 * len(seen)) or 2 * len(seen) < len(texts) or len(different) < FEWEST:
        return None
    return re.compile(rf"[IWEF]\d{{4}} [\d:.]+ +\d+ {re.escape(place)}\] ?")


def _shared(heads: list[str]) -> str:
    """What nearly all begin with: the last line may be cut inside it, a blank one trimmed, a piece of a broken one left over."""
    enough = max(0.9 * (len(heads) - 1), FEWEST - 1)
    shared = ""
    while True:
        after = Counter(text[len(shared)] for text in heads if len(text) > len(shared)).most_common(1)
        if not after or after[0][1] < enough:
            return shared
        shared += after[0][0]
        heads = [text for text in heads if text.startswith(shared)]


def _without(tag: re.Pattern[str], line: str) -> str:
    text = strip_ansi(line)
    for start in (0, prefix_end(text)):
        if seen := tag.match(text, start):
            return text[:start] + text[seen.end() :]
        if tag.match(f"{text} ", start):  # a blank line, trimmed
            return text[:start]
    return line


def _width(lines: Sequence[str]) -> int:
    """The edge at which these lines were broken, in characters; 0 if they were not."""
    longest = max(map(len, lines), default=0)
    if not NARROWEST <= longest <= WIDEST:
        return 0
    at = [i for i, line in enumerate(lines[:-1]) if len(line) == longest]
    shapes = Counter(_DIGITS.sub("0", lines[i]) for i in at)
    goes_on = sum(1 for i in at if not _begins(lines[i + 1]))
    return longest if len(shapes) >= FEWEST and goes_on >= 0.8 * len(at) else 0


def _begins(line: str) -> bool:
    text = strip_ansi(line)
    return not text.strip() or bool(BEGINS.match(text) or BAR_BEGINS.match(text)) or prefix_end(text) > 3


class _Joiner:
    """Lines of that length, and what goes on behind them, in one piece. A blank at the edge may have been trimmed."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._whole: str | None = None
        self._length = 0

    def push(self, line: str) -> list[str]:
        done: list[str] = []
        if self._whole is None:
            self._whole = line
        elif not _begins(line) and len(self._whole) < LONGEST:
            self._whole += line if self._length == self._width else f" {line}"
        else:
            done, self._whole = [self._whole], line
        self._length = len(line)
        return done if self._length >= self._width - 1 else done + self.rest()

    def rest(self) -> list[str]:
        done = [] if self._whole is None else [self._whole]
        self._whole = None
        return done
