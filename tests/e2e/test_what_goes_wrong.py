"""What goes wrong at 2 a.m.: each ends soon after it can be known, in one clear error with the next step, all cleaned up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PYTEST, REPOSITORY, Lab, Run

BRINGUP = str(REPOSITORY / "pytest_h20" / "acceptance" / "test_bringup.py")
KNOWABLE = 60.0
"""Seconds a whole pytest process may take whose fault is known before launch; generous for a loaded two-core machine."""


def _refused(lab: Lab, run: Run, *phrases: str) -> None:
    assert run.rc not in (0, 5), run.output[-3000:]
    assert "Traceback" not in run.output, run.output[-5000:]
    for phrase in phrases:
        assert phrase in run.output, (phrase, run.output[-5000:])
    for node in ("node01", "node02"):
        assert [c for c in lab.containers(node) if c.startswith("h20-")] == []


def test_busy_port_names_its_owner(lab: Lab) -> None:
    # create_server reuses the address: the port may still be in TIME_WAIT from the run before.
    server = "import socket,time; s=socket.create_server(('0.0.0.0', 8000)); time.sleep(120)"
    lab.ssh("node01", f'nohup python3 -c "{server}" >/dev/null 2>&1 & echo $! >/tmp/busy.pid')
    try:
        deadline = time.monotonic() + 10
        while ":8000" not in (listening := lab.ssh("node01", "ss -Hltn")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ":8000" in listening, "the test's own listener did not start"
        run = lab.pytest("--engine=vllm", BRINGUP, timeout=KNOWABLE)
        _refused(lab, run, "8000", "python3", "environment.ports")
        assert lab.ssh("node01", "kill -0 $(cat /tmp/busy.pid) && echo alive").strip() == "alive", "a stranger's process was touched"
    finally:
        lab.ssh("node01", "kill $(cat /tmp/busy.pid)")


def test_image_that_is_not_there(lab: Lab) -> None:
    def change(data: dict[str, Any]) -> None:
        data["engines"]["vllm"]["profiles"]["native"]["image"] = "h20-lab/no-such:1"

    run = lab.pytest("--engine=vllm", BRINGUP, inventory=lab.changed("image", change), timeout=KNOWABLE)
    _refused(lab, run, "h20-lab/no-such:1", "docker pull h20-lab/no-such:1")


def test_model_path_that_does_not_exist(lab: Lab) -> None:
    def change(data: dict[str, Any]) -> None:
        data["model"]["path"] = "/mnt/models/No-Such-Model"

    run = lab.pytest("--engine=vllm", BRINGUP, inventory=lab.changed("model", change), timeout=KNOWABLE)
    _refused(lab, run, "No-Such-Model")


def test_wrong_host_key(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().split()
    known = tmp_path / "known_hosts"
    known.write_text("".join(f"10.99.0.{n} {public[0]} {public[1]}\n" for n in (1, 2)))

    def change(data: dict[str, Any]) -> None:
        data["ssh"]["known_hosts"] = str(known)

    run = lab.pytest("--engine=vllm", BRINGUP, inventory=lab.changed("hostkey", change), timeout=KNOWABLE)
    _refused(lab, run, "host key is not the known one", "ssh-keygen -R")


def test_wrong_key(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    def change(data: dict[str, Any]) -> None:
        data["ssh"]["key"] = str(key)

    run = lab.pytest("--engine=vllm", BRINGUP, inventory=lab.changed("key", change), timeout=KNOWABLE)
    _refused(lab, run, "log-in as 'root' was refused", "ssh-copy-id")


def test_engine_that_dies_while_loading(lab: Lab) -> None:
    """An architecture vLLM does not have: known when the engine reads the config, not at the time limit."""

    def change(data: dict[str, Any]) -> None:
        data["engines"]["vllm"]["profiles"]["native"]["flags"]["max-model-len"] = 10_000_000

    began = time.monotonic()
    run = lab.pytest("--engine=vllm", BRINGUP, inventory=lab.changed("dies", change), timeout=150)
    assert time.monotonic() - began < 120, "the wait must end with the engine, not with ready_timeout"
    _refused(lab, run, "end of its log", "rank0")


@pytest.mark.parametrize("when", ["loading"])
def test_sigkill_leaves_what_the_next_run_names_and_reap_removes(lab: Lab, when: str) -> None:
    bystander = lab.ssh(
        "node01", "docker run -d --name bystander --network host --entrypoint /bin/sh h20-lab/vllm:0.32.0-cpu -c 'sleep 300'"
    ).strip()
    assert bystander
    words = [*PYTEST, "--engine=vllm", f"--nodes={lab.inventory}", f"--h20-run-dir={lab.tmp / 'killed'}", BRINGUP]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(c.startswith("h20-") and "rank1" in c for c in lab.containers("node02")):
            time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        left = [c for c in lab.containers("node01") if c.startswith("h20-")]
        assert left, "the run was killed before it had started anything"

        run = lab.pytest("--engine=vllm", BRINGUP, timeout=KNOWABLE)
        assert run.rc not in (0, 5)
        assert left[0] in run.output
        assert "python -m pytest_h20 reap" in run.output

        reap = subprocess.run(
            [PYTEST[0], "-m", "pytest_h20", "reap", "--nodes", str(lab.inventory)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert reap.returncode == 0, reap.stdout + reap.stderr
        assert left[0] in reap.stdout
        for node in ("node01", "node02"):
            assert [c for c in lab.containers(node) if c.startswith("h20-")] == []
        assert "bystander" in lab.containers("node01"), "a stranger's container was touched"
        assert lab.ssh("node01", "docker inspect -f '{{.State.Running}}' bystander").strip() == "true"
    finally:
        if process.poll() is None:
            process.kill()
        lab.ssh("node01", "docker rm -f bystander")


def test_sigterm_takes_everything_down(lab: Lab) -> None:
    """CI ends a job with SIGTERM: as clean as Ctrl-C."""
    words = [*PYTEST, "--engine=vllm", f"--nodes={lab.inventory}", f"--h20-run-dir={lab.tmp / 'termed'}", BRINGUP]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(c.startswith("h20-") for c in lab.containers("node01")):
        time.sleep(0.5)
    process.terminate()
    out, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, 5), out[-2000:]
    for node in ("node01", "node02"):
        assert [c for c in lab.containers(node) if c.startswith("h20-")] == [], out[-3000:]
