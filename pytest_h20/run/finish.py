"""The end of a run: fingerprint, decision, documents. On the controller. No pytest in here."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pytest_h20 import __version__
from pytest_h20.checks.frame import Say
from pytest_h20.cluster.shared import key
from pytest_h20.cluster.state import ClusterState
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Decision, GateName, Status, Verdict, decide
from pytest_h20.report.model import NOT_ASKED, Fingerprint, Header, RunView, Warning_
from pytest_h20.run.conditions import weights_reference
from pytest_h20.run.settings import Session, digest, text_digest
from pytest_h20.run.store import CLUSTER, SELECTED

NONE_OF_OURS = "no test of the acceptance suite ran"


def finish(session: Session, gates: Collection[str], unfinished: str, lacking: str) -> Decision:
    """Write ``fingerprint.json`` and ``verdict.json`` and return the decision.

    ``gates``: those of which at least one test was reported. ``unfinished``: why the run ended before everything that was collected had
    reported; such a run is never green. ``lacking``: tests of the suite that gave no verdict of their own; a part of the suite can be
    green, but never an acceptance.
    """
    run = session.folder
    obstacles = list(run.header.cannot_accept)
    required = session.required
    selected = {gate for _, gate in session.shared.value(SELECTED) or ()}
    absent = [g for g in required if g.value not in selected]
    if absent and selected:
        # a part was asked for: what was not asked for neither makes that part red nor was cut off, but nothing can be accepted by it
        obstacles.append("these gates were not selected: " + ", ".join(g.value for g in absent))
        required = tuple(g for g in required if g not in absent)
    if unfinished:
        obstacles.append("the run is not finished")
    if not gates and not selected and not unfinished:
        # a repository's own tests on a cluster of ours: nobody asked for gates, and none is told; an acceptance it can never be
        obstacles.append(NOT_ASKED)
        required = ()
    elif not gates:
        obstacles.append(NONE_OF_OURS)
    if lacking and NOT_ASKED not in obstacles:
        obstacles.append(lacking)
    run.describe(required=required, cannot_accept=tuple(dict.fromkeys(obstacles)), unfinished=unfinished)
    found = fingerprint(session)
    run.fingerprint(found)
    run.describe(**learnt(run.header, found))
    calibrated = write_calibration(session) if not unfinished else []
    for verdict in calibrated:
        run.record(verdict, "session::calibration")
    verdicts = run.view().verdicts
    if session.mode.can_accept and GateName.WEIGHTS in required:
        obstacle, condition = weights_reference(verdicts)
        run.describe(
            cannot_accept=(*run.header.cannot_accept, *([obstacle] if obstacle else [])),
            conditions=(*run.header.conditions, *([condition] if condition else [])),
        )
    decision = decide(verdicts, required, acceptance=not run.header.obstacles)
    if unfinished:
        before = ", ".join(g.name.value for g in decision.gates if g.required and not g.counts)
        reasons = [unfinished + (f"; it ended before {before}" if before else "")]
        reasons += [f"{g.name.value}: {g.reason}" for g in decision.gates if g.status.blocks and g.counts]
        decision = decision.model_copy(update={"green": False, "accepted": False, "reason": "; ".join(reasons)})
    view = run.finish(decision)
    remember(session, view)
    return view.decision


def write_calibration(session: Session) -> list[Verdict]:
    """``--h20-calibrate FILE``: limits from the repeats of this run. One engine a file; a file that was not written is red."""
    target = session.settings.calibrate
    if not target:
        return []
    from pytest_h20.report.calibrate import calibrate, left_out, repeats_of, too_noisy

    verdicts, view = [], session.folder.view()
    for label, chosen in zip(session.labels, session.targets, strict=True):
        path = Path(target) if len(session.labels) == 1 else Path(target).with_stem(f"{Path(target).stem}-{key(label)}")
        repeats = repeats_of(view.cells, label)
        status, reason, action = Status.PASS, "", f"judge by it: --h20-limits={path}"
        try:
            text = calibrate(
                repeats,
                name=f"{session.inventory.name}-{key(label)}",
                engine=chosen.engine,
                profile=chosen.profile_name,
                model=chosen.inventory.model.kind if chosen.inventory.model.kind != "other" else Path(chosen.inventory.model.path).name,
                kind=chosen.inventory.kind,
                source=f"{session.inventory.name}, run {view.header.run}",
            )
            path.write_text(text, encoding="utf-8")
        except (H20Error, OSError) as error:
            status, reason, action = Status.UNKNOWN, f"nothing was written: {error}", "mend that, and calibrate again"
        else:
            if noisy := too_noisy(repeats):
                status, reason = Status.WARN, f"too noisy to tell a drop of 10 % from none: {', '.join(noisy)}"
                action = "repeat more (--h20-repeats), with longer cells, on a quiet machine"
            if lost := left_out(repeats):
                status = Status.UNKNOWN
                reason = "written without " + "; ".join(f"{cell}: {why}" for cell, why in lost.items())
                action = "calibrate these cells again (-k CELL) on a quiet machine, and put their rows into the file"
        say = Say("throughput.calibrated", "Limits were written from the repeats", label)
        verdicts.append(say.plain(status, reason, action=action, measured=str(path)))
        session.folder.add(Warning_(text=f"--h20-calibrate={path}: {reason or 'written'}"))
    return verdicts


def remember(session: Session, view: RunView) -> None:
    """Keep the run in the history store. A store that cannot be reached costs a warning, never the run."""
    where = session.settings.history or session.folder.path.parent / "history.sqlite"
    if str(where) == "none":
        return
    from pytest_h20.report.history import History

    try:
        History(where).add(view)
    except H20Error as error:
        session.folder.add(Warning_(text=f"--h20-history={where}: this run was not kept: {error}"))


def states(session: Session) -> dict[str, ClusterState]:
    """The clusters that came up, by engine label."""
    found = {}
    for label in session.labels:
        state = session.shared.value(CLUSTER(label))
        if state is not None:
            found[label] = state
    return found


def learnt(header: Header, known: Fingerprint) -> dict[str, Any]:
    """What the first screen says and nobody knew at the start: GPUs of each node, and the driver (each one, where nodes differ)."""
    drivers = dict.fromkeys(facts["driver"] for facts in known.nodes.values() if facts.get("driver"))
    nodes = tuple(n.model_copy(update={"gpus": known.nodes.get(n.name, {}).get("gpu", "")}) for n in header.nodes)
    return {"nodes": nodes, "driver": ", ".join(drivers)}


def fingerprint(session: Session) -> Fingerprint:
    """What may explain a different figure in another run."""
    from pytest_h20.run.facts import published_facts

    up = states(session)
    engines: dict[str, dict[str, str]] = {}
    for label, target in zip(session.labels, session.targets, strict=True):
        state = up.get(label)
        versions = state.versions if state else None
        engines[label] = {
            "image": target.profile.image,
            "profile": target.profile_name,
            "tensor_parallel": str(target.profile.tensor_parallel),
            "ranks": str(target.layout.ranks),
            "layout": str(target.layout),
            "nodes": str(len(target.nodes)),
            **({k: v for k, v in versions.__dict__.items() if v} if versions else {}),
        }
    facts = next((f for f in (published_facts(session, label) for label in session.labels) if f is not None), None)
    limits = [digest(t.profile.limits) for t in session.targets if t.profile.limits]
    return Fingerprint(
        plugin_version=__version__,
        python=sys.version.split()[0],
        engines=engines,
        flags={label: dict(t.profile.flags) for label, t in zip(session.labels, session.targets, strict=True)},
        nodes=facts.fingerprint() if facts is not None else {},
        model={"path": session.inventory.model.path, "kind": session.inventory.model.kind},
        inventory_sha256=digest(session.source) or text_digest(session.inventory.model_dump_json()),
        limits_sha256=",".join(limits),
    )
