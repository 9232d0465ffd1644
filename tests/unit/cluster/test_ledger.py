"""What a killed run leaves is found and removed; what lives, was kept, is somebody else's or only says that it is ours, is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_h20.cluster import labels
from pytest_h20.cluster.ledger import DEAD_AFTER_S, Ledger, LedgerNode, Owner, entries
from pytest_h20.cluster.preflight import refuse_leftovers
from pytest_h20.cluster.teardown import HEAD_BYTES, TAIL_BYTES, collect, down, reap
from pytest_h20.core.errors import BringUpError, H20Error, TransportError
from pytest_h20.nodes import ContainerInfo, ContainerSpec, Node
from pytest_h20.nodes.local import LocalNode


class Daemon:
    """Containers in a table, as a daemon keeps them: a name is unique, labels are whatever their maker says."""

    def __init__(self) -> None:
        self.all: dict[str, ContainerInfo] = {}
        self.refuses = False

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        if self.refuses:
            raise H20Error("no such image")
        info = ContainerInfo(f"id-{spec.name}", spec.name, spec.image, "running", None, False, dict(spec.labels), "now")
        self.all[info.id] = info
        return info

    def find(self, wanted: Mapping[str, str]) -> list[ContainerInfo]:
        return [c for c in self.all.values() if all(k in c.labels and v in ("", c.labels[k]) for k, v in wanted.items())]

    def stop(self, container: str, timeout: float = 10.0) -> None:
        self.all[container] = replace(self.all[container], status="exited", exit_code=0)

    def inspect(self, container: str) -> ContainerInfo | None:
        return self.all.get(container)

    def remove(self, container: str) -> None:
        self.all.pop(container, None)

    def close(self) -> None:
        """Nothing is held."""


class Notes:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.full = False

    def event(self, kind: str, **data: Any) -> None:
        if self.full:
            raise OSError(28, "No space left on device", "/runs/events.jsonl")

    def evidence(self, name: str, data: bytes | str) -> str:
        if self.full:
            raise OSError(28, "No space left on device", "/runs/evidence")
        self.kept[name] = data if isinstance(data, bytes) else data.encode()
        return name


class Place:
    """One node with a daemon and a base folder, and runs on it."""

    def __init__(self, folder: Path) -> None:
        self.base = f"{folder}/pytest h20-me"
        self.daemon = Daemon()
        self.said: list[str] = []

    def node(self) -> Node:
        node = LocalNode("n1")
        node._containers = cast("Any", self.daemon)
        return node

    def run(self, run: str, owner: Owner) -> LedgerNode:
        node = self.node()
        return LedgerNode(node, Ledger(node, self.base, run, owner, process=owner), nullcontext)

    def refused(self, run: str) -> tuple[str, str]:
        """How the next run is refused: the first line, and what to do."""
        with pytest.raises(BringUpError) as error:
            refuse_leftovers({"n1": self.node()}, self.base, run, "my.yaml")
        first, *_, last = str(error.value).splitlines()
        return first, last

    def reap(self, **options: Any) -> int:
        return reap({"n1": self.node()}, self.base, self.said.append, **options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def dead() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    owner = replace(Owner.me("ann@ci:1"), pid=process.pid, started=1)
    process.wait()
    return owner


SPEC = ContainerSpec("h20-r1-server", "image", ("x",), labels=labels.of_run("r1", "server", "n1", "ann", "/base/r1"))


def test_a_dead_run_leaves_nothing_and_bystanders_live(place: Place, dead: Owner, tmp_path: Path) -> None:
    run = place.run("r1", dead)
    run.ledger.make_folder("r1")
    run.containers.start(SPEC)
    run.containers.start(replace(SPEC, name="h20-probe-n1-x", labels={}))
    # a listener that outlives its connection, with a child, and what a killed probe leaves
    left_behind = "setsid sh -c 'sleep 1000; :' >/dev/null 2>&1 </dev/null & echo $!"
    pid = int(run.run('mktemp -d "$TMPDIR/h20-probe.XXXXXX" >/dev/null; ' + left_behind).stdout)
    bystander = subprocess.Popen(["sleep", "1000"], env={**os.environ, "H20_TOKEN": "0" * 32})
    foreign = place.daemon.start(replace(SPEC, name="theirs", labels={**SPEC.labels}))
    precious = tmp_path / "etc"
    precious.mkdir()
    place.daemon.start(replace(SPEC, name="hostile", labels=labels.of_run("etc", "server", "n1", "x", str(precious))))
    try:
        assert place.refused("next") == ("what an earlier run left is still there:", "fix: python -m pytest_h20 reap --nodes my.yaml")
        assert place.reap(dry=True) == 0
        assert len(place.daemon.all) == 4
        assert place.reap() == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert {c.name for c in place.daemon.all.values()} == {"theirs", "hostile"}
    assert place.daemon.all[foreign.id].running
    assert precious.is_dir()
    assert os.listdir(place.base) == []
    assert not Path(f"/proc/{pid}").exists() or "sleep" not in Path(f"/proc/{pid}/cmdline").read_text()


def test_a_run_that_lives_is_never_touched_and_a_kept_one_only_when_it_is_named(place: Place, dead: Owner) -> None:
    alive = place.run("r1", Owner.me("me"))
    alive.containers.start(SPEC)
    kept = place.run("r2", dead)
    kept.containers.start(replace(SPEC, name="h20-r2-server"))
    kept.ledger.note(kept=True)
    assert place.reap() == 0
    assert place.reap(kept=True, dry=True) == 0
    assert place.reap(run="r1") == 1, "it was named, and nothing could be done"
    assert len(place.daemon.all) == 2
    assert any("it lives" in line for line in place.said)
    assert any("--run r2" in line for line in place.said)
    assert place.refused("next") == (
        "another run is using these nodes:",
        "fix: wait until run r1 has ended, or end it where it was started (Ctrl-C there)",
    )
    assert place.refused("r1") == (
        "an earlier run was kept on these nodes:",
        "fix: when nobody needs it any more: python -m pytest_h20 reap --nodes my.yaml --run r2",
    )
    assert place.reap(run="r2") == 0
    assert [c.name for c in place.daemon.all.values()] == ["h20-r1-server"]
    alive.ledger.close()


def test_a_run_of_another_machine_lives_by_its_heartbeat(place: Place) -> None:
    run = place.run("r1", Owner("ann@other", "another boot", 1, 1))
    run.containers.start(SPEC)
    run.ledger.close()
    assert place.reap() == 0
    assert len(place.daemon.all) == 1
    long_ago = time.time() - DEAD_AFTER_S - 5
    os.utime(f"{place.base}/r1.run", (long_ago, long_ago))
    assert place.reap() == 0
    assert place.daemon.all == {}


@pytest.mark.parametrize(
    "line", ['{"folder": "../victim"}', '{"folder": "/etc"}', '{"folder": "r1/../x"}', '{"token": "; touch ran"}', '{"owner"']
)
def test_what_is_written_down_never_leads_out_of_the_base_folder(place: Place, dead: Owner, tmp_path: Path, line: str) -> None:
    run = place.run("r1", dead)
    run.run("true")
    (tmp_path / "victim").mkdir()
    with open(f"{place.base}/r1.run", "a") as file:
        file.write(line + "\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    Path(f"{place.base}/r1").symlink_to(tmp_path / "elsewhere")
    assert place.reap() == 0
    assert (tmp_path / "victim").is_dir()
    assert (tmp_path / "elsewhere/file").exists()
    assert os.listdir(place.base) == []


def test_a_base_folder_of_somebody_else_is_refused_and_not_changed(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    Path(place.base).symlink_to(other)
    with pytest.raises(TransportError, match=r"symbolic link.*run_dir_on_node"):
        place.run("r1", Owner.me("me")).run("true")
    Path(place.base).unlink()
    if os.geteuid() == 0:
        Path(place.base).mkdir(mode=0o700)
        os.chown(place.base, 65534, 65534)
        with pytest.raises(TransportError, match="belongs to uid 65534"):
            place.run("r1", Owner.me("me")).run("true")
        assert os.stat(place.base).st_mode & 0o777 == 0o700
        os.rmdir(place.base)
    assert other.stat().st_mode & 0o777 == 0o755
    run = place.run("r1", Owner.me("me"))
    run.ledger.make_folder("r1")
    assert os.stat(place.base).st_mode & 0o777 == 0o700
    assert os.stat(f"{place.base}/r1").st_mode & 0o777 == 0o777, "the container's user is not known"
    run.ledger.close()


def test_files_of_a_node_regular_ones_only_bounded_whatever_their_name(place: Place, tmp_path: Path) -> None:
    run = place.run("r1", Owner.me("me"))
    run.ledger.make_folder("r1")
    folder = Path(place.base) / "r1"
    (tmp_path / "shadow").write_text("root:secret")
    (folder / "link.log").symlink_to(tmp_path / "shadow")
    os.mkfifo(folder / "pipe.log")
    (folder / "server.log").write_text("fine")
    (folder / "a b\nc.log").write_text("blank")
    (folder / os.fsdecode(b"\xff'$(touch ran).log")).write_text("odd")
    with (folder / "huge.log").open("wb") as file:
        file.write(b"begin")
        file.truncate(1 << 40)
    notes = Notes()
    began = time.monotonic()
    collect(cast("Node", run), str(folder), notes)
    assert time.monotonic() - began < 20
    assert sorted(notes.kept.values(), key=len)[:3] == [b"odd", b"fine", b"blank"]
    assert len(notes.kept) == 4, list(notes.kept)
    huge = next(v for k, v in notes.kept.items() if "huge" in k)
    assert huge.startswith(b"begin")
    assert b"bytes were left out" in huge[HEAD_BYTES : HEAD_BYTES + 100]
    assert len(huge) < HEAD_BYTES + TAIL_BYTES + 200
    assert not any(b"secret" in data for data in notes.kept.values())
    run.ledger.close()


def test_a_full_disk_here_takes_the_cluster_down_all_the_same(place: Place) -> None:
    run = place.run("r1", Owner.me("me"))
    run.ledger.make_folder("r1")
    run.containers.start(SPEC)
    (Path(place.base) / "r1/server.log").write_text("x")
    notes = Notes()
    notes.full = True
    result = down("r1", {"n1": cast("Node", run)}, f"{place.base}/r1", notes)
    assert place.daemon.all == {}
    assert not (Path(place.base) / "r1").exists()
    assert result.left == (
        "this machine: /runs/events.jsonl cannot be written: No space left on device; the cluster was taken down, but not all of its "
        "logs could be kept",
    )
    run.ledger.close()


def test_tear_down_leaves_a_container_that_only_carries_our_labels(place: Place) -> None:
    run = place.run("r1", Owner.me("me"))
    run.ledger.make_folder("r1")
    run.containers.start(SPEC)
    place.daemon.start(replace(SPEC, name="committed"))
    result = down("r1", {"n1": cast("Node", run)}, f"{place.base}/r1", Notes())
    assert [s.name for s in result.stopped] == ["h20-r1-server"]
    assert [c.name for c in place.daemon.all.values()] == ["committed"]
    run.ledger.close()


KILLED = """
import os, signal, sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from tests.unit.cluster.test_ledger import SPEC, Place
place = Place(Path(sys.argv[1]))
moment = int(sys.argv[2])
steps = []
def at(n, do):
    do()
    if n == moment:
        os.kill(os.getpid(), signal.SIGKILL)
run = place.run("r1", Owner.me("ann"))
at(0, run.ledger.open)
at(1, lambda: run.ledger.make_folder("r1"))
at(2, lambda: run.ledger.note(container=SPEC.name))
at(3, lambda: run.run("nohup sleep 1000 >/dev/null 2>&1 &"))
run.run("mktemp -d $TMPDIR/h20-probe.XXXXXX; kill -9 %s; sleep 1000", os.getpid())
"""


@pytest.mark.parametrize("moment", range(5))
def test_sigkill_at_any_step_then_reap_then_nothing_is_left(place: Place, tmp_path: Path, moment: int) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(moment)], check=False, cwd=Path(__file__).parents[3])
    assert ended.returncode == -9
    token = next(t for e in entries(place.node(), place.base) for t in e.tokens)
    if moment >= 2:
        place.daemon.start(SPEC)  # the daemon made it a moment after the process had gone
    assert place.reap() == 0, place.said
    assert place.daemon.all == {}
    assert os.listdir(place.base) == []
    look = f"grep -l H20_TOKEN={token} /proc/[0-9]*/environ 2>/dev/null"
    found = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=False)
    assert found.stdout == ""
