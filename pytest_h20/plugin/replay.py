"""``--h20-replay RUN_DIR``: the recorded checks as tests, judged again without hardware, by their own limits or by others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.config.limits import load_limits
from pytest_h20.core import door
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.core.redact import Redactor
from pytest_h20.core.verdict import Status, Verdict, worst
from pytest_h20.lang import local
from pytest_h20.plugin.record import VERDICTS_KEY, Reporting, report_hook
from pytest_h20.report.model import Mode, RunView, Warning_
from pytest_h20.report.run import RunFolder, load_run
from pytest_h20.run.inputs import judged_again
from pytest_h20.run.rejudge import rejudge_run, replay_cells, told
from pytest_h20.run.settings import Settings


class ReplayItem(pytest.Item):
    """One recorded test: its verdicts, judged again."""

    def __init__(self, *, verdicts: list[Verdict], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdicts = verdicts
        self.add_marker(pytest.mark.h20_gate(verdicts[0].gate.value))

    def runtest(self) -> None:
        """Pass, fail or skip by the worst verdict."""
        self.stash[VERDICTS_KEY] = list(self.verdicts)
        overall = worst(v.status for v in self.verdicts)
        if overall.blocks:
            pytest.fail("\n".join(v.text() for v in self.verdicts if v.status.blocks), pytrace=False)
        if all(v.status is Status.SKIP for v in self.verdicts):
            pytest.skip("; ".join(dict.fromkeys(v.reason or v.title for v in self.verdicts)))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """What the terminal shows for the test."""
        return self.path, None, self.name


class ReplayPlugin:
    """Collects the items and finishes the new run folder."""

    def __init__(self, config: pytest.Config, view: RunView, run: RunFolder | None, judged: Mapping[str, list[Verdict]]) -> None:
        self.config = config
        self.view = view
        self.run = run
        self.judged = judged
        self.reporting = Reporting(config, run, True, f"Replay of {view.header.run}")
        config.pluginmanager.register(self.reporting, "h20-reporting")

    @classmethod
    def load(cls, config: pytest.Config, settings: Settings) -> ReplayPlugin:
        """Read the recorded run and its limits. Raises ``UsageError`` in one line."""
        if getattr(config.option, "numprocesses", None):
            raise UsageError("--h20-replay takes a second and runs in one process: leave -n out")
        source = Path(settings.replay)
        view = load_run(source)
        limits = load_limits(Path(settings.limits)) if settings.limits else None
        grouped: dict[str, list[Verdict]] = {}
        anew = judged_again(view)
        for test_id, verdict in rejudge_run(view, limits, anew):
            grouped.setdefault(test_id or verdict.check, []).append(verdict)
        redactor = Redactor(patterns=[p for more in config.hook.pytest_h20_redact() for p in more or ()])
        door.use(redactor)
        run = None
        if not config.option.collectonly:
            base = Path(settings.run_dir)
            run = RunFolder.create(
                base if base.is_absolute() else config.invocation_params.dir / base,
                view.header.engines,
                view.header.name or "replay",
                Mode.REPLAY,
                redactor=redactor,
                nodes=view.header.nodes,
                images=view.header.images,
                driver=view.header.driver,
                model=view.header.model,
                inventory=view.header.inventory,
                required=view.header.required,
                stood_in=view.header.stood_in,
                time_scale=view.header.time_scale,
                replay_of=str(view.path),
                limits=str(settings.limits or view.header.limits),
                command_line="pytest " + shlex.join(config.invocation_params.args),
            )
            for record in (
                *(Warning_(text=f"replay: {line}") for line in anew.problems),
                *(Warning_(text=f"replay: {line}") for line in told(v for found in grouped.values() for v in found)),
                *replay_cells(view, limits),
                *(t.change for t in view.timeline),
                *view.setup_errors,
                *view.rails,
                *view.facts,
                *view.commands,
                *view.logs,
            ):
                run.add(record)
        return cls(config, view, run, grouped)

    def pytest_report_header(self) -> list[str]:
        """What is replayed."""
        return [local(line) for line in self._header()]

    def _header(self) -> list[str]:
        lines = [f"h20: {Mode.REPLAY.words}", f"h20: recorded run {self.view.path} ({self.view.header.mode.value})"]
        lines += [f"h20: {line}" for line in told(v for found in self.judged.values() for v in found)]
        if self.run is not None:
            lines.append(f"h20: run folder {self.run.path}")
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """The recorded tests instead of files."""
        session.items = list(self._items(session))
        session.testscollected = len(session.items)
        self.config.hook.pytest_collection_modifyitems(session=session, config=self.config, items=session.items)
        session.testscollected = len(session.items)
        self.config.hook.pytest_collection_finish(session=session)
        return True

    def _items(self, session: pytest.Session) -> Iterator[pytest.Item]:
        for test_id, verdicts in self.judged.items():
            yield ReplayItem.from_parent(session, name=test_id.rsplit("/", 1)[-1], verdicts=verdicts)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Decide; a replay with nothing in it is not green."""
        if self.run is None:
            return
        if self.view.fingerprint is not None:
            self.run.fingerprint(self.view.fingerprint)
        try:
            decision = self.run.finish().decision
        except H20Error as error:
            raise pytest.UsageError(local(str(error))) from None
        self.reporting.finished = True
        self.reporting.tell_junit()
        self.reporting.tell_terminal()
        if not decision.green and exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        report_hook(self.config, self.run.path, decision)
