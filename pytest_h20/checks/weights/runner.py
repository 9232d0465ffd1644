"""Run the agent where the data is: in the container, else on the node, else only the headers are read over the connection."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from pytest_h20.checks.weights.facts import DigestProgress, FastFacts, FullFacts, WeightFacts, parse_fast
from pytest_h20.config.inventory import Inventory, NodeSpec, Profile
from pytest_h20.core.errors import H20Error
from pytest_h20.nodes.base import Node
from pytest_h20.probes.image import container_spec
from pytest_h20.probes.script import Missing, Probe, ProbeError, build, integer, rows, split

Record = Callable[[str, str], str]

agent: Any = importlib.import_module("pytest_h20.checks.weights.agent")

_PYTHON = r"""
p=; for c in python3 python python2 /usr/libexec/platform-python; do $c -c pass >/dev/null 2>&1 && { p=$c; break; }; done
"""


def agent_source() -> str:
    """The agent as it is sent."""
    return resources.files("pytest_h20.checks.weights").joinpath("agent.py").read_text(encoding="utf-8")


def fast_probe(path: str, shards: int) -> Probe[FastFacts]:
    """``weights_fast DIR SHARDS``: prints one JSON object (``FastFacts``)."""
    snippet = (
        _PYTHON
        + '[ -n "$p" ] || { echo "no Python here" >&2; exit 127; }\n'
        + '[ -d "$1" ] || { echo "$1 is not a folder here" >&2; exit 2; }\n'
        + f'$p - fast "$1" "$2" <<\'H20_AGENT\'\n{agent_source()}\nH20_AGENT\n'
    )
    return Probe(
        "weights_fast",
        snippet,
        parse_fast,
        (path, str(shards)),
        seconds=120,
        hint=f"see that {path} can be read there, and that there is Python (any version)",
    )


def _files(text: str) -> list[tuple[str, int, int, int]]:
    return [(r[0], integer(r[1]) or 0, (integer(r[2]) or 0) * 10**9, integer(r[3]) or 0) for r in rows(text, "weight", 4)]


WEIGHT_FILES = Probe(
    "weight_files",
    r"""
cd "$1" || exit 2
find . \( -type f -o -type l \) ! -path './.git/*' | sed 's#^\./##' | while IFS= read -r f; do
  s=`stat -L -c '%s	%Y	%i' "$f" 2>/dev/null` && printf 'weight\t%s\t%s\n' "$f" "$s"
done
""",
    _files,
    seconds=60,
)
"""``weight_files DIR``: ``weight<TAB>NAME<TAB>SIZE<TAB>MTIME_S<TAB>INODE`` per file, for nodes without any Python."""


class NodeFolder:
    """A folder on a node, read over the connection: headers, small files, and one block of each shard."""

    blocks = 2

    def __init__(self, node: Node, path: str, files: list[tuple[str, int, int, int]]) -> None:
        self.node, self.path, self._files = node, path, files

    def files(self) -> list[tuple[str, int, int, int]]:
        """As ``agent.Folder.files``."""
        return self._files

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As ``agent.Folder.read``."""
        return self.node.get(f"{self.path.rstrip('/')}/{name}", offset, size)


def fast_check(
    nodes: Mapping[str, Node], inventory: Inventory, *, profile: Profile | None = None, record: Record | None = None
) -> WeightFacts:
    """The fast check on every node at once. With a profile it runs in a container of its image, on the path the engine will
    read."""
    specs = [n for n in inventory.nodes if n.name in nodes]
    where: dict[str, str] = {}
    evidence: dict[str, str] = {}

    def one(spec: NodeSpec) -> FastFacts | Missing:
        found, text, place = _fast_on(nodes[spec.name], spec, inventory, profile)
        where[spec.name] = place
        if record:
            evidence[spec.name] = record(f"weights/{spec.name}-fast.json", text or str(found))
        return found

    with ThreadPoolExecutor(max_workers=max(1, len(specs))) as pool:
        found = dict(zip([s.name for s in specs], pool.map(one, specs), strict=True))
    return WeightFacts(found, where, evidence)


def _fast_on(node: Node, spec: NodeSpec, inventory: Inventory, profile: Profile | None) -> tuple[FastFacts | Missing, str, str]:
    shards = inventory.model.shards or 0
    lost = Missing("it was not tried")
    if profile is not None:
        probe = fast_probe(inventory.model.path, shards)
        run = uuid.uuid4().hex[:12]
        container = container_spec(inventory, spec, profile, ["sh", "-c", build([probe])], {}, f"h20-weights-{spec.name}-{run}", run)
        try:
            answer = split(node.containers.run(container, timeout=180.0).stdout)
            found = probe.read(answer)
            if isinstance(found, FastFacts):
                return found, answer[probe.name].out, "container"
            if answer.get(probe.name) is not None and answer[probe.name].rc == 2:
                return Missing(found.reason, "check model.mount and model.path of the inventory"), "", "container"
            lost = found
        except H20Error as error:
            lost = Missing(f"no container of {profile.image}: {error}")
    probe = fast_probe(inventory.model.on_host, shards)
    try:
        answer = split(node.run(build([probe]), timeout=180.0).stdout)
        found = probe.read(answer)
        if isinstance(found, FastFacts):
            return found, answer[probe.name].out, "host"
        if probe.name in answer and answer[probe.name].rc == 127:
            return _fast_from_here(node, inventory.model.on_host, shards)
        return (found if profile is None else Missing(f"{found}; in the container: {lost}", found.hint)), "", "host"
    except H20Error as error:
        return Missing(str(error)), "", "host"


def _fast_from_here(node: Node, path: str, shards: int) -> tuple[FastFacts | Missing, str, str]:
    place = "host without Python"
    files = WEIGHT_FILES.with_args(path)
    listed = files.read(split(node.run(build([files]), timeout=120.0).stdout))
    if isinstance(listed, Missing):
        return listed, "", place
    try:
        import json

        text = json.dumps(agent.fast(NodeFolder(node, path, listed), shards))
        return parse_fast(text), text, place
    except (OSError, ProbeError) as error:
        return Missing(f"headers could not be read: {error}"), "", place


def full_script(path: str, state: str, jobs: int, max_age_s: int = 7 * 86400) -> str:
    """The script of the full check: the agent where there is Python, else ``sha256sum`` side by side with a cache of its own.

    ``max_age_s``: a digest that was computed longer ago is computed again; -1: any.
    """
    import shlex

    quoted = " ".join(shlex.quote(x) for x in (path, state, str(jobs), str(max_age_s)))
    return (
        f"# h20-probe: weights_full {quoted}\nset -- {quoted}\n{_PYTHON}"
        '[ -d "$1" ] || { echo "$1 is not a folder here" >&2; exit 2; }\n'
        f'if [ -n "$p" ]; then\nexec $p - full "$1" "$2" "$3" "$4" <<\'H20_AGENT\'\n{agent_source()}\nH20_AGENT\nfi\n'
        + r"""
command -v sha256sum >/dev/null || { echo "neither Python nor sha256sum" >&2; exit 127; }
mkdir -p "`dirname "$2"`"; H20_STATE="$2.aged"; export H20_STATE; touch "$H20_STATE"; cd "$1" || exit 2
t=`date +%s`; H20_NOW=$t; H20_MAX_AGE=$4; export H20_NOW H20_MAX_AGE
list() { find . \( -type f -o -type l \) ! -path './.git/*' ! -path './.cache/*' ! -name '*.incomplete' ! -name '*.aria2' ! -name '*.part' \
  ! -name '*.tmp' ! -path '*._____temp*' | sed 's#^\./##' | sort; }
n=0 b=0; for s in `list | while IFS= read -r f; do stat -L -c %s "$f"; done`; do n=$((n + 1)); b=$((b + s)); done
printf 'total\t%s\t%s\n' $n $b
list | tr '\n' '\0' | xargs -0 -n 1 -P "$3" sh -c '
  k=`stat -L -c "%s %Y %i" "$0"` && key="$k $PWD/$0"
  l=`grep -F -- " $key" "$H20_STATE" | while IFS= read -r l; do
    r=${l#* }; [ "${r#* }" = "$key" ] && echo "${l%% *} ${r%% *}"; done | tail -n 1`
  h= a=0 w=cached
  case "${l#* }" in ""|*[!0-9]*) ;; *) a=$((H20_NOW - ${l#* })); [ "$a" -le "$H20_MAX_AGE" ] && h=${l%% *};; esac
  if [ -z "$h" ]; then w=read; a=0; h=`sha256sum <"$0" | cut -d" " -f1`; [ ${#h} = 64 ] && echo "$h $H20_NOW $key" >>"$H20_STATE"; fi
  if [ ${#h} = 64 ]; then printf "file\t%s\t%s\t%s\t%s\t%s\n" "$0" "${k%% *}" "$h" $w "$a"
  else printf "error\t%s\tsha256sum failed\n" "$0"; fi'
printf 'done\t%s\n' $((`date +%s` - t))
"""
    )


def state_file(inventory: Inventory) -> str:
    """Where a node keeps the hashes it has computed: it outlives runs."""
    return f"{inventory.run_dir_on_node.rstrip('/')}/weights-sha256.jsonl"


def full_check(
    nodes: Mapping[str, Node],
    inventory: Inventory,
    *,
    jobs: int = 8,
    timeout: float = 7200.0,
    progress: Callable[[str, DigestProgress], None] | None = None,
    record: Record | None = None,
) -> dict[str, FullFacts | Missing]:
    """SHA-256 of every file on every node at once. May be interrupted: what was hashed is kept on the node and not read again."""
    specs = [n for n in inventory.nodes if n.name in nodes]

    def one(spec: NodeSpec) -> FullFacts | Missing:
        facts = FullFacts()

        def line(text: str) -> None:
            if facts.take(text) and progress and facts.progress:
                progress(spec.name, facts.progress)

        days = inventory.expect_of(spec).weights_cache_max_days
        max_age_s = round(86400 * days) if days else -1
        script = full_script(inventory.model.on_host, state_file(inventory), jobs, max_age_s)
        try:
            result = nodes[spec.name].stream(script, on_line=line, timeout=timeout)
        except H20Error as error:
            return Missing(f"the full check on {spec.name} broke off: {error}", "run again: it goes on where it stopped")
        if record:
            record(f"weights/{spec.name}-sha256.txt", "".join(f"{h}  {n}\n" for n, h in sorted(facts.hashes.items())))
        if result.rc != 0 or not facts.complete:
            tail = (result.stderr or result.stdout).strip().splitlines()[-1:] or [f"{len(facts.hashes)} of {facts.files} files"]
            return Missing(
                f"the full check on {spec.name} ended with {result.rc}: {tail[0][:200]}", "run again: it goes on where it stopped"
            )
        return facts

    with ThreadPoolExecutor(max_workers=max(1, len(specs))) as pool:
        return dict(zip([s.name for s in specs], pool.map(one, specs), strict=True))


def _tensor_hashes(text: str) -> tuple[tuple[str, str], ...]:
    found = tuple((r[0], r[1]) for r in rows(text, "tensor", 2))
    if not found:
        raise ProbeError("no tensor line")
    return found


def tensors_probe(path: str, name: str) -> Probe[tuple[tuple[str, str], ...]]:
    """``weights_tensors DIR NAME``: ``tensor<TAB>NAME<TAB>SHA256`` in the order of the file."""
    snippet = (
        _PYTHON
        + '[ -n "$p" ] || { echo "no Python here" >&2; exit 127; }\n'
        + f'$p - tensors "$1" "$2" <<\'H20_AGENT\'\n{agent_source()}\nH20_AGENT\n'
    )
    return Probe("weights_tensors", snippet, _tensor_hashes, (path, name), seconds=120)


def first_bad_tensor(bad: Node, good: Node, path: str, name: str) -> str | Missing:
    """Two copies of a shard, tensor by tensor: the first that differs."""
    probe = tensors_probe(path, name)
    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            here, there = pool.map(lambda n: probe.read(split(n.run(build([probe]), timeout=180.0).stdout)), (bad, good))
        except H20Error as error:
            return Missing(str(error))
    if isinstance(here, Missing):
        return here
    if isinstance(there, Missing):
        return there
    for mine, theirs in zip(here, there, strict=False):
        if mine != theirs:
            return mine[0]
    return Missing("the tensors are equal: only the header differs")
