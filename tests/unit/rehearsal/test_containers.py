"""Containers of the stand-in are real processes: they run, serve, end, and never outlive the run."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.cluster.launch import LaunchTarget, container_spec
from pytest_h20.config.inventory import user_name
from pytest_h20.core.errors import H20Error
from pytest_h20.engines import dialect_for
from pytest_h20.nodes import ContainerInfo, ContainerSpec
from pytest_h20.rehearsal import Rehearsal
from pytest_h20.rehearsal.node import StandInNode
from pytest_h20.rehearsal.state import alive

PATIENCE = 30.0


def spec_of(rehearsal: Rehearsal, rank: int) -> ContainerSpec:
    inventory = rehearsal.inventory
    target = LaunchTarget(inventory, *inventory.engine_profile("sglang"))
    plan = dialect_for("sglang", "0.4.4").plan(target.engine_profile(), target.node_plans())
    return container_spec(target, plan.steps[rank], "run-1", target.nodes[rank])


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    found: Rehearsal = Rehearsal.load("quick", [], tmp_path)
    found.scenario = replace(found.scenario, time_scale=600.0)
    yield found
    for node in found.nodes().values():
        for info in node.containers.find({}):
            node.containers.remove(info.id)


def started(rehearsal: Rehearsal, rank: int = 0) -> tuple[StandInNode, ContainerInfo]:
    node = list(rehearsal.nodes().values())[rank]
    info = node.containers.start(spec_of(rehearsal, rank))
    assert info.running
    return node, info


def log_of(node: StandInNode) -> str:
    try:
        return node.get(f"/var/tmp/pytest-h20-{user_name()}/run-1/rank0.log").decode()
    except FileNotFoundError:
        return ""


def pid_of(rehearsal: Rehearsal, node: StandInNode, info: ContainerInfo) -> int:
    assert rehearsal.state_dir is not None
    data = json.loads((rehearsal.state_dir / "containers" / f"{info.id}.json").read_text())
    return int(data["pids"][0])


def get(node: StandInNode, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*node.forward("10.63.65.207", 8000), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_life(rehearsal: Rehearsal) -> None:
    node, info = started(rehearsal)
    started(rehearsal, 1)  # communicators need every rank
    assert until(lambda: "ready to roll" in log_of(node)), log_of(node)
    assert get(node, "/health")[0] == 200
    assert json.loads(get(node, "/v1/models")[1])["data"][0]["id"] == "/mnt/models/DeepSeek-R1"
    listed = node.containers.find({"io.pytest-h20.run": "run-1"})
    assert [c.id for c in listed] == [info.id]
    assert node.containers.find({"io.pytest-h20.run": "another"}) == []
    node.containers.stop(info.id, timeout=PATIENCE)
    after = node.containers.inspect(info.id)
    assert after is not None
    assert not after.running
    node.containers.remove(info.id)
    assert node.containers.inspect(info.id) is None


def test_another_process_sees_the_same_container(rehearsal: Rehearsal) -> None:
    node, info = started(rehearsal)
    other: Rehearsal = Rehearsal.load("quick", [], rehearsal.state_dir)
    seen = other.nodes()[node.name].containers.inspect(info.id)
    assert seen is not None
    assert seen.running


def test_sigterm_ignored_ends_in_sigkill(rehearsal: Rehearsal) -> None:
    rehearsal.world.engine = replace(rehearsal.world.engine, ignores_sigterm=True)
    node, info = started(rehearsal)
    assert until(lambda: bool(log_of(node)))
    pid = pid_of(rehearsal, node, info)
    node.containers.stop(info.id, timeout=0.5)
    assert until(lambda: not alive(pid))


def test_a_process_that_dies_tells_how(rehearsal: Rehearsal) -> None:
    dies: dict[str, tuple[float, int, tuple[str, ...]]] = {"rank0": (1.0, 3, ("last words",))}
    rehearsal.world.engine = replace(rehearsal.world.engine, dies=dies)
    node, info = started(rehearsal)

    def ended() -> bool:
        found = node.containers.inspect(info.id)
        return found is not None and not found.running

    assert until(ended)
    after = node.containers.inspect(info.id)
    assert after is not None
    assert after.exit_code == 3
    assert "last words" in log_of(node)


def test_hanging_prints_nothing_more(rehearsal: Rehearsal) -> None:
    rehearsal.world.engine = replace(rehearsal.world.engine, hangs_at="dist-init")
    node, info = started(rehearsal)
    assert until(lambda: "Init torch distributed begin" in log_of(node))
    time.sleep(0.5)
    assert "Load weight begin" not in log_of(node)
    after = node.containers.inspect(info.id)
    assert after is not None
    assert after.running


def test_a_question_the_container_does_not_know(rehearsal: Rehearsal) -> None:
    node, info = started(rehearsal)
    with pytest.raises(H20Error, match="does not know"):
        node.containers.exec(info.id, ("rm", "-rf", "/"))


def test_it_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.unit.rehearsal.test_containers import spec_of\n"
        "from pytest_h20.rehearsal import Rehearsal\n"
        "r = Rehearsal.load('quick', [], Path(sys.argv[1])); n = r.nodes()['node01']\n"
        "n.containers.start(spec_of(r, 0)); print('up', flush=True); time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    pids = [int(json.loads(p.read_text())["pids"][0]) for p in (tmp_path / "containers").glob("*.json")]
    assert len(pids) == 1
    assert alive(pids[0])
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert until(lambda: not alive(pids[0]))
