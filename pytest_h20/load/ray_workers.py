"""The load spread over the nodes of an existing Ray cluster: one actor per node runs the core, histograms are merged.

vLLM's Ray deployments have the cluster at hand; we bring no protocol of our own. `ray` is imported when it is used.
The actors get the sources with the job (`runtime_env` is not needed): the bundle of `remote.py` is put on their path.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import MeasurementError, UsageError
from .cells import Cell
from .plan import LoadPlan
from .remote import bundle
from .result import CellResult
from .run import build_result, prepare
from .server_metrics import fetch, view
from .share import Share
from .target import Target


def run_cell_on_ray(
    target: Target,
    cell: Cell,
    plan: LoadPlan | None = None,
    address: str = "auto",
    nodes: Sequence[str] = (),
    ray: Any = None,
) -> CellResult:
    """As `run_cell`, with the streams spread evenly over Ray nodes (`nodes`: their addresses; none = all alive).

    The parts start together to within the scheduling delay of an actor call (milliseconds); each part's steady window
    is its own. Raises UsageError without ray or nodes, MeasurementError when an actor is lost.
    """
    plan = plan or LoadPlan()
    module = ray if ray is not None else _ray()
    if not module.is_initialized():
        try:
            module.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"ray cluster {address!r}: {error}") from None
    alive = {node["NodeManagerAddress"]: node["NodeID"] for node in module.nodes() if node.get("Alive")}
    chosen = list(nodes) or sorted(alive)
    missing = [name for name in chosen if name not in alive]
    if missing or not chosen:
        raise UsageError(f"ray: no living node {', '.join(missing) or 'at all'}; alive: {', '.join(sorted(alive)) or 'none'}")
    chosen = chosen[: cell.concurrency]
    notes = [f"load from {len(chosen)} Ray nodes: {', '.join(chosen)}"]
    job, failure = prepare(target, cell, plan, notes)
    if failure:
        return build_result(job, [Share(failure=failure, stopped="server_gone", not_sent=job.planned() or 0)], None, notes)
    archive = bundle()
    strategy = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy if ray is None else None
    actors = []
    for name in chosen:
        options: dict[str, Any] = {"num_cpus": 1}
        if strategy is not None:
            options["scheduling_strategy"] = strategy(node_id=alive[name], soft=False)
        actors.append(module.remote(RayWorker).options(**options).remote(archive))
    before = fetch(target)
    try:
        module.get([actor.ready.remote() for actor in actors], timeout=120)
        parts = [replace(job, index=index, of=len(actors)).to_json() for index in range(len(actors))]
        answers = module.get([actor.run.remote(part) for actor, part in zip(actors, parts)])  # noqa: B905 (Python 3.8)
    except Exception as error:
        if type(error).__module__.split(".")[0] != "ray":
            raise
        raise MeasurementError(f"ray: a load actor was lost: {type(error).__name__}: {error}") from None
    finally:
        for actor in actors:
            module.kill(actor)
    shares = [Share.from_json(answer) for answer in answers]
    samples = [sample for share in shares for sample in share.samples]
    return build_result(job, shares, view(before, samples, fetch(target)), notes, where=", ".join(chosen))


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError(
            "ray is not installed here; run the load from one node (--h20-load-from NODE) or install ray"
        ) from None


class RayWorker:
    """One per node. Methods take and give plain data, so that it works with whatever version of this package."""

    def __init__(self, archive: bytes) -> None:
        handle, self._path = tempfile.mkstemp(suffix=".pyz", prefix="h20-load-")
        with os.fdopen(handle, "wb") as file:
            file.write(archive)
        sys.path.insert(0, self._path)

    def ready(self) -> bool:
        """True once the core can be imported on this node."""
        return importlib.import_module("pytest_h20.load.share") is not None

    def run(self, document: dict[str, Any]) -> dict[str, Any]:
        """Run one part (`Job.to_json`) and give its `Share.to_json`."""
        core = importlib.import_module("pytest_h20.load.share")
        try:
            answer: dict[str, Any] = core.run_share(core.Job.from_json(document)).to_json()
        finally:
            if os.path.exists(self._path):
                os.unlink(self._path)
        return answer
