"""Rail counters of the stand-in: they advance with the tokens that its engine has processed, by the volume TP16 moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_h20.probes.counters import expected_volume
from pytest_h20.probes.model_shape import shape_of
from pytest_h20.probes.script import Missing
from pytest_h20.rehearsal.sparse import R1_CONFIG

if TYPE_CHECKING:
    from pytest_h20.rehearsal.world import World

WORD = 4
"""``port_xmit_data`` counts 4-byte words."""


def counters_of(world: World, node: str, tokens: int, base: dict[tuple[str, str], int], loads: int = 0) -> dict[tuple[str, str], int]:
    """Counters of every device of a node after this many tokens and runs of ``ib_write_bw``: (device, counter) → value."""
    spec = next(n for n in world.inventory.nodes if n.name == node)
    rails = [r.hca for r in spec.rails]
    shape = shape_of(R1_CONFIG)
    assert not isinstance(shape, Missing)
    each = expected_volume(tokens, len(rails), shape, 8 * len(world.inventory.nodes), len(world.inventory.nodes)).bytes_per_rail
    found = dict(base)
    for hca in rails:
        moved = int(each * world.traffic.share.get((node, hca), 1.0)) // WORD
        for name in ("port_xmit_data", "port_rcv_data"):
            found[(hca, name)] = found.get((hca, name), 0) + moved
        for name, per_thousand in world.traffic.errors.get((node, hca), {}).items():
            found[(hca, name)] = found.get((hca, name), 0) + per_thousand * tokens // 1000
        for name, each_run in world.traffic.under_load.get((node, hca), {}).items():
            found[(hca, name)] = found.get((hca, name), 0) + each_run * loads
    for other in spec.other_hcas:
        moved = int(each * world.traffic.management_share) // WORD
        for name in ("port_xmit_data", "port_rcv_data"):
            found[(other.hca, name)] = found.get((other.hca, name), 0) + moved
    return found
