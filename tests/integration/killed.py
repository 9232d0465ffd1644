"""SIGKILL in the middle of a run, then ``reap``: is anything left, do bystanders live? ``python -m tests.integration.killed``

The moments are spread evenly over the length of a run that is let alone first: start, preflight, launch, load, tests, tear-down. Every
third run has two xdist workers. Bystanders, all of them on the same node: a container of somebody else, a container that carries our
labels through ``docker commit``, a process with another run's secret word in its environment, and a run of ours that lives.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pytest_h20.cluster import labels
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.nodes import ContainerSpec
from pytest_h20.run.nodes import connect_all
from tests.integration.tiny import IMAGE, Tiny, clean_environment

TEST = """
import time
import pytest

@pytest.mark.h20_gate("bringup")
@pytest.mark.parametrize("n", range(2))
def test_it(h20_cluster, h20_nodes, h20_judge, n):
    for node in h20_nodes.values():
        node.run("sleep 1; mktemp -d >/dev/null")
"""
PHASES = ("start", "preflight", "launching", "loading", "ready", "down")


@dataclass(frozen=True)
class Killed:
    """What one kill left, and what was there after ``reap``. ``wrong`` is empty when all is as it must be."""

    when: float | str
    workers: int
    phase: str
    found: tuple[str, ...]
    wrong: tuple[str, ...]


class Series:
    """Runs that are killed, one after the other, on one cluster."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.scratch = tiny.folder / "tmp"  # what the killed process leaves on its own machine lies in here
        self.scratch.mkdir(exist_ok=True)
        self._number = 0

    def start(self, workers: int) -> tuple[subprocess.Popen[bytes], Path]:
        """A run in a folder of its own."""
        self._number += 1
        folder = self.tiny.folder / f"run-{self._number}"
        folder.mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(TEST)
        argv = self.tiny.argv("test_it.py", *(("-n", str(workers)) if workers else ()))
        with (folder / "output").open("wb") as output:
            return subprocess.Popen(argv, cwd=folder, stdout=output, stderr=output, env=self.environment()), folder

    def environment(self) -> dict[str, str]:
        """Of the runs and of ``reap``."""
        return {**clean_environment(), "TMPDIR": str(self.scratch)}

    def undisturbed(self, workers: int) -> float:
        """Seconds a whole run takes. It must leave nothing either."""
        began = time.monotonic()
        process, folder = self.start(workers)
        status = process.wait(120)
        length = time.monotonic() - began
        left = self.left(())
        if status or left:
            raise AssertionError(f"a run that nobody disturbed: exit status {status}, left {left}:\n{(folder / 'output').read_text()}")
        return length

    def kill(self, when: float | str, workers: int = 0) -> Killed:
        """Kill a run at this second of its life, or when it says that it enters this phase; bring a living run up beside what it left,
        reap, and look."""
        process, folder = self.start(workers)
        began = time.monotonic()
        while process.poll() is None and not self._come(when, time.monotonic() - began, folder / "output"):
            time.sleep(0.02)
        process.kill()
        ended = process.wait()
        output = (folder / "output").read_text(errors="replace")
        phase = [word for word in PHASES if word == "start" or f"h20: {word}:" in output][-1]
        phase = phase if ended == -signal.SIGKILL else "ended by itself"
        with self.living() as names:
            found = tuple(self.left(names))
            reaped = self.tiny.reap(TMPDIR=str(self.scratch))
            wrong = [f"reap ended with {reaped.rc}: {reaped.output}"] if reaped.rc else []
            wrong += [f"left: {what}" for what in self.left(names)]
            wrong += [f"no longer runs: {name}" for name in names if self.tiny.containers().get(name) != "running"]
        return Killed(when, workers, phase, found, tuple(wrong))

    @staticmethod
    def _come(when: float | str, seconds: float, output: Path) -> bool:
        return seconds >= when if isinstance(when, float) else f"h20: {when}:" in output.read_text(errors="replace") or seconds > 90

    @contextmanager
    def living(self) -> Iterator[tuple[str, ...]]:
        """A run of ours that lives: this process. Its container beside those that were there."""
        inventory = self.tiny.loaded()
        run = f"alive-{self._number}"
        (inner,) = connect_all(inventory).values()
        ledger = Ledger(inner, inventory.run_dir_on_node, run, Owner.me("a colleague"))
        node = LedgerNode(inner, ledger, nullcontext)
        before = tuple(name for name in self.tiny.containers() if name.startswith("bystander-"))
        ledger.make_folder(run)
        info = node.containers.start(sleeper(f"h20-{run}-rank0", labels.of_run(run, "rank0", "node01", "a colleague", "/x")))
        try:
            yield (*before, info.name)
            if not (self.tiny.base / f"{run}.run").exists() or not (self.tiny.base / run).is_dir():
                raise AssertionError(f"the record or the folder of the living run {run} is gone")
        finally:
            ledger.end()
            node.close()

    def left(self, living: Sequence[str]) -> list[str]:
        """Everything of runs that is there: containers, processes, files; but for those of the run that lives."""
        ours = [name for name in self.tiny.containers() if name not in living and not name.startswith("bystander-")]
        found = [f"container {name}" for name in ours]
        alive = {name.removeprefix("h20-").removesuffix("-rank0") for name in living}
        files = self.tiny.base.iterdir() if self.tiny.base.is_dir() else ()
        found += [f"file {path.name}" for path in files if path.name.split(".")[0] not in alive]
        found += [f"socket folder {path.name}" for path in self.scratch.glob("h20-*")]
        mark = f"TMPDIR={self.tiny.base}/".encode()
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                environ = entry.read_bytes()
                command = entry.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in environ and not any(f"{mark.decode()}{run}.tmp".encode() in environ for run in alive):
                found.append(f"process {entry.parent.name}: {command[:80]}")
        return found


def sleeper(name: str, own: Mapping[str, str]) -> ContainerSpec:
    """A container that only sleeps."""
    return ContainerSpec(name, IMAGE, ("/bin/sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"), labels=dict(own), network="host")


@contextmanager
def bystanders(tiny: Tiny) -> Iterator[None]:
    """Somebody else's containers, one of them from an image that was committed from a container of ours; and a process."""
    client = tiny.docker()
    host = client.create_host_config(network_mode="host")
    loop = ["/bin/sh", "-c", "sleep 3600"]
    ours = labels.of_run("r0", "rank0", "node01", "me", "/etc")
    client.start(client.create_container(IMAGE, loop, name="source", labels=ours, host_config=host))
    client.commit("source", repository="h20-test/committed", tag="1")
    client.remove_container("source", force=True)
    client.start(client.create_container(IMAGE, loop, name="bystander-foreign", host_config=host))
    client.start(client.create_container("h20-test/committed:1", loop, name="bystander-committed", host_config=host))
    assert client.inspect_container("bystander-committed")["Config"]["Labels"][labels.OWNER] == "1"
    process = subprocess.Popen(["sleep", "3600"], env={**os.environ, "H20_TOKEN": "0" * 32})
    try:
        yield
        assert process.poll() is None, "a process of somebody else was ended"
    finally:
        process.kill()
        process.wait()
        for name in ("bystander-foreign", "bystander-committed"):
            client.remove_container(name, force=True)
        client.close()


def main(argv: Sequence[str] | None = None) -> int:
    """One line per kill, then the counts. Exit status 1 when anything was left or a bystander was hurt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    options = parser.parse_args(argv)
    tiny = Tiny()
    done: list[Killed] = []
    try:
        with bystanders(tiny):
            series = Series(tiny)
            length = {workers: series.undisturbed(workers) for workers in (0, 2)}
            told = ", ".join(f"{s:.1f} s with {w} workers" for w, s in length.items())
            print(f"a run that nobody disturbs leaves nothing and takes {told}", flush=True)
            for index in range(options.kills):
                workers = 2 if index % 3 == 2 else 0
                second = length[workers] * (index + 0.5) / options.kills
                one = series.kill(second, workers)
                done.append(one)
                words = f"{second:5.1f} s, {workers} workers, {one.phase}: it left {len(one.found)} things"
                print(words + "".join(f"\n    WRONG {w}" for w in one.wrong), flush=True)
    finally:
        tiny.close()
    kinds = Counter(re.split(r"[ :]", what)[0] for one in done for what in one.found)
    print(f"killed {len(done)}: " + ", ".join(f"{n} in {phase}" for phase, n in Counter(one.phase for one in done).items()))
    print("left by the kills and removed by reap: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    bad = [one for one in done if one.wrong]
    print(f"after reap: {len(bad)} of {len(done)} with something left or a bystander hurt")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
