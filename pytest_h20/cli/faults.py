"""``docs/faults.md``, made of the catalogue: ``python -m pytest_h20.cli.faults > docs/faults.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from pytest_h20.core.verdict import GateName
from pytest_h20.rehearsal.faults import CATALOGUE, Fault

REPOSITORIES = {
    "DeepEP": "deepseek-ai/DeepEP",
    "gpustack": "gpustack/gpustack",
    "nccl": "NVIDIA/nccl",
    "nccl-tests": "NVIDIA/nccl-tests",
    "open-gpu-kernel-modules": "NVIDIA/open-gpu-kernel-modules",
    "ray": "ray-project/ray",
    "sgl": "sgl-project/sglang",
    "sglang": "sgl-project/sglang",
    "verl": "verl-project/verl",
    "vllm": "vllm-project/vllm",
}
"""Short names of public threads, as in ``nccl#1996``."""
_THREAD = re.compile(r"(?<![\w/\[#-])((?:[\w.-]+/)?[\w-]+)#(\d+)\b(?!\])")

_HEAD = """\
# Faults of the rehearsal

An acceptance suite is worth what it refuses. Each of these {count} faults is injected into the stand-in cluster by
`tests/plugin/test_kill_table.py`, in a run of its own, and exactly the checks named here must turn red (failed or "could not
measure"), no others; the run must end with a status other than 0, and the words in the last column must be in what it says. A
fault that nothing catches is a defect of the suite.

Try one:

    pytest --engine=sglang --nodes=rehearsal:quick --h20-fault=rail-down

`--h20-fault` may be given several times. "Source" is where this happened to somebody: F-numbers are those of the project's failure
[catalogue](sources.md#failures), `engine#number` are public threads. Each check leads to what it judges and what to do. Run with
another engine or scenario where the last column says so.

This page is generated: `python -m pytest_h20.cli.faults > docs/faults.md`.
"""


def linked(text: str) -> str:
    """The text with ``name#number`` as a link to the thread, where the repository of that name is known."""

    def link(found: re.Match[str]) -> str:
        repository = found[1] if "/" in found[1] else REPOSITORIES.get(found[1])
        return f"[{found[0]}](https://github.com/{repository}/issues/{found[2]})" if repository else found[0]

    return _THREAD.sub(link, text)


def check_link(check: str) -> str:
    """A check's id, as a link to its place in docs/checks/: headings there are ids, their anchors have no dots."""
    return f"[`{check}`](checks/{check.partition('.')[0]}.md#{check.replace('.', '')})"


def page() -> str:
    """The whole page."""
    parts = [_HEAD.format(count=len(CATALOGUE))]
    for gate in GateName:
        mine = [f for f in CATALOGUE.values() if f.gate == gate.value]
        if mine:
            parts.append(f"## {gate.value} ({len(mine)})\n\n" + _table(mine))
    return "\n".join(parts)


def _table(faults: Sequence[Fault]) -> str:
    rows = ["| fault | what goes wrong | source | red checks | it says | run |", "|---|---|---|---|---|---|"]
    for fault in faults:
        red = "<br>".join(check_link(name) for name in sorted(fault.red))
        run = [] if fault.engine == "sglang" else [f"`--engine={fault.engine}`"]
        run += [] if fault.scenario == "quick" else [f"`--nodes=rehearsal:{fault.scenario}`"]
        run += [f"`{option}`" for option in fault.options]
        cells = (f"`{fault.name}`", fault.sentence, linked(fault.source), red, _code(fault.phrase), " ".join(run))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    sys.stdout.write(page())
