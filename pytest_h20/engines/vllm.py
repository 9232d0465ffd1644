"""vLLM 0.7.2 … 0.33.0: with Ray as in the write-up, or by itself over several nodes (≥ 0.11.1). Pure, no I/O.

Version facts: E-flags (read in released wheels) and the stored argument parsers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_h20.engines.api import ApiShape, vllm_shape
from pytest_h20.engines.base import (
    EngineName,
    LaunchFacts,
    LaunchMode,
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
    REMOVED_FLAGS,
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
from pytest_h20.engines.stages import recognise

OLDEST = "0.7.2"
NEWEST = "0.33.0"
NATIVE_SINCE = "0.11.1"
RAY_NOT_IN_IMAGE_SINCE = "0.18.0"
MNNVL_HANG = ("0.27.0", "0.29.0")
RANKS_BY_DEVICES_SINCE = "0.24.0"
"""Seen with it, read in 0.32.0: ``shm_broadcast.py`` takes rank ``r`` for one of node ``r // torch.cuda.device_count()``."""
ENV_OVERWRITTEN = ("0.17.1", "0.21.0")
RPC_AFTER = 1
"""``--data-parallel-rpc-port`` after ``--master-port``, where both are needed."""
INDEPENDENT_COPIES_SINCE = "0.14.0"
"""From here on the copies of a model without experts know nothing of each other (v1/engine/core.py; not in 0.13.0, in 0.14.1)."""

# Set by the dialect from the profile's own fields; in ``flags`` they would contradict it.
_OWNED = (
    "model",
    "tensor-parallel-size",
    "tp",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "headless",
    "host",
    "port",
    "distributed-executor-backend",
    "served-model-name",
)
# The same where copies are spread over nodes (data parallel).
_OWNED_BY_COPIES = (
    "data-parallel-size-local",
    "dpl",
    "data-parallel-start-rank",
    "dpr",
    "data-parallel-address",
    "dpa",
    "data-parallel-rpc-port",
    "dpp",
)
_HEAD_ONLY = ("api-server-count", "asc")
"""Refused beside ``--headless`` (vLLM's entrypoints/cli/serve.py)."""


@dataclass(frozen=True)
class VllmDialect:
    """vLLM at one version. ``mode`` None: decided by version and number of nodes (:meth:`mode_for`)."""

    version: Version
    mode: LaunchMode | None = None
    engine: EngineName = "vllm"

    @property
    def api(self) -> ApiShape:
        """Shape of this version's HTTP API."""
        return vllm_shape(self.version)

    def mode_for(self, nodes: Sequence[NodePlan], profile_mode: LaunchMode | None = None) -> str:
        """``single`` on one node unless Ray is asked for; else the wanted mode; else native from 0.18 on (whose images
        have no Ray) and for CPU builds, Ray before."""
        wanted = profile_mode or self.mode
        if wanted == "ray":
            return "ray"
        if len(nodes) == 1:
            return "single"
        if wanted is not None:
            return wanted
        return "native" if self.version.at_least(RAY_NOT_IN_IMAGE_SINCE) or self.version.is_cpu_build else "ray"

    # ---------------------------------------------------------------------------------------------------------- launch

    def plan(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...]) -> LaunchPlan:
        """Everything to start, in order. Copies that each fit in a node are joined by vLLM's data parallel options, not by ``--nnodes``.
        Where each spans nodes, ``--nnodes`` and the node's rank are enough: vLLM infers from them which copy a node belongs to, and its
        rank in it (``nnodes_within_dp``, config/parallel.py and engine/arg_utils.py, 0.11.1 … 0.33.0).

        Raises:
            UsageError: ranks, tensor parallel size or flags contradict each other.
        """
        ordered = order_nodes(nodes)
        check_parallel(profile, ordered)
        mode = self.mode_for(ordered, profile.mode)
        flags, warnings = self._flags(profile)
        if mode == "ray":
            steps = self._ray_steps(profile, ordered, flags)
        else:
            steps = self._native_steps(profile, ordered, flags)
            if len(ordered) > 1 and parallel(profile, ordered).replicas > 1:
                warnings += [f"--{name} belongs to the layout; the flag is ignored" for name in _OWNED_BY_COPIES if name in flags]
        return LaunchPlan(
            engine="vllm",
            version=self.version,
            mode=mode,
            steps=steps,
            ready=self._ready(ordered, mode),
            http_port=profile.http_port,
            ports_needed=self._ports(profile, ordered, mode),
            warnings=(*self._version_warnings(), *self._ray_warnings(mode), *warnings),
        )

    def _version_warnings(self) -> tuple[str, ...]:
        if self.version.below(OLDEST):
            return (f"vLLM {self.version} is older than {OLDEST}, the oldest release whose behaviour is known here",)
        if not self.version.below(f"{NEWEST}.post99"):
            return (f"vLLM {self.version} is newer than {NEWEST}; treated like it",)
        return ()

    def _ray_warnings(self, mode: str) -> tuple[str, ...]:
        if mode == "ray" and self.version.within("0.21.0", "0.33.0"):
            return (
                "RayExecutorV2 (default since 0.21) was seen to hang over several nodes (F17, F18; vllm#43420, #50835): prefer "
                "mode: native, or set VLLM_USE_RAY_V2_EXECUTOR_BACKEND=0",
            )
        return ()

    def _flags(self, profile: LaunchProfile) -> tuple[dict[str, object], list[str]]:
        """The profile's flags translated for this version, and what was changed."""
        v, flags, notes = self.version, normalised(profile.flags), list[str]()
        for name in _OWNED:
            if name in flags:
                notes.append(f"--{name} belongs to the profile's own fields; the flag is ignored")
                del flags[name]
        if v.below("0.9.0") and flags.get("reasoning-parser") and "enable-reasoning" not in flags:
            flags["enable-reasoning"] = True
        if "disable-log-requests" in flags and v.at_least("0.10.1"):
            if flags.pop("disable-log-requests"):
                notes.append("--disable-log-requests dropped: request logging is off by default since 0.10.1")
            else:
                flags["enable-log-requests"] = True
        for name, (since, _, _) in REMOVED_FLAGS["vllm"].items():
            if name in flags and v.at_least(since) and flags.pop(name) is False:  # what is on is refused, and told there
                notes.append(f"--{name} dropped: gone in {since}, and it is off")
        return flags, notes

    def _common_words(self, profile: LaunchProfile, flags: dict[str, object]) -> list[str]:
        words = ["--tensor-parallel-size", str(profile.tensor_parallel), "--host", "0.0.0.0", "--port", str(profile.http_port)]
        if profile.served_model_name:
            words += ["--served-model-name", profile.served_model_name]
        return words + write_flags("vllm", self.version, flags)

    def _server(self, profile: LaunchProfile) -> list[str]:
        """The API server's command up to the model. ``python -m …api_server`` is a deprecated shim from 0.29 on, and
        cannot run headless; ``vllm serve`` is used where nodes can be joined without Ray."""
        if self.version.at_least(NATIVE_SINCE):
            return ["vllm", "serve", profile.model_path]
        return ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", profile.model_path]

    def _env(self, profile: LaunchProfile, node: NodePlan, mode: str) -> dict[str, str]:
        env: dict[str, str] = {}
        if mode == "ray":
            env |= {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        if self.version.at_least("0.14.1"):
            # 600 s by default: too short for 40 GiB per GPU from slow storage (F50).
            env["VLLM_ENGINE_READY_TIMEOUT_S"] = str(max(600, int(profile.ready_timeout_s)))
        return env | node_env(profile, node, "vllm")

    def _native_steps(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], flags: dict[str, object]) -> tuple[Step, ...]:
        steps = []
        copies, wide = _copies_over_nodes(profile, nodes), _wide_copies(profile, nodes)
        for node in nodes:
            left_out = (*(_OWNED_BY_COPIES if copies or wide else ()), *(_HEAD_ONLY if node.rank else ()))
            own = {name: value for name, value in flags.items() if name not in left_out}
            argv = [*self._server(profile), *self._common_words(profile, own), "--distributed-executor-backend", "mp"]
            if copies:
                argv += ["--data-parallel-size-local", str(copies), "--data-parallel-address", nodes[0].host_ip]
                argv += ["--data-parallel-rpc-port", str(profile.dist_port)]
                if node.rank > 0:  # on the head it would ask for balancing by others (hybrid)
                    argv += ["--data-parallel-start-rank", str(node.rank * copies), "--headless"]
            elif len(nodes) > 1:
                argv += [
                    "--nnodes",
                    str(len(nodes)),
                    "--node-rank",
                    str(node.rank),
                    "--master-addr",
                    nodes[0].host_ip,
                    "--master-port",
                    str(profile.dist_port),
                ]
                if wide:  # the engines of the other copies report there
                    argv += ["--data-parallel-rpc-port", str(profile.dist_port + RPC_AFTER)]
                if node.rank > 0:
                    argv.append("--headless")
            mode = "native" if len(nodes) > 1 else "single"
            steps.append(Step(node.name, "container", tuple(argv), self._env(profile, node, mode), f"rank{node.rank}"))
        return tuple(steps)

    def _ray_steps(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], flags: dict[str, object]) -> tuple[Step, ...]:
        head, *workers = nodes
        # No dashboard: it would listen without authentication, and nothing here reads it.
        start = [
            "ray",
            "start",
            "--head",
            f"--port={profile.ray_port}",
            "--block",
            f"--node-ip-address={head.host_ip}",
            "--include-dashboard=false",
        ]
        steps = [
            Step(
                head.name,
                "container",
                tuple(start),
                self._env(profile, head, "ray"),
                "ray-head",
                wait_for="started" if workers else "ray-joined",
            )
        ]
        for worker in workers:
            join = [
                "ray",
                "start",
                f"--address={head.host_ip}:{profile.ray_port}",
                "--block",
                f"--node-ip-address={worker.host_ip}",
            ]
            # One after the other: workers started at the same instant were seen to crash in NCCL's init (F23).
            steps.append(
                Step(
                    worker.name,
                    "container",
                    tuple(join),
                    self._env(profile, worker, "ray"),
                    "ray-worker",
                    wait_for="ray-joined",
                )
            )
        argv = [*self._server(profile), *self._common_words(profile, flags), "--distributed-executor-backend", "ray"]
        steps.append(Step(head.name, "exec", tuple(argv), self._env(profile, head, "ray"), "api-server"))
        return tuple(steps)

    def _ports(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], mode: str) -> dict[str, tuple[PortNeed, ...]]:
        needs = [PortNeed(profile.http_port, "vLLM HTTP")]
        if mode == "ray":
            needs.append(PortNeed(profile.ray_port, "Ray head (GCS)"))
        elif mode == "native":
            rpc = "data parallel (--data-parallel-rpc-port)"
            copies = _copies_over_nodes(profile, nodes)
            needs.append(PortNeed(profile.dist_port, rpc if copies else "torch rendezvous (--master-port)"))
            needs += [PortNeed(profile.dist_port + RPC_AFTER, rpc)] if _wide_copies(profile, nodes) else []
        # A headless node opens no HTTP port (recorded with 0.24): nothing to be free there.
        return {node.name: tuple(needs) if node.rank == 0 else () for node in nodes}

    # --------------------------------------------------------------------------------------------------------- refusal

    def refuse(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], facts: LaunchFacts) -> list[Refusal]:
        """Everything that is known to end this launch before it serves."""
        v = self.version
        mode = self.mode_for(nodes, profile.mode)
        flags = {flag_name(raw): value for raw, value in profile.flags.items()}
        found = removed_refusals("vllm", v, profile)
        if mode == "native" and v.below(NATIVE_SINCE):
            found.append(
                Refusal(
                    "native_too_early",
                    f"vLLM {v} cannot span nodes without Ray (--nnodes came with {NATIVE_SINCE})",
                    "use mode: ray",
                    "E-flags",
                    flag="nnodes",
                )
            )
        if mode == "native":
            found += self._more_gpus_than_ranks(profile, nodes, facts)
        if mode == "ray":
            found += self._ray_refusals(nodes, facts)
            if v.within(*ENV_OVERWRITTEN):
                found += self._env_refusals(profile, nodes)
        for name, value in profile.flags.items():
            text = str(value).strip().lower() if isinstance(value, str) else ""
            if text in ("true", "false") and v.at_least("0.8.5"):
                name = flag_name(name)
                right = f"--{name}" if text == "true" else f"--no-{name}"
                found.append(
                    Refusal(
                        "boolean_flag_form",
                        f"--{name}={value} is not a form that vLLM {v} takes (Boolean pairs since 0.8.5)",
                        f"write {name}: {text} without quotes; the command then has {right}",
                        "F22",
                        flag=name,
                    )
                )
        off = flags.get("enable-chunked-prefill")
        batched, length = flags.get("max-num-batched-tokens"), flags.get("max-model-len")
        if off is False and isinstance(batched, int) and isinstance(length, int) and batched < length:
            found.append(
                Refusal(
                    "max_num_batched_tokens_too_small",
                    f"without chunked prefill one batch ({batched} tokens) must hold the longest prompt ({length})",
                    "raise max-num-batched-tokens to max-model-len",
                    "E-flags",
                    flag="max-num-batched-tokens",
                )
            )
        if (
            v.within(*MNNVL_HANG)
            and len(nodes) > 1
            and not v.is_cpu_build
            and (facts.compute_capability is None or facts.compute_capability < (10, 0))
            and flags.get("disable-custom-all-reduce") is not True
        ):
            found.append(
                Refusal(
                    "mnnvl_custom_all_reduce_hang",
                    f"vLLM {v} over several nodes of Hopper or older hangs 30 minutes in custom all-reduce",
                    "set disable-custom-all-reduce: true, or use 0.29.0 and later",
                    "F16; vllm#52907",
                    flag="disable-custom-all-reduce",
                )
            )
        if v.below("0.8.0") and flags.get("enable-auto-tool-choice") and flags.get("reasoning-parser"):
            found.append(
                Refusal(
                    "tool_choice_conflicts_with_reasoning",
                    f"vLLM {v} cannot combine tool choice and reasoning",
                    "drop enable-auto-tool-choice, or use 0.8 and later",
                    "F64",
                    flag="enable-auto-tool-choice",
                )
            )
        found += self._copies_refusals(profile, nodes, facts, mode)
        own = {need.port for need in self._ports(profile, nodes, mode)[nodes[0].name][1:]}
        if profile.http_port in own:
            found.append(
                Refusal(
                    "ports_collide",
                    f"HTTP port {profile.http_port} is also the cluster's own port",
                    "give them different numbers",
                    "F11",
                )
            )
        return found + common_refusals("vllm", v, profile, nodes, facts, self._flags(profile)[0])

    def _copies_refusals(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], facts: LaunchFacts, mode: str) -> list[Refusal]:
        """Copies over nodes that vLLM does not join: it waits for them, without a word, until a time-out."""
        layout = parallel(profile, nodes)
        one, per_node = layout.tensor * layout.pipeline, layout.per_node
        if len(nodes) == 1 or layout.replicas == 1:
            return []
        if mode == "ray":
            flags = normalised(profile.flags)
            if facts.experts is not True or flags.get("data-parallel-backend") == "ray" or "data-parallel-address" in flags:
                return []
            why = "with Ray the copies of a model with experts look for each other at 127.0.0.1, where no other node can be reached"
            what = f"use mode: native (vLLM {NATIVE_SINCE} and later), or give data-parallel-address"
            return [Refusal("copies_with_ray", why, what, "init_distributed_environment, 0.33.0", flag="data-parallel-size")]
        if one % per_node and per_node % one:
            why = f"a copy of {one} GPUs ({layout}) fills no whole nodes of {per_node} GPUs in use, and these hold no whole copies"
            what = f"let tensor_parallel x pipeline-parallel-size be a part of {per_node} or a multiple of it"
            return [Refusal("copies_cut_by_nodes", why, what, "nnodes_within_dp, 0.11.1 and 0.33.0", flag="data-parallel-size")]
        if facts.experts is False and layout.copy.nodes > 1 and self.version.at_least(INDEPENDENT_COPIES_SINCE):
            why = f"vLLM {self.version} joins copies that span nodes ({layout}) for models with experts only, and this one has none"
            what = "start a server for each copy and attach to the router before them, or choose stages, or copies that fit in a node"
            return [Refusal("copies_without_experts", why, what, "v1/engine/core.py, 0.14.1 and 0.33.0", flag="data-parallel-size")]
        return []

    def _more_gpus_than_ranks(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], facts: LaunchFacts) -> list[Refusal]:
        """One copy over several nodes of which any but the first shows more GPUs than it has ranks: its first rank is then taken for one
        of the first node's, and no queue is made for its answers."""
        layout = parallel(profile, nodes)
        if layout.replicas > 1 or self.version.below(RANKS_BY_DEVICES_SINCE) or self.version.is_cpu_build:
            return []
        visible = profile.env.get("CUDA_VISIBLE_DEVICES")
        own = None if visible is None else sum(bool(word.strip()) for word in visible.split(","))
        seen = {node.name: facts.gpus.get(node.name) if own is None else own for node in nodes if node.rank}
        return [
            Refusal(
                "more_gpus_than_ranks",
                f"{layout} has {layout.per_node} ranks a node, and a container sees {gpus} GPUs: vLLM {self.version} tells by that number "
                f"on which node a rank is, and ends with an AssertionError",
                f"give the engine {layout.per_node} GPUs: env CUDA_VISIBLE_DEVICES: {','.join(map(str, range(layout.per_node)))} in "
                f"the profile; or use all GPUs of each node",
                "recorded (0.24, two nodes of two H200)",
                node=name,
            )
            for name, gpus in seen.items()
            if gpus is not None and gpus > layout.per_node
        ]

    def _ray_refusals(self, nodes: tuple[NodePlan, ...], facts: LaunchFacts) -> list[Refusal]:
        found = []
        for node in nodes:
            image = facts.images.get(node.name)
            if image is not None and not image.ray_importable:
                found.append(
                    Refusal(
                        "ray_not_installed",
                        f"Ray mode is asked for, but the image holds no Ray (vLLM {self.version}; not shipped since "
                        f"{RAY_NOT_IN_IMAGE_SINCE})",
                        "use mode: native (--nnodes/--node-rank/--master-addr)"
                        if self.version.at_least(NATIVE_SINCE)
                        else "use an image with Ray",
                        "F21",
                        node=node.name,
                    )
                )
        return found

    def _env_refusals(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...]) -> list[Refusal]:
        """0.17.1–0.20 copy the head's NCCL_* over the worker's own, so they must not differ (E-env)."""
        envs = {node.name: {k: v for k, v in node_env(profile, node, "vllm").items() if k.startswith("NCCL_")} for node in nodes}
        head, *rest = envs.values()
        differing = sorted({key for env in rest for key in head.keys() | env.keys() if head.get(key) != env.get(key)})
        if not differing:
            return []
        return [
            Refusal(
                "ray_overwrites_node_env",
                f"vLLM {self.version} with Ray copies the head's {', '.join(differing)} over those of the other nodes",
                "use mode: native, or vLLM 0.21 and later",
                "E-env",
            )
        ]

    # ------------------------------------------------------------------------------------------------------ recognition

    def ready(self, nodes: tuple[NodePlan, ...]) -> ReadyRule:
        """The ready rule for a launch over these nodes."""
        ordered = order_nodes(nodes)
        return self._ready(ordered, self.mode_for(ordered))

    def _ready(self, nodes: tuple[NodePlan, ...], mode: str) -> ReadyRule:
        about = r"Starting vLLM (API )?server( \d+)? on (\S+)"  # not printed in 0.7.2
        done = r"Application startup complete\."
        patterns: tuple[str, ...] = (about, done) if self.version.at_least("0.8.2") else (done,)
        return ReadyRule(
            node=nodes[0].name,
            role="api-server" if mode == "ray" else "rank0",
            patterns=patterns,
            voided_by=(
                r"\[Errno 98\]",
                r"EngineDeadError|engine core exited unexpectedly",
                r"Engine core initialization failed",
            ),
        )

    def stage(self, line: str, role: str = "") -> Stage | None:
        """The stage that a log line announces."""
        return recognise("vllm", line)


def _copies_over_nodes(profile: LaunchProfile, nodes: Sequence[NodePlan]) -> int:
    """How many copies of the model (data-parallel ranks) each node has, where they are spread over nodes and each fits in one; else 0."""
    layout = parallel(profile, nodes)
    inside = len(nodes) > 1 and layout.replicas > 1 and layout.copy.nodes == 1
    return layout.replicas // len(nodes) if inside else 0


def _wide_copies(profile: LaunchProfile, nodes: Sequence[NodePlan]) -> bool:
    """There are several copies, and each spans nodes."""
    layout = parallel(profile, nodes)
    return layout.replicas > 1 and layout.copy.nodes > 1
