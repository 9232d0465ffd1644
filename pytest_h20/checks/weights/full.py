"""The full check from start to verdicts: hash everywhere, hold against what is known, look for the first bad tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_h20.checks.weights.facts import DigestProgress, FullFacts
from pytest_h20.checks.weights.judge import LISTED, Given, WeightsJudge, wrong_files
from pytest_h20.checks.weights.published import revision_of
from pytest_h20.checks.weights.runner import Record, first_bad_tensor, full_check
from pytest_h20.config.inventory import Model
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Verdict
from pytest_h20.nodes.base import Node
from pytest_h20.probes.script import Missing

MAX_COMPARED = 4


def reference(model: Model) -> dict[str, tuple[str, str]]:
    """What the hashes of a model are held against first: the inventory's list, then what is published under the folder's name."""
    name, revision = revision_of(model)
    known = {} if revision is None else {file: (digest, f"the hub's {name}") for file, digest in revision.sha256.items()}
    return {**known, **{file: (digest, LISTED) for file, digest in given_hashes(model.sha256).items()}}


def given_hashes(path: str | None) -> dict[str, str]:
    """The inventory's list, ``sha256  name`` per line as sha256sum writes it. ``UsageError`` names a line that is not so."""
    if path is None:
        return {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"model.sha256: {path} cannot be read: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        m = re.match(r"^([0-9a-f]{64})\s+\*?(.+?)\s*$", line)
        if not m:
            raise UsageError(f"{path}:{number}: {line[:60]!r} is not 'sha256  name' (64 hex digits, blanks, a file name)")
        found[m[2].removeprefix("./")] = m[1]
    return found


def full_verdicts(
    judge: WeightsJudge,
    nodes: Mapping[str, Node],
    *,
    jobs: int = 8,
    progress: Callable[[str, DigestProgress], None] | None = None,
    record: Record | None = None,
) -> list[Verdict]:
    """``weights.sha256`` of every node; skipped with the reason unless ``expect.weights_full`` asks for it."""
    inventory = judge.inventory
    wanted = {n.name: inventory.expect_of(n).weights_full for n in inventory.nodes if n.name in nodes}
    if not any(wanted.values()):
        say = judge.say("weights.sha256", "cluster")
        return [say.skip("not asked for: expect.weights_full: true hashes every file (minutes once, then cached on the node)")]
    given = reference(inventory.model)
    found = full_check(nodes, inventory, jobs=jobs, progress=progress, record=record)
    return judge.full(found, given, bad_tensors(nodes, found, given, inventory.model.on_host))


def bad_tensors(nodes: Mapping[str, Node], found: Mapping[str, FullFacts | Missing], given: Given, path: str) -> dict[tuple[str, str], str]:
    """For the first few wrong shards of each node: the first tensor that differs from a copy on another node."""
    named: dict[tuple[str, str], str] = {}
    wrong = {node: wrong_files(node, found, given) for node in found}
    for node, files in wrong.items():
        for name in [n for n in files if n.endswith(".safetensors")][:MAX_COMPARED]:
            here = found[node]
            if isinstance(here, Missing) or name not in here.hashes:
                continue
            mine = here.hashes[name]
            others = [n for n, f in found.items() if n != node and isinstance(f, FullFacts) and f.hashes.get(name, mine) != mine]
            good = sorted(others, key=lambda n: name in wrong[n])
            if good:
                tensor = first_bad_tensor(nodes[node], nodes[good[0]], path, name)
                if isinstance(tensor, str):
                    named[node, name] = tensor
    return named
