"""The plugin's options: one table, so that command line, ini file, help, header and documentation cannot disagree.

Stdlib only, and no work at import: this module is loaded in every pytest run of the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Option:
    """One option. ``name`` is canonical (``h20-nodes`` -> ``--h20-nodes`` and ini ``h20_nodes``); ``alias`` is the short form."""

    name: str
    help: str
    kind: Literal["text", "list", "flag"] = "text"
    alias: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None

    @property
    def dest(self) -> str:
        """Attribute and ini name: ``h20_nodes``."""
        return self.name.replace("-", "_")


OPTIONS: tuple[Option, ...] = (
    Option(
        "h20-nodes",
        "Inventory file (YAML), or 'rehearsal' for the embedded stand-in cluster, or 'rehearsal:SCENARIO[@SPEED]'",
        alias="--nodes",
        metavar="INVENTORY",
    ),
    Option(
        "h20-engine",
        "Engine of the inventory, with a profile if not its default: sglang, sglang:tuned. Give it twice to compare two engines",
        kind="list",
        alias="--engine",
        metavar="ENGINE[:PROFILE]",
    ),
    Option(
        "h20-hosts-from-slurm",
        "Run on the machines of this Slurm job, not on the inventory's: those it names as it says, any other like its first node",
        kind="flag",
    ),
    Option("h20-run-dir", "Folder for run folders (default: h20-runs)", metavar="DIR"),
    Option("h20-attach", "Test the endpoint at URL that runs already; never starts or stops it", metavar="URL"),
    Option("h20-plan", "Print what would be judged, which nodes can be reached, every command and container; change nothing", kind="flag"),
    Option("h20-replay", "Judge the recorded evidence of an earlier run again", metavar="RUN_DIR"),
    Option("h20-limits", "Limits file to use instead of the profile's", metavar="FILE"),
    Option("h20-keep", "Leave the cluster up at the end and print how to attach to it and how to remove it", kind="flag"),
    Option("h20-force", "Bring the engine up although an earlier gate is red", kind="flag"),
    Option(
        "h20-weights",
        "How to check the weights: fast (headers and sizes, default), full (SHA-256 of every file), skip",
        choices=("fast", "full", "skip"),
        metavar="HOW",
    ),
    Option("h20-rehash", "With the full check of the weights: read every file again, whatever hashes the nodes have kept", kind="flag"),
    Option(
        "h20-burn",
        "Burn the GPUs in before the engine starts: fast (below a minute, default on hardware), full (some minutes), off",
        choices=("off", "fast", "full"),
        metavar="HOW",
    ),
    Option("h20-load", "Load generator: own (default), sglang-bench, vllm-bench", choices=("own", "sglang-bench", "vllm-bench")),
    Option("h20-load-recipe", "Requests per cell: steady (default), or blog (as many as streams)", choices=("steady", "blog")),
    Option("h20-load-from", "Send the load from inside this node's container instead of from here", metavar="NODE"),
    Option("h20-load-crosscheck", "Run the engine's own benchmark too, at 1 and 16 streams, and report the difference", kind="flag"),
    Option(
        "h20-slo",
        "Find the largest concurrency whose requests keep this: ttft=2s,itl=80ms (either, or both); told, and held against nothing",
        metavar="LEVEL",
    ),
    Option("h20-accuracy", "JSONL file of questions and answers (GSM8K style) to grade in addition", metavar="FILE"),
    Option(
        "h20-soak",
        "After everything else, keep the engine under load for so long (90s, 20m, 1h, 24h) and judge what changes; on an attached "
        "cluster this alone",
        metavar="TIME",
    ),
    Option(
        "h20-drill",
        "After the load, break the cluster in this way and judge how it fails and comes back (repeatable; `drills: allowed` in the "
        "inventory); docs/soak-and-drills.md lists the drills",
        kind="list",
        metavar="NAME",
    ),
    Option("h20-calibrate", "Measure every cell several times and write limits with their spread to FILE", metavar="FILE"),
    Option("h20-repeats", "Repeats of each cell when calibrating (default: 5)", metavar="N"),
    Option("h20-seed", "Seed of the random prompts, to repeat those of an earlier run (default: new prompts in every run)", metavar="N"),
    Option(
        "h20-lang",
        "Language of the HTML report, the last lines of the terminal and errors: zh, en (default: from LC_ALL, LC_MESSAGES, LANG)",
        choices=("zh", "en"),
        metavar="LANG",
    ),
    Option("h20-fault", "Fault to inject into the rehearsal (repeatable); docs/faults.md lists them", kind="list", metavar="NAME"),
    Option(
        "h20-serve",
        "Show the run while it goes on as a page on http://127.0.0.1:PORT, for this user on this machine (0: a free port)",
        metavar="PORT",
    ),
    Option(
        "h20-history",
        "History store: SQLite file or SQLAlchemy URL (default: h20-runs/history.sqlite; 'none': off)",
        metavar="URL",
    ),
)

BY_DEST = {option.dest: option for option in OPTIONS}


@dataclass(frozen=True)
class Setting:
    """A resolved value and where it came from: ``option``, ``ini`` or ``default``."""

    value: Any
    origin: Literal["option", "ini", "default"]

    def __bool__(self) -> bool:
        return bool(self.value)


def resolve(option: Option, cli: Any, ini: Callable[[str], Any]) -> Setting:
    """Command line over ini over default. A value that was given, even an empty one, wins over what comes later."""
    if option.kind == "flag":
        if cli:
            return Setting(True, "option")
        text = str(ini(option.dest) or "").strip().lower()
        return Setting(True, "ini") if text in ("1", "true", "yes", "on") else Setting(False, "default")
    if option.kind == "list":
        if cli:
            return Setting(tuple(cli), "option")
        values = tuple(v for v in (ini(option.dest) or []) if v)
        return Setting(values, "ini" if values else "default")
    if cli is not None:
        return Setting(cli, "option")
    text = str(ini(option.dest) or "")
    return Setting(text or None, "ini" if text else "default")
