"""Load from elsewhere: the engine's own benchmark in its container, and our own core inside a node. No pytest in here."""

from __future__ import annotations

import math
import secrets
import shlex
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.cluster import regular
from pytest_h20.cluster.launch import MOUNT_POINT
from pytest_h20.cluster.state import RoleRef
from pytest_h20.core.errors import MeasurementError, UsageError
from pytest_h20.core.verdict import Limit, Origin, Status, Verdict, judge
from pytest_h20.load import Cell, CellResult, LoadPlan, bench_serving, remote
from pytest_h20.load.cells import requests_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from pytest_h20.run.throughput import Load

MOST_OF_A_RESULT = 128 << 20
"""Bytes of a foreign client's result that are read. With every request's times in it, it has some MiB."""
AGREEMENT = 0.03
"""How far two honest generators may lie apart on one cell at low concurrency (done-criterion of the load issue)."""
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
        title, subject = f"{generator} agrees with our load generator", f"{load.label} {cell.id}"
        try:
            ours, theirs = [apart.run(cell, 1)], list[CellResult]()
            while len(theirs) < CROSSCHECK_ROUNDS:
                theirs.append(run_in_container(load, cell, generator, ours[0].requests.sent))
                ours.append(apart.run(cell, len(ours) + 1))
                verdict = agreement(title, subject, ours, theirs)
                sure = verdict.status is Status.PASS or verdict.measured is None
                if sure or (verdict.status is Status.FAIL and len(theirs) >= CROSSCHECK_SURE):
                    break
            verdicts.append(verdict)
        except MeasurementError as error:
            action = "run the benchmark by hand in the container; its dataset or tokenizer may be missing"
            verdicts.append(
                Verdict(
                    check="throughput.crosscheck",
                    status=Status.UNKNOWN,
                    title=title,
                    subject=subject,
                    reason=str(error),
                    action=action,
                )
            )
    load.done = apart.done
    return verdicts


def agreement(title: str, subject: str, ours: Sequence[CellResult], theirs: Sequence[CellResult]) -> Verdict:
    """The other generator's output rates, each against the mean of our two runs around it. Pure.

    ``ours`` has one run more than ``theirs``. The difference is the mean over the rounds. What it is uncertain by is, of one
    round, what our own two runs differ by, of more, twice the standard error of the mean. Where that is more than the limit and
    the difference itself is not beyond both, it cannot be told.
    """
    rates = [r.output_throughput for pair in zip(ours, theirs, strict=False) for r in pair] + [ours[-1].output_throughput]
    measured = uncertain = None
    known = [rate for rate in rates if rate]
    if len(known) == len(rates):
        around = [(before + after) / 2 for before, after in zip(known[::2], known[2::2], strict=False)]
        differences = [100 * (its / mean - 1) for its, mean in zip(known[1::2], around, strict=True)]
        measured = round(abs(statistics.fmean(differences)), 2)
        if len(differences) == 1:
            uncertain = round(100 * abs(known[2] - known[0]) / around[0], 2)
        else:
            uncertain = round(2 * statistics.stdev(differences) / math.sqrt(len(differences)), 2)
    most = 100 * AGREEMENT
    limit = Limit(
        kind="max",
        value=most,
        unit="%",
        origin=Origin(kind="builtin", detail="two honest clients, one server, the same requests"),
    )
    details: dict[str, JsonValue] = {"uncertain_by_percent": uncertain}
    for its, mine in zip(theirs, ours, strict=False):
        for name, own, other, _ in bench_serving.compare(mine, its):
            column = details.setdefault(name, [])
            assert isinstance(column, list)
            column += [own, other]
    for name, own, _, _ in bench_serving.compare(ours[-1], theirs[-1]):
        column = details[name]
        assert isinstance(column, list)
        column.append(own)
    told = ", ".join("?" if r is None else f"{r:.4g}" for r in rates)
    verdict = judge(
        "throughput.crosscheck",
        title,
        measured,
        limit,
        subject=subject,
        reason=f"ours and its in turn: {told} tok/s; {bench_serving.why_different(ours[0], theirs[0])}",
        details=details,
    )
    if measured is None or uncertain is None or uncertain <= most or measured > most + uncertain:
        return verdict
    return verdict.model_copy(
        update={
            "status": Status.UNKNOWN,
            "reason": f"uncertain by {uncertain:g} %, more than the limit, after {len(theirs)} round(s) "
            f"(ours and its in turn: {told} tok/s): the engine's own speed varies",
            "action": "measure on a quiet machine, with longer cells (load.min_requests)",
        }
    )


def _head_role(load: Load, generator: str) -> RoleRef:
    roles = [r for r in load.endpoint.cluster.roles if r.node == load.endpoint.cluster.head]
    if not roles:
        raise MeasurementError(f"{generator} runs in a container of ours, and there is none: the endpoint was attached to")
    return roles[-1]
