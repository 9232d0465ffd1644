"""What a run keeps so that its evidence can be judged again without the machines, and the judging again.

``inputs/inventory.json``       the inventory as it was used, redacted, and the engines with their profiles
``inputs/facts-ENGINE.json``    what the probes found, as facts
``inputs/nccl-ENGINE.json``     which log of the evidence lay where, and what the nodes told of the processes that wrote them
``inputs/traffic-ENGINE.json``  the rail counters around the counted request
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_h20.checks import all_verdicts
from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.checks.rdma.traffic import Traffic, verdicts_of
from pytest_h20.cluster.codec import decode, encode
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.shared import key
from pytest_h20.config.inventory import Inventory
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Verdict
from pytest_h20.nccl import parse_log
from pytest_h20.probes.log_owners import LogOwners
from pytest_h20.probes.script import Missing
from pytest_h20.report import untrusted
from pytest_h20.report.model import RunView
from pytest_h20.report.run import INPUTS_DIR, RunFolder
from pytest_h20.run.facts import GatheredFacts

Key = tuple[str, str, str]
"""Engine, check and subject."""


@dataclass(frozen=True)
class KeptLogs:
    """The NCCL logs of a job. ``logs``: (node, path on it, file in the run folder); ``owners``: see ``proof.job_of``."""

    logs: tuple[tuple[str, str, str], ...]
    owners: Mapping[str, LogOwners | Missing] | None
    trusted: bool = False


def keep_targets(run: RunFolder, inventory: Inventory, targets: Mapping[str, LaunchTarget]) -> None:
    """The inventory, and which engine and profile each label of the run means."""
    engines = [{"label": label, "engine": t.engine, "profile": t.profile_name} for label, t in targets.items()]
    run.keep("inventory", {"engines": engines, "inventory": inventory.model_dump(mode="json")})


def keep(run: RunFolder, what: str, label: str, value: GatheredFacts | KeptLogs | Traffic) -> None:
    """``what``: facts, nccl or traffic."""
    run.keep(f"{what}-{key(label)}", json.loads(encode(value)))


@dataclass(frozen=True)
class JudgedAgain:
    """Verdicts made anew from the recorded evidence, and why some could not be."""

    verdicts: Mapping[Key, Verdict]
    problems: tuple[str, ...]

    def of(self, engines: Sequence[str], test_id: str, verdict: Verdict) -> Verdict | None:
        """The new verdict for a recorded one. With several engines the parameters of the test say which one it was about."""
        words = test_id.partition("[")[2]
        named = sorted((e for e in engines if e in words), key=len)[-1:] or list(engines)  # sglang is in sglang:tuned, too
        return next((v for e in named if (v := self.verdicts.get((e, verdict.check, verdict.subject))) is not None), None)


def judged_again(view: RunView) -> JudgedAgain:
    """Everything that the kept inputs allow to be judged anew. What cannot be read is a problem in words, never an error."""
    found: dict[Key, Verdict] = {}
    problems: list[str] = []
    try:
        targets = _targets(view.path)
    except H20Error as error:
        return JudgedAgain({}, (str(error),))
    for label, target in targets.items():
        try:
            verdicts, lost = _of_engine(view.path, label, target)
        except Exception as error:  # a record of another version, or one that was changed: nothing in it may end a replay
            verdicts, lost = [], [f"{label}: the evidence could not be judged again: {type(error).__name__}: {error}"]
        found |= {(label, check, subject): v for (check, subject), v in _unambiguous(verdicts).items()}
        problems += lost
    return JudgedAgain(found, tuple(problems))


def _unambiguous(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    verdicts = list(verdicts)
    count = Counter((v.check, v.subject) for v in verdicts)
    return {(v.check, v.subject): v for v in verdicts if count[v.check, v.subject] == 1}


def _of_engine(folder: Path, label: str, target: LaunchTarget) -> tuple[list[Verdict], list[str]]:
    verdicts: list[Verdict] = []
    problems: list[str] = []

    def read(what: str, kind: type[Any], judges: str) -> Any:
        try:
            return _read(folder, what, label, kind)
        except H20Error as error:
            problems.append(f"{judges} of {label} could not be judged again: {error}")
            return None

    facts: GatheredFacts | None = read("facts", GatheredFacts, "the probes")
    if facts is not None:
        verdicts += [v for v in all_verdicts(facts.probes) if NOT_RECORDED not in v.reason]
    kept: KeptLogs | None = read("nccl", KeptLogs, "the NCCL logs")
    if kept is not None and not problems:  # they are held against the facts: against none, what was right would be wrong
        logs = [NodeLog(node, path, source, parse_log(_content(folder, source), source=source)) for node, path, source in kept.logs]
        job = job_of(target, logs, kept.owners, kept.trusted)
        images = {name: v.nccl or "" for name, v in facts.images.versions.items()} if facts is not None else {}
        verdicts += NcclVerdicts(job, target, images, facts.probes.nodes if facts is not None else {}).all()
    moved: Traffic | None = read("traffic", Traffic, "the rail counters")
    if moved is not None:
        verdicts += verdicts_of(moved, target.nodes)
    return verdicts, problems


def _content(folder: Path, source: str) -> bytes:
    """A file of the run folder, and of nothing else: what names it may have been changed."""
    path = folder / source
    if not path.resolve().is_relative_to(folder.resolve()):
        raise H20Error(f"{source} is no file of the run folder")
    with untrusted.opened(path) as file:
        return file.read()


def _targets(folder: Path) -> dict[str, LaunchTarget]:
    file = folder / INPUTS_DIR / "inventory.json"
    try:
        data = json.loads(untrusted.text(file))
        inventory = Inventory.model_validate(data["inventory"])
        return {
            str(e["label"]): LaunchTarget(
                inventory, str(e["engine"]), str(e["profile"]), inventory.engines[e["engine"]].profiles[e["profile"]]
            )
            for e in data["engines"]
        }
    except FileNotFoundError:
        raise H20Error(f"the folder has no {INPUTS_DIR}/inventory.json: probes and NCCL logs were only read again") from None
    except ValidationError as error:
        raise H20Error(f"{file.name}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise H20Error(f"{file.name} cannot be read: {type(error).__name__}: {error}") from None


NOT_RECORDED = "not recorded by the version that made this run"
"""Why a fact of an older record is missing. No verdict is made from it: what that version said of it, if anything, stands."""


def _lacking(cls: type, name: str) -> Any:
    """What stands for a field that an older record does not have: that it was not recorded, or what the field is when nobody tells."""
    field = next(f for f in fields(cls) if f.name == name)
    if "Missing" in str(field.type):
        return Missing(NOT_RECORDED)
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise ValueError(f"{cls.__name__}.{name}: {NOT_RECORDED}")


def _read(folder: Path, what: str, label: str, kind: type[Any]) -> Any:
    """None: the run did not get that far."""
    file = folder / INPUTS_DIR / f"{what}-{key(label)}.json"
    try:
        value = decode(untrusted.text(file), _lacking)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise H20Error(f"{file.name}: {error}") from None
    if not isinstance(value, kind):
        raise H20Error(f"{file.name} holds something else")
    return value
