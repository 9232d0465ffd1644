"""``reap`` on this machine: what a killed run's last process leaves when it ends is removed too."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pytest_h20.cli.reap import main
from pytest_h20.cluster.ledger import Ledger, Owner, machine, started
from pytest_h20.nodes import scratch
from pytest_h20.nodes.local import LocalNode

WORKER = """
import os, signal, socket, sys, time
sys.path.insert(0, sys.argv[2])
from pytest_h20.nodes import scratch
scratch._root = lambda: sys.argv[1]
os.chdir(scratch.folder())  # the path of a socket is limited to 108 bytes, and pytest's own folder may be longer
socket.socket(socket.AF_UNIX).bind("docker.sock")
print("there", flush=True)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """This machine as the only node."""
    profile = {"image": "x:1", "load": {"limit": "none"}}
    data = {
        "name": "here",
        "kind": "lab",
        "run_dir_on_node": f"{tmp_path}/base",
        "nodes": [{"name": "n1", "address": "127.0.0.1", "transport": "local", "control_interface": "lo"}],
        "model": {"host_path": "/m", "mount": "/m", "path": "/m/x", "kind": "other"},
        "engines": {"vllm": {"default": "a", "profiles": {"a": profile}}},
    }
    path = tmp_path / "here.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_sockets_of_a_worker_that_outlived_its_controller(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(scratch, "_root", lambda: str(local))
    words = [sys.executable, "-c", WORKER, str(local), str(Path(__file__).parents[3])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "there\n"
        process = Owner("me", machine(), worker.pid, started(worker.pid) or 0)
        ledger = Ledger(LocalNode("n1"), f"{tmp_path}/base", "r1", replace(process, pid=1, started=1), process=process)
        ledger.open()
        ledger.close()
        assert main(["--nodes", str(inventory), "--dry-run"]) == 0
        assert list(local.iterdir()) != []
        assert main(["--nodes", str(inventory)]) == 0
    assert "removing n1: folders and processes of run r1" in capsys.readouterr().out
    assert list(local.iterdir()) == []
    assert list((tmp_path / "base").iterdir()) == []


def test_a_node_that_does_not_answer_keeps_no_other_from_being_cleaned(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scratch, "_root", lambda: str(tmp_path))
    data = yaml.safe_load(inventory.read_text())
    dead = {"name": "n0", "address": "127.0.0.2", "control_interface": "lo", "ssh": {"port": 1, "use_config": False}}
    data["nodes"] = [dead, *data["nodes"]]
    inventory.write_text(yaml.safe_dump(data))
    gone = Owner("me", machine(), 1, 1)
    ledger = Ledger(LocalNode("n1"), f"{tmp_path}/base", "r1", gone, process=gone)
    ledger.open()
    assert main(["--nodes", str(inventory)]) == 1
    said = capsys.readouterr()
    assert "n0 could not be looked at: n0 (" in said.err
    assert "removing n1" in said.out
