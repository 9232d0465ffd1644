"""Page one on paper: what somebody puts a name to. Decision and conditions, machines, gates, key figures, versions, signatures.

On a screen it is not shown: everything in it stands there too. What pytest-html adds (its table of tests) stays off paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_h20.core.verdict import GATE_TITLES, Status
from pytest_h20.lang import local
from pytest_h20.report.engines import comparisons, gates_by_engine, sentence
from pytest_h20.report.html.first_screen import outcome
from pytest_h20.report.html.tags import Child, Html, table, tag
from pytest_h20.report.html.words import ICONS, STATUS_WORDS, count_words, moment, number
from pytest_h20.report.model import CellRow, RunView
from pytest_h20.report.signature import in_words
from pytest_h20.report.terminal import tally
from pytest_h20.report.untrusted import sha256

UNKNOWN = "not recorded"

LONG, MANY = 105, 4
"""Characters of a reason, and reasons, on page one: it is one page whatever happened. The pages after it have all of them."""


def first_page(view: RunView) -> Html:
    """The page to sign."""
    status, words = outcome(view)
    conditions = (*view.header.obstacles, *view.header.conditions)
    return tag(
        "section",
        tag("p", tag("strong", f"{ICONS[status]} {words}"), " · ", view.header.name, class_="h20-verdict"),
        tag("p", _short(view.decision.reason, 2 * LONG)) if view.decision.reason else None,
        tag("p", tag("b", "Conditions: "), "; ".join(_first(conditions))) if conditions else None,
        tag("p", "Without conditions.") if view.decision.accepted and not conditions else None,
        table("Machines", ("Machine", "Serial numbers"), _rows(_nodes(view)), "h20-machines"),
        table("Gates", ("Gate", "Result", "Checks"), _rows(_gates(view))),
        table("Key figures", KEY_FIGURES, _rows(_figures(view)), "h20-tight") if view.cells else None,
        [tag("p", _short(sentence(pair), 3 * LONG), ".") for pair in comparisons(view)[: len(view.header.engines) - 1]],
        tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in _versions(view)], class_="h20-facts"),
        tag("dl", [(tag("dt", word), tag("dd", "")) for word in ("Name", "Date", "Signature")], class_="h20-sign"),
        class_="h20-paper",
        aria_label="Page to sign",
    )


def _rows(rows: Iterable[tuple[Child, ...]]) -> list[Html]:
    return [tag("tr", *(tag("td", value) for value in row)) for row in rows]


def _nodes(view: RunView) -> Iterator[tuple[Child, ...]]:
    known = view.fingerprint.nodes if view.fingerprint else {}
    for node in view.header.nodes:
        facts = known.get(node.name, {})
        serials = facts.get("gpu serials") or facts.get("gpu uuids") or UNKNOWN
        machine = [tag("b", node.name), node.address, node.gpus or facts.get("gpu", UNKNOWN)]
        numbers = [("GPU serial numbers: ", serials), ("HCA GUIDs: ", facts.get("hca guids", UNKNOWN))]
        yield (
            [tag("div", line, class_="h20-nowrap") for line in machine if line],
            [tag("div", tag("span", words, class_="h20-muted"), _numbers(text)) for words, text in numbers],
        )


def _numbers(text: str) -> list[Child]:
    """Serial numbers, none of them broken over two lines."""
    numbers = text.split(", ")
    return [[tag("span", number, "," if at < len(numbers) else "", class_="h20-nowrap"), " "] for at, number in enumerate(numbers, 1)]


def _short(text: str, length: int = LONG) -> str:
    text = local(text)  # before it is cut: half a sentence is no text that anybody has translated
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _first(texts: Sequence[str]) -> list[str]:
    more = len(texts) - MANY
    return [_short(text) for text in texts[:MANY]] + ([f"and {more} more, on the next page"] if more > 0 else [])


def _gates(view: RunView) -> Iterator[tuple[Child, ...]]:
    by_engine = gates_by_engine(view)
    for gate in view.decision.gates:
        counts = count_words(tally(view, gate))
        word = f"{ICONS[gate.status]} {STATUS_WORDS[gate.status]}" + ("" if gate.required else " (not required)")
        each = by_engine.get(gate.name, {})
        red = [engine for engine, found in each.items() if found.status.blocks]
        word += f" for {', '.join(red)}" if red and len(red) < len(each) else ""
        why = gate.reason if gate.status.blocks and gate.reason else counts or gate.reason or "no check ran"
        yield GATE_TITLES[gate.name], word, _short(why)


KEY_FIGURES = ("Engine", "Cell with the most", "Output tok/s", "tok/s per GPU", "tok/s per user", "TTFT p50 / p99", "TPOT p50 / p99")


def _figures(view: RunView) -> Iterator[tuple[Child, ...]]:
    for engine in dict.fromkeys(c.engine for c in view.cells):
        cells = [c for c in view.cells if c.engine == engine and c.output_throughput is not None and c.status is not Status.UNKNOWN]
        if not cells:
            yield engine, "nothing could be measured", "–", "–", "–", "–", "–"
            continue
        best = max(cells, key=lambda c: c.output_throughput or 0.0)
        gpus = gpus_of(view, engine)
        each = number(best.output_throughput / gpus) if gpus and best.output_throughput else "–"
        user = number(1000 / best.mean_tpot_ms) if best.mean_tpot_ms else "–"
        yield engine, best.name, number(best.output_throughput), each, user, _tails(best, "ttft"), _tails(best, "tpot")


def _tails(cell: CellRow, name: str) -> str:
    low, high = cell.figure(f"p50_{name}_ms"), cell.figure(f"p99_{name}_ms")
    if low is None and high is None:
        return f"mean {number(cell.figure(f'mean_{name}_ms'))} ms"
    return f"{number(low)} / {number(high)} ms"


def gpus_of(view: RunView, engine: str) -> int:
    """GPUs an engine ran on: its ranks (of older runs, its tensor parallel size); 0 when that was not recorded."""
    known = view.fingerprint.engines.get(engine, {}) if view.fingerprint else {}
    text = known.get("ranks") or known.get("tensor_parallel", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def _versions(view: RunView) -> Iterator[tuple[str, Child]]:
    h, known = view.header, view.fingerprint
    ours = (known.plugin_version if known else "") or h.plugin_version or UNKNOWN
    yield "pytest-h20", f"{ours}, Python {known.python if known else UNKNOWN}"
    for engine in h.engines:
        facts = known.engines.get(engine, {}) if known else {}
        words = {k: v for k, v in facts.items() if k not in ("image", "tensor_parallel", "ranks", "layout", "nodes")}
        yield f"Engine {engine}", ", ".join([h.images.get(engine, ""), *(f"{k} {v}" for k, v in words.items())])
    yield "Driver", h.driver or UNKNOWN
    revision = next((str(c.details["revision"]) for c in view.checks if c.details.get("revision")), "")
    yield "Model", f"{h.model or UNKNOWN}, revision {revision or UNKNOWN}"
    signed = f", {in_words(view.path)}" if view.complete else ""
    yield "Run", [view.path.name, ", ", h.mode.words, f", {moment(h.started)}", signed]
    document = view.path / "verdict.json"
    written = view.complete and document.is_file()
    yield "SHA-256 of verdict.json", tag("code", sha256(document) if written else "the run has not finished")
