"""GIDs: parse, score, choose. The index NCCL must use differs per driver, per node and sometimes per boot: it is read, never
assumed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Gid:
    """One used slot of a GID table. ``type``: ``RoCE v2``, ``IB/RoCE v1`` ...; ``netdev``: the net device it belongs to."""

    device: str
    port: int
    index: int
    gid: str
    type: str
    netdev: str

    @property
    def address(self) -> ipaddress.IPv6Address:
        """The GID as the address it is."""
        return ipaddress.IPv6Address(self.gid)

    @property
    def ipv4(self) -> str:
        """The IPv4 address of an IPv4-mapped GID (``::ffff:a.b.c.d``), else an empty text."""
        mapped = self.address.ipv4_mapped
        return str(mapped) if mapped else ""

    @property
    def version(self) -> str:
        """``v2`` or ``v1``, as show_gids prints it."""
        return "v2" if self.type.endswith("v2") else "v1"

    @property
    def link_local(self) -> bool:
        """True for fe80::/10: it reaches only the same layer-2 segment and NCCL's connection attempt times out (F29)."""
        return self.address.is_link_local


def score(gid: Gid) -> int:
    """How good a GID is for NCCL over RoCE: RoCE v2 1000; IPv4-mapped 200, global IPv6 100, link-local 0; a lower index
    breaks ties.

    The weights are those in use at large sites (ROCm/mori's environment check); the order follows from how RoCE v2 routes.
    """
    family = 200 if gid.ipv4 else 0 if gid.link_local else 100
    return (1000 if gid.version == "v2" else 0) + family - min(gid.index, 99)


def best(gids: Iterable[Gid], netdev: str | None = None, address: str | None = None) -> Gid | None:
    """The GID to configure for one port: of the wanted address if given, else of the wanted net device; None = none usable
    (v2)."""
    usable = [g for g in gids if g.version == "v2"]
    if address:
        usable = [g for g in usable if address in (g.ipv4, str(g.address))] or usable
    if netdev:
        usable = [g for g in usable if g.netdev in ("", netdev)] or usable
    return max(usable, key=score, default=None)


def describe(gid: Gid | None) -> str:
    """One line a person can compare with show_gids."""
    if gid is None:
        return "an empty slot"
    kind = f"IPv4 {gid.ipv4}" if gid.ipv4 else "link-local" if gid.link_local else "IPv6"
    return f"{gid.type}, {kind}, {gid.gid}, {gid.netdev or 'no net device'}"
