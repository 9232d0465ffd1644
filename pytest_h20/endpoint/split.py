"""What a server tells of its version, also where it is the router of a prefill/decode split. Pure.

SGLang's routers answer ``/get_server_info`` with the answers of their servers: ``{"internal_states": …, "prefill": [{"version": …}],
"decode": [{"version": …}]}`` (sglang_router 0.3.2, ``mini_lb.py``; asked as it ran), the gateway (the same package without ``--mini-lb``)
with ``{"router_manager": true, "routers_count": 1, "workers_count": 2}``. They have no ``/metrics`` of an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitVersions:
    """The versions behind a router, by part: ``prefill``, ``decode``."""

    parts: tuple[tuple[str, str], ...]

    @property
    def one(self) -> str:
        """What the API speaks: decode answers. "" where nobody tells."""
        return next((version for part, version in self.parts if part == "decode"), self.parts[0][1] if self.parts else "")

    @property
    def differ(self) -> str:
        """In words, where not all servers are of one version; else ""."""
        return ", ".join(f"{part} {version}" for part, version in self.parts) if len({v for _, v in self.parts}) > 1 else ""


def versions_behind(info: object, key: str = "version") -> SplitVersions | None:
    """The versions of the servers behind a router; None for the info of a server itself."""
    if not isinstance(info, Mapping):
        return None
    if info.get("router_manager") is True:
        return SplitVersions(())
    if not any(isinstance(info.get(part), list) for part in ("prefill", "decode")):
        return None
    found = []
    for part in ("prefill", "decode"):
        servers = info.get(part)
        for server in servers if isinstance(servers, list) else []:
            version = server.get(key) if isinstance(server, Mapping) else None
            if isinstance(version, str) and version:
                found.append((part, version))
    return SplitVersions(tuple(found))


def told_version(info: object, key: str = "version") -> str:
    """The version that a server's info tells: its own, or behind a router that of the servers which decode. "" when it tells none."""
    own = info.get(key) if isinstance(info, Mapping) else None
    if isinstance(own, str):
        return own
    behind = versions_behind(info, key)
    return behind.one if behind is not None else ""
