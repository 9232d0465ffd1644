"""Page one is one page of A4, also for the worst run of the largest pair of machines: a browser prints it."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from pytest_h20.core.verdict import GateName, Status, Verdict
from pytest_h20.report.html.page import page, run_page, summary_html
from pytest_h20.report.html.paper import first_page
from pytest_h20.report.model import RunView
from tests.unit.report import samples
from tests.unit.report.pages import Page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = "the driver of node02 is 535.129.03 where 535.216.03 is wanted, and nothing else of this machine was looked at after that; " * 4


def worst(base: Path, engines: tuple[str, ...] = ("sglang:default", "sglang:tuned", "vllm")) -> RunView:
    """Every gate red for a reason that does not end, twelve conditions, UUIDs where there are no serial numbers, three engines."""
    run = samples.start(base, engines, conditions=tuple(f"condition {n}: {LONG}" for n in range(12)))
    for gate in GateName:
        for engine in engines:
            verdict = Verdict(check=f"{gate.value}.x", status=Status.FAIL, title="x", subject="node02", reason=LONG)
            run.record(verdict, f"t.py::test_x[{engine}]")
    limits = samples.sglang_limits()
    for number, engine in enumerate(engines):
        samples.record_cells(run, samples.make_cells(engine, "", limits, seed=number), limits)
    run.record(Verdict(check="rdma.x", status=Status.PASS, title="x"), "t.py::test_y[vllm]")
    samples.prints(run, engines, image_id="sha256:" + "e928d85b" * 8)
    view = run.finish()
    assert view.fingerprint is not None
    nodes = {name: {k: v for k, v in facts.items() if k != "gpu serials"} for name, facts in view.fingerprint.nodes.items()}
    return view.model_copy(update={"fingerprint": view.fingerprint.model_copy(update={"nodes": nodes})})


def printed(text: str, folder: Path) -> int:
    """Pages that a browser makes of it on A4."""
    assert BROWSER
    (folder / "x.html").write_text(text, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/browser", "--no-pdf-header-footer")
    command = [BROWSER, *options, f"--print-to-pdf={folder}/x.pdf", (folder / "x.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(folder / "browser", ignore_errors=True)
    assert (folder / "x.pdf").exists(), done.stderr
    return len(re.findall(rb"/Type /Page\b", (folder / "x.pdf").read_bytes()))


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_page_one_is_one_page_of_the_best_and_of_the_worst_run(tmp_path: Path) -> None:
    for name, view in (("best", samples.clean(tmp_path / "runs")), ("worst", worst(tmp_path / "runs"))):
        folder = tmp_path / name
        folder.mkdir()
        assert printed(page(name, first_page(view)), folder) == 1, name
    assert printed(page("both", first_page(view), first_page(view)), folder) == 2, "and what is after it begins on the next one"


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_pytest_htmls_page_prints_the_same_pages(tmp_path: Path) -> None:
    """Our part stands inside of pytest-html's summary: what is kept off paper of that must not take it along."""
    view = samples.aborted(tmp_path / "runs")
    folder = Path(str(files("pytest_html"))) / "resources"
    template = Environment(loader=FileSystemLoader(folder), autoescape=True).get_template("index.jinja2")
    rows = {name: {"label": name, "value": 1} for name in ("failed", "passed", "rerun")}
    summary = {"prefix": [summary_html(view)], "summary": [], "postfix": []}
    styles = [(folder / "style.css").read_text(encoding="utf-8")]
    guest = template.render(
        title="x", run_count="9 tests", additional_summary=summary, outcomes=rows, table_head=["Result"], styles=styles, test_data="{}"
    )
    assert "run-count" in guest
    (tmp_path / "guest").mkdir()
    assert printed(guest, tmp_path / "guest") == printed(run_page(view), tmp_path) > 2


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_a_green_run_is_a_few_sheets(tmp_path: Path) -> None:
    """The decision, the gates, the figures of 26 cells. Each check that holds, commands and settings were forty sheets more."""
    assert printed(run_page(samples.clean(tmp_path / "runs")), tmp_path) <= 8


def test_what_is_not_printed_is_named_on_paper(tmp_path: Path) -> None:
    view = samples.clean(tmp_path)
    text = run_page(view)
    hidden = re.findall(r'<section class="h20-screen"><h2>(.*?)</h2>', text)
    assert {"Commands used", "Settings", "Fingerprint"} <= set(hidden)
    assert not {"Gates", "Throughput and latency", "Proof of RDMA"} & set(hidden)
    assert (
        f"Not printed: each check that holds, {', '.join(hidden)}. They stand in the HTML page, and in the records: {view.path.name}"
        in (Page(text).text)
    )


def test_page_one_has_every_number_of_sixteen_gpus_and_eighteen_hcas(tmp_path: Path) -> None:
    found = Page(page("x", first_page(samples.clean(tmp_path))))
    for number in (1, 2):
        known = samples.identities(number)
        for one in (*known["gpu serials"].split(", "), *known["hca guids"].split(", ")):
            assert one in found.text, one
    unbroken = [attrs for name, attrs in found.tags if name == "span" and attrs.get("class") == "h20-nowrap"]
    assert len(unbroken) == 2 * (8 + 9), "and none is broken over two lines"


def test_what_is_cut_on_page_one_stands_in_full_behind_it(tmp_path: Path) -> None:
    view = worst(tmp_path)
    paper = Page(page("x", first_page(view))).text
    assert LONG.strip() not in paper
    assert "and 8 more, on the next page" in paper
    assert LONG.strip() in Page(run_page(view)).text


def test_a_cell_in_doubt_is_no_key_figure(tmp_path: Path) -> None:
    view = samples.clean(tmp_path)
    most = max(view.cells, key=lambda c: c.output_throughput or 0.0)
    doubt = tuple(c.model_copy(update={"status": Status.UNKNOWN}) if c == most else c for c in view.cells)
    for cells, named in ((view.cells, True), (doubt, False)):
        assert (most.name in Page(page("x", first_page(view.model_copy(update={"cells": cells})))).text) is named
    none = tuple(c.model_copy(update={"status": Status.UNKNOWN}) for c in view.cells)
    assert "nothing could be measured" in Page(page("x", first_page(view.model_copy(update={"cells": none})))).text
