"""Rail counters: a snapshot probe, pure differences, and the volume that a layout must move.

``port_xmit_data``/``port_rcv_data`` count 4-byte words (kernel documentation, sysfs-class-infiniband); here they are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_h20.engines.layout import Layout
from pytest_h20.probes.model_shape import ModelShape
from pytest_h20.probes.script import Probe, ProbeError, integer, number, rows, whole

# Word counters of /sys/class/infiniband/*/ports/*/counters; everything else counts events.
WORDS = ("port_xmit_data", "port_rcv_data")

# Counters that must stand still while a healthy rail works. Names of mlx5 (hw_counters) and of the IB spec (counters); F41.
ERRORS = (
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_xmit_discards",
    "port_rcv_remote_physical_errors",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
    "VL15_dropped",
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "implied_nak_seq_err",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "rx_icrc_encapsulated",
    "req_cqe_error",
    "resp_cqe_error",
    "req_remote_access_errors",
    "req_remote_invalid_request",
    "resp_local_length_error",
    "resp_remote_access_errors",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_trans",
    "rx_crc_errors_phy",
    "rx_discards_phy",
    "tx_discards_phy",
    # rxe (drivers/infiniband/sw/rxe/rxe_hw_counters.c)
    "duplicate_request",
    "out_of_seq_request",
    "rcvd_seq_err",
    "rcvd_rnr_err",
    "send_rnr_err",
    "completer_retry_err",
    "retry_exceeded_err",
    "retry_rnr_exceeded_err",
    "send_err",
)

# Counters that rise when the network is congested: not an error of a rail, but throughput is being throttled.
CONGESTION = (
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "rp_cnp_handled",
    "rp_cnp_ignored",
    "port_xmit_wait",
    "rx_pause",
    "tx_pause",
    *(f"{d}_prio{i}_pause" for d in ("rx", "tx") for i in range(8)),
)


@dataclass(frozen=True)
class PortCounters:
    """Counters of one port of one RDMA device, name to value. ``port_xmit_data``/``port_rcv_data`` in bytes."""

    device: str
    port: int
    values: Mapping[str, int]

    @property
    def sent(self) -> int | None:
        """Bytes sent, None when the driver has no such counter (soft RoCE)."""
        return self.values.get("port_xmit_data")

    @property
    def received(self) -> int | None:
        """Bytes received, None when the driver has no such counter."""
        return self.values.get("port_rcv_data")


@dataclass(frozen=True)
class CounterSnapshot:
    """All ports of one node at one moment (the node's uptime, s)."""

    uptime_s: float
    ports: tuple[PortCounters, ...]

    def port(self, device: str, port: int = 1) -> PortCounters | None:
        """The counters of one port."""
        return next((p for p in self.ports if (p.device, p.port) == (device, port)), None)


def parse_counters(text: str) -> CounterSnapshot:
    """``at<TAB>UPTIME_SECONDS`` and ``counter<TAB>DEVICE<TAB>PORT<TAB>NAME<TAB>VALUE`` per counter (counters, hw_counters, and
    pause, discard and CRC counters of ``ethtool -S``). Words of ``port_*_data`` become bytes here."""
    at = [r[0] for r in rows(text, "at", 1)]
    uptime = number(at[0]) if at else None
    if uptime is None:
        raise ProbeError("no at line with the uptime in seconds")
    found: dict[tuple[str, int], dict[str, int]] = {}
    for device, port, name, value in rows(text, "counter", 4):
        n = integer(value)
        if n is None:
            raise ProbeError(f"counter {device}/{port} {name} = {value[:40]!r}")
        found.setdefault((device, whole(port, f"port of {device}")), {})[name] = n * 4 if name in WORDS else n
    return CounterSnapshot(uptime, tuple(PortCounters(d, p, v) for (d, p), v in sorted(found.items())))


COUNTERS = Probe(
    "counters",
    r"""
[ -d /sys/class/infiniband ] || { echo "/sys/class/infiniband is not there: no RDMA driver is loaded" >&2; exit 127; }
read -r up rest </proc/uptime; printf 'at\t%s\n' "$up"
for c in /sys/class/infiniband/*; do
  for P in $c/ports/*; do
    [ -d "$P" ] || continue
    for f in $P/counters/* $P/hw_counters/*; do
      case ${f##*/} in lifespan|'*') continue;; esac
      v=; { read -r v <"$f"; } 2>/dev/null
      case $v in ''|*[!0-9]*) continue;; esac
      printf 'counter\t%s\t%s\t%s\t%s\n' "${c##*/}" "${P##*/}" "${f##*/}" "$v"
    done
    d=; { read -r d <$P/gid_attrs/ndevs/0; } 2>/dev/null
    [ -n "$d" ] && command -v ethtool >/dev/null && ethtool -S "$d" 2>/dev/null |
      sed -n 's/^ *\([a-z0-9_]*_pause\|[rt]x_pause\|[rt]x_prio[0-7]_bytes\|[rt]x_discards_phy\|rx_crc_errors_phy\): \([0-9]*\)$/\1 \2/p' |
      while read -r n v; do printf 'counter\t%s\t%s\t%s\t%s\n' "${c##*/}" "${P##*/}" "$n" "$v"; done
  done
done
true
""",
    parse_counters,
    seconds=30,
    hint="load the RDMA driver",
)


@dataclass(frozen=True)
class CounterDelta:
    """How the counters of one port changed. ``reset`` names counters that went backwards (driver reloaded, port reset)."""

    device: str
    port: int
    seconds: float
    values: Mapping[str, int]
    reset: tuple[str, ...] = ()

    @property
    def sent(self) -> int | None:
        """Bytes sent in between."""
        return self.values.get("port_xmit_data")

    @property
    def received(self) -> int | None:
        """Bytes received in between."""
        return self.values.get("port_rcv_data")

    def risen(self, names: Iterable[str]) -> dict[str, int]:
        """Those of these counters that rose."""
        return {n: self.values[n] for n in names if self.values.get(n, 0) > 0}

    @property
    def errors(self) -> dict[str, int]:
        """Error counters that rose."""
        return self.risen(ERRORS)

    @property
    def congestion(self) -> dict[str, int]:
        """Congestion counters that rose."""
        return self.risen(CONGESTION)


def delta(before: CounterSnapshot, after: CounterSnapshot) -> tuple[CounterDelta, ...]:
    """Per port, after less before. A port that is in one snapshot only is left out; a counter that fell is in ``reset``, not
    in ``values``."""
    found = []
    for new in after.ports:
        old = before.port(new.device, new.port)
        if old is None:
            continue
        shared = {n: v - old.values[n] for n, v in new.values.items() if n in old.values}
        found.append(
            CounterDelta(
                new.device,
                new.port,
                after.uptime_s - before.uptime_s,
                {n: v for n, v in shared.items() if v >= 0},
                tuple(sorted(n for n, v in shared.items() if v < 0)),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class ExpectedVolume:
    """Bytes that leave one node through all of its rails together (as many come in), and how that follows.

    Attributes:
        of_nodes: bytes sent and received per node, in order of their ranks, where nodes differ (a pipeline sends one way); empty: alike.
        least, most: how far a sound measurement may lie from it, as factors.
        together: bytes that leave all nodes together at least, where what a single rail moves follows from chance (``chance`` says whose:
            which experts a token chooses, which copy computes the request); 0: every rail is judged by itself.
    """

    bytes_per_node: float
    bytes_per_rail: float
    derivation: str
    of_nodes: tuple[tuple[float, float], ...] = ()
    least: float = 0.5
    most: float = 3.0
    together: float = 0.0
    chance: str = ""

    def of_rail(self, node: int) -> tuple[float, float]:
        """Bytes that each rail of this node (by rank) sends and receives."""
        if not self.of_nodes:
            return self.bytes_per_rail, self.bytes_per_rail
        share = self.bytes_per_rail / self.bytes_per_node if self.bytes_per_node else 0.0
        sent, received = self.of_nodes[node] if node < len(self.of_nodes) else (0.0, 0.0)
        return sent * share, received * share


DISPATCH_BYTES, COMBINE_BYTES = 1, 2
"""A value on its way to an expert and back, as DeepEP carries it at the least: FP8 there, BF16 back (its README, "FP8 dispatching and
BF16 combining"). What goes there in BF16 is twice as much, scales come on top."""


def expected_volume(tokens: int, rails: int, shape: ModelShape, layout: Layout) -> ExpectedVolume:
    """What this layout must move between its nodes for ``tokens`` tokens of one request (prompt tokens count as generated ones do).

    Where a stage spans nodes, each token passes two all-reduces a layer, and one for the embedding in the first stage, of
    ``shape.token_bytes``. A ring all-reduce of S bytes over n ranks sends ``2 (n-1)/n x S`` over every link of the ring; a ring that
    visits each node once has exactly one link that leaves a node, so each node sends (and receives) ``2 (n-1)/n x S`` per all-reduce,
    whatever the number of channels: they share S. NCCL's tree moves at most as much (``2 S`` up and down at an inner node, ``S`` per
    direction at a leaf) and headers (LL doubles the bytes at small sizes) move more. So a measured volume between 0.5 and about 3 times
    this one is consistent with TP over RDMA, and a volume far below it is not: then the traffic went elsewhere.

    With DP attention a layer gathers the tokens of all groups before its experts and scatters them after: at least as much as one
    all-reduce of the one request's tokens, at most (padded to the longest of all groups) that times the groups.

    Between stages on different nodes every token is sent once: ``shape.handed_on`` activations, one way.

    Not of a single rail, but of all together something can be said in three layouts (``_together``): tokens that go to the experts they
    choose, a request that one of several copies computes, and stages that fill a part of a node.
    """
    if layout.nodes < 2:
        return ExpectedVolume(0.0, 0.0, "one node: nothing crosses the network")
    if _to_experts(shape, layout) or layout.replicas > 1 or not layout.fills_nodes:
        return _together(tokens, rails, shape, layout)
    of_nodes, words = [[0.0, 0.0] for _ in range(layout.nodes)], []
    reduces, least, most = shape.all_reduces, 0.5, 3.0
    if layout.nodes_per_stage > 1:
        if layout.attention > 1:
            reduces, most = shape.layers, 3.0 * layout.attention
        ring = 2 * (layout.tensor - 1) / layout.tensor * tokens * shape.token_bytes
        for stage in range(layout.pipeline):
            mine = (reduces - reduces % 2) / layout.pipeline + (reduces % 2 if stage == 0 else 0)
            for node in layout.nodes_of_stage(stage):
                of_nodes[node][0] += mine * ring
                of_nodes[node][1] += mine * ring
        each = f" / {layout.pipeline} stages" if layout.pipeline > 1 else ""
        ranks = f"{layout.tensor - 1}/{layout.tensor}"
        words.append(
            f"{reduces} all-reduces{each} x {tokens} tokens x {shape.hidden} x {shape.value_bytes} B x 2 x {ranks}"
            f" = {reduces * ring / layout.pipeline / 1e6:.1f} MB per node and direction"
        )
    hop = shape.handed_on * tokens * shape.token_bytes
    for stage in range(1, layout.pipeline):
        senders, receivers = layout.nodes_of_stage(stage - 1), layout.nodes_of_stage(stage)
        if senders == receivers:
            continue
        for node in senders:
            of_nodes[node][0] += hop / len(senders)
        for node in receivers:
            of_nodes[node][1] += hop / len(receivers)
    if layout.pipeline > 1:
        words.append(f"{shape.handed_on} activations x {tokens} tokens x {shape.token_bytes} B = {hop / 1e6:.1f} MB from stage to stage")
    per_node = max(max(pair) for pair in of_nodes)
    alike = all(pair == [per_node, per_node] for pair in of_nodes)
    told = tuple((sent, received) for sent, received in of_nodes)
    text = f"{'; '.join(words)}, over {rails} rails"
    return ExpectedVolume(per_node, per_node / rails if rails else 0.0, text, () if alike else told, least, most)


def _to_experts(shape: ModelShape, layout: Layout) -> bool:
    """Whether tokens leave their node for the experts that they choose."""
    return layout.expert_nodes > 1 and bool(layout.all_to_all or (layout.joined and shape.expert_layers))


def _together(tokens: int, rails: int, shape: ModelShape, layout: Layout) -> ExpectedVolume:
    """The least that leaves all nodes together.

    To experts: in each of ``expert_layers`` a token leaves for every other node on which it chose an expert, once, and comes back once
    (DeepEP's normal kernels send it to a node once and sum up there; its low-latency kernels send it to each expert, an all-gather sends
    it everywhere: both more). Of N nodes a token that chooses k experts evenly meets ``(N-1) (1 - (1-1/N)^k)`` others. Half of it is
    asked for: experts are not chosen evenly, and copies of busy ones may be near.
    """
    if _to_experts(shape, layout):
        many = layout.expert_nodes
        if not shape.expert_layers:
            words = f"{tokens} tokens x {shape.hidden} B: config.json tells of no experts, so each token leaves its node once at least"
            return _least(tokens * shape.hidden, words, f"{layout.all_to_all} carries tokens to the experts that they choose")
        others = (many - 1) * (1 - (1 - 1 / many) ** shape.chosen)
        each = shape.hidden * (DISPATCH_BYTES + COMBINE_BYTES)
        words = (
            f"{shape.expert_layers} layers with experts x {tokens} tokens x {shape.hidden} x ({DISPATCH_BYTES} B there + {COMBINE_BYTES} B "
            f"back) x {others:.2f} other nodes on which a token chooses experts"
        )
        carrier = layout.all_to_all or "an all-gather over the copies"
        return _least(shape.expert_layers * tokens * each * others, words, f"{carrier} carries tokens to the experts that they choose")
    if layout.replicas > 1:
        one = expected_volume(tokens, rails, shape, layout.copy)
        total = one.together or sum(sent for sent, _ in one.of_nodes) or one.bytes_per_node * layout.copy.nodes
        if not total:
            return ExpectedVolume(0.0, 0.0, f"{layout}: one request is computed by one of {layout.replicas} copies, inside a node")
        return _least(total, one.derivation, f"one request is computed by one of {layout.replicas} copies")
    words = f"{tokens} tokens x {shape.token_bytes} B: each token leaves a node once at least"
    return _least(tokens * shape.token_bytes, words, f"{layout}: a stage fills a part of a node only, so its rails are not used alike")


def _least(total: float, words: str, chance: str) -> ExpectedVolume:
    return ExpectedVolume(0.0, 0.0, f"{words} = {total / 1e6:.1f} MB over all rails together", together=total, chance=chance)
