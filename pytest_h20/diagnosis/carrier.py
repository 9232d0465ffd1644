"""What came between the engine and us: a tag before every line (a pod's name, a collector's labels), and the edge where lines were broken.

Neither is known by name. A tag is what every line begins with, digits aside, and behind which lines begin as engines begin them. An edge
is a length that no line exceeds and several lines, unlike each other, reach exactly; what follows them goes on where they stop.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice

from pytest_h20.diagnosis.lines import BEGINS, CRASH, LONGEST, prefix_end
from pytest_h20.diagnosis.signatures import SIGNATURES
from pytest_h20.engines.stages import strip_ansi

LOOKED_AT = 2000
"""Lines at the beginning of a log that show what stands before each and where they break."""
FEWEST = 3
"""Lines that share a tag, or reach an edge: of fewer it may be chance."""
LONGEST_TAG = 160
NARROWEST, WIDEST = 60, 400
"""Columns of terminals and log viewers."""
SAMPLE = 200

BAR_BEGINS = re.compile(r"[A-Z][\w -]{2,60}(?:\([^)]*\))?: +\d+%")
_DIGITS = re.compile(r"\d+")


def unfold(lines: Iterable[str]) -> Iterator[str]:
    """The lines as the engine wrote them: without a common tag, and in one piece."""
    source = map(_opened, lines)
    head = list(islice(source, LOOKED_AT))
    steps: list[Callable[[Iterable[str]], Iterable[str]]] = []

    def take(step: Callable[[Iterable[str]], Iterable[str]]) -> None:
        nonlocal head
        head = list(step(head))
        steps.append(step)

    for _ in range(2):  # broken, then tagged; or tagged, then broken
        if tag := _tag(head):
            take(partial(map, partial(_without, tag)))
        width = _width(head)
        if not width and (tag := _tag(head, known=True)) and (width := _width([_without(tag, line) for line in head])):
            take(partial(map, partial(_without, tag)))  # a tag that we know; but it stands before every piece
        if not width:
            break
        take(partial(_joined, width=width))
    rest: Iterable[str] = source
    for step in steps:
        rest = step(rest)
    return chain(head, rest)


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


def _joined(lines: Iterable[str], width: int) -> Iterator[str]:
    """Lines of that length, and what goes on behind them, in one piece. A blank at the edge may have been trimmed."""
    whole: str | None = None
    length = 0
    for line in lines:
        if whole is None:
            whole = line
        elif length >= width - 1 and not _begins(line) and len(whole) < LONGEST:
            whole += line if length == width else f" {line}"
        else:
            yield whole
            whole = line
        length = len(line)
    if whole is not None:
        yield whole
