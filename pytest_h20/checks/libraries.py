"""What the ranks of the serving engine have really loaded: equal everywhere, and what the image says. Pure, but for the asking.

The version that a package names is not what runs: another build of the same version was the fix of vllm#42354, and verl#6621 had three
versions in one image. So files are compared by content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, version_key
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.state import ClusterState
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Limit, Verdict
from pytest_h20.nodes import Node
from pytest_h20.probes.facts import NodeFacts
from pytest_h20.probes.libraries import Library, Loaded, LoadedProcess, family, libraries_command, parse_loaded
from pytest_h20.probes.script import Missing, ProbeError

TITLES = {
    "bringup.libraries": "Every rank has the same libraries loaded",
    "bringup.nccl_loaded": "The NCCL that is loaded is the image's, and one",
    "bringup.nccl_settings": "Every rank runs with the NCCL settings that were given",
}

READ_MEMORY = (
    "commands in the container must run as the user of the ranks, as root, or with CAP_SYS_PTRACE (`cap_add: [SYS_PTRACE]` in the profile)"
    ": start the engine as the user that the image names"
)
"""/proc/PID/maps is read by who may trace the process: proc(5), ptrace(2). No line of sudoers helps: the processes are in a container."""

OF_A_NODE = ("NCCL_DEBUG_FILE", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_HOSTID", "NCCL_TOPO_FILE")
"""Variables that may differ between nodes."""

OTHER_NCCL = ("LD_PRELOAD", "LD_LIBRARY_PATH", "VLLM_NCCL_SO_PATH")
"""With one of these in the profile another NCCL than the image's is meant."""


@dataclass(frozen=True, eq=False)
class LoadedRank:
    """A process with its node; each is itself alone."""

    node: str
    process: LoadedProcess

    def __str__(self) -> str:
        return f"{self.node} pid {self.process.pid}"


def ask_loaded(
    cluster: ClusterState, nodes: Mapping[str, Node], record: Callable[[str, str], str] | None = None
) -> dict[str, Loaded | Missing]:
    """Node to what its container told, all nodes at once. A container that holds several roles is asked once."""
    containers = dict.fromkeys((role.node, role.container_id) for role in cluster.roles if role.node in nodes)

    def one(place: tuple[str, str]) -> Loaded | Missing:
        node, container = place
        try:
            answer = nodes[node].containers.exec(container, libraries_command(), timeout=180.0)
            if record:
                record(f"libraries/{node}.json", answer.stdout)
            return parse_loaded(answer.stdout)
        except ProbeError as error:
            return Missing(f"{node}: {error}", "see the recorded answer: the image needs a python3")
        except H20Error as error:
            return Missing(f"{node}: {error}")

    with ThreadPoolExecutor(max_workers=max(1, len(containers))) as pool:
        return {node: told for (node, _), told in zip(containers, pool.map(one, containers), strict=True)}


def verdicts(target: LaunchTarget, told: Mapping[str, Loaded | Missing], facts: Mapping[str, NodeFacts]) -> list[Verdict]:
    """The three checks of one engine."""
    optional = target.inventory.expect.unmeasured_ok
    say = {check: Say(check, title, target.engine, optional=optional) for check, title in TITLES.items()}
    why = without(facts)
    if why or not told:
        return [voice.skip(why or "attached by its address alone: no container can be asked") for voice in say.values()]
    lost = [str(found) for found in told.values() if isinstance(found, Missing)]
    known = {node: found for node, found in told.items() if isinstance(found, Loaded)}
    ranks = [LoadedRank(node, process) for node, found in known.items() for process in found.ranks]
    if not lost and len(ranks) < target.layout.ranks:
        unread = sum(found.unread for found in known.values())
        lost = [f"{len(ranks)} of {target.layout.ranks} ranks could be looked at"]
        lost += [f"the memory of {unread} processes of other users (/proc/PID/maps) could not"] if unread else []
    if lost:
        hints = [found.hint for found in told.values() if isinstance(found, Missing) and found.hint]
        hints += [READ_MEMORY] if any(found.unread for found in known.values()) else []
        return [voice.unknown("; ".join(lost), hints[0] if hints else "") for voice in say.values()]
    return [
        alike(say["bringup.libraries"], ranks, known),
        nccl(say["bringup.nccl_loaded"], target, ranks, known, facts),
        settings(say["bringup.nccl_settings"], target, ranks, known),
    ]


def without(facts: Mapping[str, NodeFacts]) -> str:
    """Why no rank holds a GPU; "" when they do."""
    for node in facts.values():
        if not isinstance(node.image_versions, Missing) and node.image_versions.package("torch").endswith("+cpu"):
            return "the image holds a torch without CUDA: no rank holds a GPU"
    return ""


def of_rank(rank: LoadedRank, known: Mapping[str, Loaded]) -> dict[str, list[Library]]:
    """Family to the files of a rank."""
    found: dict[str, list[Library]] = {}
    for path in rank.process.paths:
        name = family(path)
        if name:
            found.setdefault(name, []).append(known[rank.node].files.get(path, Library(path, "", 0)))
    return found


def alike(say: Say, ranks: list[LoadedRank], known: Mapping[str, Loaded]) -> Verdict:
    """Every library of every rank, by content."""
    loaded = {rank: of_rank(rank, known) for rank in ranks}
    names = sorted({name for found in loaded.values() for name in found})
    if not any(name == "libnccl" for name in names):
        return say.unknown("no rank has a libnccl in its memory: is it linked statically?")
    unread = sorted({library.path for found in loaded.values() for files in found.values() for library in files if not library.sha256})
    if unread:
        return say.unknown(f"could not be read: {', '.join(unread[:3])}")
    wrong: list[str] = []
    details: dict[str, JsonValue] = {}
    for name in names:
        contents = {rank: tuple(sorted({library.sha256 for library in loaded[rank].get(name, [])})) for rank in ranks}
        common, count = Counter(contents.values()).most_common(1)[0]
        usual = next(rank for rank in ranks if contents[rank] == common)
        details[name] = [" ".join(filter(None, (lib.path, lib.version, lib.sha256[:16]))) for lib in loaded[usual].get(name, [])]
        for rank, content in contents.items():
            if content != common:
                mine = ", ".join(f"{lib.path} ({lib.sha256[:12]})" for lib in loaded[rank].get(name, [])) or "none"
                usual_one = ", ".join(c[:12] for c in common) or "none"
                wrong.append(f"{name}: {rank} has {mine}, {count} of {len(ranks)} ranks have {usual_one}")
    limit = Limit(kind="max", value=0, unit="differences", origin=builtin("other code behaves otherwise, also where versions agree"))
    action = "the same image (by id) on all nodes, and nothing mounted over it on one of them"
    return say.judge(len(wrong), limit, reason="; ".join(wrong[:4]), action=action, details=details, of=len(ranks) * len(names))


def nccl(say: Say, target: LaunchTarget, ranks: list[LoadedRank], known: Mapping[str, Loaded], facts: Mapping[str, NodeFacts]) -> Verdict:
    """One libnccl in each rank, of the version that the image's own calls itself."""
    copies = {rank: {lib.sha256: lib for lib in of_rank(rank, known).get("libnccl", [])} for rank in ranks}
    several = [
        f"{rank}: {', '.join(f'{lib.path} {lib.version}' for lib in found.values())}" for rank, found in copies.items() if len(found) > 1
    ]
    versions = sorted({lib.version for found in copies.values() for lib in found.values()})
    details: dict[str, JsonValue] = {"versions": [*versions]}
    if several:
        told = f"{len(several)} of {len(ranks)} ranks have several copies of NCCL: {several[0]}"
        action = "one libnccl.so.2 in the image: which of them makes a communicator is chance"
        return say.warn(len(several), told, action=action, details=details)
    meant = [name for name in OTHER_NCCL if name in target.profile.env]
    images = {v.nccl for node in facts.values() if not isinstance(v := node.image_versions, Missing) and v.nccl}
    if meant or len(images) != 1:
        why = f"{', '.join(meant)} of the profile asks for another" if meant else "the image does not tell its NCCL"
        return say.skip(why, ", ".join(versions) or None, details)
    wanted = images.pop()
    wrong = [version for version in versions if version_key(version)[:3] != version_key(wanted)[:3]]
    limit = Limit(kind="equal", value=wanted, origin=builtin("what ncclGetVersion of the image's library says"))
    reason = f"{', '.join(wrong) or 'no version'} is loaded, the image's library is {wanted}"
    action = "look for libnccl.so.2 in mounts, LD_LIBRARY_PATH and /etc/ld.so.conf.d of the container"
    measured = wanted if versions and not wrong else ", ".join(wrong) or None
    return say.judge(measured, limit, reason=reason, action=action, details=details, of=len(ranks))


def settings(say: Say, target: LaunchTarget, ranks: list[LoadedRank], known: Mapping[str, Loaded]) -> Verdict:
    """NCCL_* of the profile arrive in every rank and are the same in all; what nobody here gave is told."""
    given = {key: str(value) for key, value in target.profile.env.items() if key.startswith("NCCL_")}
    own = {n.name: {k: str(v) for k, v in n.env.items() if k.startswith("NCCL_")} for n in target.nodes}
    wrong = []
    for rank in ranks:
        wanted = {**given, **own.get(rank.node, {})}
        env = rank.process.env
        wrong += [f"{rank}: {key}={env.get(key, '(not set)')}, {v} was given" for key, v in wanted.items() if env.get(key) != v]
    for key in sorted({key for rank in ranks for key in rank.process.env} - {*given, *OF_A_NODE}):
        values = Counter(rank.process.env.get(key, "(not set)") for rank in ranks)
        if len(values) > 1:
            wrong.append(f"{key} differs: {', '.join(f'{value} in {count} ranks' for value, count in values.items())}")
    left = [
        f"{node}: {path} sets {key}={value}"
        for node, found in known.items()
        for path, keys in found.conf.items()
        for key, value in keys.items()
        if key.startswith("NCCL_") and not all(key in rank.process.env for rank in ranks if rank.node == node)
    ]
    action = "NCCL reads /etc/nccl.conf and ~/.nccl.conf where a variable is not set: take them out of the image, or set the variable"
    if not wrong and left:
        return say.warn(len(left), "; ".join(left[:6]), action=action, details={"left_over": [*left]})
    limit = Limit(kind="max", value=0, unit="settings", origin=builtin("ranks with other settings do not connect, or not as it was meant"))
    details: dict[str, JsonValue] = {"left_over": [*left], "env": {**ranks[0].process.env}}
    reason = "; ".join(dict.fromkeys(wrong))
    action = "look for ENV NCCL_* in the image and for wrappers"
    return say.judge(len(wrong), limit, reason=reason[:800], action=action, details=details, of=len(ranks))
