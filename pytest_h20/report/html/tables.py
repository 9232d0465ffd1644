"""The rest of a run: how the nodes differ, commands, log tails, what was not measured, settings, fingerprint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pytest_h20.report.html.tags import Html, join, table, tag
from pytest_h20.report.html.words import duration
from pytest_h20.report.model import Command, Fingerprint, LogTail, NodeColumn, NotMeasured

COLUMNS = 3
"""Up to this many nodes stand side by side; more are grouped by value, or the table would not fit a phone."""


def environment(facts: Sequence[NodeColumn]) -> Html:
    """Facts that differ between nodes first; those that are the same are folded away."""
    words = list(dict.fromkeys(key for node in facts for key in node.facts))
    differ = [w for w in words if len({node.facts.get(w) for node in facts}) > 1]
    same = [w for w in words if w not in differ]
    nodes = [node.node for node in facts]
    if len(facts) == 1:
        return _same(words, facts[0].facts, f"{nodes[0]}: the only node")
    told = (
        _columns(differ, facts)
        if differ and len(facts) <= COLUMNS
        else _grouped(differ, facts)
        if differ
        else tag("p", f"No recorded fact differs between {', '.join(nodes)}.")
    )
    folded = tag("details", tag("summary", f"{len(same)} facts are the same on every node"), _same(same, facts[0].facts, "Same"))
    return join(told, folded if same else None)


def _columns(words: Sequence[str], facts: Sequence[NodeColumn]) -> Html:
    rows = [
        tag("tr", tag("th", w, scope="row"), *(tag("td", n.facts.get(w, "not known"), data_label=n.node) for n in facts)) for w in words
    ]
    return table("Differs between nodes", ("Fact", *(n.node for n in facts)), rows, "h20-differs")


def _grouped(words: Sequence[str], facts: Sequence[NodeColumn]) -> Html:
    items = []
    for word in words:
        by_value: defaultdict[str, list[str]] = defaultdict(list)
        for node in facts:
            by_value[node.facts.get(word, "not known")].append(node.node)
        rare_first = sorted(by_value.items(), key=lambda item: len(item[1]))
        items += [tag("dt", word), *(tag("dd", tag("b", value), f": {', '.join(names)}") for value, names in rare_first)]
    return tag("dl", items, class_="h20-facts")


def _same(words: Sequence[str], facts: Mapping[str, str], caption: str) -> Html:
    rows = [tag("tr", tag("th", w, scope="row"), tag("td", facts.get(w, "not known"))) for w in words]
    return table(caption, (), rows)


def commands(found: Sequence[Command]) -> Html:
    """Every command exactly as it was given, by what it was for."""
    groups: defaultdict[str, list[Command]] = defaultdict(list)
    for command in found:
        groups[command.purpose or "other"].append(command)
    return join(
        *(tag("details", tag("summary", f"{purpose} ({len(group)})"), [_command(c) for c in group]) for purpose, group in groups.items())
    )


def _command(command: Command) -> Html:
    ended = "" if command.rc is None else f", ended with {command.rc}"
    took = "" if command.seconds is None else f" after {duration(command.seconds)}"
    return tag("figure", tag("figcaption", f"on {command.node}{ended}{took}"), tag("pre", tag("code", command.command)))


def logs(found: Sequence[LogTail], *, opened: bool) -> Html:
    """Ends of logs. ``opened``: shown at once, as after a start that failed."""
    return join(
        *(
            tag(
                "details",
                tag("summary", f"{log.node}: {log.source}"),
                tag("pre", log.text),
                tag("p", "whole file: ", tag("code", log.evidence), class_="h20-small") if log.evidence else None,
                open=opened,
            )
            for log in found
        )
    )


def not_measured(found: Sequence[NotMeasured]) -> Html:
    """What nobody should believe was checked."""
    groups: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in found:
        groups[item.reason][item.what].append(item.subject)
    return join(*(_unmeasured(reason, members) for reason, members in groups.items()))


def _unmeasured(reason: str, members: Mapping[str, Sequence[str]]) -> Html:
    """One reason with all that it kept from being measured: a cluster that is not up is one reason, and not a hundred."""
    checks = [
        tag("li", tag("code", what), join(" ", tag("code", ", ".join(filter(None, subjects)))) if any(subjects) else None)
        for what, subjects in members.items()
    ]
    count = tag("span", " ", f"({sum(map(len, members.values()))})", class_="h20-muted")
    return tag("details", tag("summary", reason or "no reason was given", count), tag("ul", checks))


def settings(words: Mapping[str, str], command_line: str) -> Html:
    """Effective options and where each came from."""
    return join(
        tag("pre", tag("code", command_line)) if command_line else None,
        _same(list(words), words, "Effective settings") if words else None,
    )


def fingerprint(print_: Fingerprint) -> Html:
    """Everything that may explain a different figure in another run."""
    parts = [
        ("suite", {"plugin": print_.plugin_version, "python": print_.python}),
        ("inputs", {"inventory sha256": print_.inventory_sha256, "limits sha256": print_.limits_sha256, **print_.model}),
        *((name, words) for name, words in print_.engines.items()),
        *((f"{name} flags", {k: str(v) for k, v in words.items()}) for name, words in print_.flags.items()),
        *print_.nodes.items(),
    ]
    known = [(name, {k: v for k, v in words.items() if v}) for name, words in parts]
    return join(*(_same(list(words), words, name) for name, words in known if words))
