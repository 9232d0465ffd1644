"""Load from elsewhere: the engine's own benchmark in its container, and our own core inside a node. No pytest in here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h20.cluster.launch import MOUNT_POINT
from pytest_h20.cluster.state import RoleRef
from pytest_h20.errors import MeasurementError, UsageError
from pytest_h20.load import Cell, CellResult, LoadPlan, bench_serving, remote
from pytest_h20.load.cells import requests_for
from pytest_h20.verdicts import Limit, Origin, Status, Verdict, judge

if TYPE_CHECKING:
    from pytest_h20.loading import Load

AGREEMENT = 0.03
"""How far two honest generators may lie apart on one cell at low concurrency (done-criterion of the load issue)."""
CROSSCHECK_CONCURRENCY = 16


def run_in_container(load: Load, cell: Cell, generator: str, requests: int | None = None) -> CellResult:
    """One cell by ``sglang-bench`` or ``vllm-bench`` inside the head's container, as the write-up did (one wave by default).

    Raises:
        MeasurementError: the benchmark failed or wrote no result; its last words are in the text.
    """
    role = _head_role(load, generator)
    target = load.endpoint.target
    output = f"{MOUNT_POINT}/{generator}-{cell.id}.json"
    port = target.profile.http_port
    if generator == "sglang-bench":
        argv = bench_serving.sglang_argv(
            cell, target.inventory.model.path, load.settings.dataset or "", output, port=port, requests=requests or cell.concurrency
        )
    else:
        argv = bench_serving.vllm_argv(
            cell,
            load.endpoint.model,
            output,
            port=port,
            requests=requests or cell.concurrency,
            tokenizer=target.inventory.model.path,
        )
    node = load.session.nodes[role.node]
    seconds = 600.0 + cell.concurrency * (cell.input_len + cell.output_len) * 0.05
    result = node.containers.exec(role.container_id, argv, timeout=seconds)
    log = load.session.folder.evidence(f"load/{generator}-{cell.id}.log", result.stdout + result.stderr)
    host_path = role.log_path.rsplit("/", 1)[0] + output.removeprefix(MOUNT_POINT)
    try:
        text = node.get(host_path).decode("utf-8", "replace")
    except FileNotFoundError:
        tail = " / ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
        raise MeasurementError(f"{generator} wrote no result for {cell.id} (exit {result.rc}): {tail}; see {log}") from None
    load.session.folder.evidence(f"load/{generator}-{cell.id}.json", text)
    parse = bench_serving.parse_sglang if generator == "sglang-bench" else bench_serving.parse_vllm
    return parse(text, cell, url=load.endpoint.url, recipe="blog")


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


def crosscheck(load: Load) -> list[Verdict]:
    """One cell by our generator and by the engine's own, and the difference with its likely reason."""
    cell = min(load.cells, key=lambda c: (abs(c.concurrency - CROSSCHECK_CONCURRENCY), c.input_len))
    own = load.run(cell)
    generator = "sglang-bench" if load.endpoint.target.engine == "sglang" else "vllm-bench"
    title = f"{generator} agrees with our load generator"
    try:
        theirs = run_in_container(load, cell, generator, own.requests.sent)
    except MeasurementError as error:
        return [
            Verdict(
                check="throughput.crosscheck",
                status=Status.UNKNOWN,
                title=title,
                subject=cell.id,
                reason=str(error),
                action="run the benchmark by hand in the container; its dataset or tokenizer may be missing",
            )
        ]
    rows = bench_serving.compare(own, theirs)
    by_name = {name: (mine, other, difference) for name, mine, other, difference in rows}
    difference = by_name["output tokens/s"][2]
    return [
        judge(
            "throughput.crosscheck",
            title,
            None if difference is None else round(100 * abs(difference), 2),
            Limit(
                kind="max",
                value=100 * AGREEMENT,
                unit="%",
                origin=Origin(kind="builtin", detail="two honest clients at 16 streams"),
            ),
            subject=cell.id,
            reason=bench_serving.why_different(own, theirs),
            details={name: [mine, other, difference] for name, (mine, other, difference) in by_name.items()},
        )
    ]


def _head_role(load: Load, generator: str) -> RoleRef:
    roles = [r for r in load.endpoint.cluster.roles if r.node == load.endpoint.cluster.head]
    if not roles:
        raise MeasurementError(f"{generator} runs in a container of ours, and there is none: the endpoint was attached to")
    return roles[-1]
