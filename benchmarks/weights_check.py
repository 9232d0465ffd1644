"""How fast the weights checks are: ``python -m benchmarks.weights_check [--gib 4] [--dir DIR]``.

Fast check: a sparse 163-shard, 688.6 GB model with real headers, on this machine (limit: 2 s per node). Full check: the agent
against ``sha256sum`` (serial) and ``xargs -P sha256sum`` on the same files, warm in the page cache, in turn, best of three; the
ratios are what counts (limits: within 10 % of xargs, at least 1.8 times serial on two cores).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.checks.weights.facts import FullFacts, parse_fast
from pytest_h20.checks.weights.runner import agent_source
from pytest_h20.rehearsal import sparse


def _agent(folder: Path) -> Path:
    path = folder / "agent.py"
    path.write_text(agent_source(), encoding="utf-8")
    return path


def fast(folder: Path) -> float:
    """Seconds of the fast check of the true-size sparse model, interpreter start included; best of three."""
    model = folder / "R1"
    sparse.write_model(model)
    print(f"sparse model: 163 shards, 688.6 GB apparent, {sparse.disk_bytes(model) / 1e6:.0f} MB on disk")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        out = subprocess.run([sys.executable, _agent(folder), "fast", model, "163"], capture_output=True, text=True, check=True).stdout
        times.append(time.perf_counter() - start)
        facts = parse_fast(out)
        assert (facts.data_bytes, len(facts.shards), facts.shapes.count) == (688574839360, 163, 0)
    return min(times)


def full(folder: Path, gib: float, jobs: int) -> dict[str, float]:
    """Seconds of serial sha256sum, xargs -P sha256sum and the agent on the same files; best of three, in turn."""
    data = folder / "payload"
    data.mkdir()
    block = os.urandom(1 << 20)
    for i in range(16):
        with open(data / f"part{i:02d}.bin", "wb") as f:
            for _ in range(int(gib * 64)):
                f.write(block)
    quoted = f"cd '{data}' && ls | "
    runs: dict[str, list[str]] = {
        "sha256sum": ["sh", "-c", quoted + "xargs sha256sum"],
        f"xargs -P {jobs} sha256sum": ["sh", "-c", quoted + f"xargs -n 1 -P {jobs} sha256sum"],
        "agent": [sys.executable, str(_agent(folder)), "full", str(data), str(folder / "state"), str(jobs)],
    }
    best: dict[str, float] = {}
    hashes: dict[str, set[str]] = {}
    for _ in range(3):
        for name, argv in runs.items():
            (folder / "state").unlink(missing_ok=True)
            start = time.perf_counter()
            out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            best[name] = min(time.perf_counter() - start, best.get(name, 1e9))
            facts = FullFacts()
            for line in out.splitlines():
                facts.take(line)
            hashes[name] = set(facts.hashes.values()) or {line[:64] for line in out.splitlines()}
    assert len({frozenset(h) for h in hashes.values()}) == 1, "the three do not agree on the hashes"
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exit status 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="payload of the full check, GiB (default 4)")
    parser.add_argument("--dir", help="where to put the files (default: a temporary folder)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="h20-weights-", dir=options.dir))
    try:
        seconds = fast(folder)
        print(f"fast check: {seconds:.2f} s (limit 2 s)")
        best = full(folder, options.gib, options.jobs)
    finally:
        shutil.rmtree(folder)
    size = options.gib * 2**30
    for name, t in best.items():
        print(f"{name:<24} {t:6.2f} s  {size / t / 1e9:5.2f} GB/s")
    serial, side_by_side, ours = best.values()
    print(f"agent / xargs: {ours / side_by_side:.2f} (limit 1.10)   sha256sum / agent: {serial / ours:.2f} (limit 1.80 on two cores)")
    return int(seconds > 2 or ours > 1.1 * side_by_side or (options.jobs > 1 and serial < 1.8 * ours))


if __name__ == "__main__":
    sys.exit(main())
