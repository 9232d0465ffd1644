from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.cli.history import main
from pytest_h20.core.errors import UsageError
from pytest_h20.report.history import History, add_folder, lines_of
from pytest_h20.report.model import Mode
from tests.unit.conftest import Sample
from tests.unit.report import samples


@pytest.fixture(params=["file", "url"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """The same behaviour from a file and from a SQLAlchemy URL."""
    if request.param == "url":
        pytest.importorskip("sqlalchemy", reason="SQLAlchemy is the extra 'store'")
        return History(f"sqlite:///{tmp_path}/h.sqlite")
    return History(tmp_path / "h.sqlite")


def test_runs_are_listed_newest_first_and_once(history: History, sample: Sample) -> None:
    for name in ("clean", "faulty", "clean"):
        history.add(sample(name))
    entries = history.runs()
    assert len(entries) == 2
    assert [e.started for e in entries] == sorted((e.started for e in entries), reverse=True)
    assert {e.accepted for e in entries} == {True, False}


def test_stand_ins_are_no_measurements(history: History, sample: Sample) -> None:
    history.add(sample("rehearsal"))
    assert history.runs() == []
    assert history.trend("sglang", "in128-out128-c1") == []
    assert len(history.runs(stand_ins=True)) == 1
    assert len(history.trend("sglang", "in128-out128-c1", stand_ins=True)) == 1


def test_engine_and_name_select(history: History, sample: Sample) -> None:
    history.add(sample("two_engines"))
    history.add(sample("clean"))
    assert len(history.runs(engine="vllm")) == 1
    assert history.runs(name="elsewhere") == []
    assert len(history.runs(name="h20-2node")) == 2


def test_a_trend_has_one_point_for_each_run_that_measured_it(history: History, sample: Sample) -> None:
    history.add(sample("clean"))
    history.add(sample("faulty"))
    assert len(history.trend("sglang", "in128-out128-c64")) == 2
    assert len(history.trend("sglang", "in128-out128-c32")) == 1, "the faulty run has no figure there"
    assert len(history.trend("sglang", "in128-out128-c64", "mean_tpot_ms")) == 2
    assert len(history.cells("sglang")) == 26
    assert history.cells("sglang")[0] == "in128-out128-c1"


def test_an_unknown_metric_never_reaches_the_database(history: History) -> None:
    with pytest.raises(UsageError, match="known are output_throughput"):
        history.trend("sglang", "x", "accepted; DROP TABLE h20_runs")


def test_text_with_quotes_is_data(history: History, sample: Sample) -> None:
    view = sample("clean")
    odd = "x'); DROP TABLE h20_runs; --"
    history.add(view.model_copy(update={"header": view.header.model_copy(update={"name": odd})}))
    assert [e.name for e in history.runs(name=odd)] == [odd]


def test_a_file_that_is_no_database_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "h.sqlite").write_text("this is no database, it is a text that is long enough to be one" * 20)
    with pytest.raises(UsageError, match="not a database"):
        History(tmp_path / "h.sqlite").runs()


def test_a_url_hides_its_password() -> None:
    with pytest.raises(UsageError) as error:
        History("nosuchdb://me:Planted-Secret-1@host/db").runs()
    assert "Planted-Secret-1" not in str(error.value)


def test_folders_that_are_no_runs_are_told(tmp_path: Path) -> None:
    samples.clean(tmp_path, seed=43)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/verdict.json").write_text("{")
    added, problems = add_folder(History(tmp_path / "h.sqlite"), tmp_path)
    assert added == 1
    assert len(problems) == 1


def test_clusters_modes_and_images_are_not_one_line(history: History, sample: Sample) -> None:
    clean = sample("clean")
    assert clean.fingerprint is not None
    history.add(clean)
    history.add(clean.model_copy(update={"header": clean.header.model_copy(update={"run": "b", "name": "other-cluster"})}))
    history.add(clean.model_copy(update={"header": clean.header.model_copy(update={"run": "c", "mode": Mode.ATTACH})}))
    engines = {"sglang": {**clean.fingerprint.engines["sglang"], "image_digest": "sha256:new"}}
    changed = clean.model_copy(update={"fingerprint": clean.fingerprint.model_copy(update={"engines": engines})})
    history.add(changed.model_copy(update={"header": clean.header.model_copy(update={"run": "d"})}))
    history.add(changed.model_copy(update={"header": clean.header.model_copy(update={"run": "e"})}))
    lines = lines_of(history.trend("sglang", "in128-out128-c64"))
    assert sorted(len(points) for points in lines.values()) == [1, 1, 1, 2]
    assert {p.run for name, points in lines.items() if "sha256:new" in name for p in points} == {"d", "e"}
    assert {p.run for name, points in lines.items() if "other-cluster" in name for p in points} == {"b"}
    assert lines_of([]) == {}


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("h20-runs")
    samples.clean(base, seed=51)
    samples.faulty(base)
    samples.rehearsal(base)
    return base


def test_the_list(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "history.html"
    assert main(["--runs", str(folder), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "accepted" in out
    assert "rehearsal" not in out
    assert "over 2 runs" in out
    assert page.read_text().count("<svg") >= 20


def test_rehearsals_only_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(folder), "--all"]) == 0
    assert "rehearsal" in capsys.readouterr().out


def test_one_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", str(folder), "--cell", "in128-out128-c64"]) == 0
    out = capsys.readouterr().out
    assert "sglang in128-out128-c64" in out
    figures = [line for line in out.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]  # a red run of the list names its cell
    assert not any("c128" in line for line in figures), figures


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--runs", "{folder}/none"], "no such folder"),
        (["--runs", "{folder}", "--cell", "c64"], "in128-out128-c64"),
        (["--runs", "{folder}", "--store", "nosuchdb://x/y"], "nosuchdb://x/y"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert main([a.format(folder=folder) for a in argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_engine(url: str) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    fake = SimpleNamespace(create_engine=create_engine, exc=SimpleNamespace(SQLAlchemyError=ZeroDivisionError))
    monkeypatch.setitem(sys.modules, "sqlalchemy", cast(Any, fake))
    with pytest.raises(UsageError, match="its driver is not installed: pip install psycopg"):
        History("postgresql://u@h/x")
