"""SGLang 0.4.4 … 0.5.23: the same command on every node, told apart by its rank. Pure, no I/O.

Version facts: E-flags (read in released wheels), the stored argument parsers, and recordings of 0.5.16.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from pytest_h20.engines.api import ApiShape, sglang_shape
from pytest_h20.engines.base import (
    EngineName,
    LaunchFacts,
    LaunchPlan,
    LaunchProfile,
    NodePlan,
    PortNeed,
    ReadyRule,
    Refusal,
    Stage,
    Step,
    Version,
)
from pytest_h20.engines.common import (
    check_parallel,
    common_refusals,
    flag_name,
    node_env,
    normalised,
    order_nodes,
    parallel,
    removed_refusals,
    write_flags,
)
from pytest_h20.engines.layout import Layout
from pytest_h20.engines.stages import recognise

OLDEST = "0.4.4"
NEWEST = "0.5.23"
IPV6_SINCE = "0.5.1"
DP_ATTENTION_PORTS = 6
"""With DP attention the ports P+1…P+6 after the rendezvous port P are used too (0.4.4 and 0.5.23)."""

_OWNED = (
    "model-path",
    "model",
    "tp",
    "tp-size",
    "tensor-parallel-size",
    "nnodes",
    "node-rank",
    "dist-init-addr",
    "nccl-init-addr",
    "host",
    "port",
    "served-model-name",
)


@dataclass(frozen=True)
class SglangDialect:
    """SGLang at one version. It has no modes: ``mode`` is always None."""

    version: Version
    mode: None = None
    engine: EngineName = "sglang"

    @property
    def api(self) -> ApiShape:
        """Shape of this version's HTTP API."""
        return sglang_shape(self.version)

    def plan(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...]) -> LaunchPlan:
        """Everything to start, rank 0 first.

        Raises:
            UsageError: ranks, tensor parallel size or flags contradict each other.
        """
        ordered = order_nodes(nodes)
        check_parallel(profile, ordered)
        flags, warnings = self._flags(profile)
        words = write_flags("sglang", self.version, flags)
        head = ordered[0]
        steps = []
        for node in ordered:
            argv = [
                "python3",
                "-m",
                "sglang.launch_server",
                "--model-path",
                profile.model_path,
                "--tp",
                str(profile.tensor_parallel),
            ]
            if len(ordered) > 1:
                argv += [
                    "--dist-init-addr",
                    f"{_address(head.host_ip)}:{profile.dist_port}",
                    "--nnodes",
                    str(len(ordered)),
                    "--node-rank",
                    str(node.rank),
                ]
            argv += ["--host", "0.0.0.0", "--port", str(profile.http_port)]
            if profile.served_model_name:
                argv += ["--served-model-name", profile.served_model_name]
            steps.append(Step(node.name, "container", (*argv, *words), node_env(profile, node, "sglang"), f"rank{node.rank}"))
        return LaunchPlan(
            engine="sglang",
            version=self.version,
            mode="native" if len(ordered) > 1 else "single",
            steps=tuple(steps),
            ready=self.ready(ordered),
            http_port=profile.http_port,
            ports_needed=self._ports(profile, ordered),
            warnings=(*self._version_warnings(), *warnings),
        )

    def _version_warnings(self) -> tuple[str, ...]:
        if self.version.below(OLDEST):
            return (f"SGLang {self.version} is older than {OLDEST}, the oldest release whose behaviour is known here",)
        if not self.version.below(f"{NEWEST}.post99"):
            return (f"SGLang {self.version} is newer than {NEWEST}; treated like it",)
        return ()

    def _flags(self, profile: LaunchProfile) -> tuple[dict[str, object], list[str]]:
        v, flags, notes = self.version, normalised(profile.flags), list[str]()
        for name in _OWNED:
            if name in flags:
                notes.append(f"--{name} belongs to the profile's own fields; the flag is ignored")
                del flags[name]
        # Without it /metrics does not exist, and running/waiting requests cannot be seen.
        flags.setdefault("enable-metrics", True)
        if v.at_least("0.4.6"):
            if flags.pop("enable-flashinfer-mla", None):
                flags.setdefault("attention-backend", "flashinfer")
                notes.append("--enable-flashinfer-mla written as --attention-backend flashinfer (gone in 0.4.6)")
            if flags.pop("disable-mla", None):
                notes.append("--disable-mla dropped: gone in 0.4.6")
        if v.at_least("0.5.3"):
            if flags.pop("enable-ep-moe", None):
                flags.setdefault("ep-size", profile.tensor_parallel)
                notes.append("--enable-ep-moe written as --ep-size (refused since 0.5.3)")
            if flags.pop("enable-deepep-moe", None):
                flags.setdefault("moe-a2a-backend", "deepep")
                flags.setdefault("ep-size", profile.tensor_parallel)
                notes.append("--enable-deepep-moe written as --moe-a2a-backend deepep (refused since 0.5.3)")
        if v.at_least("0.5.14"):
            for old, new in (("cuda-graph-max-bs", "cuda-graph-max-bs-decode"), ("cuda-graph-bs", "cuda-graph-bs-decode")):
                if old in flags:
                    flags[new] = flags.pop(old)
                    notes.append(f"--{old} written as --{new} (renamed in 0.5.14)")
        if flags.get("enable-dp-attention") and v.at_least("0.5.22"):
            size = flags.get("dp", flags.get("dp-size", flags.get("data-parallel-size")))
            if size is not None:
                del flags["enable-dp-attention"]
                for name in ("dp", "dp-size", "data-parallel-size"):
                    flags.pop(name, None)
                flags["attn-dp-size"] = size
                notes.append(f"--enable-dp-attention written as --attn-dp-size {size} (deprecated in 0.5.22)")
        return flags, notes

    def _dp_attention(self, profile: LaunchProfile) -> bool:
        flags = {flag_name(raw): value for raw, value in profile.flags.items()}
        return bool(flags.get("enable-dp-attention") or flags.get("attn-dp-size"))

    def _ports(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...]) -> dict[str, tuple[PortNeed, ...]]:
        needs: dict[str, tuple[PortNeed, ...]] = {}
        for node in nodes:
            # The other nodes' dummy server listens on the same HTTP port.
            own = [PortNeed(profile.http_port, "SGLang HTTP" if node.rank == 0 else "SGLang dummy health server")]
            if node.rank == 0 and len(nodes) > 1:
                own.append(PortNeed(profile.dist_port, "torch rendezvous (--dist-init-addr)"))
                if self._dp_attention(profile):
                    own += [PortNeed(profile.dist_port + i, "DP attention ZMQ") for i in range(1, DP_ATTENTION_PORTS + 1)]
            needs[node.name] = tuple(own)
        return needs

    def refuse(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], facts: LaunchFacts) -> list[Refusal]:
        """Everything that is known to end this launch before it serves."""
        v = self.version
        found = removed_refusals("sglang", v, profile)
        dp_ports = range(profile.dist_port, profile.dist_port + (DP_ATTENTION_PORTS if self._dp_attention(profile) else 0) + 1)
        if len(nodes) > 1 and profile.http_port in dp_ports:
            found.append(
                Refusal(
                    "dist_port_is_http_port",
                    f"HTTP port {profile.http_port} is also used for the rendezvous (--dist-init-addr port {profile.dist_port})",
                    "give them different numbers: the HTTP bind would fail only after the whole load",
                    "F11; E-ports",
                    flag="dist-init-addr",
                )
            )
        for node in nodes:
            if v.below(IPV6_SINCE) and _is_ipv6(node.host_ip):
                found.append(
                    Refusal(
                        "ipv6_not_parsed",
                        f"SGLang {v} cannot read an IPv6 address ({node.host_ip})",
                        "give the node's IPv4 address as host_ip",
                        "F04; sgl#7478",
                        node=node.name,
                        flag="dist-init-addr",
                    )
                )
        flags = normalised(profile.flags)
        if v.below(OLDEST) and "reasoning-parser" in flags:
            found.append(
                Refusal(
                    "reasoning_parser_too_early",
                    f"SGLang {v} has no --reasoning-parser (came with {OLDEST})",
                    f"use {OLDEST} or later",
                    "E-flags",
                    flag="reasoning-parser",
                )
            )
        dp = flags.get("dp", flags.get("dp-size", flags.get("data-parallel-size")))
        if flags.get("enable-dp-attention") and dp is None:
            found.append(
                Refusal(
                    "dp_attention_without_dp",
                    "--enable-dp-attention needs the number of DP groups",
                    "add dp: N (or attn-dp-size from 0.5.22 on)",
                    "E-flags",
                    flag="enable-dp-attention",
                )
            )
        found += self._layout_refusals(parallel(profile, nodes))
        return found + common_refusals("sglang", v, profile, nodes, facts, self._flags(profile)[0])

    def _layout_refusals(self, layout: Layout) -> list[Refusal]:
        """Cuts of the model that SGLang asserts against, or waits for without a word."""
        found, nodes, stages = [], layout.nodes, layout.pipeline
        if layout.replicas > 1 and nodes > 1:
            why = f'SGLang has no copies over nodes ({layout}): it ends with "multi-node data parallel is not supported"'
            what = "use DP attention (enable-dp-attention), or start a server for each copy and attach to the router before them"
            found.append(Refusal("copies_over_nodes", why, what, "check_server_args, 0.4.4 … 0.5.23", flag="dp"))
        if layout.tensor % layout.attention:
            why = f"DP attention makes {layout.attention} groups of {layout.tensor} ranks, which does not come out even"
            what = f"choose a number of groups that divides {layout.tensor}"
            found.append(Refusal("dp_attention_not_divisible", why, what, "assert tp_size % dp_size == 0, 0.4.4 … 0.5.23", flag="dp"))
        if stages > 1 and nodes > 1 and (stages % nodes and nodes % stages):
            why = f"{stages} stages on {nodes} nodes: SGLang gives each node {max(stages // nodes, 1)} of them, and some then run nowhere"
            what = "let a node hold whole stages, or a stage fill whole nodes"
            found.append(Refusal("stages_cut_by_nodes", why, what, "_calculate_rank_ranges, 0.5.3 … 0.5.23", flag="pp-size"))
        return found

    def ready(self, nodes: tuple[NodePlan, ...]) -> ReadyRule:
        """Rank 0's line, which is void when the port could not be bound."""
        return ReadyRule(
            node=order_nodes(nodes)[0].name,
            role="rank0",
            patterns=(r"Uvicorn running on (\S+)", r"The server is fired up and ready to roll!"),
            voided_by=(
                r"\[Errno 98\]",
                r"Received sigquit from a child process|SIGQUIT received",
                r"Application startup failed",
            ),
        )

    def stage(self, line: str, role: str = "") -> Stage | None:
        """The stage that a log line announces."""
        return recognise("sglang", line)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.strip("[]")).version == 6
    except ValueError:
        return False


def _address(ip: str) -> str:
    """IPv6 literals need brackets before a port."""
    return f"[{ip.strip('[]')}]" if _is_ipv6(ip) else ip
