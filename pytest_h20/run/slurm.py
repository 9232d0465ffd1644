"""``--h20-hosts-from-slurm``: the machines of the Slurm job that this runs in take the place of the inventory's.

Slurm says which machines a job has, not what is in them: rails, interfaces, model, engines and expectations are the inventory's. A host
that the inventory names (by name or address) is taken as it stands there; any other one is of the kind of the inventory's first node,
with addresses of its own, which are read from it. Slurm is asked three things: how its list of hosts is to be read, whether the job
still has them, and whether it has all of their GPUs. What it answers was recorded with 22.05 (``tests/unit/run/test_slurm.py``).
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from pytest_h20.config.inventory import Inventory, NodeSpec, parse_inventory
from pytest_h20.core.errors import UsageError

OPTION = "--h20-hosts-from-slurm"
VARIABLES = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")
"""sbatch(1), salloc(1): the second is the older name of the first."""
GROUP, GROUPS = "SLURM_JOB_NODELIST_HET_GROUP_{}", "SLURM_HET_SIZE"
"""Of a heterogeneous job: a list for each of its parts, and how many parts. ``salloc`` then sets none of ``VARIABLES``, and the script of
``sbatch`` has the list of the first part there."""
ALIVE = ("RUNNING", "RESIZING", "SIGNALING")
"""squeue(1): states in which the job has its machines, and its processes run."""
MOST = 1024
"""Hosts of one list: far more than the suite takes, far fewer than a typing error can ask for."""
_ANSWER_S = 20.0
"""With the controller away ``squeue`` gave up after 18 s, and ``scontrol`` waits for a missing slurm.conf for 60 s."""


def expand(text: str) -> list[str]:
    """The hosts of a list as Slurm writes it: ``gpu[01-03,7],login,rack[1-2]n[1-2]``, in that order. Raises ``UsageError``."""
    found: list[str] = []
    for word in _words(text):
        parts = re.split(r"\[([^\[\]]*)\]", word)
        if any(re.search(r"[\[\]\s]", part) for part in parts[0::2]):
            raise _wrong(text, f"{word!r} has a bracket that does not match")
        choices = [[part] if i % 2 == 0 else _numbers(part, text) for i, part in enumerate(parts)]
        many = 1
        for choice in choices:
            many *= len(choice)
        if len(found) + many > MOST:
            raise _wrong(text, f"it has more than {MOST} hosts")
        found += ["".join(chosen) for chosen in itertools.product(*choices)]
    if not found:
        raise _wrong(text, "it names no host")
    return list(dict.fromkeys(found))


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"{OPTION}: the job's list of hosts is {text[:200]!r}, and {why}; accepted: node01,gpu[01-04,7]")


def _words(text: str) -> Iterator[str]:
    """Cut at commas outside brackets."""
    depth, word = 0, ""
    for char in f"{text.strip()},":
        if char == "," and depth <= 0:
            if word:
                yield word
            word = ""
            continue
        depth += {"[": 1, "]": -1}.get(char, 0)
        word += char
    if word:
        raise _wrong(text, f"{word.rstrip(',')!r} has a bracket that does not match")


def _numbers(part: str, text: str) -> list[str]:
    """``01-03,7`` -> 01, 02, 03, 7: as many digits as the first number of a range is written with."""
    found: list[str] = []
    for piece in part.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise _wrong(text, f"{piece!r} is no range of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MOST:
            raise _wrong(text, f"it has more than {MOST} hosts")
        found += [f"{number:0{len(match[1])}d}" for number in range(first, last + 1)]
    return found


def hosts(environment: Mapping[str, str] = os.environ, whole: bool = True) -> list[str]:
    """The hosts of the job that this process is in, in Slurm's order: of a heterogeneous one, those of all its parts.

    Raises:
        UsageError: outside of a job, and in one that is over: its machines may be somebody else's by now. ``whole``: also in one that has
            a part of a machine's GPUs.
    """
    parts = environment.get(GROUPS, "")
    lists = [environment.get(GROUP.format(i), "") for i in range(int(parts))] if re.fullmatch(r"[0-9]{1,3}", parts) else []
    texts = lists if lists and all(lists) else [text for name in VARIABLES if (text := environment.get(name))][:1]
    if not texts:
        raise UsageError(
            f"{OPTION}: this is no Slurm job: {VARIABLES[0]} is not set. Next: run it in one, `salloc -N 2 --exclusive --gpus-per-node=8` "
            "and then pytest, or pytest in the script of `sbatch`; or name the machines in the inventory and leave the option out"
        )
    _still_there(environment)
    if whole:
        _all_gpus(environment, texts)
    return list(dict.fromkeys(host for text in texts for host in _read(text, environment)))


def _still_there(environment: Mapping[str, str]) -> None:
    """A shell outlives its allocation and keeps its variables. Where Slurm cannot be asked, the job is taken as it stands there."""
    job = environment.get("SLURM_JOB_ID", "")
    done = _asked(environment, "squeue", "--noheader", f"--jobs={job}", "--format=%T") if job else None
    if done is None or (done.returncode != 0 and "Invalid job id" not in done.stderr):
        return
    states = done.stdout.split() if done.returncode == 0 else []
    wrong = [state for state in states if state not in ALIVE]
    if states and not wrong:
        return
    gone = "`squeue` knows no such job: it is over, or Slurm does not show it to this user (PrivateData)"
    why = f"its state is {wrong[0]}" if wrong else gone
    raise UsageError(
        f"{OPTION}: the variables of Slurm job {job} are set, and {why}. Its machines may be somebody else's: nothing was started. Next: "
        "in a job that runs, as its owner"
    )


def _all_gpus(environment: Mapping[str, str], texts: Sequence[str]) -> None:
    """Containers are started by the machine's own dockerd: no cgroup of the job holds them, and ``--gpus all`` is other jobs' GPUs too.

    Where the cluster does not count GPUs (no ``Gres``), or Slurm cannot be asked, nothing is said.
    """
    job = environment.get("SLURM_JOB_ID", "")
    had = _asked(environment, "scontrol", "--oneliner", "--detail", "show", "job", job) if job else None
    there = _asked(environment, "scontrol", "--oneliner", "show", "node", ",".join(texts)) if had is not None else None
    if had is None or there is None or had.returncode or there.returncode:
        return
    own = {
        node: gpus(gres)
        for nodes, gres in re.findall(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", had.stdout)
        for node in expand(nodes)
    }
    every = {node: gpus(gres) for node, gres in re.findall(r"\bNodeName=(\S+)(?=.*?\sGres=(\S+))", there.stdout)}
    parts = [f"{own[node]} of the {every[node]} of {node}" for node in own if own[node] < every.get(node, 0)]
    if parts:
        raise UsageError(
            f"{OPTION}: job {job} has a part of the GPUs only: {', '.join(parts)}. The suite judges whole machines, and its "
            "containers would take the GPUs of other jobs, for Docker starts them outside of this one. "
            "Next: `--exclusive`, or as many GPUs as a machine has"
        )


def gpus(gres: str) -> int:
    """``gpu:h20:8(S:0-1),shard:16`` -> 8. Also ``gpu:2(IDX:0-1)``, and ``gpu`` for one; nothing, or ``(null)``: none."""
    words = re.sub(r"\([^()]*\)", "", gres).split(",")
    return sum(int(match[1] or 1) for word in words if (match := re.fullmatch(r"gpu(?::[^:]*?)??(?::(\d+))?", word)))


def _read(text: str, environment: Mapping[str, str]) -> list[str]:
    done = _asked(environment, "scontrol", "show", "hostnames", text)
    # It leaves with 0 and says nothing on standard output where a list is none ("Invalid hostlist").
    return done.stdout.split() if done is not None and done.returncode == 0 and done.stdout.split() else expand(text)


def _asked(environment: Mapping[str, str], name: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """What a command of Slurm's answered; None where there is none, or no answer in time."""
    command = shutil.which(name, path=environment.get("PATH"))
    if command is None:
        return None
    try:
        return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=_ANSWER_S, check=False, env=dict(environment))
    except (OSError, subprocess.TimeoutExpired):
        return None


def with_hosts(inventory: Inventory, names: Sequence[str], resolve: Callable[[str], str] | None = None) -> Inventory:
    """The inventory with these machines instead of its own. ``resolve``: a name to its IPv4 address. Raises ``UsageError``."""
    resolve = resolve or address_of
    named = {word: node for node in inventory.nodes for word in (node.name, node.address)}
    nodes: list[NodeSpec] = []
    for host in names:
        known = named.get(host) or named.get(host.partition(".")[0])
        nodes.append(known if known is not None else _of_a_kind(inventory.nodes[0], host, resolve))
    moved = {old.name: new.name for old, new in zip(inventory.nodes, nodes, strict=False)}
    data = inventory.model_dump(mode="json", exclude_unset=True)
    data["nodes"] = [node.model_dump(mode="json", exclude_unset=True) for node in nodes]
    for engine in data["engines"].values():
        for name, profile in engine["profiles"].items():
            if profile.get("nodes") is None:
                continue
            if missing := [old for old in profile["nodes"] if old not in moved]:
                raise UsageError(
                    f"{OPTION}: profile {name!r} runs on {', '.join(profile['nodes'])}, and the job has {len(nodes)} of the inventory's "
                    f"{len(inventory.nodes)} machines: none for {', '.join(missing)}. Next: `salloc -N {len(inventory.nodes)}`"
                )
            profile["nodes"] = [moved[old] for old in profile["nodes"]]
    return parse_inventory(data, f"{inventory.name} on {', '.join(names)}")


def _of_a_kind(first: NodeSpec, host: str, resolve: Callable[[str], str]) -> NodeSpec:
    name = host if re.fullmatch(r"[0-9.]+", host) else host.partition(".")[0]
    own = {"name": name, "address": host, "host_ip": resolve(host), "transport": "ssh"}
    rails = [rail.model_dump(exclude_unset=True, exclude={"address", "gid"}) for rail in first.rails]
    others = [hca.model_dump(exclude_unset=True, exclude={"address", "gid"}) for hca in first.other_hcas]
    return NodeSpec.model_validate({**first.model_dump(exclude_unset=True), **own, "rails": rails, "other_hcas": others})


def address_of(host: str) -> str:
    """The IPv4 address at which the other machines reach a host. Raises ``UsageError``."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, socket.AF_INET)}
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{OPTION}: the name {host!r} has no IPv4 address here ({error}). Next: name the machine in the inventory, with its `host_ip`"
        ) from None
    outside = sorted(found - {a for a in found if ipaddress.ip_address(a).is_loopback})
    return outside[0] if outside else _own()


def _own() -> str:
    """Of this machine, whose own name often is 127.0.1.1 to itself: the address from which it would send. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            return str(sock.getsockname()[0])
        except OSError as error:
            raise UsageError(
                f"{OPTION}: this machine knows its own name as a loopback address only, and has no route to any other ({error}). Next: "
                "name it in the inventory, with its `host_ip`"
            ) from None
