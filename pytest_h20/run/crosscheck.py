"""Load from elsewhere: the engine's own benchmark in its container, and our own core inside a node. No pytest in here."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.checks.crosscheck import agreement
from pytest_h20.checks.frame import Say
from pytest_h20.cluster import regular
from pytest_h20.cluster.launch import MOUNT_POINT
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.load import Cell, CellResult, LoadPlan, bench_serving, remote
from pytest_h20.load.cells import requests_for

if TYPE_CHECKING:
    from pytest_h20.run.throughput import Load

MOST_OF_A_RESULT = 128 << 20
"""Bytes of a foreign client's result that are read. With every request's times in it, it has some MiB."""
CROSSCHECK_ROUNDS = 6
"""At most; one is enough where the engine's speed is steady."""
CROSSCHECK_SURE = 3
"""A single round can look like a difference by chance: seen on two cores, where our own two runs agreed within 4 %."""
CROSSCHECK_CONCURRENCY = (1, 16)
"""Levels of the cross-check: one stream, and the most at which no client is strained."""


def run_in_container(load: Load, cell: Cell, generator: str, requests: int | None = None) -> CellResult:
    """One cell by ``sglang-bench`` or ``vllm-bench`` inside the head's container, as the write-up did (one wave by default).

    Raises:
        MeasurementError: the benchmark failed or wrote no result; its last words are in the text.
    """
    role = _head_role(load, generator)
    target = load.endpoint.target
    port = target.profile.http_port
    # Another seed every time: the same prompts again would come out of the prefix cache. It names the file too: where a run writes
    # none, that of an earlier one must not be read.
    seed = secrets.randbelow(1 << 31)
    output = f"{MOUNT_POINT}/{generator}-{cell.id}-{seed}.json"
    if generator == "sglang-bench":
        argv = bench_serving.sglang_argv(
            cell,
            target.inventory.model.path,
            load.settings.dataset or "",
            output,
            port=port,
            requests=requests or cell.concurrency,
            seed=seed,
        )
    else:
        argv = bench_serving.vllm_argv(
            cell,
            load.endpoint.model,
            output,
            port=port,
            requests=requests or cell.concurrency,
            tokenizer=target.inventory.model.path,
            seed=seed,
        )
    node = load.session.nodes[role.node]
    seconds = 600.0 + cell.concurrency * (cell.input_len + cell.output_len) * 0.05
    result = node.containers.exec(role.container_id, argv, timeout=seconds)
    log = load.session.folder.evidence(f"load/{generator}-{cell.id}.log", f"$ {shlex.join(argv)}\n{result.stdout}{result.stderr}")
    host_path = role.log_path.rsplit("/", 1)[0] + output.removeprefix(MOUNT_POINT)
    try:
        text = regular.read(node, host_path, 0, MOST_OF_A_RESULT).decode("utf-8", "replace")
    except FileNotFoundError:
        tail = " / ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
        raise MeasurementError(f"{generator} wrote no result for {cell.id} (exit {result.rc}): {tail}; see {log}") from None
    load.session.folder.evidence(f"load/{generator}-{cell.id}.json", text)
    parse = bench_serving.parse_sglang if generator == "sglang-bench" else bench_serving.parse_vllm
    recipe = "blog" if requests in (None, cell.concurrency) else "steady"
    return parse(text, cell, url=load.endpoint.url, recipe=recipe)


def run_from_node(load: Load, cell: Cell, plan: LoadPlan, where: str) -> CellResult:
    """One cell by our own core, inside the container of node ``where``: the link to this machine is not measured."""
    roles = {r.node: r for r in reversed(load.endpoint.cluster.roles)}
    role = roles.get(where)
    if role is None:
        raise UsageError(f"--h20-load-from={where}: no container of this run is on that node; nodes are {', '.join(sorted(roles))}")
    node = load.session.nodes[where]
    folder = role.log_path.rsplit("/", 1)[0]
    head = load.endpoint.target.head
    target = replace(load.target, url=f"http://{head.engine_ip}:{load.endpoint.target.profile.http_port}")
    node.put(remote.bundle(), f"{folder}/h20-load.pyz")
    # The job holds the target's headers: it travels in a file of our own folder, never on a command line.
    node.put(remote.job(target, cell, replace(plan, records_path=None), selfcheck=True), f"{folder}/h20-load.job", mode=0o600)
    script = f"exec python3 -u {MOUNT_POINT}/h20-load.pyz <{MOUNT_POINT}/h20-load.job"
    seconds = 900.0 + requests_for(cell, plan.recipe) * (cell.input_len + cell.output_len) * 0.05
    result = node.containers.exec(role.container_id, ("/bin/sh", "-c", script), timeout=seconds)
    node.run("rm -f -- %s", f"{folder}/h20-load.job")
    load.session.folder.evidence(f"load/from-{where}-{cell.id}.txt", result.stdout + result.stderr)
    return remote.parse_output(result.stdout)


def crosscheck_cells(load: Load) -> list[Cell]:
    """The cells nearest to 1 and to 16 streams, short ones first."""

    def nearest(level: int) -> Cell:
        return min(load.cells, key=lambda c: (abs(c.concurrency - level), c.input_len + c.output_len))

    return list(dict.fromkeys(nearest(level) for level in CROSSCHECK_CONCURRENCY))


def crosscheck(load: Load) -> list[Verdict]:
    """Each cell by our generator, by the engine's own, and by ours again; the difference with its likely reason.

    An engine's own speed varies, on a shared machine by far more than two clients may differ. As long as it may hide the answer
    there is another round, up to ``CROSSCHECK_ROUNDS``, and nothing is red before ``CROSSCHECK_SURE`` of them.
    """
    generator = "sglang-bench" if load.endpoint.target.engine == "sglang" else "vllm-bench"
    apart = replace(load, subfolder="crosscheck")
    verdicts = []
    for cell in crosscheck_cells(load):
        say = Say("throughput.crosscheck", f"{generator} agrees with our load generator", f"{load.label} {cell.id}")
        try:
            ours, theirs = [apart.run(cell, 1)], list[CellResult]()
            while len(theirs) < CROSSCHECK_ROUNDS:
                theirs.append(run_in_container(load, cell, generator, ours[0].requests.sent))
                ours.append(apart.run(cell, len(ours) + 1))
                verdict = agreement(say, ours, theirs)
                sure = verdict.status is Status.PASS or verdict.measured is None
                if sure or (verdict.status is Status.FAIL and len(theirs) >= CROSSCHECK_SURE):
                    break
            verdicts.append(verdict)
        except MeasurementError as error:
            action = "run the benchmark by hand in the container; its dataset or tokenizer may be missing"
            verdicts.append(say.unknown(str(error), action))
    load.done = apart.done
    return verdicts


def _head_role(load: Load, generator: str) -> RoleRef:
    roles = [r for r in load.endpoint.cluster.roles if r.node == load.endpoint.cluster.head]
    if not roles:
        raise MeasurementError(f"{generator} runs in a container of ours, and there is none: the endpoint was attached to")
    return roles[-1]
