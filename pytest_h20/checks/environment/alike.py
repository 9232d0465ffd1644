"""Nodes against each other: a difference that matters is one row of a table, and one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, cluster_check
from pytest_h20.core.verdict import Limit, Verdict
from pytest_h20.probes.facts import Facts, NodeFacts, View
from pytest_h20.probes.script import Follows, Missing


@dataclass(frozen=True)
class Compared:
    """A fact that should be equal on all nodes. ``matters``: a difference fails the check; else it is a warning."""

    name: str
    value: Callable[[View], object]
    matters: bool
    why: str


def _of(attribute: str, get: Callable[[Any], object]) -> Callable[[View], object]:
    def value(view: View) -> object:
        fact = getattr(view.node, attribute)
        return fact if isinstance(fact, Missing) else get(fact)

    return value


def _gpu_set(field: str) -> Callable[[View], object]:
    return _of("gpus", lambda g: ", ".join(sorted({str(getattr(x, field)) for x in g.gpus})))


def _rails(view: View, get: Callable[[NodeFacts, str, int, str], object]) -> object:
    values = [get(view.node, r.rail.hca, r.rail.port, r.rail.interface) for r in view.rails]
    missing = next((v for v in values if isinstance(v, Missing)), None)
    return missing or ", ".join(map(str, values))


def _firmware(n: NodeFacts, hca: str, port: int, interface: str) -> object:
    return n.rdma if isinstance(n.rdma, Missing) else getattr(n.rdma.hca(hca), "firmware", "absent")


def _rate(n: NodeFacts, hca: str, port: int, interface: str) -> object:
    return n.rdma if isinstance(n.rdma, Missing) else getattr(n.rdma.port(hca, port), "rate_gbps", "absent")


def _mtu(n: NodeFacts, hca: str, port: int, interface: str) -> object:
    return n.network if isinstance(n.network, Missing) else getattr(n.network.interface(interface), "mtu", "absent")


def _control_mtu(view: View) -> object:
    n = view.node.network
    return n if isinstance(n, Missing) else getattr(n.interface(view.spec.control_interface), "mtu", "absent")


_IMAGE_PACKAGES = ("vllm", "sglang", "torch", "ray", "transformers")


def _links(n: Any) -> object:
    return ", ".join(sorted({str(sum(s is not None for s in speeds)) for _, speeds in n.links}))


def _gpudirect(d: Any) -> object:
    return d.peermem or ("dma-buf" if d.open_kernel and d.dmabuf_kernel else "none")


def _packages(v: Any) -> object:
    return ", ".join(f"{p} {v.package(p)}" for p in _IMAGE_PACKAGES if v.package(p))


_SAME_VERSIONS = "ranks of different versions do not work together (F09)"
COMPARED: tuple[Compared, ...] = (
    Compared("operating system", _of("system", lambda s: s.os), False, "different kernels and libraries"),
    Compared("kernel", _of("system", lambda s: s.kernel), False, "different drivers behave differently"),
    Compared("CPU cores", _of("system", lambda s: s.cpus), False, "other machine"),
    Compared("memory GiB", _of("system", lambda s: s.memory_kib and round(s.memory_kib / 2**20)), False, "other machine"),
    Compared("UTC offset", _of("system", lambda s: s.utc_offset), False, "logs of the nodes do not line up"),
    Compared("NUMA balancing", _of("tuning", lambda t: t.numa_balancing), False, "one node slower"),
    Compared("governor", _of("tuning", lambda t: ",".join(t.governors)), False, "one node slower"),
    Compared("huge pages", _of("tuning", lambda t: t.thp), False, "one node slower"),
    Compared("driver", _of("gpus", lambda g: g.driver), True, "different driver branches in one job are not supported"),
    Compared("CUDA of the driver", _of("gpus", lambda g: g.cuda), True, "one node cannot run the image"),
    Compared("GPU count", _of("gpus", lambda g: len(g.gpus)), True, "tensor parallelism needs equal nodes"),
    Compared("GPU model", _gpu_set("name"), True, "the slowest rank decides"),
    Compared("GPU memory MiB", _gpu_set("memory_mib"), True, "the smallest GPU decides"),
    Compared("GPU VBIOS", _gpu_set("vbios"), False, "power and clocks may differ"),
    Compared("GPU power limit W", _gpu_set("power_limit"), True, "the slowest rank decides"),
    Compared("GPU application clock MHz", _gpu_set("app_clock"), True, "the slowest rank decides"),
    Compared("GPU ECC", _gpu_set("ecc"), True, "memory size and bandwidth differ"),
    Compared("NVLinks per GPU", _of("nvlinks", _links), True, "one board is degraded"),
    Compared("GPUDirect", _of("driver", _gpudirect), True, "one side falls back to host memory"),
    Compared("docker", _of("daemon", lambda d: d.version), False, "different defaults"),
    Compared("image", _of("image", lambda i: i.id), True, _SAME_VERSIONS),
    Compared("NCCL in the image", _of("image_versions", lambda v: v.nccl), True, "ranks of different NCCL do not connect"),
    Compared("packages in the image", _of("image_versions", _packages), True, _SAME_VERSIONS),
    Compared("control MTU", _control_mtu, True, "large messages vanish (F38)"),
    Compared("HCA firmware by rail", lambda v: _rails(v, _firmware), False, "different defaults of congestion control"),
    Compared("rate by rail Gbit/s", lambda v: _rails(v, _rate), True, "the slowest rail decides"),
    Compared("MTU by rail", lambda v: _rails(v, _mtu), True, "RoCE and TCP stall on a path MTU mismatch (F38)"),
)


@dataclass(frozen=True)
class FactRow:
    """One fact on every node. ``equal`` is None when it is not known on every node; ``follows``: when one told cause is why."""

    name: str
    values: Mapping[str, str]
    equal: bool | None
    matters: bool
    why: str
    follows: Follows | None = None


def node_table(facts: Facts) -> tuple[FactRow, ...]:
    """Every compared fact, for the report."""
    found = []
    for c in COMPARED:
        raw = {v.name: c.value(v) for v in facts.views}
        lost = [x for x in raw.values() if isinstance(x, Missing)]
        told = next((x for x in lost if isinstance(x, Follows)), None) if all(isinstance(x, Follows) for x in lost) else None
        values = {n: f"unknown: {x}" if isinstance(x, Missing) else str(x) for n, x in raw.items()}
        found.append(FactRow(c.name, values, None if lost else len(set(values.values())) == 1, c.matters, c.why, told))
    return tuple(found)


def differences(facts: Facts) -> tuple[FactRow, ...]:
    """The rows that differ."""
    return tuple(r for r in node_table(facts) if r.equal is False)


@cluster_check("environment.nodes_agree", "The nodes are alike", always=True, action="make the nodes alike")
def nodes_agree(say: Say, facts: Facts) -> Iterable[Verdict]:
    """One verdict per differing fact (failing when it breaks or slows the engine, else a warning), and one about all the
    others.

    A fact known on some nodes only is "could not measure" for the comparison when a difference would matter; one known on
    none is
    left to the check of that fact.
    """
    if len(facts.views) < 2:
        return [say.skip("one node only")]
    told: list[Verdict] = []
    equal = 0
    for row in node_table(facts):
        here = say.about(row.name)
        details: dict[str, JsonValue] = {"values": dict(row.values)}
        shown = "; ".join(f"{n}: {v}" for n, v in row.values.items())
        equal += row.equal is True
        if row.equal is False and row.matters:
            kinds = len(set(row.values.values()))
            limit = Limit(kind="equal", value=1, unit="different values", origin=builtin(row.why))
            told.append(here.judge(kinds, limit, reason=shown, details=details))
        elif row.equal is False:
            told.append(here.warn(shown, row.why, details=details))
        elif row.equal is None and row.matters and not all(v.startswith("unknown: ") for v in row.values.values()):
            unknown = here.unknown(f"not known on every node: {shown}", details=details)
            told.append(here.missing(row.follows) if row.follows else unknown)
    limit = Limit(kind="min", value=1, unit="equal facts", origin=builtin("something must have been compared"))
    return [*told, say.judge(equal or None, limit, reason="no fact is known on all nodes")]
