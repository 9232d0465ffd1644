"""The controller's disk runs full, at three moments of a real run: one clear error, and the cluster is taken down all the same."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.tiny import Tiny

TEST = """
import os
import pytest

pytestmark = pytest.mark.h20_gate("bringup")

def fill():
    # As somebody else's file does it: all that is left, to the last byte.
    with open("runs/filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass

def test_before(h20_inventory):
    if os.environ["FULL"] == "before": fill()

def test_up(h20_cluster):
    if os.environ["FULL"] == "up": fill()

@pytest.mark.parametrize("n", range(3))
def test_after(h20_cluster, h20_nodes, n):
    h20_nodes["node01"].run("true")
"""


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    cluster = Tiny()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs on a disk of 72 MiB."""
    runs = tmp_path / "runs"
    runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m,mode=755", "h20-small", runs], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode()}")
    try:
        yield runs
    finally:
        subprocess.run(["umount", "-l", runs], check=True)


@pytest.mark.parametrize(("full", "workers"), [("before", 0), ("up", 0), ("up", 2), ("at the start", 0)])
def test_one_clear_error_and_nothing_is_left(tiny: Tiny, small: Path, tmp_path: Path, full: str, workers: int) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TEST)
    if full == "at the start":
        with (small / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(small).f_bavail * os.statvfs(small).f_frsize)
    options = (f"--h20-run-dir={small}", *(("-n", str(workers), "--dist", "loadfile") if workers else ()))
    ran = tiny.run(tmp_path, "test_it.py", *options, timeout=300, env={"FULL": full})
    assert tiny.containers() == {}, ran.output
    assert not tiny.base.exists() or list(tiny.base.iterdir()) == [], ran.output
    assert "INTERNALERROR" not in ran.output, ran.output
    assert "Traceback" not in ran.output, ran.output
    assert ran.rc == (pytest.ExitCode.USAGE_ERROR if full == "at the start" else pytest.ExitCode.TESTS_FAILED), ran.output
    why = "0 MiB are free" if full == "at the start" else "No space left on device"
    told = re.findall(rf"^.*{re.escape(str(small))}.*{why}.*$", ran.output, re.M)
    assert told, ran.output
    for line in ran.output.splitlines():
        assert line.count("make room") <= 1, "the next step once, not once per caller"
        assert "Not everything was taken down" not in line, "it was, and the tear-down says so"
    assert "EVERY GATE HOLDS" not in ran.output
