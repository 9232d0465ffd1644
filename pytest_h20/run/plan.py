"""``--h20-plan``: what would be judged, and every command and container for every node, printed. Nodes are asked whether they can be
reached; nothing is started or written there, and no image is asked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping

from pytest_h20 import lang
from pytest_h20.cluster.launch import LaunchTarget, plan_text, secrets_note
from pytest_h20.config.inventory import Inventory
from pytest_h20.core.door import shown, use
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.core.setting import Setting
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import LaunchFacts
from pytest_h20.lang import local
from pytest_h20.run.facts import R1_BLOCK_N, R1_EXPERT_WIDTH, R1_HEADS, given
from pytest_h20.run.forecast import judged, reached
from pytest_h20.run.settings import Settings, build, label_of, redactor_of

_TAG_VERSION = re.compile(r"[:@]v?(\d+\.\d+(?:\.\d+)?(?:[.-]?(?:post|rc)\d+)?)(?:[-_](cpu|cu\d+)\b)?")
"""``:v0.5.23-cu126``: the build says which driver is enough, and a CPU's needs none."""


def version_of(target: LaunchTarget) -> tuple[str, str]:
    """The engine version to plan for, and where it comes from. Raises ``UsageError`` when nothing tells it."""
    if target.profile.version:
        return target.profile.version, "profile's version"
    if match := _TAG_VERSION.search(target.profile.image):
        return f"{match[1]}+{match[2]}" if match[2] else match[1], "image tag"
    raise UsageError(
        f"--h20-plan: the tag of image {target.profile.image} does not tell its {target.engine} version, and a plan asks no image; "
        f"give engines.{target.engine}.profiles.{target.profile_name}.version in the inventory"
    )


def claimed(target: LaunchTarget) -> LaunchFacts:
    """What the inventory itself says of machines and model: nothing was asked. A run asks, and refuses by what it finds."""
    expected = {node.name: target.inventory.expect_of(node) for node in target.nodes}
    r1 = target.inventory.model.kind == "deepseek-r1"
    return LaunchFacts(
        drivers={name: e.driver for name, e in expected.items() if e.driver},
        gpu_names={name: e.gpu_model for name, e in expected.items() if e.gpu_model},
        gpus={name: given(target.profile, e.gpu_count) for name, e in expected.items() if e.gpu_count is not None},
        model_type="deepseek_v3" if r1 else None,
        experts=True if r1 else None,
        expert_width=R1_EXPERT_WIDTH if r1 else None,
        block_n=R1_BLOCK_N if r1 else None,
        attention_heads=R1_HEADS if r1 else None,
    )


def render(target: LaunchTarget, label: str) -> tuple[str, bool]:
    """The plan of one target as text, and whether something of it is refused."""
    version, origin = version_of(target)
    dialect = dialect_for(target.engine, version, target.profile.mode)
    plan = dialect.plan(target.engine_profile(), target.node_plans())
    lines = [f"# {label}: profile {target.profile_name}, {target.engine} {version} (from {origin}), mode {plan.mode}"]
    refusals = dialect.refuse(target.engine_profile(), target.node_plans(), claimed(target))
    lines += [f"# REFUSED before launch: {refusal}" for refusal in refusals]
    lines += [f"# note: {warning}" for warning in plan.warnings]
    note = secrets_note(target, plan)
    lines += [f"# note: {note}"] if note else []
    for node, needs in plan.ports_needed.items():
        if needs:
            lines.append(f"# {node}: must be free: " + ", ".join(f"{n.port} ({n.purpose})" for n in needs))
    for number, (node, command) in enumerate(plan_text(target, plan), 1):
        lines += ["", f"# {number}. on {node}", command, *_waits(plan.steps[number - 1].wait_for)]
    lines += ["", f"# ready: {local(' then ').join(plan.ready.patterns)} in the output of {plan.ready.role} on {plan.ready.node},"]
    seconds = f"{target.profile.first_completion_timeout:g} s"
    lines.append(f"#   GET {plan.ready.health_path} = 200, the socket is our container's, one token within {seconds}")
    return "\n".join(lines), bool(refusals)


def _waits(wait_for: str) -> list[str]:
    words = {"ray-joined": "# then wait until Ray counts every node", "started": "# then wait until the container runs"}
    return [words[wait_for]] if wait_for in words else []


def _said(line: str) -> str:
    """A line of a plan; what is not a remark is a command, and stays as it is."""
    return local(line) if line.startswith("#") else line


def main(resolved: Mapping[str, Setting], change: Callable[[Inventory], Inventory]) -> int:
    """Print the plans of all targets, with the inventory as ``change`` (the hooks) leaves it.

    0, or 4 (pytest's usage error): with one line on standard error, or when an engine would be refused before launch.
    """
    lang.use(resolved["h20_lang"].value)
    try:
        settings = Settings.of(resolved)
        if not settings.nodes:
            raise UsageError("--h20-plan needs --nodes=INVENTORY")
        session = build(settings, change=change)
        use(redactor_of(session.inventory))
        plans = [render(t, label_of(t, session.targets)) for t in session.targets]
        try:
            head = [*judged(session), *reached(session)]
        finally:
            session.close()
        print(shown("\n\n".join(["\n".join(map(local, head)), *("\n".join(map(_said, text.split("\n"))) for text, _ in plans)])))
        if any(refused for _, refused in plans):
            print(local("ERROR: --h20-plan: an engine would be refused before launch: see REFUSED above"), file=sys.stderr)
            return 4
    except H20Error as error:
        print(local(shown(f"ERROR: {error}")), file=sys.stderr)
        return 4
    return 0
