"""Drills for real: processes in a real container, a real link, a real tmpfs, a real sshd and a dockerd of the test's own; and SIGKILL of
pytest in the middle of one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pytest_h20.cluster import drill_steps, labels
from pytest_h20.cluster.drill_steps import Broken
from pytest_h20.cluster.drills import DRILLS, DidNothing
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.nodes import ContainerSpec, Mount
from pytest_h20.run.nodes import connect_all
from tests.integration.drilled import RAIL, ROUTE, SYSTEM, Drilled, rail
from tests.integration.killed import bystanders
from tests.integration.tiny import IMAGE, clean_environment


@pytest.fixture(scope="module")
def tiny() -> Iterator[Drilled]:
    with rail():
        tiny = Drilled()
        try:
            with bystanders(tiny):
                yield tiny
        finally:
            tiny.close()


class Here:
    """The node over SSH, its record, and a container of ours with the engine in it."""

    def __init__(self, tiny: Drilled) -> None:
        inventory = tiny.loaded()
        (inner,) = connect_all(inventory).values()
        self.inner, self.run = inner, f"r-{time.monotonic_ns()}"
        self.ledger = Ledger(inner, inventory.run_dir_on_node, self.run, Owner.me("me"))
        self.node = LedgerNode(inner, self.ledger, nullcontext)
        models = Mount(str(tiny.folder / "models"), "/models", True)
        system = [Mount(source, target, True) for source, target in SYSTEM.items()]
        argv = ("/bin/sh", "-c", f"/bin/vllm serve /models/tiny --port {tiny.port} & wait")
        own = labels.of_run(self.run, "rank0", "node01", "me", "/x")
        self.box = self.node.containers.start(ContainerSpec(f"h20-{self.run}", IMAGE, argv, labels=own, mounts=[models, *system]))

    def broken(self, name: str, interface: str = "") -> Broken:
        """Choose, write down, break, prove."""
        planted = drill_steps.prepared(DRILLS[name], self.box.id, interface, self.node)
        return drill_steps.break_it(self.node, self.ledger, planted)

    def end(self, broken: Broken) -> str:
        """Take it back."""
        return drill_steps.end(self.node, self.ledger, broken)


@pytest.fixture
def here(tiny: Drilled) -> Iterator[Here]:
    here = Here(tiny)
    look = ("/bin/sh", "-c", "grep -l VLLM::EngineCore /proc/[0-9]*/cmdline")
    for _ in range(100):
        if here.node.containers.exec(here.box.id, look).stdout.count("/cmdline") > 1:  # the core, and grep itself
            break
        time.sleep(0.1)
    try:
        yield here
    finally:
        assert here.ledger.end() == []
        here.node.close()
        assert sorted(name for name in tiny.containers() if name.startswith("bystander-")) == ["bystander-committed", "bystander-foreign"]


def link() -> str:
    return Path(f"/sys/class/net/{RAIL}/operstate").read_text().strip()


def test_a_scheduler_is_killed_in_its_container(here: Here) -> None:
    assert "is gone" in here.broken("kill-scheduler").proof


def test_the_server_is_killed_and_its_container_may_end_with_it(here: Here) -> None:
    assert here.broken("kill-api").proof.endswith(("is gone", "does not run any more"))


def test_a_worker_is_stopped_and_goes_on(here: Here) -> None:
    broken = here.broken("stop-worker")
    assert broken.proof.endswith("state T")
    assert here.end(broken) == ""
    look = ("/bin/sh", "-c", f"grep State /proc/{broken.planted.pid}/status")
    assert "S (sleeping)" in here.node.containers.exec(here.box.id, look).stdout


def test_the_container_is_stopped_without_grace(here: Here) -> None:
    broken = here.broken("kill-head-container")
    assert "does not run any more" in broken.proof
    assert here.end(broken) == ""


def test_a_rail_goes_down_and_comes_back_with_its_route(here: Here) -> None:
    broken = here.broken("rail-down", RAIL)
    assert link() == "down"
    assert ROUTE not in routes()
    assert here.end(broken) == ""
    assert link() == "up"
    assert ROUTE in routes()


def routes() -> str:
    return subprocess.run(["ip", "route", "show", "dev", RAIL], capture_output=True, text=True, check=True).stdout


def test_netem_is_proved_and_taken_back_or_says_that_this_kernel_has_none(here: Here) -> None:
    probe = subprocess.run(["tc", "qdisc", "add", "dev", RAIL, "root", "netem", "delay", "1ms"], capture_output=True, check=False)
    if probe.returncode:
        with pytest.raises(DidNothing, match="Specified qdisc kind is unknown"):
            here.broken("rail-loss-1", RAIL)
        return
    subprocess.run(["tc", "qdisc", "del", "dev", RAIL, "root"], check=True)
    broken = here.broken("rail-loss-1", RAIL)
    assert not drill_steps.last_look(here.node, broken).yes  # nothing was lost, for nothing was sent
    assert here.end(broken) == ""
    assert "netem" not in subprocess.run(["tc", "qdisc", "show", "dev", RAIL], capture_output=True, text=True, check=True).stdout


def test_shm_is_filled_and_emptied(here: Here) -> None:
    broken = here.broken("fill-shm")
    full = here.node.run("df -kP /dev/shm | tail -1").stdout.split()
    assert int(full[3]) <= 164, full
    assert here.end(broken) == ""
    assert int(here.node.run("df -kP /dev/shm | tail -1").stdout.split()[3]) > 16000


def test_ssh_breaks_and_somebody_elses_connection_lives(here: Here, tiny: Drilled) -> None:
    (other,) = connect_all(tiny.loaded()).values()
    try:
        before = other.run("echo $SSH_CONNECTION").stdout
        assert "connection" in here.broken("break-ssh").proof
        assert other.run("echo $SSH_CONNECTION").stdout == before
    finally:
        other.close()


def test_dockerd_is_restarted(here: Here, tiny: Drilled) -> None:
    broken = here.broken("restart-dockerd")
    assert here.end(broken) == ""
    client = tiny.docker()
    for name in ("bystander-committed", "bystander-foreign"):  # without live-restore they end with their daemon: not the drill's doing
        client.start(name)
    client.close()


# ------------------------------------------------------------------------------------------------------- SIGKILL in the middle
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
