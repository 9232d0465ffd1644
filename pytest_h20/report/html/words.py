"""Plain words: status words, terms with an explanation, numbers and times as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from pytest_h20.config.figures import CHECK_FIGURES
from pytest_h20.core.verdict import Limit, Status, Verdict, unit_beside
from pytest_h20.lang import listed, local
from pytest_h20.report.html.tags import Html, tag

TERMS: dict[str, str] = {
    "TTFT": "time to first token: from sending a request to its first token of output",
    "TPOT": "time per output token: the mean pause between tokens of one answer after the first one",
    "ITL": "inter-token latency: each single pause between two pieces of one answer, as they came in",
    "tok/s": "tokens of output per second, all requests together",
    "RDMA": "remote direct memory access: the network card reads and writes the other machine's memory without its CPU",
    "GDR": "GPUDirect RDMA: the network card reads GPU memory directly, without a copy through main memory",
    "HCA": "host channel adapter: an RDMA network card port",
    "GB": "10^9 bytes",
    "rail": "one RDMA port of a node and its partner on the next node",
    "channel": "one of the parallel paths NCCL sends data on",
    "cell": "one point of the load matrix: input length, output length, number of requests at a time",
    "limit": "what the figure is held against; its origin says where it comes from",
    "hardware": "what the GPUs' memory bandwidth and arithmetic allow at best; no software can pass it",
    "write-up": "the published figures of two 8 x H20 nodes (2025-04-05) this suite is built around",
    "concurrency": "how many requests are being answered at the same time",
    "gate": "a group of checks; every required gate must hold",
}
ICONS: dict[Status, str] = {
    Status.PASS: "✓",
    Status.SKIP: "–",
    Status.WARN: "!",
    Status.UNKNOWN: "?",
    Status.FAIL: "✗",
}
STATUS_WORDS: dict[Status, str] = {
    Status.PASS: "holds",
    Status.SKIP: "skipped",
    Status.WARN: "holds, with warnings",
    Status.UNKNOWN: "could not measure",
    Status.FAIL: "fails",
}
COUNT_WORDS: dict[Status, str] = {
    Status.SKIP: "skipped",
    Status.UNKNOWN: "could not be measured",
    Status.FAIL: "fail",
}

RECORDED = "recorded only"
"""It was measured and nothing was expected of it: not the same as skipped or not measured."""


def count_words(counts: Mapping[str, int]) -> str:
    """How a gate's checks came out (:func:`~pytest_h20.report.terminal.tally`): ``12 checks hold (2 with a warning), 3 recorded only``."""
    words = {s.value: word for s, word in COUNT_WORDS.items()} | {"recorded": RECORDED}
    warned = counts.get(Status.WARN.value, 0)
    hold = counts.get(Status.PASS.value, 0) + warned
    told = [f"{hold} check{'s' if hold > 1 else ''} hold{'' if hold > 1 else 's'}"] if hold else []
    told = [f"{told[0]} ({warned} with a warning)"] if warned else told
    rest = (word for word in counts if word not in (Status.PASS.value, Status.WARN.value))
    return listed([*told, *(f"{counts[word]} {words[word]}" for word in rest)])


_MEASURE_WORD = re.compile("^[块条个处项] ?")
"""Things that are counted stand in the catalogue with it; a name does not take it."""


def subject(text: str) -> str:
    """What a verdict is about, in the reader's language: a name, often with words of ours after it (``node01 host``)."""
    name, space, rest = text.partition(" ")
    if rest.endswith("s") and " " not in rest:
        return name + space + _MEASURE_WORD.sub("", local(rest))
    whole = local(text)
    return whole if whole != text else name + space + local(rest)


def term(word: str, shown: str = "") -> Html:
    """A word with its explanation as a tooltip."""
    return tag("abbr", shown or word, title=TERMS[word])


def chip(status: Status, words: str = "") -> Html:
    """A status as icon and word (never colour alone). ``words``: instead of those of the status."""
    return tag(
        "span", tag("span", ICONS[status], aria_hidden="true"), " ", words or STATUS_WORDS[status], class_=f"h20-chip h20-{status.value}"
    )


def number(value: object, digits: int = 4) -> str:
    """A figure with about ``digits`` significant digits and thousands separated; "–" when there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def measure(value: object, unit: str = "") -> str:
    """A measured value as people say it: ``412.7 s``, ``yes``, ``nothing``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and len(value) > 1 and value.count(value[0]) == len(value):
        return f"{len(value)} × {local(measure(value[0], unit))}"
    return f"{number(value)} {unit_beside(value, unit)}".rstrip()


def unit_of(verdict: Verdict) -> str:
    """The unit of what was measured: its own, that of its limit, else that of its figure."""
    number = isinstance(verdict.measured, (int, float)) and not isinstance(verdict.measured, bool)
    known = CHECK_FIGURES.get(verdict.check) if number else None
    return verdict.unit or (verdict.limit.unit if verdict.limit else "") or (known.unit if known else "")


def limit_words(limit: Limit) -> str:
    """A limit as people say it, with figures shortened as those it is held against."""
    if limit.kind == "equal":
        return measure(limit.value, limit.unit)
    if limit.kind in ("min", "max"):
        told = measure(limit.value, limit.unit)
        return f"at least {told}" if limit.kind == "min" else f"at most {told}"
    return str(limit)


def gigabytes(value: float | None) -> str:
    """10^9 bytes with two decimals, or 10^6 where there is almost nothing."""
    if value is None:
        return "–"
    return f"{value:.2f} GB" if value >= 0.1 or value == 0 else f"{value * 1e3:.3g} MB"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``1 h 12 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def moment(time: datetime | None) -> str:
    """A point in time, always with its zone."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "unknown"
