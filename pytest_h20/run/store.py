"""What the processes of a run tell each other, each thing once: its file, its type, and by whom it is made.

Read and written through ``Session.shared`` (``cluster/shared.py``), as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_h20.checks.compute.facts import Burned
from pytest_h20.checks.endpoint.questions import Score
from pytest_h20.checks.fabric.measure import RailBandwidth
from pytest_h20.checks.fabric.rounds import Wired
from pytest_h20.checks.machines import Snapshot
from pytest_h20.checks.rdma.traffic import Traffic
from pytest_h20.checks.under_load import Alone
from pytest_h20.checks.weights.facts import WeightFacts
from pytest_h20.cluster.hang import Hang
from pytest_h20.cluster.ledger import Owner
from pytest_h20.cluster.shared import EngineTopic, Shared, Topic
from pytest_h20.cluster.state import ClusterState
from pytest_h20.cluster.teardown import Down
from pytest_h20.core.verdict import Verdict
from pytest_h20.nccl.model import Job
from pytest_h20.probes.kernel_log import Reading
from pytest_h20.run.facts import GatheredFacts

OWNER: Topic[Owner] = Topic("owner", Owner)
"""The controller, by itself."""
SELECTED: Topic[list[tuple[str, str]]] = Topic("selected", list)
"""Every test of a gate that will run, with its gate; by whoever collected first."""

FACTS: EngineTopic[GatheredFacts] = EngineTopic("facts", GatheredFacts)
WEIGHTS: EngineTopic[WeightFacts] = EngineTopic("weights", WeightFacts)
"""The fast look at the weights; by the gate weights."""
BURNED: EngineTopic[Burned] = EngineTopic("burn", Burned)
"""What the burn of the GPUs said; by the gate compute or by the bring-up."""
SINGLE: EngineTopic[RailBandwidth] = EngineTopic("single", RailBandwidth)
"""What a rail, which is the part, carried by itself."""
WIRED: EngineTopic[Wired] = EngineTopic("wired", Wired)
"""What all rails did at once."""
LAUNCHED: EngineTopic[str] = EngineTopic("launched", str)
"""The run's id, once its first container may be there."""
CLUSTER: EngineTopic[ClusterState] = EngineTopic("cluster", ClusterState)
"""The engine that came up, or why it did not."""
HOOK_CHECKS: EngineTopic[bool] = EngineTopic("checks", bool)
"""That the checks of other repositories were made."""
NCCL_JOB: EngineTopic[Job] = EngineTopic("nccl", Job)
COUNTED: EngineTopic[Traffic] = EngineTopic("traffic", Traffic)
"""The rails around one request of fixed size."""
SCORES: EngineTopic[tuple[Sequence[Verdict], Score]] = EngineTopic("score", tuple)
"""Of a set of questions, which is the part; by the gate answers."""
ALONE: EngineTopic[Alone] = EngineTopic("alone", Alone)
"""What was answered with nothing beside it, before the cells."""
BEFORE_LOAD: EngineTopic[dict[str, Snapshot]] = EngineTopic("before-load", dict)
KERNEL: EngineTopic[dict[str, Reading]] = EngineTopic("kernel", dict)
"""The kernel logs of the nodes at a moment, which is the part."""
HANG: EngineTopic[Hang] = EngineTopic("hang", Hang)
"""What its ranks did as something hung; by whoever noticed first."""
DIED: EngineTopic[Verdict] = EngineTopic("died", Verdict)
"""That an engine that was up ended, and why; by whoever noticed first."""
DEATH_TOLD: EngineTopic[bool] = EngineTopic("death-told", bool)
"""That it stands in the run; by the first test that failed after it, or at the end."""
DOWN: EngineTopic[Down] = EngineTopic("down", Down)
DRILLED: EngineTopic[bool] = EngineTopic("drilled", bool)
"""That the drills have begun: what is told of the load and of an engine that ends was told before."""
DRILL_ALONE: EngineTopic[Alone] = EngineTopic("drill-alone", Alone)
"""What the clients of the drills ask, as it was answered before the first one."""
DRILL_LOST: EngineTopic[str] = EngineTopic("drill-lost", str)
"""In which drill the engine was lost, and why it did not start again."""


def drilled(shared: Shared, label: str) -> bool:
    """Whether the drills of this engine have begun: what ends after that was ended by them, and they judge it."""
    return shared.published(DRILLED(label)) is not None


def told_mark(verdict: Verdict) -> str:
    """The word a test leaves when it has told something red in full."""
    return re.sub(r"[^\w.-]+", "_", f"told-{verdict.check}-{verdict.subject}")[:200]
