"""Load from elsewhere: the engine's own benchmark in its container, and our own core inside a node. No pytest in here."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.cluster.launch import MOUNT_POINT
from pytest_h20.cluster.state import RoleRef
from pytest_h20.errors import MeasurementError, UsageError
from pytest_h20.load import Cell, CellResult, LoadPlan, bench_serving, remote
from pytest_h20.load.cells import requests_for
from pytest_h20.verdicts import Limit, Origin, Status, Verdict, judge

if TYPE_CHECKING:
    from pydantic import JsonValue

    from pytest_h20.loading import Load

AGREEMENT = 0.03
"""How far two honest generators may lie apart on one cell at low concurrency (done-criterion of the load issue)."""
CROSSCHECK_CONCURRENCY = (1, 16)
"""Levels of the cross-check: one stream, and the most at which no client is strained."""


def run_in_container(load: Load, cell: Cell, generator: str, requests: int | None = None) -> CellResult:
    """One cell by ``sglang-bench`` or ``vllm-bench`` inside the head's container, as the write-up did (one wave by default).

    Raises:
        MeasurementError: the benchmark failed or wrote no result; its last words are in the text.
    """
    role = _head_role(load, generator)
    target = load.endpoint.target
    output = f"{MOUNT_POINT}/{generator}-{cell.id}.json"
    port = target.profile.http_port
    # Another seed every time: the same prompts again would come out of the prefix cache.
    seed = secrets.randbelow(1 << 31)
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
        text = node.get(host_path).decode("utf-8", "replace")
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
        raise UsageError(
            f"--h20-load-from={where}: no container of this run is on that node; nodes are {', '.join(sorted(roles))}"
        )
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
    """A cell by our generator, by the engine's own, and by ours again; the difference with its likely reason.

    What our own two runs differ by is the machine's noise: a difference cannot be told where that is larger than the limit.
    """
    generator = "sglang-bench" if load.endpoint.target.engine == "sglang" else "vllm-bench"
    apart = replace(load, subfolder="crosscheck")
    verdicts = []
    for cell in crosscheck_cells(load):
        title, subject = f"{generator} agrees with our load generator", f"{load.label} {cell.id}"
        try:
            before = apart.run(cell, 1)
            theirs = run_in_container(load, cell, generator, before.requests.sent)
            after = apart.run(cell, 2)
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
        else:
            verdicts.append(agreement(title, subject, before, theirs, after))
    load.done = apart.done
    return verdicts


def agreement(title: str, subject: str, before: CellResult, theirs: CellResult, after: CellResult) -> Verdict:
    """The other generator's output rate against the mean of our two runs around it. Pure."""
    rates = [r.output_throughput for r in (before, theirs, after)]
    first, other, second = rates
    measured = noise = None
    if first and second and other is not None:
        mean = (first + second) / 2
        measured, noise = round(100 * abs(other / mean - 1), 2), round(100 * abs(second - first) / mean, 2)
    details: dict[str, JsonValue] = {
        name: [mine, its, again]
        for (name, mine, its, _), (_, again, _, _) in zip(
            bench_serving.compare(before, theirs), bench_serving.compare(after, theirs), strict=True
        )
    }
    limit = Limit(
        kind="max",
        value=100 * AGREEMENT,
        unit="%",
        origin=Origin(kind="builtin", detail="two honest clients, one server, the same requests"),
    )
    why = bench_serving.why_different(before, theirs)
    told = ", ".join("?" if r is None else f"{r:.4g}" for r in rates)
    verdict = judge(
        "throughput.crosscheck",
        title,
        measured,
        limit,
        subject=subject,
        reason=f"ours, its, ours again: {told} tok/s; {why}",
        details={**details, "our_two_runs_differ_by_percent": noise},
    )
    if verdict.status is Status.FAIL and noise is not None and noise > 100 * AGREEMENT:
        return verdict.model_copy(
            update={
                "status": Status.UNKNOWN,
                "reason": f"our own two runs around it differ by {noise:g} % ({told} tok/s): something else uses this machine",
                "action": "measure on a quiet machine, with longer cells (load.min_requests)",
            }
        )
    return verdict


def _head_role(load: Load, generator: str) -> RoleRef:
    roles = [r for r in load.endpoint.cluster.roles if r.node == load.endpoint.cluster.head]
    if not roles:
        raise MeasurementError(f"{generator} runs in a container of ours, and there is none: the endpoint was attached to")
    return roles[-1]
