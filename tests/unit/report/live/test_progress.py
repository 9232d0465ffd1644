"""What a run's folder comes to at a moment: not begun, starting, under load, killed, silent, finished; damaged, and of another version."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pytest_h20 import lang
from pytest_h20.cluster.ledger import Owner
from pytest_h20.cluster.shared import Shared, Topic
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict
from pytest_h20.nodes.local import LocalNode
from pytest_h20.probes.kernel_log import KernelEvent, KernelLog, Reading
from pytest_h20.report.live.folder import Follow, Here, There, source_of, told
from pytest_h20.report.live.lines import cells, figure_words, lines, spark
from pytest_h20.report.live.now import BringUpNow, CellNow, GpuNow, MachinesNow, RailNow, RoleNow
from pytest_h20.report.live.page import moment
from pytest_h20.report.live.progress import FigureStand, Progress, RunState, ToldNow, progress
from pytest_h20.report.model import StateChange
from pytest_h20.report.run import RunFolder, load_run
from tests.unit.report import samples

NOW = datetime(2026, 4, 5, 12, 0, tzinfo=timezone.utc)
AT_LEAST = Limit(kind="min", value=500.0, unit="tok/s", origin=Origin(kind="blog"))
CELL = CellNow(
    time=NOW,
    engine="sglang",
    cell="in128-out128-c8",
    number=2,
    of=26,
    done=3,
    total=8,
    in_flight=5,
    elapsed_s=4.0,
    left_s=6.0,
    figures={"output_throughput": 312.0, "mean_ttft_ms": 540.0, "mean_tpot_ms": 21.5},
    limits={"output_throughput": AT_LEAST},
)
MACHINES = MachinesNow(
    time=NOW,
    engine="sglang",
    gpus=(
        GpuNow(node="node01", index=0, sm_mhz=1980.0, temperature_c=61.0, power_w=(380.0, 391.0)),
        GpuNow(node="node01", index=1, throttled=("hw_thermal_slowdown",), power_w=(120.0,)),
    ),
    rails=(RailNow(node="node01", rail="mlx5_1/1", sent_gbit_s=(12.0, 96.5)),),
)


def text(p: Progress) -> str:
    return "\n".join(line.text for line in lines(p))


def seen(run: RunFolder, now: datetime = NOW, **more: Any) -> Progress:
    return progress(load_run(run.path), ToldNow(**{"lives": True, "last_sign": now, **more}), now)


def owned(run: RunFolder, owner: Owner) -> None:
    Shared(run.path / ".shared").publish(Topic("owner", Owner), owner)


# ---------------------------------------------------------------------------------------------------------------------- states
def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    p = seen(samples.start(tmp_path))
    assert p.state is RunState.NOT_BEGUN
    assert {gate.words for gate in p.gates} == {"waits"}


def test_a_start_says_how_far_each_node_is_and_what_is_left(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="loading"))
    run.add(StateChange(engine="sglang", state="loading", node="node01"))
    entered = load_run(run.path).timeline[-1].time
    roles = (RoleNow(role="rank0", node="node01", stage="loading", done=98, total=163, unit="shards"), RoleNow(role="rank1", node="node02"))
    told_at = entered + timedelta(seconds=98)
    bringup = BringUpNow(time=told_at, engine="sglang", roles=roles, elapsed_s=150.0, limit_s=1800.0)
    p = seen(run, told_at + timedelta(seconds=2), bringups=(bringup,))
    (b,) = p.bringups
    assert (b.state, b.elapsed_s, b.limit_s) == ("loading", 152.0, 1800.0)
    assert b.roles[0].left_s == pytest.approx(65.0)
    assert "node01 rank0   loading [######....] 98/163 shards, about 1 min 5 s left" in text(p)
    assert "node02 rank1   no output yet" in text(p)
    assert "2 min 32 s (at most 30 min)" in text(p)
    run.add(StateChange(engine="sglang", state="ready", note="after 160 s"))
    assert "bring-up of sglang: ready after 160 s" in text(seen(run, bringups=(bringup,))), "what is over is not drawn as if it went on"


def test_a_cell_that_runs_is_not_red_before_it_is_over(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="ready"))
    p = seen(run, cells=(CELL,), machines=(MACHINES,))
    assert p.cell is not None
    assert [(f.name, f.holds) for f in p.cell.figures] == [("output_throughput", False), ("mean_ttft_ms", None), ("mean_tpot_ms", None)]
    assert "cell 2/26 sglang in128-out128-c8: [####......] 3/8 requests, 5 in flight, 4.0 s, about 6.0 s left" in text(p)
    assert "312 tok/s  ≥ 500 tok/s not yet" in text(p)
    tones = {line.text.split()[0]: line.tone for line in lines(p)}
    assert tones["Output"] == "warn"
    assert [(c.name, c.odd) for c in p.gpus] == [("GPU 0", False), ("GPU 1", True)]
    assert "hw_thermal_slowdown" in text(p)
    assert "96.5 Gbit/s, most 96.5" in text(p)


def test_gates_by_their_tests(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.record(Verdict(check="environment.a", status=Status.PASS, title="a"), "t.py::a")
    run.record(Verdict(check="fabric.b", status=Status.FAIL, title="b", reason="mlx5_3 is down"), "t.py::b")
    selected = (("t.py::a", "environment"), ("t.py::b", "fabric"), ("t.py::c", "fabric"), ("t.py::d", "throughput"))
    gates = {g.name: g for g in seen(run, selected=selected).gates}
    assert (gates["environment"].words, gates["environment"].done, gates["environment"].total) == ("passed", 1, 1)
    assert (gates["fabric"].words, gates["fabric"].reason) == ("runs, FAILED so far", "mlx5_3 is down")
    assert gates["throughput"].words == "waits"
    assert gates["rdma"].words == "not selected"
    run.record(Verdict(check="bringup.nothing_left", status=Status.PASS, title="c"), "session::tear-down")
    assert {g.name: g.words for g in seen(run, selected=selected).gates}["bringup"] == "passed", "it had no test, and does not run"
    ended = {g.name: g.words for g in seen(run, selected=selected, lives=False).gates}
    assert (ended["fabric"], ended["throughput"]) == ("ended in it", "not reached")


def test_a_killed_run_shows_nothing_as_going_on(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="loading"))
    died = NOW - timedelta(minutes=12)
    p = seen(run, lives=False, last_sign=died, cells=(CELL,), machines=(MACHINES,))
    assert p.state is RunState.KILLED
    assert p.state.over
    assert "killed in the middle, last sign of life 12 min ago" in text(p)
    assert p.cell is None
    assert not p.gpus


def test_a_run_elsewhere_is_silent_after_a_while_and_not_called_dead(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="loading"))
    assert seen(run, lives=None, last_sign=NOW - timedelta(seconds=30)).state is RunState.RUNNING
    p = seen(run, lives=None, last_sign=NOW - timedelta(seconds=200))
    assert p.state is RunState.SILENT
    assert not p.state.over
    assert "whether it still runs cannot be seen from here" in text(p)


@pytest.mark.parametrize(("make", "says"), [(samples.clean, "ACCEPTED"), (samples.faulty, "NOT ACCEPTED: ")])
def test_a_finished_run_says_what_was_decided(tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
    view = make(tmp_path)
    p = Follow(Here(view.path)).stand()
    assert p.state is RunState.FINISHED
    assert lines(p)[-1].text.startswith(says)
    assert p.cell is not None
    assert p.cell.over
    assert not p.damage


def test_a_spark_is_drawn_from_zero() -> None:
    assert spark((0.0, 50.0, 100.0)) == "▁▅█"
    assert spark((0.0, 0.0)) == "▁▁"
    assert spark(()) == ""


# ---------------------------------------------------------------------------------------------------------------------- folders
def test_what_a_run_tells_is_read_back_and_gone_when_it_is_finished(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    for what in (CELL, MACHINES, BringUpNow(time=NOW, engine="sglang")):
        run.tell(what)
    owned(run, Owner.me("me"))
    event = KernelEvent("xid", 12.0, "NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    reading = Reading(1.0, KernelLog("dmesg", True, (event,)))
    Shared(run.path / ".shared").publish(Topic("kernel-load-sglang", dict), {"node02": reading})
    Shared(run.path / ".shared").publish(Topic("selected", list), [("t.py::a", "environment"), ("t.py::b", "no such gate")])
    source = Here(run.path)
    found = told(source.look())
    assert (found.cells, found.machines, found.lives) == ((CELL,), (MACHINES,), True)
    assert found.selected == (("t.py::a", "environment"),)
    assert "node02: NVRM: Xid (PCI:0000:1b:00): 79" in text(Follow(source).stand())
    assert not found.damage
    run.finish()
    assert not (run.path / ".live").exists()
    assert Follow(source).stand().state is RunState.FINISHED


DAMAGE = {
    "cut": '{"kind": "cell", "ti',
    "a list": "[1, 2]",
    "a kind of its own": '{"kind": "planted"}',
    "a kind that cannot be one": '{"kind": ["cell"]}',
    "fields of another version": '{"kind": "cell", "time": "2026-04-05T12:00:00Z", "engine": "x", "cell": "y", "more": 1}',
    "deep": "[" * 100_000,
    "binary": "\x00\x01",
    "empty": "",
}


@pytest.mark.parametrize("kind", [*DAMAGE])
def test_a_damaged_file_is_left_out_and_said(tmp_path: Path, kind: str) -> None:
    run = samples.start(tmp_path)
    run.tell(MACHINES)
    owned(run, Owner.me("me"))
    names = (".live/cell-sglang.json", ".shared/selected.json", ".shared/kernel-load-sglang.json")
    for name in names:
        (run.path / name).write_text(DAMAGE[kind], encoding="utf-8")
    (run.path / "events.jsonl").write_text(DAMAGE[kind] + "\n", encoding="utf-8")
    p = Follow(Here(run.path)).stand()
    assert p.gpus, "the rest is read"
    assert sum(any(name in said for said in p.damage) for name in names) == 3
    assert "not read: " in text(p)


def test_classes_of_ours_with_the_wrong_content_are_damage(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    shared = Shared(run.path / ".shared")
    shared.publish(Topic("kernel-load-sglang", dict), {"node01": Reading(1.0, None)})  # type: ignore[arg-type]
    shared.publish(Topic("owner", Owner), Owner("x", "m", "not a pid", 1))  # type: ignore[arg-type]
    shared.publish(Topic("selected", list), [1, 2])
    p = Follow(Here(run.path)).stand()
    assert len(p.damage) == 2
    assert p.state is RunState.NOT_BEGUN


def test_a_run_of_another_version_says_so(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    file = run.path / "verdict.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2}))
    with pytest.raises(UsageError, match=r"schema_version is 2; this version of pytest-h20 .* reads 1"):
        Follow(Here(run.path)).stand()


def test_what_is_no_run_is_an_error_and_a_folder_of_runs_is_its_newest(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="no run here"):
            Follow(Here(wrong)).stand()
    first, second = samples.start(tmp_path), samples.start(tmp_path, name="z-later")
    assert first.path != second.path
    assert Follow(Here(tmp_path)).stand().run == max(first.path.name, second.path.name)


# ------------------------------------------------------------------------------------------------------------ on another machine
class Counted(LocalNode):
    """This machine, with what is fetched from it counted."""

    fetched: list[tuple[str, int, int]]

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        data = super().get(path, offset, limit)
        self.fetched.append((Path(path).name, offset, len(data)))
        return data


def test_a_folder_far_away_is_read_like_one_here_and_only_what_is_new_is_fetched(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="loading"))
    run.tell(MACHINES)
    owned(run, Owner.me("me"))
    before = sorted(run.path.rglob("*"))
    node = Counted("bastion")
    node.fetched = []
    source = There(node, str(tmp_path))
    try:
        far = Follow(source)
        far.stand()
        second = far.stand()
        here = Follow(Here(run.path)).stand()
        assert (second.run, second.state, second.gpus, second.bringups[0].state) == (here.run, RunState.RUNNING, here.gpus, "loading")
        size = (run.path / "events.jsonl").stat().st_size
        node.fetched.clear()
        run.add(StateChange(engine="sglang", state="broken", note="no ready line"))
        (run.path / ".live/machines-sglang.json").unlink()
        third = far.stand()
        assert node.fetched == [("events.jsonl", size, (run.path / "events.jsonl").stat().st_size - size)]
        assert third.bringups[0].state == "broken"
        assert not third.gpus, "what is over there is over here"
        run.finish()
        assert far.stand().state is RunState.FINISHED
        assert not far.stand().damage, "files that were not fetched are not missing"
        assert {p.name for p in run.path.rglob("*")} - {p.name for p in before} == {"fingerprint.json", "summary.csv", "index.json"}
    finally:
        mirror = source.look().path
        source.close()
    assert not mirror.exists()


def test_a_process_that_is_gone_there_is_seen(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="loading"))
    mine = Owner.me("me")
    owned(run, Owner(mine.who, mine.machine, mine.pid, mine.started + 1))  # its number is somebody else's by now
    source = There(LocalNode("bastion"), str(run.path))
    try:
        follow = Follow(source)
        follow.stand()
        assert follow.stand().state is RunState.KILLED
    finally:
        source.close()


def test_a_name_that_leads_out_of_the_folder_is_not_fetched(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    node = Counted("bastion")
    node.fetched = []
    source = There(node, str(run.path))
    try:
        source._fetch({})
        planted = ["file 5 1 ../../x.json", "file 5 1 /etc/x.json", "file 5 1 .live/../../x.json", "file 5 1 .live/.json"]
        real = node.run

        def lying(*args: Any, **more: Any) -> Any:
            found = real(*args, **more)
            return type(found)(**{**vars(found), "stdout": found.stdout + "\n".join(planted) + "\n"})

        node.run = lying  # type: ignore[method-assign]
        source.look()
        assert {name for name, _, _ in node.fetched} == {"verdict.json", "header.json"}
    finally:
        source.close()


def test_where_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def connect(host: str) -> LocalNode:
        asked.append(host)
        return LocalNode(host)

    far = source_of("root@10.0.0.7:runs/x", connect)
    far.close()
    assert asked == ["root@10.0.0.7"]
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(source_of("a:b", connect), Here)
    assert isinstance(source_of(str(tmp_path / "x:y"), connect), Here)
    with pytest.raises(UsageError, match=r"no folder; give \[user@\]host:FOLDER"):
        source_of("root@host:", connect)
    nowhere = There(LocalNode("bastion"), str(tmp_path / "none"))
    with pytest.raises(UsageError, match="there is no such folder"):
        nowhere.look()
    nowhere.close()


def test_all_of_it_is_said_in_chinese(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    run.add(StateChange(engine="sglang", state="ready"))
    with lang.speaking("zh"):
        said = text(seen(run, cells=(CELL,), machines=(MACHINES,), selected=(("t.py::a", "fabric"),)))
    assert said.startswith("sglang · h20-2node：已运行 ")
    for words in ("没有选中", "测点 2/26 sglang in128-out128-c8：", "大约还剩", "≥ 500 tok/s 还没有达到", "各 rail 的发送速率"):
        assert words in said


def test_chinese_figures_stand_in_one_column() -> None:
    english = [figure_words(FigureStand("x", title, 5.0, "ms"), over=True) for title in ("Mean TPOT", "Output throughput", "Mean TTFT")]
    with lang.speaking("zh"):
        chinese = [figure_words(FigureStand("x", title, 5.0, "ms"), over=True) for title in ("Mean TPOT", "Output throughput", "Mean TTFT")]
    assert {cells(line) for line in (*english, *chinese)} == {len(english[0])}


def test_the_page_names_gates_in_words_and_by_their_ids(tmp_path: Path) -> None:
    with lang.speaking("zh"):
        page = moment(seen(samples.start(tmp_path), selected=(("t.py::a", "answers"), ("t.py::b", "answers")), cells=(CELL,)))
    assert "<code>answers</code>" in page
    assert "答案是对的" in page
    assert "[#" not in page, "a bar of characters beside the one that is drawn"
