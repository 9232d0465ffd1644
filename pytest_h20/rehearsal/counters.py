"""Rail counters of the stand-in: they advance with the tokens that its engine has processed, by the volume that its layout moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_h20.engines.layout import Layout
from pytest_h20.probes.counters import expected_volume
from pytest_h20.probes.model_shape import shape_of
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal.sparse import R1_CONFIG

if TYPE_CHECKING:
    from pytest_h20.rehearsal.world import World

RUN_BYTES = 73_500_000_000
"""What a run of ``ib_write_bw`` moves: 3 s at 196 Gbit/s."""

WORD = 4
"""``port_xmit_data`` counts 4-byte words."""


def counters_of(
    world: World, node: str, served: Sequence[tuple[int, Layout]], base: dict[tuple[str, str], int], loads: int = 0
) -> dict[tuple[str, str], int]:
    """Counters of every device of a node after so many tokens of engines of a layout and runs of ``ib_write_bw``: (device, counter) →
    value."""
    spec = next(n for n in world.inventory.nodes if n.name == node)
    rails = [r.hca for r in spec.rails]
    shape = shape_of(R1_CONFIG)
    assert not isinstance(shape, Missing)
    rank, tokens = [n.name for n in world.inventory.nodes].index(node), sum(count for count, _ in served)
    each = {"port_xmit_data": 0.0, "port_rcv_data": 0.0}
    for count, layout in served:
        if world.nccl.stages_across:
            layout = Layout(layout.ranks, nodes=layout.nodes)
        volume = expected_volume(count, len(rails), shape, layout)
        if rank < layout.nodes:
            evenly = volume.together / (layout.nodes * len(rails))
            for name, size in zip(each, (evenly, evenly) if volume.together else volume.of_rail(rank), strict=True):
                each[name] += size
    found = dict(base)
    for hca in rails:
        for name, size in each.items():
            found[(hca, name)] = found.get((hca, name), 0) + int(size * world.traffic.share.get((node, hca), 1.0)) // WORD
        for name, per_thousand in world.traffic.errors.get((node, hca), {}).items():
            found[(hca, name)] = found.get((hca, name), 0) + per_thousand * tokens // 1000
        for way in ("tx", "rx"):
            name = f"{way}_prio{world.traffic.priority.get((node, hca), 3)}_bytes"
            found[(hca, name)] = found.get((hca, name), 0) + RUN_BYTES * loads
        for name, each_run in world.traffic.under_load.get((node, hca), {}).items():
            found[(hca, name)] = found.get((hca, name), 0) + each_run * loads
    for other in spec.other_hcas:
        for name, size in each.items():
            found[(other.hca, name)] = found.get((other.hca, name), 0) + int(size * world.traffic.management_share) // WORD
    return found
