"""``python -m pytest_h20 weights DIR [--full]``: check a model folder on this machine."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_h20.cli import command_parser
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.core.verdict import Status, Verdict, worst
from pytest_h20.lang import say, told


class _Lines(io.TextIOBase):
    """Takes the agent's lines as they come, and shows its progress."""

    def __init__(self) -> None:
        from pytest_h20.checks.weights.facts import FullFacts

        self.facts = FullFacts()
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if self.facts.take(line) and self.facts.progress:
                end = "\r" if sys.stderr.isatty() else "\n"
                print(f"  {self.facts.progress}", end=end, file=sys.stderr, flush=True)
        return len(text)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("weights", __doc__)
    parser.add_argument("dir", help="folder with *.safetensors, index and config.json")
    parser.add_argument("--shards", type=int, default=0, help="how many shards there must be (default: as their names say)")
    parser.add_argument("--full", action="store_true", help="hash every file; may be interrupted, goes on where it stopped")
    parser.add_argument("--sha256", metavar="FILE", help="list of 'sha256  name' to hold the full check against")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="readers of the full check (default: cores)")
    default = "~/.cache/pytest-h20/weights-sha256.jsonl"
    parser.add_argument("--state", default=default, help=f"where hashes are kept between runs (default {default})")
    parser.add_argument("--max-age", type=float, default=7.0, metavar="DAYS", help="hashes kept longer are computed again (7)")
    parser.add_argument("--rehash", action="store_true", help="read every file now, whatever was kept")
    parser.add_argument("--kind", choices=("deepseek-r1", "other"), default="other", help="deepseek-r1 also wants its code files")
    parser.add_argument("--json", action="store_true", help="verdicts as JSON lines")
    return parser


def check_folder(options: argparse.Namespace) -> list[Verdict]:
    """All verdicts about one local folder. Raises ``UsageError`` when it is not a folder."""
    import json

    from pytest_h20.checks.weights.facts import WeightFacts, parse_fast
    from pytest_h20.checks.weights.full import given_hashes
    from pytest_h20.checks.weights.judge import WeightsJudge
    from pytest_h20.checks.weights.runner import agent
    from pytest_h20.config.inventory import Engine, Inventory, Model, NodeSpec, Profile

    folder = Path(options.dir).expanduser().resolve()
    if not folder.is_dir():
        raise UsageError(f"{options.dir}: not a folder; give the folder that holds config.json and *.safetensors")
    if options.jobs < 1 or options.shards < 0:
        raise UsageError(f"--jobs={options.jobs} --shards={options.shards}: --jobs is at least 1, --shards at least 0")
    given = {name: (digest, f"--sha256={options.sha256}") for name, digest in given_hashes(options.sha256).items()}
    model = Model(host_path=str(folder), mount=str(folder), path=str(folder), shards=options.shards or None, kind=options.kind)
    here = NodeSpec(name="here", address="127.0.0.1", transport="local", control_interface="lo")
    engines = {"none": Engine(default="none", profiles={"none": Profile(image="none")})}
    inventory = Inventory(name="here", kind="lab", nodes=(here,), model=model, engines=engines)
    facts = parse_fast(json.dumps(agent.fast(agent.Folder(str(folder)), options.shards)))
    judge = WeightsJudge(WeightFacts({"here": facts}, {"here": "host"}), inventory)
    verdicts = judge.node("here")
    if options.full and facts.shards:
        lines = _Lines()
        age = -1 if options.rehash else round(86400 * options.max_age)
        agent.full(str(folder), str(Path(options.state).expanduser()), options.jobs, lines, max_age=age)
        verdicts += judge.full({"here": lines.facts}, given, {})
    return verdicts


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every check holds; 1: one does not, or could not be measured; 2: wrong use; 130: interrupted."""
    options = _parser().parse_args(argv)
    try:
        verdicts = check_folder(options)
    except H20Error as error:
        print(told(f"pytest_h20 weights: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("\ninterrupted; run again: what was hashed is kept", sys.stderr)
        return 130
    for verdict in verdicts:
        if options.json:
            print(verdict.model_dump_json())
        elif verdict.status is Status.PASS:
            of = "" if verdict.looked_at is None else f" of {verdict.looked_at}"
            say(f"{verdict.check}: ok ({verdict.measured}{of} {verdict.unit})".replace(" )", ")"))
        else:
            say(f"{verdict.status.value.upper()} {verdict.text()}")
    return 1 if worst(v.status for v in verdicts).blocks else 0
