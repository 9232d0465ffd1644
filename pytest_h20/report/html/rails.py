"""The RDMA proof, drawn: node, rail, node; green when the rail carried its share by GPUDirect RDMA, red when not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_h20.core.verdict import Status, worst
from pytest_h20.report.html.tags import Html, join, svg, table, tag
from pytest_h20.report.html.words import ICONS, STATUS_WORDS, chip, gigabytes, number, term
from pytest_h20.report.model import RailPair, RailTraffic

WIDTH, ROW, TOP = 400.0, 30.0, 34.0
PAIRED = 44.0
"""Height of a row with a line about its GPUs."""
Pairs = Mapping[tuple[str, str, str], RailPair]
"""By engine, node and HCA."""


@dataclass(frozen=True)
class Link:
    """A rail with both its ends. ``right`` is None when the partner gave no record. ``alone``: neither end has another neighbour, so what
    one received is what the other sent."""

    left: RailTraffic
    right: RailTraffic | None
    alone: bool = True

    @property
    def status(self) -> Status:
        """The worse end; an end that is missing could not be measured."""
        return worst([self.left.status, self.right.status if self.right else Status.UNKNOWN])

    @property
    def reason(self) -> str:
        """Why it is not green."""
        found = [f"{e.node} {e.hca}: {e.reason}" for e in (self.left, self.right) if e and e.reason]
        if self.right is None:
            found.append(f"{self.left.node} {self.left.hca}: no record of its partner")
        return "; ".join(found)


def links(rails: Sequence[RailTraffic]) -> list[Link]:
    """Each end with the one that it leads to: by what it says its partner is, else by the same HCA and port on another node. In a ring of
    more than two nodes an end is in two links, to the next node and from the one before."""
    found: list[tuple[RailTraffic, RailTraffic | None]] = []
    done: list[int] = []
    for end in rails:
        if id(end) in done:
            continue
        partner = next((other for other in rails if id(other) not in done and _leads(end, other)), None)
        partner = partner or next((other for other in rails if end.peer_node and _leads(end, other)), None)
        if partner is not None and _leads(partner, end):
            done.append(id(partner))
        found.append((end, partner))
    met = Counter(id(end) for pair in found for end in pair if end is not None)
    return [Link(left, right, max(met[id(e)] for e in (left, right) if e is not None) == 1) for left, right in found]


def _leads(a: RailTraffic, b: RailTraffic) -> bool:
    """Whether b can be the end that a's rail leads to."""
    if a.engine != b.engine or a.node == b.node or (a.peer_node or b.node) != b.node:
        return False
    if not a.peer_node and (b.peer_node or a.node) != a.node:
        return False
    if a.peer_hca or b.peer_hca:
        return (a.peer_hca or b.hca) == b.hca and (bool(a.peer_hca) or b.peer_hca == a.hca)
    return (a.hca, a.port) == (b.hca, b.port)


def rail_map(rails: Sequence[RailTraffic], no_proof: str = "", pairs: Sequence[RailPair] = ()) -> Html:
    """One drawing per engine and pair of nodes, and the same as a table. ``pairs``: what each GPU moved through its NIC, below its line.

    ``no_proof``: why the rails prove nothing here (RDMA was stood in, nothing was judged): then nothing is green.
    """
    if no_proof:
        rails = [r if r.status.blocks else r.model_copy(update={"status": Status.SKIP, "reason": no_proof}) for r in rails]
    groups: defaultdict[tuple[str, str, str], list[Link]] = defaultdict(list)
    for link in links(rails):
        peer = link.right.node if link.right else link.left.peer_node or "?"
        groups[(link.left.engine, link.left.node, peer)].append(link)
    known = {(pair.engine, pair.node, pair.hca): pair for pair in pairs}
    drawings = [_drawing(engine, left, right, found, i, known) for i, ((engine, left, right), found) in enumerate(groups.items())]
    return join(
        tag("p", f"{no_proof}: nothing here is a proof, and the lines stay grey.", class_="h20-standin") if no_proof else None,
        tag(
            "p",
            "Each line is one ",
            term("rail"),
            ". It is green when its traffic went by ",
            term("GDR", "GPUDirect RDMA"),
            " and its byte counters rose by about its share while a request ran.",
        ),
        tag("div", drawings, class_="h20-charts"),
        tag("details", tag("summary", "The same as a table"), _link_table([link for found in groups.values() for link in found])),
    )


def _drawing(engine: str, left: str, right: str, found: Sequence[Link], index: int, pairs: Pairs) -> Html:
    below = [_pair(link, pairs) for link in found]
    row = PAIRED if any(below) else ROW
    height = TOP + row * len(found) + 6
    good = sum(link.status in (Status.PASS, Status.WARN) for link in found)
    caption = f"{engine + ': ' if engine else ''}{left} to {right}: {good} of {len(found)} rails carry RDMA"
    if any(link.status is Status.SKIP for link in found):
        caption = f"{engine + ': ' if engine else ''}{left} to {right}: {len(found)} rails, not a proof of RDMA"
    described = "; ".join(
        f"{link.left.hca} to {link.right.hca if link.right else 'unknown'}: {_traffic(link)}, {STATUS_WORDS[link.status]}" for link in found
    )
    body = svg(
        WIDTH,
        height,
        caption,
        described,
        _node(0, left, height),
        _node(WIDTH - 78, right, height),
        [_link(link, TOP + row * i + ROW / 2, words) for i, (link, words) in enumerate(zip(found, below, strict=True))],
        key=f"h20-r-{index}",
    )
    return tag("figure", tag("figcaption", caption), body)


def _node(x: float, name: str, height: float) -> Html:
    short = name if len(name) <= 12 else name[:11] + "…"
    return join(
        tag("rect", x=f"{x:g}", y="1", width="78", height=f"{height - 2:g}", rx="6", class_="h20-node"),
        tag("text", short, x=f"{x + 39:g}", y="20", text_anchor="middle", class_="h20-strong"),
    )


def _pair(link: Link, pairs: Pairs) -> str:
    """What the GPUs at both ends moved before the engine: ``GPU3 → 196.0  ← 195.8 GPU3, Gbit/s``; empty where it was not measured."""
    there = pairs.get((link.left.engine, link.left.node, link.left.hca))
    back = pairs.get((link.right.engine, link.right.node, link.right.hca)) if link.right else None
    if there is None or (there.write_gbps is None and (back is None or back.write_gbps is None)):
        return ""
    ends = ["" if gpu is None else f"GPU{gpu}" for gpu in (there.gpu, there.peer_gpu)]
    moved = f"→ {number(there.write_gbps)}" + (f"  ← {number(back.write_gbps if back else None)}" if link.alone else "")
    return " ".join(filter(None, (ends[0], moved, ends[1]))) + " Gbit/s"


def _link(link: Link, y: float, below: str) -> Html:
    css = f"h20-rail h20-{link.status.value}"
    right = link.right.hca if link.right else link.left.peer_hca or "?"
    middle = f"{ICONS[link.status]} {_traffic(link)}"
    return tag(
        "g",
        tag("title", link.reason or STATUS_WORDS[link.status]),
        tag("line", x1="78", x2=f"{WIDTH - 78:g}", y1=f"{y + 5:g}", y2=f"{y + 5:g}", class_=css),
        tag("text", link.left.hca, x="39", y=f"{y + 8:g}", text_anchor="middle"),
        tag("text", right, x=f"{WIDTH - 39:g}", y=f"{y + 8:g}", text_anchor="middle"),
        tag("text", middle, x=f"{WIDTH / 2:g}", y=f"{y - 1:g}", text_anchor="middle"),
        tag("text", below, x=f"{WIDTH / 2:g}", y=f"{y + 19:g}", text_anchor="middle", class_="h20-pair") if below else None,
    )


def _traffic(link: Link) -> str:
    sent, back = link.left.gb_sent, link.left.gb_received
    if sent is None and link.right:
        sent, back = link.right.gb_received, link.right.gb_sent
    if sent is None and back is None:
        return "no counter"
    if not link.alone:
        back = link.right.gb_received if link.right else None
    seen = [e.gdr for e in (link.left, link.right) if e]
    kind = "no GDR" if False in seen else "GDR" if seen and all(seen) else "GDR not seen"
    moved = f"→ {gigabytes(sent)}  ← {gigabytes(back)}" if link.alone else f"→ {gigabytes(sent)}, {gigabytes(back)} received there"
    return f"{moved}, {kind}"


def _link_table(found: Sequence[Link]) -> Html:
    head = ("Rail", "Sent", "Received", "Expected", "Channels", "GDR", "Result")
    ends = [end for link in found for end in (link.left, link.right) if end]
    return table("Rails, each end", head, [_row(end) for end in ends], "h20-stack")


def _row(end: RailTraffic) -> Html:
    gdr = {True: "yes", False: "no", None: "not seen"}[end.gdr]
    cells = (
        ("Rail", f"{end.node} {end.hca}:{end.port}" + (f" ({end.interface})" if end.interface else "")),
        ("Sent", gigabytes(end.gb_sent)),
        ("Received", gigabytes(end.gb_received)),
        ("Expected", gigabytes(end.gb_expected)),
        ("Channels", number(end.channels)),
        ("GDR", gdr),
        ("Result", join(chip(end.status), f" {end.reason}" if end.reason else "")),
    )
    return tag("tr", *(tag("td", value, data_label=label) for label, value in cells))


def pair_table(pairs: Sequence[RailPair]) -> Html:
    """Every GPU and its NIC with what they move, alone before the engine starts."""
    names = ("GPU and NIC", "To", "Writes, Gbit/s", "Reads, Gbit/s", "Line rate, Gbit/s", "Latency, µs")
    rows = []
    for p in pairs:
        ends = [f"{node} " + ("" if gpu is None else f"GPU{gpu} ") + hca for node, gpu, hca in _ends(p)]
        cells = (*ends, *(number(x) for x in (p.write_gbps, p.read_gbps, p.line_gbps, p.latency_us)))
        rows.append(tag("tr", *(tag("td", value, data_label=label) for label, value in zip(names, cells, strict=True))))
    memory = "GPU memory" if any(p.gpu is not None for p in pairs) else "host memory"
    written = [p.write_gbps for p in pairs if p.write_gbps is not None]
    slowest = f"{len(pairs)} GPUs and NICs; the slowest writes {number(min(written))} Gbit/s" if written else f"{len(pairs)} GPUs and NICs"
    caption = f"Each through its rail before the engine starts, all rails of a node at once, {memory}"
    return tag("details", tag("summary", slowest), table(caption, names, rows, "h20-stack"))


def _ends(p: RailPair) -> tuple[tuple[str, int | None, str], ...]:
    return (p.node, p.gpu, p.hca), (p.peer_node, p.peer_gpu, p.peer_hca)
