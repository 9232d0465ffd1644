"""How fast is the NCCL log parser, and does its memory stay flat? Beside ``grep -c 'via NET'`` on the same file.

The log is made by repeating cases of the labelled corpus (``tests/corpus/nccl``) until it has the
wanted size. ``--stamped`` puts a time stamp before every line, as ``docker logs -t`` does, so that no two lines are equal;
``--pids`` gives every copy its own processes: no job is like that, it is the parser's worst case.

Run: python benchmarks/nccl_speed.py [--mb 256 | --gb] [--stamped | --pids] [--dir DIR]
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytest_h20.nccl import judge_job, parse_log

GOAL = 150.0  # MB/s on one core, from the project's definition of done


def corpus() -> list[bytes]:
    """All logs of the corpus, each ending with a newline."""
    folder = Path(__file__).resolve().parents[1] / "tests" / "corpus" / "nccl"
    logs = [p.read_bytes().rstrip(b"\n") + b"\n" for p in sorted(folder.glob("*.log"))]
    if not logs:
        raise SystemExit(f"nccl_speed: no *.log in {folder}")
    return logs


def variant(log: bytes, kind: str, number: int) -> bytes:
    """Copy ``number`` of one log: as it is, with time stamps, or with other pids."""
    if kind == "stamped":
        stamp = b"2026-01-02T%02d:%02d:%02d" % (number // 3600 % 24, number // 60 % 60, number % 60)
        lines = log.splitlines(keepends=True)
        return b"".join(b"%s.%09dZ %s" % (stamp, i, line) for i, line in enumerate(lines))
    if kind == "pids":
        return re.sub(rb":(\d+):(\d+) ", lambda m: b":%d:%s " % (int(m[1]) + number, m[2]), log)
    return log


def write_log(path: Path, size: int, kind: str) -> None:
    """Repeat the corpus up to ``size`` bytes."""
    logs = corpus()
    copy, written = 0, 0
    with path.open("wb") as out:
        while written < size:
            for log in logs:
                written += out.write(variant(log, kind, copy))
            copy += 1


def chunks(path: Path) -> Iterator[bytes]:
    """The file in pieces of 1 MiB."""
    with path.open("rb") as log:
        while piece := log.read(1 << 20):
            yield piece


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str]) -> int:
    """Print MB/s of both and their ratio; exit 1 below the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256)
    parser.add_argument("--gb", action="store_true", help="1 GB instead of --mb")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--stamped", dest="kind", action="store_const", const="stamped", help="a time stamp before every line")
    kinds.add_argument("--pids", dest="kind", action="store_const", const="pids", help="new processes in every copy")
    parser.add_argument("--dir", help="where the log is made (default: a temporary folder, removed afterwards)")
    options = parser.parse_args(argv)
    size = 1_000_000_000 if options.gb else options.mb * 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="nccl-speed-", dir=options.dir))
    try:
        log = folder / "nccl.log"
        write_log(log, size // 8, options.kind or "")
        judge_job([parse_log(chunks(log), "warm-up")])
        small = peak_mib()
        write_log(log, size, options.kind or "")
        megabytes = log.stat().st_size / 1e6
        before = time.process_time()
        evidence = parse_log(chunks(log), log.name)
        ours = time.process_time() - before
        large = peak_mib()
        judge_job([evidence])
        began = time.perf_counter()
        counted = subprocess.run(["grep", "-c", "via NET", str(log)], capture_output=True, text=True, env={"LC_ALL": "C"}, check=True)
        grep = time.perf_counter() - began
    finally:
        shutil.rmtree(folder)
    print(f"log            {megabytes:9.0f} MB, {evidence.lines} lines, {counted.stdout.strip()} with 'via NET'")
    print(f"parse_log      {ours:9.2f} s  {megabytes / ours:8.0f} MB/s CPU (goal {GOAL:.0f})")
    print(f"grep -c        {grep:9.2f} s  {megabytes / grep:8.0f} MB/s")
    print(f"ratio          {ours / grep:9.1f}  times grep's time")
    print(f"peak memory    {small:9.0f} MiB after 1/8 of the size, {large:.0f} MiB after all of it")
    return 0 if options.kind or megabytes / ours >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
