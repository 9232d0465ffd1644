"""Something of this run hangs: looked into once per engine, before anything is stopped. No pytest in here."""

from __future__ import annotations

from pytest_h20.cluster.hang import Hang, HungEngine, look
from pytest_h20.run.settings import Session
from pytest_h20.run.store import CLUSTER, HANG


def look_once(session: Session, label: str, waited_for: str, seconds: float, more: str = "") -> Hang | None:
    """What every rank does; None where no process of the engine is known (attached by its address alone). The second who asks in a run
    gets what the first has seen. ``seconds``: for which it hangs, model time. ``more``: further evidence."""
    state = session.shared.value(CLUSTER(label))
    if state is None or not state.roles:
        return None
    profile = session.target(label).profile
    engine = HungEngine(state.roles, state.node_dirs, state.versions.nccl, profile.env, False, profile.stack_signal or "")
    nodes = {name: session.nodes[name] for name in state.role_nodes() if name in session.nodes}

    def make() -> Hang:
        return look(nodes, engine, session.folder, waited_for, seconds, scale=session.clock.scale, more=more)

    return session.shared.once(HANG(label), make)
