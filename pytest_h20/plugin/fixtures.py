"""The fixtures of the plugin, for the acceptance suite and for tests of other repositories.

All but ``h20_judge`` and ``h20_alone`` are session-scoped: the cluster is brought up once, by whichever test needs it first, in
whichever xdist worker, and taken down by the controller.

Each has a short name, too (``client`` for ``h20_client``; `pytest_h20.plugin.short_names`), in a run that asked for a cluster.

=================  ===============================================================================================
``h20_inventory``  the :class:`~pytest_h20.config.inventory.Inventory`
``h20_engine``     label of the engine under test (``sglang``); with two engines every test that uses it runs for each
``h20_target``     the :class:`~pytest_h20.cluster.launch.Target`: engine, profile, nodes
``h20_nodes``      name → :class:`~pytest_h20.nodes.Node`, connected on first use
``h20_run``        the run folder (:class:`~pytest_h20.report.run.RunFolder`): ``run.evidence(name, data)``
``h20_facts``      what the probes found on all nodes, gathered once
``h20_weights``    what judges the model's folders on all nodes (:class:`~pytest_h20.checks.weights.judge.WeightsJudge`)
``h20_burn``       what judges the burn of all GPUs (:class:`~pytest_h20.checks.compute.judge.Judge`), burned once
``h20_wires``      what loads the rails before the engine starts (:class:`~pytest_h20.run.wires.Wires`)
``h20_cluster``    the :class:`~pytest_h20.cluster.state.ClusterState` of a cluster that is up
``h20_endpoint``   the :class:`~pytest_h20.run.endpoint.Endpoint`: ``url``, ``model``, ``ctx``
``h20_client``     an ``openai.OpenAI`` client for it
``h20_nccl_logs``  the :class:`~pytest_h20.nccl.Job` judged from the logs of the serving processes
``h20_load``       the :class:`~pytest_h20.run.throughput.Load`: ``load.run(cell)``
``h20_judge``      record verdicts and let the test pass, fail or skip by the worst of them
``h20_alone``      no other test talks to the endpoint while this one runs
=================  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from pytest_h20.checks.compute.judge import BurnJudge
    from pytest_h20.checks.weights.judge import WeightsJudge
    from pytest_h20.cluster.launch import LaunchTarget
    from pytest_h20.cluster.state import ClusterState
    from pytest_h20.config.inventory import Inventory
    from pytest_h20.core.verdict import Verdict
    from pytest_h20.nccl import Job
    from pytest_h20.nodes import Node
    from pytest_h20.plugin.live import ActivePlugin
    from pytest_h20.report.run import RunFolder
    from pytest_h20.run.endpoint import Endpoint
    from pytest_h20.run.facts import GatheredFacts
    from pytest_h20.run.settings import Session
    from pytest_h20.run.throughput import Load
    from pytest_h20.run.wires import Wires

Judge = Callable[..., None]


def _active(request: pytest.FixtureRequest) -> ActivePlugin:
    plugin: ActivePlugin | None = request.config.pluginmanager.getplugin("h20-active")
    if plugin is None:
        pytest.fail(
            f"the fixture {request.fixturename!r} of pytest-h20 needs a cluster: give --nodes=INVENTORY.yaml, --nodes=rehearsal, "
            "or --h20-attach=URL",
            pytrace=False,
        )
    return plugin


def _session(request: pytest.FixtureRequest) -> Session:
    return _active(request).session


@pytest.fixture(scope="session")
def h20_inventory(request: pytest.FixtureRequest) -> Inventory:
    """The inventory of this run."""
    return _session(request).inventory


@pytest.fixture(scope="session")
def h20_engine(request: pytest.FixtureRequest) -> str:
    """Label of the engine under test. The engine before it is taken down first: even its ports would be in the way."""
    from pytest_h20.cluster.shared import FailedElsewhere
    from pytest_h20.core.errors import H20Error
    from pytest_h20.run.bringup import previous_engine_down

    plugin = _active(request)
    label: str = getattr(request, "param", None) or plugin.session.labels[0]
    if plugin.session.run is not None:
        try:
            previous_engine_down(plugin.session, label, plugin.line_writer())
        except (FailedElsewhere, H20Error) as error:
            pytest.fail(f"the engine before {label} could not be taken down: {error}", pytrace=False)
    return label


@pytest.fixture(scope="session")
def h20_target(request: pytest.FixtureRequest, h20_engine: str) -> LaunchTarget:
    """Engine, profile and nodes under test."""
    return _session(request).target(h20_engine)


@pytest.fixture(scope="session")
def h20_nodes(request: pytest.FixtureRequest) -> dict[str, Node]:
    """Every node of the inventory by name. Nothing is reached until a test runs something on one."""
    return _session(request).nodes


@pytest.fixture(scope="session")
def h20_run(request: pytest.FixtureRequest) -> RunFolder:
    """The run folder."""
    return _session(request).folder


@pytest.fixture(scope="session")
def h20_facts(request: pytest.FixtureRequest, h20_engine: str) -> GatheredFacts:
    """What the probes found on all nodes: gathered once for all tests and workers."""
    from pytest_h20.run.facts import gathered

    return gathered(_session(request), h20_engine)


@pytest.fixture(scope="session")
def h20_weights(request: pytest.FixtureRequest, h20_engine: str) -> WeightsJudge:
    """What the fast look at the weights of all nodes said, and what judges it: looked at once, before the engine starts."""
    from pytest_h20.run.weights import judge_of

    return judge_of(_session(request), h20_engine)


@pytest.fixture(scope="session")
def h20_burn(request: pytest.FixtureRequest, h20_engine: str) -> BurnJudge:
    """What the burn of all GPUs said, and what judges it: burned once for all tests and workers, before the engine starts."""
    from pytest_h20.run.burn import judge_of

    return judge_of(_session(request), h20_engine)


@pytest.fixture(scope="session")
def h20_wires(request: pytest.FixtureRequest, h20_engine: str) -> Wires:
    """What loads the rails and judges it: for a test that is alone on the nodes, before an engine starts."""
    from pytest_h20.run.wires import Wires

    return Wires(_session(request), h20_engine)


@pytest.fixture(scope="session")
def h20_cluster(request: pytest.FixtureRequest, h20_engine: str) -> ClusterState:
    """The cluster, up and proved ready. The first test that asks brings it up; a failure is told there, once."""
    from pytest_h20.cluster.shared import FailedElsewhere
    from pytest_h20.core.errors import H20Error
    from pytest_h20.run.bringup import bring_up, look_out
    from pytest_h20.run.facts import unreached_nodes

    plugin = _active(request)
    if why := unreached_nodes(plugin.session, h20_engine):
        pytest.skip(why)
    try:
        state = bring_up(plugin.session, h20_engine, plugin.line_writer(), _is_terminal(request))
    except FailedElsewhere as error:
        pytest.skip(f"the cluster is not up (told once by the first test that needed it): {str(error).splitlines()[0]}")
    except (H20Error, pytest.fail.Exception) as broken:
        from pytest_h20.checks.bringup import failed
        from pytest_h20.core.errors import BringUpError
        from pytest_h20.plugin.record import told_plainly
        from pytest_h20.run.bringup import started

        # of pytest-timeout, by a limit that the test has of its own
        cause = broken if isinstance(broken, H20Error) else BringUpError(f"cut off while it was brought up: {broken.msg}")
        raise told_plainly(cause, failed(h20_engine, cause, started(plugin.session, h20_engine))) from None
    look_out(plugin.session, h20_engine, plugin.line_writer())
    plugin.checks_of_hooks(h20_engine, state)
    return state


@pytest.fixture(scope="session")
def h20_endpoint(request: pytest.FixtureRequest, h20_engine: str, h20_cluster: ClusterState) -> Endpoint:
    """The API of the cluster that is up, as this process reaches it."""
    from pytest_h20.run.endpoint import endpoint_of

    return endpoint_of(_session(request), h20_engine, h20_cluster)


@pytest.fixture(scope="session")
def h20_client(h20_endpoint: Endpoint) -> openai.OpenAI:
    """An OpenAI client for the endpoint: what your users will use."""
    return h20_endpoint.openai()


@pytest.fixture(scope="session")
def h20_nccl_logs(request: pytest.FixtureRequest, h20_engine: str, h20_endpoint: Endpoint) -> Job:
    """The job as NCCL's own logs of the serving processes tell it, after a request has been served."""
    from pytest_h20.run.endpoint import nccl_job

    return nccl_job(_session(request), h20_engine, h20_endpoint)


@pytest.fixture(scope="session")
def h20_load(request: pytest.FixtureRequest, h20_engine: str, h20_endpoint: Endpoint) -> Iterator[Load]:
    """The load generator, aimed at the endpoint. A test that uses it is alone on the endpoint."""
    from pytest_h20.run.throughput import load_of

    plugin = _active(request)
    load = load_of(plugin.session, h20_engine, h20_endpoint, plugin.line_writer(), _is_terminal(request))
    plugin.before_down.callback(load.close)
    yield load
    load.close()


@pytest.fixture
def h20_alone() -> None:
    """No other test talks to the endpoint while a test with this fixture runs, in any worker."""


@pytest.fixture
def h20_judge(request: pytest.FixtureRequest) -> Judge:
    """Record verdicts; the test fails when one is FAIL or UNKNOWN, and is skipped when all are SKIP.

    ``judge()`` with nothing at all fails: a check that looked at nothing has proved nothing.
    """
    from pytest_h20.plugin.record import VERDICTS_KEY

    plugin: ActivePlugin | None = request.config.pluginmanager.getplugin("h20-active")
    rehearsal = plugin.session.rehearsal if plugin is not None else None
    before = rehearsal.waited() if rehearsal is not None else 0.0

    def take(*verdicts: Verdict) -> None:
        __tracebackhide__ = True
        from pytest_h20.core.verdict import Status, worst
        from pytest_h20.run.store import told_mark

        if not verdicts:
            pytest.fail("could not measure: the check returned no verdict", pytrace=False)
        verdicts = _held_by_file(request, verdicts)
        if rehearsal is not None:
            from pytest_h20.rehearsal.busy import excused

            verdicts = excused(verdicts, rehearsal.waited() - before, rehearsal.time_scale)
        request.node.stash[VERDICTS_KEY].extend(verdicts)
        if plugin is not None and plugin.session.run is not None:
            for verdict in verdicts:
                if verdict.status.blocks:
                    plugin.session.shared.mark(told_mark(verdict))
        overall = worst(v.status for v in verdicts)
        if overall.blocks:
            pytest.fail("\n".join(v.text() for v in verdicts if v.status.blocks), pytrace=False)
        if all(v.status is Status.SKIP for v in verdicts):
            pytest.skip("; ".join(dict.fromkeys(v.reason or v.title for v in verdicts)))

    return take


def _held_by_file(request: pytest.FixtureRequest, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """``checks:`` and ``skus:`` of the limits file of the engine the test is about (of each one, when it is about none)."""
    plugin: ActivePlugin | None = request.config.pluginmanager.getplugin("h20-active")
    if plugin is None:
        return verdicts
    from pytest_h20.run.facts import held_by_file

    labels = plugin.session.labels
    asked = getattr(request.node, "callspec", None)
    label = asked.params.get("h20_engine") if asked is not None else None
    for one in (label,) if label in labels else labels:
        verdicts = tuple(held_by_file(plugin.session, one, verdicts))
    return verdicts


def _is_terminal(request: pytest.FixtureRequest) -> bool:
    import os
    import sys

    reporter: Any = request.config.pluginmanager.getplugin("terminalreporter")
    return bool(reporter is not None and reporter.isatty and sys.stderr.isatty() and not os.environ.get("CI"))
