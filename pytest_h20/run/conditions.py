"""What an inventory looks away from: named, so that nobody signs for more than was judged. Pure.

Each is a condition of the acceptance ("accepted under conditions: …"). What takes a whole kind of proof away is an obstacle instead:
then there is no acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from pydantic import JsonValue

from pytest_h20.config.expect import Expect
from pytest_h20.config.inventory import Inventory, Profile
from pytest_h20.core.verdict import GateName, Status, Verdict
from pytest_h20.load.cells import BLOG_CONCURRENCIES, BLOG_LENGTHS

ESSENTIAL = ("driver", "gpu_count", "gpu_model", "gpu_memory_min_mib", "gpu_ecc", "gpudirect", "ib_write_bw", "all_reduce")
"""Expectations without which a machine of another kind would pass. ``driver_min`` stands for ``driver``."""

LOOSER_WHEN_HIGHER = ("gpu_idle_max_mib", "clock_skew_max_s", "clock_to_us_max_s", "link_down_max_per_day")
LOOSER_WHEN_LOWER = ("ib_write_bw_min", "rails_together_min", "rails_apart_min", "run_free_gib")
"""Expectations with a default of the suite's: further than that is looser."""


def obstacles(inventory: Inventory) -> Iterator[str]:
    """Loosenings that leave nothing to accept."""
    for pattern in dict.fromkeys(inventory.expect.unmeasured_ok + tuple(p for n in inventory.nodes for p in _of(n.expect))):
        whole = [gate.value for gate in GateName if fnmatchcase(f"{gate.value}.", pattern) or fnmatchcase(f"{gate.value}.x", pattern)]
        if whole:
            yield f"the inventory lets whole gates stay unmeasured (unmeasured_ok: {pattern!r} takes {', '.join(whole)})"


def conditions(inventory: Inventory, profiles: Sequence[Profile]) -> Iterator[str]:
    """Loosenings that a reader of the acceptance must know."""
    if inventory.kind != "hardware":
        return
    merged = {n.name: inventory.expect_of(n) for n in inventory.nodes}
    yield from _grouped({name: list(_unjudged(e)) for name, e in merged.items()}, "nothing is expected of")
    yield from _grouped({name: list(_looser(e)) for name, e in merged.items()}, "expected less than usual:")
    allowed = {name: list(e.unmeasured_ok) for name, e in merged.items()}
    yield from _grouped(allowed, "may stay unmeasured:")
    for profile in profiles:
        load = inventory.load_of(profile)
        levels = set(load.concurrency or BLOG_CONCURRENCIES)
        lengths = {tuple(pair) for pair in (load.lengths or BLOG_LENGTHS)}
        left_out = [str(c) for c in BLOG_CONCURRENCIES if c not in levels]
        if left_out:
            yield f"throughput was not measured at {', '.join(left_out)} streams"
        shapes = [f"{i}/{o}" for i, o in BLOG_LENGTHS if (i, o) not in lengths]
        if shapes:
            yield f"throughput was not measured with {', '.join(shapes)} tokens in and out"
    unchecked = [n.name for n in inventory.nodes if n.transport == "ssh" and inventory.ssh_of(n).host_key_checking == "off"]
    if unchecked:
        yield f"the host keys of {', '.join(unchecked)} were not checked"


def weights_reference(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """What the weights were held against, as far as it is less than the published digests: (why there is no acceptance, condition of it).

    Copies that are equal on all nodes can be equally wrong.
    """
    known = any(v.check == "weights.model" and v.status is Status.PASS for v in verdicts)
    hashed = [held for v in verdicts if v.check == "weights.sha256" and isinstance(held := v.details.get("held_against"), dict)]
    copies = max((_count(held.get("other nodes")) for held in hashed), default=0)
    right = max((sum(_count(n) for where, n in held.items() if where not in ("", "other nodes")) for held in hashed), default=0)
    if not known and not right:
        return (
            "the weights were held against no reference, only against each other: give model.sha256 (of `git lfs ls-files -l` in a clone "
            "of the hub), or model.kind: deepseek-r1 where it is one",
            "",
        )
    if not hashed:
        return "", "the content of the weights was not hashed: config, tokenizer, layout and a few blocks of each shard were looked at"
    return "", f"{copies} of {copies + right} files of the weights were compared between the nodes only" if copies else ""


def _count(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _of(expect: Expect | None) -> tuple[str, ...]:
    return expect.unmeasured_ok if expect is not None else ()


def _unjudged(expect: Expect) -> Iterator[str]:
    for name in ESSENTIAL:
        if getattr(expect, name) in (None, False) and not (name == "driver" and expect.driver_min):
            yield name


def _looser(expect: Expect) -> Iterator[str]:
    for names, sign in ((LOOSER_WHEN_HIGHER, 1), (LOOSER_WHEN_LOWER, -1)):
        for name in names:
            usual, asked = Expect.model_fields[name].default, getattr(expect, name)
            if sign * (asked - usual) > 0:
                yield f"{name}: {asked:g} (usual {usual:g})"
    if not expect.memlock_unlimited:
        yield "memlock_unlimited: false"


def _grouped(by_node: dict[str, list[str]], words: str) -> Iterator[str]:
    """One line for all nodes where they agree, else one per node."""
    if len({tuple(texts) for texts in by_node.values()}) == 1:
        texts = next(iter(by_node.values()))
        if texts:
            yield f"{words} {', '.join(texts)}"
        return
    for node, texts in by_node.items():
        if texts:
            yield f"{node}: {words} {', '.join(texts)}"
