"""What both dialects share: environment, command-line writing, checks that do not depend on the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_h20.core.errors import UsageError
from pytest_h20.core.gpus import is_a
from pytest_h20.engines import flags as flag_data
from pytest_h20.engines.base import EngineName, LaunchFacts, LaunchProfile, NodePlan, Refusal, Version
from pytest_h20.engines.layout import Layout, layout_of

NCCL_SUBSYSTEMS = "INIT,BOOTSTRAP,ENV,NET,GRAPH"
"""INIT: devices, channels with ``/GDRDMA``, "Init COMPLETE"; NET: GIDs per queue pair, GPUDirect per HCA; ENV: what NCCL
read; BOOTSTRAP: the out-of-band interface (its own subsystem from 2.23 on, unknown and ignored before); GRAPH: rings,
trees, topology. COLL and TUNING would write a line per collective."""

_BOOLEAN_TEXT = {"true": True, "false": False}


def node_env(profile: LaunchProfile, node: NodePlan, engine: EngineName) -> dict[str, str]:
    """Environment of every process of this engine on one node.

    All of it goes into every container of every node: vLLM 0.7.2 forwards nothing to remote workers, later versions
    forward differing sets (E-env), SGLang forwards nothing. The profile's own entries win.
    """
    env = {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": NCCL_SUBSYSTEMS,
        "NCCL_DEBUG_FILE": f"{profile.nccl_debug_dir.rstrip('/')}/nccl.%h.%p",
    }
    if node.control_interface:
        env |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"), node.control_interface)
    if node.hcas:
        # "=" asks for exact names: without it mlx5_1 also takes mlx5_10 and its like.
        env |= {"NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "=" + ",".join(node.hcas)}
        if node.gid_index is not None:
            env["NCCL_IB_GID_INDEX"] = str(node.gid_index)
    env["HOST_IP"] = node.host_ip
    env["VLLM_HOST_IP" if engine == "vllm" else "SGLANG_HOST_IP"] = node.host_ip
    return env | {key: str(value) for key, value in profile.env.items()}


def flag_name(flag: str) -> str:
    """``--max_model_len`` and ``max-model-len`` are one option."""
    return flag.strip().lstrip("-").replace("_", "-")


def normalised(flags: Mapping[str, object]) -> dict[str, object]:
    """Flags with canonical names; ``"False"``/``"true"`` as text become Booleans (YAML quoting is no intention)."""
    result: dict[str, object] = {}
    for raw, value in flags.items():
        name = flag_name(raw)
        if name in result:
            raise UsageError(f"profile flag {raw!r} is given twice (dashes and underscores are the same)")
        if isinstance(value, str) and value.strip().lower() in _BOOLEAN_TEXT:
            value = _BOOLEAN_TEXT[value.strip().lower()]
        result[name] = value
    return result


def write_flags(engine: EngineName, version: Version, flags: Mapping[str, object]) -> list[str]:
    """Command-line words for flags, in the form this version's parser takes."""
    table = flag_data.table_for(engine, version)
    words: list[str] = []
    for name, value in flags.items():
        kind = table.kind(name) if table else None
        if value is None:
            continue
        if value is True:
            words.append(f"--{name}")
        elif value is False:
            if kind == "negatable":
                words.append(f"--no-{name}")
            elif kind == "boolean":
                words.append(f"--{name}=False")
        elif isinstance(value, Mapping):
            words += [f"--{name}", json.dumps(dict(value), separators=(",", ":"))]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words.append(f"--{name}")
            words += [str(item) for item in value]
        else:
            words += [f"--{name}", str(value)]
    return words


def order_nodes(nodes: Iterable[NodePlan]) -> tuple[NodePlan, ...]:
    """Nodes by rank.

    Raises:
        UsageError: no node, or ranks that are not 0…n-1.
    """
    ordered = tuple(sorted(nodes, key=lambda node: node.rank))
    if not ordered:
        raise UsageError("a launch needs at least one node")
    if [node.rank for node in ordered] != list(range(len(ordered))):
        raise UsageError(f"node ranks must be 0…{len(ordered) - 1}, got {[node.rank for node in ordered]}")
    return ordered


def check_parallel(profile: LaunchProfile, nodes: Sequence[NodePlan]) -> None:
    """Raises UsageError where the parallel sizes and the nodes contradict each other."""
    if profile.tensor_parallel < 1:
        raise UsageError(f"profile {profile.name}: tensor_parallel is {profile.tensor_parallel}; give the number of GPUs of one stage")
    layout = parallel(profile, nodes)
    if layout.ranks % len(nodes):
        raise UsageError(f"profile {profile.name}: {layout.ranks} ranks ({layout}) cannot be divided over {len(nodes)} nodes")


def parallel(profile: LaunchProfile, nodes: Sequence[NodePlan]) -> Layout:
    """How the profile cuts the model over these nodes."""
    return layout_of(profile.engine, profile.tensor_parallel, normalised(profile.flags), len(nodes))


def driver_limit(engine: EngineName, version: Version, facts: LaunchFacts, node: str) -> tuple[int, str] | None:
    """(lowest driver branch without a compatibility package, CUDA version) for the image on a node, or None if unknown.

    CUDA 13 needs R580; CUDA 12 runs on R525 and later by minor-version compatibility (NVIDIA's compatibility table).
    The image's own CUDA version is taken where known, else the release's wheels: CUDA 13 from vLLM 0.20 and
    SGLang 0.5.11 on (E-image).
    """
    image = facts.images.get(node)
    cuda = image.cuda if image and image.cuda else None
    if cuda is None:
        if version.is_cpu_build or "cu12" in version.local or (image is not None and image.torch):
            return None
        cuda = "13.0" if version.at_least("0.20.0" if engine == "vllm" else "0.5.11") else "12"
    match = re.match(r"(\d+)", cuda)
    if match is None:
        return None
    major = int(match.group(1))
    return {12: (525, cuda), 13: (580, cuda)}.get(major)


def fitting_tensor(layout: Layout, facts: LaunchFacts) -> int:
    """The largest tensor parallel size of this layout for which there are GPUs and that divides the model's heads; 0: none is known."""
    room = min(facts.gpus.values(), default=0) * layout.nodes // (layout.pipeline * layout.replicas)
    return next((size for size in range(room, 0, -1) if _comes_out_even(replace(layout, tensor=size), facts)), 0)


def _comes_out_even(layout: Layout, facts: LaunchFacts) -> bool:
    if layout.ranks % layout.nodes or layout.tensor % layout.attention or (facts.attention_heads or 0) % layout.heads_over:
        return False
    return not (facts.expert_width and facts.block_n) or facts.expert_width // layout.expert_parts % facts.block_n == 0


def common_refusals(
    engine: EngineName,
    version: Version,
    profile: LaunchProfile,
    nodes: Sequence[NodePlan],
    facts: LaunchFacts,
    flags: Mapping[str, object],
) -> list[Refusal]:
    """What no engine survives: driver, GPUs, images that differ, shapes that cannot be cut, unknown options.

    ``flags`` are the profile's, translated for this version: what would really stand on the command line.
    """
    found: list[Refusal] = []
    if not version.is_cpu_build:
        found += _driver_refusals(engine, version, nodes, facts)
    found += _image_refusals(engine, nodes, facts)
    found += _fit_refusals(engine, version, profile, nodes, facts)
    layout = parallel(profile, nodes)
    per_node, fits = layout.per_node, fitting_tensor(layout, facts)
    for node in nodes:
        have = facts.gpus.get(node.name)
        if have is not None and have < per_node and not version.is_cpu_build:
            found.append(
                Refusal(
                    "not_enough_gpus",
                    f"needs {per_node} GPUs per node ({layout}), has {have}",
                    f"tensor_parallel: {fits} fits, or free the GPUs"
                    if fits
                    else "lower the sizes of the parallel groups, or free the GPUs",
                    "F20; recorded",
                    node=node.name,
                )
            )
    if facts.attention_heads and facts.attention_heads % layout.heads_over and not version.is_cpu_build:
        found.append(
            Refusal(
                "heads_not_divisible",
                f"{layout} cuts the model's {facts.attention_heads} attention heads into {layout.heads_over} parts",
                f"tensor_parallel: {fits} fits" if fits else "choose a tensor parallel size that divides the heads",
                "E-image",
                flag="tensor-parallel-size",
            )
        )
    if facts.expert_width and facts.block_n and (facts.expert_width // layout.expert_parts) % facts.block_n:
        most = facts.expert_width // facts.block_n
        found.append(
            Refusal(
                "block_fp8_not_divisible",
                f"{layout} cuts the experts ({facts.expert_width} wide) into parts that block FP8 ({facts.block_n}) does not divide",
                f"use TP ≤ {most}, or whole experts on each rank (EP)",
                "E-image",
                flag="tensor-parallel-size",
            )
        )
    ips = [node.host_ip for node in nodes]
    if len(set(ips)) != len(ips):
        found.append(Refusal("duplicate_host_ip", f"nodes share a host IP: {', '.join(ips)}", "give each node its own address", "F07"))
    found += _flag_refusals(engine, version, flags)
    return found


def _driver_refusals(engine: EngineName, version: Version, nodes: Sequence[NodePlan], facts: LaunchFacts) -> list[Refusal]:
    found = []
    for node in nodes:
        driver = facts.drivers.get(node.name, "")
        branch = re.match(r"(\d+)", driver)
        limit = driver_limit(engine, version, facts, node.name)
        if branch is None or limit is None or int(branch.group(1)) >= limit[0] or facts.cuda_compat:
            continue
        older = "vLLM below 0.20" if engine == "vllm" else "SGLang below 0.5.11"
        found.append(
            Refusal(
                "driver_too_old",
                f"driver {driver} cannot run the image's CUDA {limit[1]} (needs R{limit[0]} or newer)",
                f"use an image built for CUDA 12 ({older}, or a cu12 build), update the driver, or state "
                f"cuda_compat when the matching compatibility package is in use",
                "F43; NVIDIA CUDA compatibility",
                node=node.name,
            )
        )
    return found


def _fit_refusals(
    engine: EngineName, version: Version, profile: LaunchProfile, nodes: Sequence[NodePlan], facts: LaunchFacts
) -> list[Refusal]:
    """What the profile was made for, against what is here. What is not known is not guessed."""
    fits = profile.fits
    gpus = {facts.gpu_names[node.name] for node in nodes if facts.gpu_names.get(node.name)}
    wrong = {
        "versions": "" if fits.takes(version) else f"{engine} {', '.join(fits.versions)}; this is {version}",
        "models": ""
        if not fits.models or facts.model_type in (None, "", *fits.models)
        else f"models of type {', '.join(fits.models)}; this one is {facts.model_type}",
        "gpus": ""
        if not fits.gpus or all(any(is_a(gpu, one) for one in fits.gpus) for gpu in gpus)
        else f"{', '.join(fits.gpus)}; the nodes have {', '.join(sorted(gpus))}",
        "nodes": "" if fits.nodes in (None, len(nodes)) else f"{fits.nodes} nodes; these are {len(nodes)}",
    }
    return [
        Refusal(
            "profile_does_not_fit",
            f"profile {profile.name} is made for {why}",
            f"take another profile, or change its fits.{what} when you know that it works there",
            "the profile's own `fits`",
        )
        for what, why in wrong.items()
        if why
    ]


def _image_refusals(engine: EngineName, nodes: Sequence[NodePlan], facts: LaunchFacts) -> list[Refusal]:
    found = []
    known = {node.name: facts.images[node.name] for node in nodes if node.name in facts.images}
    for name, image in known.items():
        if image.engine(engine) is None:
            found.append(
                Refusal(
                    "engine_not_in_image",
                    f"the image holds no {engine}",
                    "check the profile's image",
                    "version query",
                    node=name,
                )
            )
    for what in ("engine", "torch", "nccl", "ray", "python"):
        values = {name: image.engine(engine) if what == "engine" else getattr(image, what) for name, image in known.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name} {value or 'none'}" for name, value in values.items())
            found.append(
                Refusal(
                    "images_differ",
                    f"the nodes' images differ in {engine if what == 'engine' else what}: {told}",
                    "use one image digest on all nodes",
                    "F09",
                )
            )
            break
    return found


def _flag_refusals(engine: EngineName, version: Version, flags: Mapping[str, object]) -> list[Refusal]:
    found = []
    table = flag_data.table_for(engine, version)
    for name, value in flags.items():
        if value is None:
            continue
        if table is not None and table.kind(name) == "removed":
            found.append(
                Refusal(
                    "removed_flag",
                    f"--{name} is refused by {engine} {version}",
                    "remove it; the engine's own message names the successor",
                    f"parser of {engine} {table.version}",
                    flag=name,
                )
            )
        elif flag_data.unknown(engine, version, name):
            guess = table.suggest(name) if table else None
            found.append(
                Refusal(
                    "unknown_flag",
                    f"{engine} {version} has no option --{name}",
                    f"did you mean --{guess}?" if guess else "remove it",
                    f"F22; parser of {engine} {table.version if table else version}",
                    flag=name,
                )
            )
    parser = flags.get("reasoning-parser")
    if isinstance(parser, str) and table is not None:
        below, above = flag_data.neighbours(engine, version)
        names = {p for t in (below, above) if t for p in t.reasoning_parsers} | {"auto"}
        if above is not None and parser not in names and len(names) > 1:
            other = parser.replace("-", "_") if engine == "vllm" else parser.replace("_", "-")
            hint = f"write {other}" if other in names else f"known: {', '.join(sorted(names - {'auto'}))}"
            found.append(
                Refusal(
                    "unknown_reasoning_parser",
                    f"{engine} {version} has no reasoning parser {parser!r}",
                    hint,
                    "E-flags; vLLM spells deepseek_r1, SGLang deepseek-r1",
                    flag="reasoning-parser",
                )
            )
    return found


REMOVED_FLAGS: Mapping[EngineName, Mapping[str, tuple[str, str, str]]] = {
    # flag: (first version without it, what to do instead, source). Flags that are translated do not stand here.
    "vllm": {
        "enable-reasoning": ("0.10.0", "remove it: --reasoning-parser alone is enough since 0.9.0", "F22; E-flags"),
        "max-seq-len-to-capture": ("0.11.0", "remove it: the V0 engine that used it is gone", "E-flags"),
        "swap-space": ("0.18.0", "remove it: V1 does not swap", "E-flags"),
        "num-scheduler-steps": ("0.10.1", "remove it: multi-step scheduling is gone", "E-flags"),
        "device": ("0.10.0", "remove it: the build decides the device", "E-flags"),
        "guided-decoding-backend": ("0.11.0", "remove it: the default backend is used", "parser of vllm 0.11.0"),
    },
    "sglang": {},
}


def removed_refusals(engine: EngineName, version: Version, profile: LaunchProfile) -> list[Refusal]:
    """Options that this version no longer has and that mean nothing to it."""
    found = []
    for name, value in normalised(profile.flags).items():
        entry = REMOVED_FLAGS[engine].get(name)
        if entry and value is not None and version.at_least(entry[0]) and value is not False:
            found.append(
                Refusal(
                    "removed_flag",
                    f"{engine} {version} has no option --{name} (gone since {entry[0]})",
                    entry[1],
                    entry[2],
                    flag=name,
                )
            )
    return found
