"""Drills for real: processes in a real container, a real link, a real tmpfs, a real sshd and a dockerd of the test's own; and SIGKILL of
pytest in the middle of one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h20.cluster import drill_steps
from pytest_h20.cluster.drills import DidNothing
from pytest_h20.cluster.preflight import refuse_leftovers
from pytest_h20.cluster.teardown import leftovers, reap
from pytest_h20.core.errors import BringUpError
from pytest_h20.run.nodes import connect_all
from tests.integration.drilled import RAIL, ROUTE, Drilled, Here, killed_after, rail
from tests.integration.killed import bystanders
from tests.integration.tiny import clean_environment


@pytest.fixture(scope="module")
def tiny() -> Iterator[Drilled]:
    with rail():
        tiny = Drilled()
        try:
            with bystanders(tiny):
                yield tiny
        finally:
            tiny.close()


@pytest.fixture
def here(tiny: Drilled) -> Iterator[Here]:
    here = Here(tiny.loaded(), tiny.folder)
    try:
        yield here
    finally:
        assert here.ledger.end() == []
        here.node.close()
        assert sorted(name for name in tiny.containers() if name.startswith("bystander-")) == ["bystander-committed", "bystander-foreign"]


def link() -> str:
    return Path(f"/sys/class/net/{RAIL}/operstate").read_text().strip()


def test_a_worker_is_stopped_and_goes_on(here: Here) -> None:
    broken = here.broken("stop-worker")
    assert broken.proof.endswith("state T")
    assert here.end(broken) == ""
    look = ("/bin/sh", "-c", f"grep State /proc/{broken.planted.pid}/status")
    assert "S (sleeping)" in here.node.containers.exec(here.box.id, look).stdout


def test_a_rail_goes_down_and_comes_back_with_its_route(here: Here) -> None:
    broken = here.broken("rail-down", RAIL)
    assert link() == "down"
    assert ROUTE not in routes()
    assert here.end(broken) == ""
    assert link() == "up"
    assert ROUTE in routes()


def routes() -> str:
    return subprocess.run(["ip", "route", "show", "dev", RAIL], capture_output=True, text=True, check=True).stdout


def test_packets_are_late_by_netem_or_the_node_says_that_its_kernel_has_none(here: Here) -> None:
    if not netem():
        with pytest.raises(DidNothing, match=r"this kernel has no netem \(sch_netem\), and nothing else there delays packets"):
            here.broken("rail-delay-20ms", RAIL)
        return
    broken = here.broken("rail-delay-20ms", RAIL)
    assert here.end(broken) == ""
    assert "netem" not in subprocess.run(["tc", "qdisc", "show", "dev", RAIL], capture_output=True, text=True, check=True).stdout


def test_packets_are_lost_by_netem_or_by_a_rule_of_the_packet_filter(here: Here) -> None:
    before = subprocess.run(["iptables", "-S", "INPUT"], capture_output=True, text=True, check=True).stdout
    broken = here.broken("control-loss-1", "lo")
    assert ("netem" if netem() else "iptables loss 1%") in broken.proof
    for _ in range(100):  # half of it is enough in all but one of 10^9 cases
        subprocess.run(["ping", "-q", "-f", "-c", "200", "127.0.0.1"], capture_output=True, check=False)
        if (shown := drill_steps.last_look(here.node, broken)).yes:
            break
    assert shown.yes, shown.words
    assert here.end(broken) == ""
    assert subprocess.run(["iptables", "-S", "INPUT"], capture_output=True, text=True, check=True).stdout == before


def netem() -> bool:
    made = subprocess.run(["tc", "qdisc", "add", "dev", RAIL, "root", "netem", "delay", "1ms"], capture_output=True, check=False)
    subprocess.run(["tc", "qdisc", "del", "dev", RAIL, "root"], capture_output=True, check=False)
    return made.returncode == 0


def test_shm_is_filled_and_emptied(here: Here) -> None:
    broken = here.broken("fill-shm")
    assert shm_free(here) <= 164
    assert here.end(broken) == ""
    assert shm_free(here) > 16000


def shm_free(here: Here) -> int:
    """KiB where the engine sees it: its container has one of its own."""
    return int(here.node.containers.exec(here.box.id, ("/bin/sh", "-c", "df -kP /dev/shm | tail -1")).stdout.split()[3])


def test_ssh_breaks_and_somebody_elses_connection_lives(here: Here, tiny: Drilled) -> None:
    (other,) = connect_all(tiny.loaded()).values()
    try:
        before = other.run("echo $SSH_CONNECTION").stdout
        assert "connection" in here.broken("break-ssh").proof
        assert other.run("echo $SSH_CONNECTION").stdout == before
    finally:
        other.close()


# ------------------------------------------------------------------------------------------------------- SIGKILL in the middle
TOGETHER = (
    *("fill-shm", "stop-worker", "rail-loss-1", "rail-down", "break-ssh"),
    *("kill-worker-rank", "kill-scheduler", "kill-api", "kill-head-container"),
)
"""One run makes all of these before it dies; restart-dockerd would end the containers of the others."""


@pytest.mark.parametrize("made", [TOGETHER, ("restart-dockerd",)], ids=["all-others", "restart-dockerd"])
def test_what_a_killed_process_had_broken_is_named_and_taken_back(tiny: Drilled, made: tuple[str, ...]) -> None:
    """The process that breaks it is killed right after the proof; what the next run and `reap` do about it is called here."""
    with killed_after(tiny, made) as proofs:
        assert [name for name, _ in proofs] == list(made)
        seen = dict(proofs)
        if made == TOGETHER:
            assert (seen["stop-worker"].rsplit(" ", 1)[1], link(), "lost" in seen["rail-loss-1"]) == ("T", "down", True)
            assert all(seen[name].endswith(("is gone", "does not run any more")) for name in made if name.startswith("kill-")), seen
        nodes, base = connect_all(tiny.loaded()), tiny.loaded().run_dir_on_node
        try:
            with pytest.raises(BringUpError) as refused:
                refuse_leftovers(nodes, base, "the-next", "my.yaml")
            assert [name for name in made if f"drill {name}" not in str(refused.value)] == []
            told: list[str] = []
            assert reap(nodes, base, told.append) == 0, told
            assert leftovers(nodes, base) == []
        finally:
            for node in nodes.values():
                node.close()
    if made == ("restart-dockerd",):  # without live-restore they end with their daemon: not the drill's doing
        client = tiny.docker()
        for name in ("bystander-committed", "bystander-foreign"):
            client.start(name)
        client.close()
    assert (link(), ROUTE in routes()) == ("up", True)
    assert "h20-drill" not in subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=False).stdout
    assert tiny.containers() == {"bystander-committed": "running", "bystander-foreign": "running"}


EVERY = pytest.mark.skipif(os.environ.get("H20_EVERY_DRILL") != "1", reason="H20_EVERY_DRILL=1 kills a run in the middle of each")


@pytest.mark.parametrize(
    ("drill", "mark"),
    [("stop-worker", "state T"), pytest.param("rail-down", "down", marks=EVERY), pytest.param("fill-shm", "are free", marks=EVERY)],
)
def test_after_sigkill_in_the_middle_the_next_run_names_it_and_reap_takes_it_back(
    tiny: Drilled, tmp_path: Path, drill: str, mark: str
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    argv = tiny.argv("--pyargs", "pytest_h20.acceptance.test_drill", f"--h20-drill={drill}")
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(argv, cwd=tmp_path, stdout=output, stderr=output, env=clean_environment())
    deadline = time.monotonic() + 60
    while process.poll() is None and f"{mark}\n" not in said(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert f"{mark}\n" in said(tmp_path), said(tmp_path)[-3000:]
    if drill == "rail-down":
        assert link() == "down"
    again = tiny.run(tmp_path, "--pyargs", "pytest_h20.acceptance.test_drill", f"--h20-drill={drill}")
    assert f"drill {drill}" in again.output
    assert "which was not taken back" in again.output
    reaped = tiny.reap()
    assert reaped.rc == 0, reaped.output
    assert link() == "up"
    assert ROUTE in routes()
    assert {name: state for name, state in tiny.containers().items() if name.startswith("h20-")} == {}
    assert set(tiny.containers().values()) == {"running"}
    assert not list(tiny.base.iterdir())


def said(folder: Path) -> str:
    return (folder / "output").read_text(errors="replace")
