"""Signals that come early, twice, or while it is taken down: nothing is left, and nothing is launched afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_h20 import lang
from pytest_h20.cluster.shared import Ended, Shared
from pytest_h20.plugin.live import Signals

REPOSITORY = Path(__file__).parents[2]


def test_the_first_signal_interrupts_and_later_ones_only_say_what_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signals = Signals("python -m pytest_h20 reap --nodes x.yaml --run r", [signal.SIGUSR1, signal.SIGUSR2])
    try:
        signal.raise_signal(signal.SIGUSR2)  # what nohup ignores stays ignored
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signals.restore()
        signal.signal(signal.SIGUSR2, ignored)
    told = capfd.readouterr().err.splitlines()
    assert sum("takes down what it started" in line and "reap --nodes x.yaml --run r" in line for line in told) == 2


def test_a_later_signal_is_answered_in_the_readers_language(capfd: pytest.CaptureFixture[str]) -> None:
    signals = Signals("python -m pytest_h20 reap --nodes x.yaml", [signal.SIGUSR1])
    signals.ending = True
    try:
        with lang.speaking("zh"):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signals.restore()
    told = "h20：SIGUSR1：运行已经在结束，正在停掉它启动的东西；如果它被杀掉：python -m pytest_h20 reap --nodes x.yaml"
    assert told in capfd.readouterr().err


def test_nothing_is_launched_once_the_tear_down_has_begun(tmp_path: Path) -> None:
    """The marker is looked at under the lock: whoever was launching is waited for, whoever comes later is refused."""
    worker, controller = Shared(tmp_path / ".shared"), Shared(tmp_path / ".shared")
    inside, go, order = threading.Event(), threading.Event(), []

    def launch() -> None:
        with worker.launching():
            inside.set()
            go.wait(10)
            order.append("launched")

    thread = threading.Thread(target=launch)
    thread.start()
    assert inside.wait(10)
    assert not controller.end_launches(seconds=0.0)
    assert controller.end_launches(meanwhile=go.set)
    order.append("taken down")
    thread.join()
    assert order == ["launched", "taken down"]
    with pytest.raises(Ended), worker.launching():
        raise AssertionError("launched")


TEST = """
import pathlib, time
def test_it(h20_cluster):
    pathlib.Path("up").touch()
    time.sleep(60)
def test_that(h20_cluster):
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("workers", "wait_for", "signals"),
    [
        ((), "up", (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
        ((), "launched", (signal.SIGHUP,)),
        (("-n", "2"), "preflight", (signal.SIGTERM,)),
        (("-n", "2"), "launched", (signal.SIGTERM, signal.SIGTERM)),
    ],
)
def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, workers: tuple[str, ...], wait_for: str, signals: tuple[int, ...]) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    words = [sys.executable, "-m", "pytest", "--engine=sglang", "--nodes=rehearsal:quick", "-p", "no:cacheprovider", *workers, "test_it.py"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = {"up": "up", "launched": "h20-runs/*/.shared/launched-sglang.json", "preflight": "h20-runs/*/.shared/mark-opened-node02"}
    try:
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob(seen[wait_for])) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.15)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    (state,) = tmp_path.glob("h20-runs/*/.rehearsal")
    time.sleep(0.5 if workers else 0.0)  # a worker that launches late would do it now
    assert list((state / "containers").iterdir()) == [], output
    left = list(state.glob("nodes/*/var/tmp/pytest-h20-*/*"))
    assert left == [], output
    assert ("the run is ending already" in output) == (len(signals) > 1), output


WATCHED = """
import pathlib, threading
import pytest_h20.run.bringup as bringup
def test_it(h20_load):
    h20_load.watch()
    down = bringup.take_down
    def seen(*words):
        left = [t.name for t in threading.enumerate() if t.name.startswith("h20-watch-")]
        pathlib.Path("seen").write_text(" ".join(left) or "nobody watches")
        return down(*words)
    bringup.take_down = seen
    assert [t.name for t in threading.enumerate() if t.name.startswith("h20-watch-")]
    raise KeyboardInterrupt
"""


def test_what_a_fixture_runs_on_the_nodes_has_ended_before_the_tear_down(tmp_path: Path) -> None:
    """After Ctrl-C pytest tears session fixtures down last: a command that goes on is started again under the sweep."""
    (tmp_path / "test_it.py").write_text(WATCHED)
    words = [sys.executable, "-m", "pytest", "--engine=sglang", "--nodes=rehearsal:quick", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert (tmp_path / "seen").read_text() == "nobody watches", done.stdout
