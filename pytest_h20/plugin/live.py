"""The hooks of a run that asked for a cluster. Thin: every decision is taken in modules that do not know pytest."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_h20 import lang
from pytest_h20.checks.frame import Say
from pytest_h20.cluster.bringup import new_run_id
from pytest_h20.cluster.shared import FailedElsewhere
from pytest_h20.config.inventory import Inventory, with_limits
from pytest_h20.core import door
from pytest_h20.core.errors import H20Error, StorageError, UsageError
from pytest_h20.core.setting import Setting
from pytest_h20.core.verdict import ON_REQUEST, Decision, GateName, Status, Verdict
from pytest_h20.lang import local
from pytest_h20.plugin.outcome import not_measured, unreported
from pytest_h20.plugin.record import VERDICTS_KEY, Reporting, first_line, gate_of, report_hook, told_plainly
from pytest_h20.plugin.suite import ACCEPTANCE, LEFT_OUT_KEY, asked_for, lacking
from pytest_h20.report.model import Mode
from pytest_h20.report.run import RunFolder
from pytest_h20.run.attached_server import Served, ask_served, owner_of, refuse_another_engine
from pytest_h20.run.settings import Session, Settings, build, create_run, redactor_of, with_run
from pytest_h20.run.store import CLUSTER, HOOK_CHECKS, SELECTED

if TYPE_CHECKING:
    from pytest_h20.cluster.state import ClusterState
    from pytest_h20.plugin.replay import ReplayPlugin
    from pytest_h20.report.live.serve import Page


def activate(config: pytest.Config, resolved: Mapping[str, Setting]) -> ActivePlugin | ReplayPlugin:
    """Resolve everything, make the run folder, register the hooks. Wrong input is a ``pytest.UsageError``: exit status 4."""
    workerinput = getattr(config, "workerinput", None)
    lang.use(resolved["h20_lang"].value)
    page = None
    try:
        settings = Settings.of(resolved)
        if settings.replay and settings.serve is not None:
            raise UsageError(
                f"--h20-serve={settings.serve}: a replay measures nothing that could be followed; to look at the run itself: "
                f"python -m pytest_h20 watch {settings.replay} --serve {settings.serve}"
            )
        if settings.replay and workerinput is None:
            return _register(config, _replay(config, settings))
        state = Path(workerinput["h20_run"]) if workerinput else None
        run_id = workerinput["h20_run_id"] if workerinput else new_run_id()
        collect_only = bool(config.option.collectonly)
        base = Path(settings.run_dir)
        if not base.is_absolute():
            base = config.invocation_params.dir / base
        worker = workerinput["workerid"] if workerinput else ""
        served = Served(**workerinput["h20_served"]) if workerinput and workerinput["h20_served"] else None
        if workerinput is None and not collect_only and settings.attach and not settings.nodes:
            served = ask_served(settings.attach)
        session = build(settings, worker, change=inventory_hooks(config), state_dir=state, served=served)
        door.use(redactor_of(session.inventory))
        if workerinput is None and not collect_only:
            _refuse_another_engine(session, served)
        _refuse_two_engines_side_by_side(config, session)
        _refuse_drills_side_by_side(config, session)
        if state is not None:
            session = with_run(session, RunFolder.open(state, worker, redactor=redactor_of(session.inventory)), run_id)
        elif not collect_only:
            page = _page(settings.serve)
            line = "pytest " + shlex.join(config.invocation_params.args)
            run = create_run(session, base, line)
            session = with_run(session, run, run_id)
            if session.rehearsal is not None:
                session.rehearsal.use(run.path / ".rehearsal")
            if page is not None:
                page.start(run.path)
        if state is not None and session.rehearsal is not None:
            session.rehearsal.use(state / ".rehearsal")
    except H20Error as error:
        if page is not None:
            page.close()
        raise pytest.UsageError(local(door.shown(str(error)))) from None
    return _register(config, ActivePlugin(config, session, served, page))


def _page(port: int | None) -> Page | None:
    """``--h20-serve``: the port, before anything is made. Raises ``UsageError`` when it cannot be had."""
    if port is None:
        return None
    from pytest_h20.report.live.serve import Page

    return Page(port)


def _refuse_another_engine(session: Session, served: Served | None) -> None:
    """An attached server that says it is the other engine is a mistake of the command line, told before anything is made."""
    attach = session.inventory.attach
    if attach is None:
        return
    key = os.environ.get(attach.api_key_env) if attach.api_key_env else None
    owner = served.owner if served is not None else owner_of(attach.url, {"Authorization": f"Bearer {key}"} if key else {})
    refuse_another_engine(owner, session.targets[0].engine, attach.url)


Registered = TypeVar("Registered")


def _register(config: pytest.Config, plugin: Registered) -> Registered:
    config.pluginmanager.register(plugin, "h20-active")
    return plugin


def _replay(config: pytest.Config, settings: Settings) -> ReplayPlugin:
    from pytest_h20.plugin.replay import ReplayPlugin

    return ReplayPlugin.load(config, settings)


def inventory_hooks(config: pytest.Config) -> Callable[[Inventory], Inventory]:
    """The hooks that change the inventory; limits and redaction become part of it, so that all processes use the same."""

    def change(inventory: Inventory) -> Inventory:
        for changed in config.hook.pytest_h20_inventory(inventory=inventory):
            inventory = changed if changed is not None else inventory
        patterns = tuple(p for more in config.hook.pytest_h20_redact() for p in more or ())
        inventory = inventory.model_copy(update={"redact": (*inventory.redact, *patterns)})
        return with_limits(inventory, limits_of)

    def limits_of(inventory: Inventory, engine: str, profile: str) -> str | None:
        path = config.hook.pytest_h20_limits(inventory=inventory, engine=engine, profile=profile)
        return None if path is None else str(config.rootpath / path)

    return change


def broken_hook(label: str, error: Exception) -> Verdict:
    """Checks that could not be made are not green."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    why = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    say = Say("bringup.pytest_h20_checks", "The checks of pytest_h20_checks could be made", label)
    return say.unknown(why, "mend the hook in your conftest.py or plugin")


def _refuse_two_engines_side_by_side(config: pytest.Config, session: Session) -> None:
    """Two engines do not fit on the GPUs at once, and xdist's workers would ask for both."""
    if len(session.targets) > 1 and config.getoption("dist", "no") != "no":
        raise UsageError(
            f"--engine is given {len(session.targets)} times ({', '.join(session.labels)}) together with -n: engines are brought "
            "up one after the other, and parallel workers would need both at once; leave -n out, or run pytest once per engine"
        )


def _refuse_drills_side_by_side(config: pytest.Config, session: Session) -> None:
    """A drill breaks the engine that another worker measures."""
    if GateName.DRILL in session.required and config.getoption("dist", "no") != "no":
        raise UsageError(f"--h20-drill={session.settings.drill[0]}: breaks the engine for every worker; leave -n out")


class ActivePlugin:
    """State and hooks of one process of the run."""

    def __init__(self, config: pytest.Config, session: Session, served: Served | None = None, page: Page | None = None) -> None:
        self.config = config
        self.page = page
        self.served = served
        self.session = session
        self.controller = not hasattr(config, "workerinput")
        self.given_way: dict[str, str] = {}
        title = f"Acceptance of {session.inventory.name}"
        self.reporting = Reporting(config, session.run, self.controller, title)
        config.pluginmanager.register(self.reporting, "h20-reporting")
        self._take_suite()
        ends = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if self.controller else (signal.SIGTERM, signal.SIGHUP)
        clean_up = f"python -m pytest_h20 reap --nodes {session.place}" + (f" --run {session.run_id}" if session.run_id else "")
        self.signals = Signals(clean_up, ends)
        self.before_down = contextlib.ExitStack()
        """What a fixture keeps going on the nodes. After Ctrl-C pytest tears session fixtures down after our tear-down: what still ran
        then could not be ended by it, for it was started again."""

    def _take_suite(self) -> None:
        """Without a path on the command line the acceptance suite is what runs."""
        if self.config.args_source is not pytest.Config.ArgsSource.ARGS:
            self.config.args = [str(ACCEPTANCE)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """By now every plugin is there: the short names of our fixtures that nobody else has."""
        from pytest_h20.plugin import fixtures, short_names

        manager, withheld = self.config.pluginmanager, set()
        for name, plugin in manager.list_name_plugin():
            if plugin is None or plugin is fixtures:
                continue
            conftest = name.endswith("conftest.py")
            for short in short_names.defined_by(plugin):
                self.given_way[short] = _relative(Path(name), self.config.invocation_params.dir) if conftest else f"plugin {name}"
                withheld |= set() if conftest else {short}
        manager.register(short_names.plugin_of(name for name in short_names.SCOPES if name not in withheld), "h20-short-names")

    # ------------------------------------------------------------------ header
    def pytest_report_header(self) -> list[str]:
        """Every effective setting and where it came from."""
        return [local(line) for line in self._header()]

    def _header(self) -> list[str]:
        s = self.session
        kept = s.mode is Mode.FULL and s.settings.keep
        lines = ["h20: full run: checks, starts and tests the engine on the machines, and leaves it up" if kept else f"h20: {s.mode.words}"]
        nodes = ", ".join(f"{n.name} ({n.address})" for n in s.inventory.nodes)
        lines.append(f"h20: inventory {s.source} ({s.settings.origins.get('nodes', 'default')}): {s.inventory.name}: {nodes}")
        for label, target in zip(s.labels, s.targets, strict=True):
            lines.append(f"h20: engine {label}: profile {target.profile_name}, image {target.profile.image}")
        if s.inventory.stood_in:
            lines.append(f"h20: stood in: {', '.join(s.inventory.stood_in)}; this run cannot be an acceptance")
        if s.clock.scale != 1.0:
            lines.append(f"h20: time runs {s.clock.scale:g} times as fast as in reality; figures are in model time")
        ssh = [n for n in s.inventory.nodes if n.transport == "ssh" and s.rehearsal is None]
        unchecked = [n.name for n in ssh if s.inventory.ssh_of(n).host_key_checking == "off"]
        lines += [f"h20: WARNING: the host key of {name} is not checked (host_key_checking: off)" for name in unchecked]
        given = [each for each in s.settings.given() if each[0] not in ("h20-nodes", "h20-engine")]
        lines += [f"h20: {name} = {text} (from {origin})" for name, text, origin in given]
        given_way = ", ".join(f"{short} (of {owner}; ours is h20_{short})" for short, owner in sorted(self.given_way.items()))
        if given_way:
            lines.append(f"h20: these fixtures are not ours: {given_way}")
        if self.page is not None:
            lines.append(f"h20: to be seen while it goes on: {self.page.url} (this machine, this user; it ends with the run)")
        if s.run is not None:
            lines.append(f"h20: run folder {_relative(s.run.path, self.config.invocation_params.dir)}")
        return lines

    # ------------------------------------------------------------------ collection
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """The tests of a gate that nobody asked for are not there at all."""
        unasked = [ACCEPTANCE / f"test_{gate.value}.py" for gate in ON_REQUEST if gate not in self.session.required]
        return True if collection_path in unasked else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per engine, node, rail and cell, where a test asks for it."""
        from pytest_h20.plugin.parametrize import parameters

        if len(self.session.targets) > 1 and "h20_engine" in metafunc.fixturenames:
            labels = list(self.session.labels)
            metafunc.parametrize("h20_engine", labels, indirect=True, scope="session", ids=labels)
        if metafunc.definition.get_closest_marker("h20_gate") is None:
            return
        marks = metafunc.definition.iter_markers("parametrize")
        taken = {name.strip() for mark in marks for name in str(mark.args[0]).split(",")}
        wanted = [name for name in metafunc.fixturenames if name not in taken]
        for name, values, ids in parameters(self.session, wanted):
            if not values:  # in our words: pytest's own for this are about parameter sets
                reason = f"the inventory names no {name} on {', '.join(n.name for n in self.session.inventory.nodes)}"
                values, ids = [pytest.param(None, marks=pytest.mark.skip(reason=reason))], [f"no-{name}"]
            metafunc.parametrize(name, values, ids=ids)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The suite in the order of its gates: cheap and telling first, the load last. Gates left out say why."""
        from pytest_h20.plugin.parametrize import belongs

        absent = [
            item
            for item in items
            if not asked_for(gate_of(item), self.session)
            or not belongs(self.session, getattr(getattr(item, "callspec", None), "params", {}))
        ]
        if absent:
            self.config.hook.pytest_deselected(items=absent)
            items[:] = [item for item in items if item not in absent]
        if self.config.pluginmanager.hasplugin("timeout"):
            for item in items:
                if kept := timeout_for(item.get_closest_marker("timeout"), getattr(item, "fixturenames", ())):
                    item.add_marker(pytest.mark.timeout(**kept))
        for item in items if self.session.left_out else ():
            reason = self.session.left_out.get(GateName(gate)) if (gate := gate_of(item)) else None
            if reason:
                item.stash[LEFT_OUT_KEY] = True
                item.add_marker(pytest.mark.skip(reason=reason))
        order = {name.value: index for index, name in enumerate(GateName)}

        def key(item: pytest.Item) -> tuple[int, int]:
            params = getattr(getattr(item, "callspec", None), "params", {})
            engine = params.get("h20_engine")
            return (
                self.session.labels.index(engine) if engine in self.session.labels else 0,
                order.get(gate_of(item) or "", -1),
            )

        if any(gate_of(i) for i in items):
            items.sort(key=key)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What is going to run, told to the controller by whoever collects first: what does not report in the end is missing."""
        if self.session.run is not None:
            selected = [(item.nodeid, gate) for item in session.items if (gate := gate_of(item)) is not None]
            self.session.shared.once(SELECTED, lambda: selected)

    # ------------------------------------------------------------------ running
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """One failed bring-up is told once: whoever needs the cluster after that is skipped with its reason."""
        item.stash[VERDICTS_KEY] = []
        if "h20_cluster" not in getattr(item, "fixturenames", ()) or self.session.run is None:
            return
        label = self._label_of(item)
        known = self.session.shared.published(CLUSTER(label))
        if known is not None and known.failed is not None:
            pytest.skip(f"the cluster is not up (told once by the first test that needed it): {first_line(known.failed)}")
        from pytest_h20.run.bringup import died

        if known is not None and (gone := died(self.session, label)) is not None:
            pytest.skip(f"the engine was gone by then (told once by the test in which it ended): {gone}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """A measurement is alone on the endpoint; everything else that talks to it may go on side by side."""
        try:
            return (yield from self._called(item))
        except (Exception, pytest.fail.Exception) as error:
            self._post_mortem(item, error)
            raise

    def _post_mortem(self, item: pytest.Item, error: BaseException) -> None:
        """A test of the cluster failed: when that is because the engine ended, say which rank, where and why, beside what the test says."""
        from pytest_h20.run.bringup import post_mortem

        if self.session.run is not None and "h20_cluster" in getattr(item, "fixturenames", ()) and gate_of(item) is not None:
            verdict = post_mortem(self.session, self._label_of(item))
            if verdict is not None:
                item.stash[VERDICTS_KEY].append(verdict)
                if isinstance(error, pytest.fail.Exception):
                    error.msg = f"{verdict.text()}\n{error.msg}"
            elif any(v.details.get("unanswered") for v in item.stash[VERDICTS_KEY]):
                self._look_into_hang(self._label_of(item), error)

    def _look_into_hang(self, label: str, error: BaseException) -> None:
        """A request got no answer and the engine lives: what its ranks do is looked at once, and told beside what the test says."""
        from pytest_h20.run.hang import look_once

        try:
            hang = look_once(self.session, label, "a request got no answer", self.session.inventory.endpoint.deadline)
        except (H20Error, OSError) as failed:
            self.session.folder.event("note", text=f"a hang could not be looked into: {failed}")
            return
        if hang is not None and isinstance(error, pytest.fail.Exception):
            error.msg = f"{error.msg}\n  meanwhile: {hang.sentence}"

    def _label_of(self, item: pytest.Item) -> str:
        label: str = getattr(getattr(item, "callspec", None), "params", {}).get("h20_engine", self.session.labels[0])
        return label

    def _called(self, item: pytest.Item) -> Generator[None, object, object]:
        names = set(getattr(item, "fixturenames", ()))
        if self.session.run is None or not names & {"h20_alone", "h20_cluster"}:
            return (yield from _told_plainly(item))
        shared = self.session.shared
        with shared.exclusive("traffic") if names & {"h20_load", "h20_alone"} else shared.together("traffic"):
            return (yield from _told_plainly(item))

    def checks_of_hooks(self, label: str, state: ClusterState) -> None:
        """The checks of other repositories, made once per engine by whoever needs the cluster first."""

        def make() -> bool:
            calls = self.config.hook.pytest_h20_checks
            for verdicts in calls(inventory=self.session.inventory, state=state):
                for verdict in verdicts or ():
                    self.session.folder.record(verdict, "pytest_h20_checks")
            return True

        try:
            self.session.shared.once(HOOK_CHECKS(label), make)
        except FailedElsewhere:
            pass  # told by the test in which it broke
        except Exception as error:
            self.session.folder.record(broken_hook(label, error), "pytest_h20_checks")

    # ------------------------------------------------------------------ xdist
    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where the run folder is."""
        node.workerinput["h20_run"] = str(self.session.folder.path)
        node.workerinput["h20_run_id"] = self.session.run_id
        node.workerinput["h20_served"] = self.served.plain() if self.served is not None else None

    # ------------------------------------------------------------------ the end
    def _stop_watching(self) -> None:
        """Whatever happens here, the tear-down goes on: a disk that is full, a node that is gone are told by it."""
        with contextlib.suppress(OSError, H20Error):
            self.before_down.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Take the cluster down, decide, write the documents, and never let "nothing measured" end in status 0."""
        from pytest_h20.run.bringup import look_away, take_down
        from pytest_h20.run.facts import untold
        from pytest_h20.run.finish import finish
        from pytest_h20.run.machines import last_look

        if self.session.run is None:
            return
        if not self.controller:
            self._stop_watching()
            for label in self.session.labels:
                look_away(self.session, label)
            self.session.close()
            return
        self.signals.ending = True
        self._stop_watching()
        write = self.line_writer()
        told = [v for o in self.reporting.outcomes for v in o.verdicts]
        ended = self._ended_early(session, exitstatus)
        verdicts = [*untold(self.session, told), *last_look(self.session, self.reporting.spans, bool(ended))]
        verdicts += take_down(self.session, write)
        try:
            for verdict in verdicts:
                self.session.run.record(verdict, "session::tear-down")
            for verdict in self._half_told():
                self.session.run.record(verdict, "session::end")
            without = lacking(self.session, [(o.place, o.test_id) for o in self.reporting.outcomes if o.place])
            decision = finish(self.session, self.reporting.gates, ended, without)
        except OSError as error:
            self.reporting.finished = True
            self.session.close()
            left = "; ".join(v.reason for v in verdicts if v.check == "bringup.nothing_left" and v.status is not Status.PASS)
            why = str(error) if isinstance(error, StorageError) else f"{self.session.run.path} cannot be written: {error.strerror or error}"
            last = f"h20: {why}; nothing is decided. " + (f"The tear-down says: {left}" if left else "What was started was taken down")
            pytest.exit(local(last), returncode=pytest.ExitCode.TESTS_FAILED)
        self.session.close()
        self.reporting.finished = True
        self.reporting.tell_junit()
        self.reporting.tell_terminal()
        self._close_page()
        if exitstatus in (0, 5) and self._status_0_would_lie(decision):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        report_hook(self.config, self.session.run.path, decision)

    def _unreported(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Tests that were collected, and those of them that did not report: ids and gates."""
        selected = [(str(nodeid), str(gate)) for nodeid, gate in self.session.shared.value(SELECTED) or ()]
        # what is published has no secrets, and a parameter may have put one into a test's id
        told = Counter((door.shown_data(o.test_id), o.gate or "") for o in self.reporting.outcomes)
        return selected, list((Counter(selected) - told).elements())

    def _half_told(self) -> list[Verdict]:
        """Gates with verdicts of which tests did not report: a run that ended in the bring-up has torn down what it had not brought up."""
        assert self.session.run is not None
        selected, missing = self._unreported()
        known = {verdict.gate.value for verdict in self.session.run.view().verdicts}
        of = Counter(gate for _, gate in selected)
        return [unreported(gate, ids, of[gate]) for gate in of if gate in known and (ids := [nodeid for nodeid, g in missing if g == gate])]

    def _ended_early(self, session: pytest.Session, exitstatus: int) -> str:
        """Why this run is not finished; empty when everything that was collected has reported."""
        selected, missing = self._unreported()
        reasons = []
        if exitstatus not in (0, 1, 5):
            reasons.append("interrupted")
        if stopped := session.shouldfail or session.shouldstop:
            reasons.append(f"stopped early: {stopped}" if isinstance(stopped, str) else "stopped early")
        if self.reporting.lost:
            reasons.append(f"a worker was lost while it ran {self.reporting.lost[0]}")
        if missing:
            reasons.append(f"{len(missing)} of {len(selected)} tests did not report, the first is {missing[0][0]}")
        return "; ".join(reasons)

    def _status_0_would_lie(self, decision: Decision) -> bool:
        """A gate that does not hold, a verdict of a hook or of the tear-down that is red, or nothing that passed at all."""
        red = any(gate.counts.get(status.value) for gate in decision.gates for status in Status if status.blocks)
        passed = any(outcome.outcome == "passed" for outcome in self.reporting.outcomes)
        return red or not passed or (bool(self.reporting.gates) and not decision.green)

    def pytest_unconfigure(self) -> None:
        """Connections do not outlive the run; a session that never finished is taken down here."""
        if self.controller and self.session.run is not None and not self.reporting.finished:
            from pytest_h20.run.bringup import take_down

            take_down(self.session, lambda _: None)
        self.session.close()
        self._close_page()
        self.signals.restore()

    def _close_page(self) -> None:
        if self.page is not None:
            self.page.close()

    # ------------------------------------------------------------------ output
    def line_writer(self) -> Callable[[str], None]:
        """A function that prints to the terminal although pytest captures output."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        reporter = self.config.pluginmanager.getplugin("terminalreporter")

        def write(text: str) -> None:
            with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
                if reporter is not None:  # none in a worker; its line with the dots of this file ends here
                    reporter.ensure_newline()
                    if reporter._tw.width_of_current_line:  # a dot alone, after a line of ours
                        reporter._tw.line()
                    reporter.flush()
                out = door.Out(sys.stderr)
                out.write(local(text))
                out.flush()

        return write


def _told_plainly(item: pytest.Item) -> Generator[None, object, object]:
    """An error of ours in a test of a gate is a check that could not be made, in words: a traceback would only hide them."""
    try:
        return (yield)
    except H20Error as error:
        gate = gate_of(item)
        if gate is None:
            raise
        raise told_plainly(error, not_measured(item.nodeid, gate, error)) from None


def timeout_for(own: pytest.Mark | None, fixtures: Iterable[str]) -> dict[str, Any]:
    """pytest-timeout's limit of every test would cut the bring-up, which has its own; and its method ``thread`` ends the process, so that
    nobody takes the cluster down. ``own``: what a test says of itself, which holds."""
    if own is not None:
        return {}
    return {"method": "signal", **({"func_only": True} if any(name.startswith("h20_") for name in fixtures) else {})}


def _relative(path: Path, start: Path) -> str:
    text = os.path.relpath(path, start)
    return text if not text.startswith("../..") else str(path)


class Signals:
    """The first SIGINT, SIGTERM or SIGHUP ends the run, so that the cluster is taken down; every later one only says what goes on.

    CI ends a job with SIGTERM and often with a second one, a closed terminal with SIGHUP: a tear-down that is broken off would leave
    containers. What the embedding program ignores (``nohup``) stays ignored.
    """

    def __init__(self, clean_up: str, numbers: Sequence[int]) -> None:
        self.clean_up = clean_up
        self.ending = False
        self._before: dict[int, Any] = {}
        for number in numbers:
            try:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._come)
            except ValueError:  # not the main thread: embedded use; the embedding program owns the signals
                return

    def _come(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if not self.ending:
            self.ending = True
            raise KeyboardInterrupt(name)
        text = f"\nh20: {name}: the run is ending already and takes down what it started; if it is killed: {self.clean_up}\n"
        with contextlib.suppress(OSError):
            os.write(2, local(text).encode())

    def restore(self) -> None:
        """As it was before."""
        for number, before in self._before.items():
            if before is not None:
                signal.signal(number, before)
        self._before = {}
