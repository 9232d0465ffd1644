"""What is known before the engine starts, gathered once per run: probes on all nodes, and what the image says of itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pytest_h20.cluster.preflight import ImageFacts
from pytest_h20.config.inventory import Profile
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.engines.base import ImageVersions, LaunchFacts
from pytest_h20.probes.facts import Facts, NodeFacts
from pytest_h20.probes.gather import gather
from pytest_h20.probes.identity import identity_texts
from pytest_h20.probes.image import Versions
from pytest_h20.probes.model_shape import has_experts, heads_of
from pytest_h20.probes.script import Missing
from pytest_h20.report.model import NodeColumn
from pytest_h20.run.settings import Session

R1_EXPERT_WIDTH, R1_BLOCK_N, R1_HEADS = 2048, 128, 128
"""DeepSeek-R1's moe_intermediate_size, the columns of one of its FP8 blocks, and its num_attention_heads."""
_HOPPER = re.compile(r"\bG?H(20|100|200|800)\b")


@dataclass(frozen=True)
class GatheredFacts:
    """Everything the early gates judge."""

    probes: Facts
    images: ImageFacts

    def fingerprint(self) -> dict[str, dict[str, str]]:
        """Node → what may explain a different figure, as short texts."""
        return {name: {**node_texts(node), **identity_texts(node)} for name, node in self.probes.nodes.items()}


def gathered(session: Session, label: str) -> GatheredFacts:
    """The facts, gathered by whoever asks first."""
    from pytest_h20.run.store import FACTS

    return session.shared.once(FACTS(label), lambda: _gather(session, label))


def published_facts(session: Session, label: str) -> GatheredFacts | None:
    """The facts when they were gathered already."""
    from pytest_h20.run.store import FACTS

    return session.shared.value(FACTS(label))


def _gather(session: Session, label: str) -> GatheredFacts:
    target = session.target(label)
    nodes = {n.name: session.nodes[n.name] for n in target.nodes}
    facts = gather(
        nodes,
        session.inventory,
        engine=target.engine,
        profile=target.profile,
        record=lambda name, text: session.folder.evidence(name, text),
    )
    for name, node in facts.nodes.items():
        session.folder.add(NodeColumn(node=name, facts=node_texts(node)))
    found = GatheredFacts(facts, image_facts(facts))
    from pytest_h20.run.inputs import keep

    keep(session.folder, "facts", label, found)
    return found


def unreached_nodes(session: Session, label: str) -> str:
    """Why no engine can be started on these nodes, when one of them does not answer; empty when all do, and for an engine that runs."""
    from pytest_h20.checks.frame import silence

    if session.run is None or session.inventory.attach is not None:
        return ""
    return silence(gathered(session, label).probes.views)


def untold(session: Session, told: Collection[Verdict]) -> list[Verdict]:
    """Causes that no test told, because the test that tells them was not selected: what follows from them was skipped, and what is left
    must not be green. ``told``: every verdict of the run."""
    from pytest_h20.checks import NODE_CHECKS
    from pytest_h20.checks.frame import BECAUSE, REACHABLE

    known = {label: facts for label in session.labels if (facts := published_facts(session, label)) is not None}
    views = {view.name: view for facts in known.values() for view in facts.probes.views}
    causes = [(REACHABLE, name) for name, view in views.items() if view.silence]
    causes += [(str(cause[0]), str(cause[1])) for v in told if isinstance(cause := v.details.get(BECAUSE), list)]
    missing = [cause for cause in dict.fromkeys(causes) if cause not in {(v.check, v.subject) for v in told}]
    found = [v for check, name in missing if check in NODE_CHECKS and name in views for v in NODE_CHECKS[check](views[name])]
    if any(check not in NODE_CHECKS for check, _ in missing):
        from pytest_h20.run.weights import weights_verdicts

        found += [v for label in known for v in weights_verdicts(session, label) if (v.check, v.subject) in missing]
    return found


def image_facts(facts: Facts) -> ImageFacts:
    """What the probes say about the image, in the words of the dialects."""
    problems = []
    versions = {}
    images = {}
    for name, node in facts.nodes.items():
        if isinstance(node.image, Missing):
            problems.append(f"{name}: {node.image.reason}" + (f"; {node.image.hint}" if node.image.hint else ""))
            continue
        images[name] = node.image
        if isinstance(node.image_versions, Missing):
            problems.append(f"{name}: the image did not tell its versions: {node.image_versions.reason}")
            continue
        versions[name] = image_versions(node.image_versions)
    return ImageFacts(images=images, versions=versions, problems=tuple(problems))


def image_versions(found: Versions) -> ImageVersions:
    """Probe's words to dialect's words."""
    return ImageVersions(
        vllm=found.package("vllm") or None,
        sglang=found.package("sglang") or None,
        torch=found.package("torch") or None,
        cuda=found.cuda or None,
        nccl=found.nccl or None,
        python=found.python or None,
        ray=found.package("ray") or None,
        ray_importable=bool(found.package("ray")),
    )


def launch_facts(session: Session, facts: GatheredFacts) -> LaunchFacts:
    """What the dialect's refusals are based on. What is missing stays missing."""
    drivers, gpus, gpu_names = {}, {}, {}
    model_type = None
    capability: tuple[int, int] | None = None
    experts: bool | None = None
    heads: int | None = None
    for name, node in facts.probes.nodes.items():
        config = Missing("") if isinstance(node.model_folder, Missing) else node.model_folder.config
        if model_type is None and not isinstance(config, Missing):
            model_type = str(config.get("model_type") or "") or None
        experts = has_experts(config) if experts is None else experts
        heads = heads_of(config) if heads is None else heads
        if isinstance(node.gpus, Missing) or not node.gpus.gpus:
            continue
        gpus[name] = given(facts.probes.profile, len(node.gpus.gpus))
        gpu_names[name] = node.gpus.gpus[0].name
        if node.gpus.driver:
            drivers[name] = node.gpus.driver
        if _HOPPER.search(node.gpus.gpus[0].name):
            capability = (9, 0)
    r1 = session.inventory.model.kind == "deepseek-r1"
    return LaunchFacts(
        drivers=drivers,
        gpus=gpus,
        compute_capability=capability,
        images=facts.images.versions,
        gpu_names=gpu_names,
        model_type=model_type,
        experts=experts,
        expert_width=R1_EXPERT_WIDTH if r1 else None,
        block_n=R1_BLOCK_N if r1 else None,
        attention_heads=heads or (R1_HEADS if r1 else None),
    )


def given(profile: Profile | None, there: int) -> int:
    """How many of a node's GPUs its engine's container gets: docker's ``--gpus`` as ``all``, ``2`` or ``device=0,1``."""
    told = (profile.container.gpus or "0") if profile is not None else "all"
    if told.isdecimal():
        return min(int(told), there)
    named = re.search(r"device=([^\s\"']+)", told)
    return len(named[1].split(",")) if named else there


def early_verdicts(session: Session, label: str, facts: GatheredFacts) -> list[Verdict]:
    """The verdicts of all gates before the engine, from the facts alone: the same that the tests of these gates report."""
    from pytest_h20.checks import all_verdicts

    return held_by_file(session, label, all_verdicts(facts.probes))


def held_by_file(session: Session, label: str, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts, held against ``checks:`` and ``skus:`` of the target's limits file as well. Cells have judged theirs already."""
    from pytest_h20.config.limits import stricter

    limits = session.limits_of(label)
    if limits is None or not (limits.checks or limits.skus):
        return list(verdicts)
    ids = pci_ids(published_facts(session, label)) if limits.skus else {}
    common = next(iter(ids.values())) if len(set(ids.values())) == 1 else ""  # what is said of the cluster holds for its only model
    found = []
    for verdict in verdicts:
        gpu = ids.get(verdict.subject.split(" ", 1)[0], common)
        lost = limits.without_row(verdict.check, gpu)
        held = stricter(verdict, limits.check(verdict.check, gpu))
        if lost and not held.status.blocks:
            held = held.model_copy(update={"status": Status.UNKNOWN, "reason": lost})
        found.append(held)
    return found


def pci_ids(facts: GatheredFacts | None) -> dict[str, str]:
    """Node → vendor and device id of its first GPU, as limits files name a model: ``10de:2329``."""
    found = {}
    for name, node in facts.probes.nodes.items() if facts is not None else ():
        if not isinstance(node.gpus, Missing) and node.gpus.gpus and node.gpus.gpus[0].pci_device_id:
            found[name] = _pci_id(node.gpus.gpus[0].pci_device_id)
    return found


def _pci_id(device: str) -> str:
    return f"10de:{device}" if device else ""


def node_texts(node: NodeFacts) -> dict[str, str]:
    """A node in a few short texts: for the table that compares nodes, and for the fingerprint."""
    texts: dict[str, str] = {}
    if not isinstance(node.system, Missing):
        texts |= {"os": node.system.os, "kernel": node.system.kernel}
    if not isinstance(node.gpus, Missing) and node.gpus.gpus:
        first = node.gpus.gpus[0]
        texts |= {"gpu": f"{len(node.gpus.gpus)} × {first.name}", "driver": node.gpus.driver}
        texts |= {"gpu pci id": _pci_id(first.pci_device_id)}
    if not isinstance(node.rdma, Missing):
        texts |= {f"fw {h.name}": h.firmware for h in node.rdma.hcas}
    if not isinstance(node.daemon, Missing):
        texts["docker"] = node.daemon.version
    if not isinstance(node.image, Missing):
        texts["image"] = node.image.id[:19]
    if not isinstance(node.image_versions, Missing):
        v = node.image_versions
        texts |= dict(v.packages)
        texts |= {"nccl": v.nccl, "cuda": v.cuda}
    return {k: v for k, v in texts.items() if v}
