"""Page one on paper: what somebody puts a name to. Decision and conditions, machines, gates, key figures, versions, signatures.

On a screen it is not shown: everything in it stands there too. What pytest-html adds (its table of tests) stays off paper.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_h20.core.verdict import GATE_TITLES
from pytest_h20.report.html.first_screen import outcome
from pytest_h20.report.html.tags import Child, Html, tag
from pytest_h20.report.html.words import ICONS, STATUS_WORDS, count_words, moment, number
from pytest_h20.report.model import Cell, RunView
from pytest_h20.report.run import sha256_file
from pytest_h20.report.terminal import tally

UNKNOWN = "not recorded"


def first_page(view: RunView) -> Html:
    """The page to sign."""
    status, words = outcome(view)
    conditions = (*view.header.obstacles, *view.header.conditions)
    return tag(
        "section",
        tag("p", tag("strong", f"{ICONS[status]} {words}"), f": {view.header.name}", class_="h20-verdict"),
        tag("p", view.decision.reason) if view.decision.reason else None,
        tag("p", tag("b", "Conditions: "), "; ".join(conditions)) if conditions else None,
        tag("p", "Without conditions.") if view.decision.accepted and not conditions else None,
        _table("Machines", ("Node", "Address", "GPUs", "GPU serial numbers", "HCA GUIDs"), list(_nodes(view))),
        _table("Gates", ("Gate", "Result", "Checks"), list(_gates(view))),
        _table("Key figures", KEY_FIGURES, list(_figures(view))) if view.cells else None,
        tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in _versions(view)], class_="h20-facts"),
        tag("dl", [(tag("dt", word), tag("dd", "")) for word in ("Name", "Date", "Signature")], class_="h20-sign"),
        class_="h20-paper",
        aria_label="Page to sign",
    )


def _table(caption: str, head: tuple[str, ...], rows: list[tuple[Child, ...]]) -> Html:
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", word, scope="col") for word in head))),
        tag("tbody", [tag("tr", *(tag("td", value) for value in row)) for row in rows]),
    )


def _nodes(view: RunView) -> Iterator[tuple[Child, ...]]:
    known = view.fingerprint.nodes if view.fingerprint else {}
    for node in view.header.nodes:
        facts = known.get(node.name, {})
        serials = facts.get("gpu serials") or facts.get("gpu uuids") or UNKNOWN
        yield node.name, node.address, node.gpus or facts.get("gpu", UNKNOWN), serials, facts.get("hca guids", UNKNOWN)


def _gates(view: RunView) -> Iterator[tuple[Child, ...]]:
    for gate in view.decision.gates:
        counts = count_words(tally(view, gate))
        word = f"{ICONS[gate.status]} {STATUS_WORDS[gate.status]}" + ("" if gate.required else " (not required)")
        yield GATE_TITLES[gate.name], word, gate.reason if gate.status.blocks and gate.reason else counts or gate.reason or "no check ran"


KEY_FIGURES = ("Engine", "Cell with the most", "Output tok/s", "tok/s per GPU", "tok/s per user", "TTFT p50 / p99", "TPOT p50 / p99")


def _figures(view: RunView) -> Iterator[tuple[Child, ...]]:
    for engine in dict.fromkeys(c.engine for c in view.cells):
        cells = [c for c in view.cells if c.engine == engine and c.output_throughput is not None]
        if not cells:
            yield engine, "nothing was measured", "–", "–", "–", "–", "–"
            continue
        best = max(cells, key=lambda c: c.output_throughput or 0.0)
        gpus = gpus_of(view, engine)
        each = number(best.output_throughput / gpus) if gpus and best.output_throughput else "–"
        user = number(1000 / best.mean_tpot_ms) if best.mean_tpot_ms else "–"
        yield engine, best.name, number(best.output_throughput), each, user, _tails(best, "ttft"), _tails(best, "tpot")


def _tails(cell: Cell, name: str) -> str:
    low, high = cell.figure(f"p50_{name}_ms"), cell.figure(f"p99_{name}_ms")
    if low is None and high is None:
        return f"mean {number(cell.figure(f'mean_{name}_ms'))} ms"
    return f"{number(low)} / {number(high)} ms"


def gpus_of(view: RunView, engine: str) -> int:
    """GPUs an engine ran on, by its tensor parallel size; 0 when that was not recorded."""
    known = view.fingerprint.engines.get(engine, {}) if view.fingerprint else {}
    text = known.get("tensor_parallel", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def _versions(view: RunView) -> Iterator[tuple[str, Child]]:
    h, known = view.header, view.fingerprint
    ours = (known.plugin_version if known else "") or h.plugin_version or UNKNOWN
    yield "pytest-h20", f"{ours}, Python {known.python if known else UNKNOWN}"
    for engine in h.engines:
        facts = known.engines.get(engine, {}) if known else {}
        words = {k: v for k, v in facts.items() if k not in ("image", "tensor_parallel", "nodes")}
        yield f"Engine {engine}", ", ".join([h.images.get(engine, ""), *(f"{k} {v}" for k, v in words.items())])
    yield "Driver", h.driver or UNKNOWN
    revision = next((str(c.details["revision"]) for c in view.checks if c.details.get("revision")), "")
    yield "Model", f"{h.model or UNKNOWN}, revision {revision or UNKNOWN}"
    yield "Run", f"{view.path.name}, {h.mode.words}, {moment(h.started)}"
    document = view.path / "verdict.json"
    written = view.complete and document.is_file()
    yield "SHA-256 of verdict.json", tag("code", sha256_file(document) if written else "the run has not finished")
