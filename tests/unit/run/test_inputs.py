"""Evidence that is judged again: probes, NCCL logs and counters of a stood-in cluster, from what its run folder holds and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.checks import all_verdicts
from pytest_h20.checks.rdma.proof import NcclVerdicts, NodeLog, job_of
from pytest_h20.checks.rdma.traffic import Traffic, plan, verdicts_of
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.nccl import parse_log
from pytest_h20.probes.counters import COUNTERS
from pytest_h20.probes.model_shape import ModelShape
from pytest_h20.probes.script import build, split
from pytest_h20.rehearsal import nccl_log
from pytest_h20.rehearsal.world import NcclTruth
from pytest_h20.report.model import Mode
from pytest_h20.report.run import RunFolder, load_run
from pytest_h20.run.facts import GatheredFacts, image_facts
from pytest_h20.run.inputs import KeptLogs, judged_again, keep, keep_targets
from pytest_h20.run.rejudge import EVIDENCE, HOW, READ, rejudge_run, settled, told
from tests.unit.probes.cluster import blog_cluster

TEST = "test_suite.py::test_it"


class Recorded:
    """A run of the write-up's cluster as the suite leaves it: its verdicts, its evidence, its inputs. ``said``: the verdicts."""

    def __init__(self, base: Path, *, labels: Sequence[str] = ("sglang",), mend: bool = False, **truth: Any) -> None:
        cluster = blog_cluster()
        inventory = cluster.inventory
        self.run = RunFolder.create(base, list(labels), "recorded", Mode.FULL)
        engine, name, profile = inventory.engine_profile("sglang")
        target = LaunchTarget(inventory, engine, name, profile)
        keep_targets(self.run, inventory, dict.fromkeys(labels, target))
        probes = cluster.gather(record=self.run.evidence)
        facts = GatheredFacts(probes, image_facts(probes))
        counted = {n: COUNTERS.read(split(node.run(build([COUNTERS])).stdout)) for n, node in cluster.nodes.items()}
        moved = Traffic(counted, counted, 512, plan(512, 8, ModelShape("deepseek_v3", 61, 7168, 2), target.layout), "one request")
        self.said: list[Verdict] = []
        for label in labels:
            written = nccl_log.job_of(inventory.model_dump(mode="json"), list(cluster.nodes), asdict(NcclTruth(**truth)), {})
            logs = []
            for rank in range(written.nranks):
                node, data = written.nodes[rank // 8].name, written.log(rank).encode()
                source = self.run.evidence(f"nccl/{label}/{node}/{written.name(rank)}", data)
                logs.append(NodeLog(node, f"/run/{written.name(rank)}", source, parse_log(data, source=source)))
            keep(self.run, "facts", label, facts)
            keep(self.run, "nccl", label, KeptLogs(tuple((log.node, log.path, log.source) for log in logs), None))
            keep(self.run, "traffic", label, moved)
            images = {n: v.nccl or "" for n, v in facts.images.versions.items()}
            proof = NcclVerdicts(job_of(target, logs), target, images, probes.nodes)
            said = [*all_verdicts(probes), *proof.all(), *verdicts_of(moved, target.nodes)]
            said = [v.model_copy(update={"status": Status.PASS, "limit": None}) if mend else v for v in said]
            for verdict in said:
                self.run.record(verdict, f"{TEST}[{label}]")
            self.said += said
        self.run.finish()
        self.path = self.run.path

    def again(self) -> list[Verdict]:
        return [v for _, v in rejudge_run(load_run(self.path))]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("healthy"))


def test_evidence_judged_again_says_the_same(healthy: Recorded) -> None:
    again = healthy.again()
    assert sorted((v.check, v.subject, v.status) for v in again) == sorted((v.check, v.subject, v.status) for v in healthy.said)
    judged = [v for v in again if v.details[HOW] == EVIDENCE]
    assert {v.gate.value for v in judged} == {"environment", "fabric", "rdma"}
    assert len(judged) > 0.95 * len(again)
    assert judged_again(load_run(healthy.path)).problems == ()


def test_every_input_is_sealed(healthy: Recorded) -> None:
    records = json.loads((healthy.path / "verdict.json").read_text())["records"]
    assert {"inputs/header.json", "inputs/inventory.json", "inputs/facts-sglang.json", "inputs/nccl-sglang.json"} <= set(records)


def test_verdicts_turned_green_are_red_again(tmp_path: Path) -> None:
    """All of it sealed as if it were so: only the evidence tells."""
    red = {(v.check, v.subject) for v in Recorded(tmp_path / "a", gdr=False).said if v.status.blocks}
    assert ("rdma.channels_gdr", "node01") in red
    assert ("rdma.rail_volume", "node02 mlx5_3") in red
    mended = Recorded(tmp_path / "b", mend=True, gdr=False)
    assert not [v for v in mended.said if v.status.blocks]
    again = {(v.check, v.subject): v for v in mended.again() if v.status.blocks}
    assert set(again) == red
    assert again["rdma.channels_gdr", "node01"].reason.endswith("; recorded was pass")


LIMIT = Limit(kind="min", value=1, unit="GB", origin=Origin(kind="file"))
GREEN, RED = (Verdict(check="rdma.x", status=s, title="x", measured=2, limit=LIMIT) for s in (Status.PASS, Status.FAIL))


def test_the_worse_of_record_and_judgement_counts() -> None:
    assert settled(GREEN, RED).status is Status.FAIL
    assert settled(RED, GREEN) is RED, "a limits file may have asked for more than the check knows"
    assert settled(GREEN.model_copy(update={"measured": 9}), GREEN).measured == 2
    assert settled(GREEN, GREEN.model_copy(update={"limit": None})) is GREEN


def test_of_two_engines_each_is_judged_by_its_own_evidence(tmp_path: Path) -> None:
    both = Recorded(tmp_path, labels=("sglang", "sglang:tuned"))
    log = next((both.path / "evidence/nccl/sglang:tuned".replace(":", "-") / "node01").glob("nccl.*"))
    log.write_text(log.read_text().replace("/GDRDMA", ""))
    red = {t.partition("[")[2] for t, v in rejudge_run(load_run(both.path)) if v.check == "rdma.channels_gdr" and v.status.blocks}
    assert red == {"sglang:tuned]"}


def test_a_run_without_inputs_is_only_read_again(healthy: Recorded, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, ["sglang"], "old", Mode.FULL)
    for verdict in healthy.said:
        run.record(verdict, TEST)
    run.finish()
    view = load_run(run.path)
    assert judged_again(view).problems == ("the folder has no inputs/inventory.json: probes and NCCL logs were only read again",)
    again = [v for _, v in rejudge_run(view)]
    assert EVIDENCE not in {v.details[HOW] for v in again}
    assert "rdma.logs_of_running_ranks" in told(again)[-1]
    assert READ in told(again)[-1]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("inventory", "{", "inventory.json cannot be read"),
        ("inventory", '{"engines": [], "inventory": {}}', "inventory.json: ('"),
        ("facts-sglang", "{", "the probes of sglang could not be judged again"),
        ("facts-sglang", "[]", "holds something else"),
        ("facts-sglang", '{"$": ["data", "os:environ", {}]}', "is none of this package"),
        (
            "nccl-sglang",
            '{"$": ["data", "pytest_h20.run.inputs:KeptLogs", {"logs": [["n", "p", "../../etc/passwd"]], "owners": null, '
            '"trusted": false}]}',
            "../../etc/passwd is no file of the run folder",
        ),
        ("traffic-sglang", "\x00", "the rail counters of sglang could not be judged again"),
    ],
)
def test_inputs_that_cannot_be_read_are_told_and_end_nothing(tmp_path: Path, healthy: Recorded, file: str, text: str, said: str) -> None:
    path = Path(shutil.copytree(healthy.path, tmp_path / "run"))
    (path / f"inputs/{file}.json").write_text(text)
    view = load_run(path)
    assert said in " ".join(judged_again(view).problems)
    assert f"inputs/{file}.json: changed since the run" in view.damage
    assert len(rejudge_run(view)) == len(healthy.said) + 1


def older(path: Path, to: Path, *, lost: Sequence[str] = (), more: str = "", moved: str = "") -> list[Verdict]:
    """A run as an earlier version left it, judged again. ``lost``: facts of a node that it did not know; ``more``: one that nobody knows
    any more; ``moved``: a class that lay elsewhere."""
    path = Path(shutil.copytree(path, to / "run"))
    file = path / "inputs/facts-sglang.json"
    data = json.loads(file.read_text().replace(moved, "pytest_h20.elsewhere:Gone") if moved else file.read_text())

    def age(value: Any) -> None:
        if isinstance(value, dict) and value.get("$", [""])[0] == "data" and value["$"][1].endswith(":NodeFacts"):
            for name in lost:
                del value["$"][2][name]
            value["$"][2].update({more: 1} if more else {})
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            age(inner)

    age(data)
    file.write_text(json.dumps(data))
    return [v for _, v in rejudge_run(load_run(path)) if v.check != "environment.recorded_evidence"]


@pytest.mark.parametrize("how", [{"lost": ("nccl_shm", "tuning")}, {"more": "gone"}, {"moved": "pytest_h20.probes.facts:NodeFacts"}])
def test_what_an_older_version_did_not_record_turns_nothing_red(healthy: Recorded, tmp_path: Path, how: dict[str, Any]) -> None:
    """rdma.one_version was red for want of the image's NCCL: one unknown field, and nothing of the facts was read."""
    again = older(healthy.path, tmp_path, **how)
    assert sorted((v.check, v.subject, v.status) for v in again) == sorted((v.check, v.subject, v.status) for v in healthy.said)
    judged = {v.check for v in again if v.details[HOW] == EVIDENCE}
    assert ("rdma.one_version" in judged) == ("environment.driver" in judged) == ("moved" not in how)
    assert not {"environment.nccl_left", "environment.numa_balancing"} & judged or "lost" not in how


def test_what_an_older_version_did_record_is_judged(tmp_path: Path) -> None:
    """Green by its record, red by its evidence, whatever else is not in it."""
    mended = Recorded(tmp_path, mend=True, gdr=False)
    red = {(v.check, v.subject) for v in older(mended.path, tmp_path, lost=("nccl_shm",)) if v.status.blocks}
    assert ("rdma.channels_gdr", "node01") in red


def test_what_is_kept_is_redacted(tmp_path: Path) -> None:
    inventory = blog_cluster().inventory
    engines = dict(inventory.engines)
    profile = engines["sglang"].profiles["default"].model_copy(update={"env": {"HF_TOKEN": "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"}})
    engines["sglang"] = engines["sglang"].model_copy(update={"profiles": {"default": profile}})
    inventory = inventory.model_copy(update={"engines": engines})
    run = RunFolder.create(tmp_path, ["sglang"], "x", Mode.FULL)
    keep_targets(run, inventory, {"sglang": LaunchTarget(inventory, "sglang", "default", profile)})
    text = (run.path / "inputs/inventory.json").read_text()
    assert "planted" not in text
    assert "HF_TOKEN" in text
    assert judged_again(load_run(run.path)).problems == ()
