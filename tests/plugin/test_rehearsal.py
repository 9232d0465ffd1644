"""``--nodes=rehearsal`` as a user meets it: nothing left behind, whatever happens. Every dialect is green: ``test_kill_table.py``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.kill_table import left_over, run


@pytest.mark.alone
def test_two_workers_share_one_cluster(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--rootdir", str(tmp_path), "--engine=sglang"]
    argv += ["--nodes=rehearsal:quick", f"--h20-run-dir={tmp_path / 'runs'}", "--h20-history=none"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stderr.count("h20: launching:") + done.stdout.count("h20: launching:") == 1
    assert left_over(tmp_path) == ()


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "--engine=sglang", "--nodes=rehearsal:quick"]
    argv += [f"--h20-run-dir={tmp_path / 'runs'}", "--h20-history=none"]
    inner = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/2*/.rehearsal/ports/node01-8000.json")):
        assert inner.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    inner.send_signal(signal.SIGKILL)
    inner.wait()
    while left_over(tmp_path):
        assert time.monotonic() < end, left_over(tmp_path)
        time.sleep(0.1)


def test_the_header_says_what_it_is(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "--collect-only", "--rootdir", str(tmp_path), "--engine=sglang", "--nodes=rehearsal"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "h20: REHEARSAL" in done.stdout
    assert "times as fast as in reality" in done.stdout


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--nodes=rehearsal:quik", "did you mean rehearsal:quick?"),
        ("--h20-fault=driver-to-old", "no fault is called 'driver-to-old'"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, option: str, words: str) -> None:
    nodes = [] if option.startswith("--nodes") else ["--nodes=rehearsal:quick"]
    argv = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), "--engine=sglang", *nodes, option]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verdict_is_written_for_a_faulty_run(tmp_path: Path) -> None:
    ended = run(tmp_path, faults=["driver-too-old"], gates=["environment"])
    assert ended.status == 1
    data = json.loads((ended.run / "verdict.json").read_text(encoding="utf-8"))
    assert (data["mode"], data["accepted"]) == ("rehearsal", False)
