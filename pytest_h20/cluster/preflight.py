"""What must be known before the first container starts: leftovers, images and what is really in them, and what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.state import EngineVersions
from pytest_h20.cluster.teardown import Leftover, leftovers
from pytest_h20.core.errors import BringUpError, UsageError
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import (
    Dialect,
    ImageVersions,
    LaunchFacts,
    LaunchPlan,
    Refusal,
)
from pytest_h20.nodes import ImageInfo, Node


@dataclass(frozen=True)
class ImageFacts:
    """What the nodes say about the profile's image. ``versions`` was asked from inside it."""

    images: Mapping[str, ImageInfo | None]
    versions: Mapping[str, ImageVersions] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preflight:
    """Everything a bring-up needs to start."""

    dialect: Dialect
    plan: LaunchPlan
    versions: EngineVersions
    refusals: tuple[Refusal, ...] = ()


def prepare(target: LaunchTarget, images: ImageFacts, launch: LaunchFacts) -> Preflight:
    """Choose the dialect and lay out the launch.

    Raises:
        BringUpError: the image is missing, differs between nodes, lacks the engine, or the launch is known not to work.
    """
    problems = list(images.problems)
    ids = {name: info.id for name, info in images.images.items() if info is not None}
    if len(set(ids.values())) > 1:
        told = ", ".join(f"{name} {identity[:19]}" for name, identity in ids.items())
        problems.append(f"image {target.profile.image} is not the same on all nodes: {told}; pull it again on one of them")
    versions = next(iter(images.versions.values()), None)
    text = versions.engine(target.engine) if versions else None
    if versions is not None and text is None:
        problems.append(f"image {target.profile.image} holds no {target.engine}; it holds {_contents(versions)}")
    if problems or versions is None or text is None:
        raise BringUpError("\n".join(problems) or "the image's versions could not be read")
    try:
        dialect = dialect_for(target.engine, text, target.profile.mode)
        refusals = tuple(dialect.refuse(target.engine_profile(), target.node_plans(), launch))
        if refusals:
            told = f"{target.engine} {text} cannot be launched like this:\n" + "\n".join(f"  {refusal}" for refusal in refusals)
            only_versions = all(refusal.id == "images_differ" for refusal in refusals)
            raise BringUpError(told, "bringup.same_versions" if only_versions else "bringup.ready")
        plan = dialect.plan(target.engine_profile(), target.node_plans())
    except UsageError as error:
        raise BringUpError(f"profile {target.engine}:{target.profile_name}: {error}") from None
    held = EngineVersions(
        engine=text,
        torch=versions.torch or "",
        nccl=versions.nccl or "",
        cuda=versions.cuda or "",
        python=versions.python or "",
        ray=versions.ray or "",
        image_id=next(iter(ids.values()), ""),
    )
    return Preflight(dialect, plan, held, refusals)


def refuse_leftovers(nodes: Mapping[str, Node], base: str, run: str, place: str) -> None:
    """Raise ``BringUpError`` when containers of another run of this user are still there: they hold GPUs and ports; or when it broke
    something in a drill and did not live to take it back.

    ``run``: this run, whose own record is no leftover.
    """
    found: list[Leftover] = [item for item in leftovers(nodes, base, not_run=run) if item.containers or item.entry.drills]
    if found:
        living = next((item.entry for item in found if item.entry.lives), None)
        kept = next((item.entry for item in found if item.entry.kept), None)
        told = "\n".join(f"  {item}" for item in found)
        reap = f"python -m pytest_h20 reap --nodes {place}"
        if living is not None:
            raise BringUpError(
                f"another run is using these nodes:\n{told}\n"
                f"fix: wait until run {living.run} has ended, or end it where it was started (Ctrl-C there)"
            )
        if kept is not None:
            raise BringUpError(
                f"an earlier run was kept on these nodes:\n{told}\nfix: when nobody needs it any more: {reap} --run {kept.run}"
            )
        raise BringUpError(f"what an earlier run left is still there:\n{told}\nfix: {reap}")


def _contents(versions: ImageVersions) -> str:
    known = {"vllm": versions.vllm, "sglang": versions.sglang, "torch": versions.torch}
    return ", ".join(f"{k} {v}" for k, v in known.items() if v) or "neither vllm nor sglang"
