"""What a run shows: verdicts written down as they come, the terminal's last lines, the HTML's first screen, GitHub's marks."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from pytest_h20 import lang
from pytest_h20.core import door
from pytest_h20.core.errors import H20Error, StorageError
from pytest_h20.core.verdict import Decision, GateName, Verdict
from pytest_h20.lang import local
from pytest_h20.plugin.outcome import Outcome, outcome_of
from pytest_h20.plugin.suite import place_of, said_by_us
from pytest_h20.report.model import SetupError
from pytest_h20.report.run import RunFolder

_TEST_ID = '<td class="col-testId">'
VERDICTS_KEY: pytest.StashKey[list[Verdict]] = pytest.StashKey()
BEGAN_KEY: pytest.StashKey[float] = pytest.StashKey()


class Reporting:
    """Registered as a plugin in every process of the run; writes on the controller only."""

    def __init__(self, config: pytest.Config, run: RunFolder | None, controller: bool, title: str) -> None:
        self.config = config
        self.run = run
        self.controller = controller
        self.title = title
        self.outcomes: list[Outcome] = []
        self.lost: list[str] = []
        self.finished = False
        self._live: list[tuple[Any, str, Any]] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hang the verdicts of a test on its report, so that they travel from any worker to the controller."""
        report = yield
        leave_by_the_door(report)
        now = time.monotonic()
        if call.when == "setup":
            item.stash[BEGAN_KEY] = now - call.duration
        if report.when != "call" and not (report.when == "setup" and not report.passed):
            return report
        verdicts = [*item.stash.get(VERDICTS_KEY, []), *_carried(call)]
        asserted = call.excinfo is not None and isinstance(call.excinfo.value, (AssertionError, pytest.fail.Exception))
        outcome = outcome_of(
            report.nodeid, report.when, report.outcome, _reason(report), gate_of(item), verdicts, report.duration, asserted
        )
        outcome = replace(outcome, span=(item.stash.get(BEGAN_KEY, now - call.duration), now))
        if said_by_us(item, report, len(verdicts)):
            outcome = replace(outcome, place=place_of(item))
        # attributes of ours on a class of pytest's; xdist carries whatever is JSON-safe
        report.__dict__["h20"] = outcome.to_dict()
        if self.run is not None:
            from pytest_h20.report.junit import case_properties

            # the XML takes them from the report of the tear-down, which is made from the item, on whichever worker
            item.user_properties += [(name, self.run.clean(value)) for name, value in case_properties(outcome.verdicts)]
        if outcome.setup_error is not None and self.run is not None and self.config.pluginmanager.hasplugin("html"):
            from pytest_h20.report.html.rows import setup_failure_extras

            # pytest-html drops its own extras when a set-up fails
            mine = setup_failure_extras(outcome.setup_error, self.run.view().logs)
            report.__dict__["extras"] = [*getattr(report, "extras", []), *mine]
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """What a module of tests says when it cannot be read."""
        report = yield
        leave_by_the_door(report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """The terminal behind the door, for everybody who writes to it through pytest."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        writer = getattr(terminal, "_tw", None)
        if writer is not None and not isinstance(writer._file, door.Out):
            writer._file = door.Out(writer._file)
        self._take_live_streams()

    def _take_live_streams(self) -> None:
        """What a test prints is seen at once with ``-s``, and beside being captured with ``--capture=tee-sys``."""
        capture = self.config.getoption("capture", "fd")
        places: list[tuple[Any, str]] = [(sys, "stdout"), (sys, "stderr")] if capture == "no" else []
        if capture == "tee-sys":
            captured = self.config.pluginmanager.getplugin("capturemanager")._global_capturing
            places = [(one.tmpfile, "_other") for one in (captured.out, captured.err)]
        for owner, name in places:
            stream = getattr(owner, name)
            if not isinstance(stream, door.Out):
                self._live.append((owner, name, stream))
                setattr(owner, name, door.Live(stream))

    def pytest_unconfigure(self) -> None:
        """The streams are as they were."""
        for owner, name, stream in self._live:
            getattr(owner, name).flush()
            setattr(owner, name, stream)
        self._live.clear()

    @pytest.hookimpl(optionalhook=True)
    def pytest_metadata(self, metadata: dict[str, Any]) -> None:
        """What a CI tells of itself (pytest-metadata), for page and JUnit."""
        metadata.update(door.shown_data(metadata))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """On the controller: write the verdicts down as they come."""
        data = getattr(report, "h20", None)
        if not self.controller or self.run is None:
            return
        if data is None:
            if report.failed and report.when not in ("setup", "call", "teardown"):  # xdist's word for a worker that was lost
                self.lost.append(report.nodeid)
            elif report.failed and report.when == "teardown":  # pytest ends with 1: the record must not be green
                text = _reason(report)[-20000:]
                self.run.add(SetupError(test_id=report.nodeid, title="its tear-down broke", words="test failed", text=text))
            return
        outcome = Outcome.from_dict(data)
        self.outcomes.append(outcome)
        try:
            for verdict in outcome.verdicts:
                self.run.record(verdict, outcome.test_id, outcome.duration_s)
            if outcome.setup_error is not None:
                self.run.add(outcome.setup_error)
        except StorageError as error:  # nothing that is measured from here on could be kept
            pytest.exit(f"h20: {error}", returncode=pytest.ExitCode.TESTS_FAILED)

    @property
    def gates(self) -> set[str]:
        """The gates of which at least one test was reported."""
        return {o.gate for o in self.outcomes if o.gate}

    @property
    def spans(self) -> dict[GateName, list[tuple[float, float]]]:
        """When the tests of each gate ran, in the order of the gates; of the bring-up also when it was only their set-up."""
        found: defaultdict[GateName, list[tuple[float, float]]] = defaultdict(list)
        for outcome in self.outcomes:
            ran = outcome.when == "call" and outcome.outcome != "skipped"
            if outcome.gate and (ran or (outcome.when == "setup" and outcome.outcome == "failed")):
                found[GateName(outcome.gate)].append(outcome.span)
        return {gate: found[gate] for gate in GateName if gate in found}

    def tell_junit(self) -> None:
        """The decision as properties of the suite. Called when it has been taken, and before the XML is written."""
        from _pytest.junitxml import xml_key

        from pytest_h20.report.junit import suite_properties

        xml = self.config.stash.get(xml_key, None)  # what record_testsuite_property writes to; there is no public way from a hook
        if xml is not None and self.run is not None:
            for name, value in suite_properties(self.run.view()):
                xml.add_global_property(name, value)

    def tell_terminal(self) -> None:
        """What pytest repeats of failed and skipped tests, in the reader's language. Called before it does."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if lang.spoken() == "en" or terminal is None:
            return
        for kind in ("failed", "error", "skipped"):
            if reports := terminal.stats.get(kind):
                terminal.stats[kind] = [in_their_language(r) if isinstance(r, pytest.TestReport) else r for r in reports]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """One line per gate, worst first, and the path of the report last."""
        if self.run is None or not self.controller or not self.finished:
            return
        from pytest_h20.report.github import error_commands, write_step_summary
        from pytest_h20.report.terminal import terminal_lines

        view = self.run.view()
        terminalreporter.section(local("h20 acceptance"))
        for line in terminal_lines(view, str(getattr(self.config.option, "htmlpath", None) or "")):
            terminalreporter.write_line(door.shown(line.text), **line.markup)
        if write_step_summary(view):
            out = door.Out(terminalreporter._tw._file)
            for text in error_commands(view):
                getattr(terminalreporter._tw._file, "raw", out.raw)(f"{text}\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        """The title of the HTML report."""
        if self.run is None or not self.finished:
            report.title = local(self.title)
            return
        from pytest_h20.report.html.page import title

        report.title = local(title(self.run.view()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str], summary: list[str], postfix: list[str]) -> None:
        """The first screen: accepted or not, why, on what; then gates, charts, rails, timeline."""
        if self.run is None:
            return
        from pytest_h20.report.html.page import summary_html

        prefix.append(summary_html(self.run.view()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Columns for what was measured and what was wanted."""
        from pytest_h20.report.html.rows import COLUMN_AT, header_cells

        cells[COLUMN_AT:COLUMN_AT] = header_cells()

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        """What a test of ours says, below its row; pytest-html escaped it."""
        if getattr(report, "h20", None) is not None and data and report.longreprtext:
            data[0] = escape(local(_reason(report))) + "\n"

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """The measurement of a test and its limit, in its row."""
        from pytest_h20.report.html.rows import COLUMN_AT, row_cells

        for at, cell in enumerate(cells):
            if cell.startswith(_TEST_ID) and cell.endswith("</td>"):  # pytest-html puts it there as it is
                cells[at] = f"{_TEST_ID}{escape(door.shown(cell[len(_TEST_ID) : -len('</td>')]))}</td>"
        data = getattr(report, "h20", None)
        cells[COLUMN_AT:COLUMN_AT] = row_cells(Outcome.from_dict(data).verdicts if data else ())


def leave_by_the_door(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Everything that a report carries to terminal, JUnit, page and, from a worker, to the controller."""
    report.longrepr = _said(report.longrepr, door.shown)
    report.sections = [(door.shown(name), door.shown(text)) for name, text in report.sections]
    if isinstance(report, pytest.TestReport):
        report.user_properties = [(name, _said(door.shown_data({name: value})[name], door.shown)) for name, value in report.user_properties]


def _said(value: Any, say: Callable[[str], str]) -> Any:
    """pytest's representation of a failure, its texts in other words. Lines stay together: a key has several."""
    if isinstance(value, str):
        return say(value)
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return say("\n".join(value)).split("\n")
    if isinstance(value, (list, tuple)):
        return type(value)(_said(member, say) for member in value)
    if type(value).__module__.startswith("_pytest.") and not isinstance(value, type):
        for name, member in list(getattr(value, "__dict__", {}).items()):
            value.__dict__[name] = _said(member, say)
    return value


def in_their_language(report: pytest.TestReport) -> pytest.TestReport:
    """A report of a test of ours as the reader of the terminal reads it; JUnit and the record have the one it was made from. A
    traceback is pytest's and stays."""
    lines = getattr(report.longrepr, "reprtraceback", None)
    ours = isinstance(report.longrepr, (str, tuple)) or (lines is not None and lines.style == "value")
    if getattr(report, "h20", None) is None or not ours:
        return report
    read = copy(report)
    if isinstance(report.longrepr, tuple):
        path, line, _ = report.longrepr
        read.longrepr = (path, line, f"Skipped: {local(_reason(report))}")
    else:
        read.longrepr = _said(deepcopy(report.longrepr), _told)
    return read


def _told(text: str) -> str:
    """A failure's text in the reader's language, but for the ends of logs below it: only their headings are ours."""
    ours, mark, logs = text.partition("\n--- ")
    return local(ours) + "".join(f"\n{local(line) if line.startswith('--- ') else line}" for line in f"{mark}{logs}".split("\n")[1:])


def gate_of(item: pytest.Item) -> str | None:
    """The gate a test counts for, from its ``h20_gate`` marker."""
    marker = item.get_closest_marker("h20_gate")
    if marker is None:
        return None
    name = marker.args[0] if marker.args else marker.kwargs.get("name")
    if name not in [g.value for g in GateName]:
        text = f'{item.nodeid}: h20_gate({name!r}): gates are {", ".join(g.value for g in GateName)}; write h20_gate("endpoint")'
        raise pytest.UsageError(local(text))
    return str(name)


def report_hook(config: pytest.Config, run_dir: Path, decision: Decision) -> None:
    """Call ``pytest_h20_report``. The run is decided and written by now: an upload that breaks is said, and changes nothing."""
    try:
        config.hook.pytest_h20_report(run_dir=str(run_dir), decision=decision.reason, accepted=decision.accepted)
    except Exception as error:
        text = door.shown(f"\nh20: WARNING: pytest_h20_report broke: {type(error).__name__}: {error}")
        config.get_terminal_writer().line(text, yellow=True)


def first_line(text: str) -> str:
    """The first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def told_plainly(error: H20Error, *verdicts: Verdict) -> BaseException:
    """The failure of a test or fixture that an error of ours ended: its words without a traceback, and its verdicts (`_carried`)."""
    broken = pytest.fail.Exception(str(error), pytrace=False)
    broken.h20_verdicts = verdicts  # type: ignore[attr-defined]
    return broken


def _carried(call: pytest.CallInfo[None]) -> Sequence[Verdict]:
    """Verdicts that an exception of ours carries (the bring-up's failure)."""
    value = call.excinfo.value if call.excinfo is not None else None
    found = getattr(value, "h20_verdicts", ())
    return tuple(v for v in found if isinstance(v, Verdict))


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return "" if report.longrepr is None else str(report.longrepr)
