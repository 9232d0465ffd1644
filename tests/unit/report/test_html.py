from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20 import lang
from pytest_h20.core.verdict import GATE_TITLES, GateName, Limit, Origin, Status, Verdict, decide
from pytest_h20.report.compare import compare, side
from pytest_h20.report.html.answers import answers
from pytest_h20.report.html.charts import figures
from pytest_h20.report.html.first_screen import setup_error
from pytest_h20.report.html.gates import gates
from pytest_h20.report.html.page import comparison_page, page, run_page, summary_html, title
from pytest_h20.report.html.rails import links, rail_map
from pytest_h20.report.html.rows import COLUMN_AT, header_cells, row_cells, setup_failure_extras
from pytest_h20.report.html.tables import not_measured
from pytest_h20.report.html.tags import Html, join, render, script, stylesheet, tag
from pytest_h20.report.html.timeline import stretches
from pytest_h20.report.html.words import count_words, duration, limit_words, measure, number, subject, unit_of
from pytest_h20.report.model import Canaries, CellRow, CheckRow, LogTail, Mode, NodeColumn, NotMeasured, RailTraffic, SetupError
from pytest_h20.report.terminal import blocking
from pytest_h20.report.untrusted import sha256
from tests.unit.conftest import Sample
from tests.unit.report import samples
from tests.unit.report.pages import PAPER, Page, read

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
ALL_RUNS = sorted(samples.ALL)


@pytest.mark.parametrize("name", ALL_RUNS)
def test_pages_are_well_formed_and_ids_are_unique(sample: Sample, name: str) -> None:
    found = read(sample(name))
    assert found.problems == []
    assert len(found.ids) == len(set(found.ids))


@pytest.mark.parametrize("name", ALL_RUNS)
def test_pages_need_no_network_and_no_script(sample: Sample, name: str) -> None:
    found = read(sample(name))
    assert "script" not in {tag for tag, _ in found.tags}
    links = {attrs["href"] for _, attrs in found.tags if "href" in attrs}
    assert links <= {f"#{name}" for name in found.ids}, "a link leads to a gate below"
    assert not [attrs for _, attrs in found.tags if "src" in attrs]
    assert "@import" not in run_page(sample(name))
    assert "url(" not in run_page(sample(name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clean", "✓ Accepted"),
        ("faulty", "✗ Not accepted"),
        ("aborted", "✗ Not accepted"),
        ("rehearsal", "Never an acceptance"),
        ("killed", "✗ Not finished"),
        ("calibration", "this is not an acceptance"),
    ],
)
def test_the_first_words_answer(sample: Sample, name: str, said: str) -> None:
    assert said in read(sample(name)).text[:700]


def test_what_a_broken_set_up_says_is_not_said_again_as_a_reason(sample: Sample) -> None:
    view = sample("faulty")
    first = blocking(view)[0]
    assert "Why not" in read(view).text
    error = SetupError(test_id="t", title=first.title, cause=first.reason)
    text = read(view.model_copy(update={"setup_errors": (error,), "checks": (first,)})).text
    assert "Why not" not in text
    assert text.index(first.title) < text.index("Worst first")


def test_a_start_that_a_red_check_refused_is_told_after_that_check(sample: Sample) -> None:
    """The rail that is down comes first, and the engine that was not brought up for it is no cause beside it."""
    view = sample("faulty")
    first = next(c for c in blocking(view) if c.reason)
    error = SetupError(test_id="t", title="The engine could be started", cause=f"not brought up: because of {first.check}, told there")
    assert error.title not in read(view.model_copy(update={"setup_errors": (error,)})).text
    other = error.model_copy(update={"cause": "a rank died"})
    assert error.title in read(view.model_copy(update={"setup_errors": (other,)})).text


def test_one_reason_stands_once_above_all_that_it_kept_from_being_measured() -> None:
    down = [NotMeasured(what="rdma.rail", subject=f"node0{n}", reason="the cluster is not up") for n in (1, 2)]
    text = Page(str(not_measured([*down, NotMeasured(what="rdma.gid", reason="the cluster is not up")]))).text
    assert text.count("the cluster is not up (3)") == text.count("the cluster is not up") == 1
    assert "rdma.rail node01, node02" in text


def test_of_what_the_same_is_said_there_is_one_line(sample: Sample) -> None:
    view = sample("clean")
    slow = CheckRow(check="throughput.x", status=Status.FAIL, title="x", subject="c1", reason="GPU 3 is slow", measured=1)
    rows = (slow, slow.model_copy(update={"subject": "c8"}), slow.model_copy(update={"subject": "c9", "measured": 2}))
    text = Page(str(gates(view.model_copy(update={"checks": (*view.checks, *rows)})))).text
    assert "c1, c8 measured 1 – GPU 3 is slow" in text
    assert text.count("GPU 3 is slow") == 2


def test_a_killed_run_says_what_to_do_next(sample: Sample) -> None:
    view = sample("killed")
    real = view.header.model_copy(update={"mode": Mode.FULL, "stood_in": (), "time_scale": 1.0, "inventory": "mine.yaml"})
    assert "python -m pytest_h20 reap --nodes mine.yaml" in read(view.model_copy(update={"header": real})).text


@pytest.mark.parametrize("name", ["faulty", "aborted", "rehearsal"])
def test_a_full_width_sign_has_no_blank_beside_it(sample: Sample, name: str) -> None:
    with lang.speaking("zh"):
        shown = run_page(sample(name))
    assert "证据：" in shown
    assert re.findall(r">([^<]*(?:[，。：；（）] (?![–·])| [，。：；（）])[^<]*)<", shown) == []


def test_the_first_screen_says_on_what_and_since_when(sample: Sample) -> None:
    start = read(sample("faulty")).text[:500]
    for word in ("node01, node02", "sglang (lmsysorg/sglang:ea52b45be1a7)", "driver 535.216.03", "UTC"):
        assert word in start


def test_reasons_are_in_the_order_of_the_gates_and_grouped(sample: Sample) -> None:
    text = read(sample("faulty")).text
    places = [
        text.index(w) for w in ("NVIDIA driver version", "ib_write_bw per rail", "node01 mlx5_3, node02 mlx5_3", "begins with <think>")
    ]
    assert places == sorted(places)


def test_gates_are_worst_first(sample: Sample) -> None:
    text = read(sample("faulty")).text
    text = text[text.index("Worst first") :]
    assert text.index("It is fast enough") < text.index("The model weights are complete")


def test_a_failed_start_shows_cause_fix_and_log_ends_at_once(sample: Sample) -> None:
    found = read(sample("aborted"))
    assert found.text.index("copy it again") < found.text.index("Gates")
    assert found.text.index("node02: rank 1") < found.text.index("Worst first")


def test_charts_have_words_for_who_does_not_see_them(sample: Sample) -> None:
    found = read(sample("faulty"))
    drawings = [attrs for name, attrs in found.tags if name == "svg" and attrs.get("role") == "img"]
    assert len(drawings) == 17, "four metrics and the trade of GPU and user at two lengths, the rail map, two cells of machines"
    for attrs in drawings:
        assert all(word in found.ids for word in (attrs["aria-labelledby"] or "").split())
    assert "Misses its limit at 128, 200, 256, 512, 1024" in found.text
    assert "Could not be measured at 32" in found.text


def test_every_chart_has_a_table(sample: Sample) -> None:
    text = read(sample("clean")).text
    assert "sglang default: figures of every cell" in text
    assert text.count("at least 261.7 tok/s") >= 1


def test_times_have_their_percentiles_and_every_figure_its_unit() -> None:
    cell = CellRow(
        engine="vllm",
        input_len=8,
        output_len=8,
        concurrency=1,
        output_throughput=100.0,
        mean_ttft_ms=50.0,
        mean_tpot_ms=5.0,
        more={"p50_ttft_ms": 44.0, "p90_ttft_ms": 77.0, "p99_ttft_ms": 91.0},
        blog={"mean_ttft_ms": 60.0},
        floor={"mean_ttft_ms": 3.0},
    )
    text = Page(str(figures([cell]))).text
    assert "50 ms 44 ms 77 ms 91 ms" in text
    assert "60 ms" in text
    assert "at least 3 ms" in text
    assert "vllm at 1: p50 44 ms, p99 91 ms" in text, "also in the chart"
    assert "p50 to p99" in text
    assert "ITL" not in text, "nobody measured it"


def test_pauses_between_pieces_have_a_chart_and_rows_of_their_own() -> None:
    cell = CellRow(
        engine="vllm",
        input_len=8,
        output_len=8,
        concurrency=1,
        output_throughput=100.0,
        mean_tpot_ms=5.0,
        more={"mean_itl_ms": 5.0, "p50_itl_ms": 4.5, "p99_itl_ms": 31.0},
    )
    text = Page(str(figures([cell]))).text
    assert "Mean ITL (ms), 8 tokens in, 8 out" in text
    assert "Mean ITL 5 ms 4.5 ms – 31 ms" in text
    assert "vllm at 1: p50 4.5 ms, p99 31 ms" in text


def test_what_a_gpu_gives_is_drawn_against_what_a_user_gets() -> None:
    cells = [
        CellRow(engine="e", input_len=8, output_len=8, concurrency=n, output_throughput=rate, mean_tpot_ms=tpot, status=status)
        for n, rate, tpot, status in ((1, 20.0, 50.0, Status.PASS), (64, 640.0, 100.0, Status.PASS), (128, 800.0, 160.0, Status.UNKNOWN))
    ]
    found = Page(str(figures(cells, {"e": 16})))
    assert found.problems == []
    assert "Output per GPU against output per user (tok/s), 8 tokens in, 8 out" in found.text
    assert "e at 64: 40 tok/s per GPU, 10 tok/s per user" in found.text
    assert "e at 128: 50 tok/s per GPU, 6.25 tok/s per user ?" in found.text, "in doubt"
    assert "Most per user: 20 tok/s with e at 1." in found.text
    assert "Most per GPU: 40 tok/s with e at 64" in found.text, "what is in doubt is no best"
    assert "No point of it could be measured." in Page(str(figures(cells[2:], {"e": 16}))).text
    assert "per GPU" not in Page(str(figures(cells))).text, "the number of GPUs is not known"
    unmeasured = cells[0].model_copy(update={"mean_tpot_ms": None})
    assert "per GPU" not in Page(str(figures([unmeasured], {"e": 16}))).text


def test_a_calibrations_intervals_have_units(sample: Sample) -> None:
    assert re.search(r"\d tok/s [\d.]+ % [\d.\u202f]+ … [\d.\u202f]+ tok/s 5", read(sample("calibration")).text)


def test_a_figure_without_a_limit_is_recorded_and_does_not_hold() -> None:
    info = Limit(kind="info", origin=Origin(kind="file"))
    cell = CellRow(
        engine="e",
        input_len=8,
        output_len=8,
        concurrency=1,
        output_throughput=100.0,
        mean_tpot_ms=5.0,
        status=Status.PASS,
        limits={"mean_tpot_ms": info},
    )
    text = Page(str(figures([cell]))).text
    assert "holds" not in text
    assert "Output throughput 100 tok/s – – – – – – – recorded only" in text
    assert "Mean TPOT 5 ms – – – recorded only – – – recorded only" in text
    assert "Mean TTFT – – – – – – – ? could not measure" in text
    assert "Nothing was expected of it." in text


def test_a_single_cell_can_be_drawn(sample: Sample) -> None:
    view = sample("clean")
    one = CellRow(engine="e", input_len=1, output_len=1, concurrency=7, output_throughput=5.0, status=Status.PASS)
    assert Page(run_page(view.model_copy(update={"cells": (one,)}))).problems == []


def test_cells_without_any_figure_are_said(sample: Sample) -> None:
    view = sample("clean")
    none = CellRow(engine="e", input_len=1, output_len=1, concurrency=1)
    assert "No figure was measured" in Page(run_page(view.model_copy(update={"cells": (none,)}))).text


def test_hostile_text_stays_text(sample: Sample) -> None:
    view = sample("aborted")
    header = view.header.model_copy(
        update={
            "name": HOSTILE,
            "driver": HOSTILE,
            "images": {"sglang": HOSTILE},
            "settings": {HOSTILE: HOSTILE},
            "command_line": HOSTILE,
        }
    )
    check = view.checks[0].model_copy(
        update={
            "status": Status.FAIL,
            "title": HOSTILE,
            "subject": HOSTILE,
            "measured": HOSTILE,
            "reason": HOSTILE,
            "evidence": (HOSTILE,),
        }
    )
    update = {
        "header": header,
        "checks": (check,),
        "setup_errors": (SetupError(test_id=HOSTILE, title=HOSTILE, cause=HOSTILE, fix=HOSTILE, text=HOSTILE),),
        "logs": (LogTail(node=HOSTILE, source=HOSTILE, text=HOSTILE),),
        "warnings": (HOSTILE,),
        "facts": (NodeColumn(node=HOSTILE, facts={HOSTILE: HOSTILE}), NodeColumn(node="b", facts={HOSTILE: "x"})),
        "rails": (RailTraffic(node=HOSTILE, hca=HOSTILE, reason=HOSTILE),),
        "cells": (CellRow(engine=HOSTILE, input_len=1, output_len=1, concurrency=1, output_throughput=1.0, reason=HOSTILE),),
    }
    text = run_page(view.model_copy(update=update))
    found = Page(text)
    assert found.problems == []
    assert {"script", "img"}.isdisjoint(name for name, _ in found.tags)
    assert text.count("&lt;script&gt;") > 20


@given(st.text(), st.text())
def test_any_text_is_data_in_content_and_attributes(content: str, value: str) -> None:
    parsed = Page(str(tag("p", content, title=value)))
    assert parsed.problems == []
    assert len(parsed.tags) == 1
    assert parsed.tags[0][1].keys() == {"title"}


def test_markup_is_made_only_by_tag() -> None:
    assert render("<b>") == "&lt;b&gt;"
    assert render(tag("b", 1, None, ["x", Html("<i></i>")])) == "<b>1x<i></i></b>"
    assert join() == ""
    assert tag("details", open=True) == "<details open></details>"
    assert tag("details", open=False, data_x=None) == "<details></details>"
    with pytest.raises(ValueError, match="markup"):
        stylesheet("</style>")
    with pytest.raises(ValueError, match="markup"):
        script("</script>")


# ---------------------------------------------------------------- as pytest-html's guest


def test_the_summary_brings_its_style_and_viewport(sample: Sample) -> None:
    found = Page(summary_html(sample("clean")))
    assert found.problems == []
    assert [name for name, _ in found.tags][:3] == ["meta", "style", "div"]
    assert found.tags[-1][0] == "script", "it reads the language of the page from our part, which must be there by then"
    assert title(sample("clean")) == "Accepted: h20-2node, sglang"


def test_rows_have_as_many_cells_as_the_header(sample: Sample) -> None:
    verdicts = sample("faulty").verdicts
    for some in ((), verdicts[:1], verdicts[:9]):
        assert len(row_cells(some)) == len(header_cells()) == 3
    assert COLUMN_AT == 2
    assert "and 6 more" in row_cells(verdicts[:9])[0]


def test_cells_fit_pytest_htmls_own_reading_of_rows() -> None:
    """pytest-html reads sortable columns by regular expressions; ours are not sortable and must not break its own."""
    limit = Limit(kind="min", value=1.0, unit="GB", origin=Origin(kind="blog", detail=HOSTILE))
    verdict = Verdict(check="rdma.x", status=Status.FAIL, title="x", measured=HOSTILE, limit=limit)
    for cell in row_cells([verdict]):
        assert re.fullmatch(r'<td class="h20-col" data-label="[A-Za-z ]+">.*</td>', cell)
        assert "<script" not in cell
    assert all("sortable" not in cell for cell in header_cells())


def test_extras_of_a_failed_set_up_travel_between_processes(sample: Sample) -> None:
    view = sample("aborted")
    extras = setup_failure_extras(view.setup_errors[0], view.logs)
    assert json.loads(json.dumps(extras)) == extras
    assert extras[0].keys() == {"name", "format_type", "content", "mime_type", "extension"}
    assert Page(str(extras[0]["content"])).problems == []
    assert "MetadataIncompleteBuffer" in str(extras[0]["content"])


# ---------------------------------------------------------------- parts


def test_rails_pair_by_what_they_say_and_else_by_name() -> None:
    def end(node: str, hca: str, peer: str = "", peer_hca: str = "") -> RailTraffic:
        return RailTraffic(node=node, hca=hca, peer_node=peer, peer_hca=peer_hca, status=Status.PASS)

    crossed = links([end("a", "mlx5_1", "b", "mlx5_9"), end("b", "mlx5_9", "a", "mlx5_1")])
    assert [(link.left.hca, link.right and link.right.hca) for link in crossed] == [("mlx5_1", "mlx5_9")]
    named = links([end("a", "mlx5_1"), end("a", "mlx5_2"), end("b", "mlx5_2"), end("b", "mlx5_1")])
    assert [(link.left.hca, link.right and link.right.hca) for link in named] == [("mlx5_1", "mlx5_1"), ("mlx5_2", "mlx5_2")]
    alone = links([end("a", "mlx5_1")])
    assert alone[0].status is Status.UNKNOWN


def ends(*peers: tuple[str, str], sent: float = 1.0) -> list[RailTraffic]:
    """One rail of each of these nodes, which leads to its peer."""
    told = {"hca": "mlx5_1", "peer_hca": "mlx5_1", "gb_received": 2.0, "gdr": True, "status": Status.PASS}
    return [RailTraffic.model_validate({**told, "node": node, "peer_node": peer, "gb_sent": sent}) for node, peer in peers]


def test_in_a_ring_of_three_nodes_every_end_has_two_neighbours() -> None:
    """None had one: every rail of a sound cluster was drawn as "0 of 8 rails carry RDMA"."""
    ring = links(ends(("a", "b"), ("b", "c"), ("c", "a")))
    assert [(link.left.node, link.right and link.right.node, link.status) for link in ring] == [
        ("a", "b", Status.PASS),
        ("b", "c", Status.PASS),
        ("c", "a", Status.PASS),
    ]
    drawn = str(rail_map(ends(("a", "b"), ("b", "c"), ("c", "a"))))
    assert drawn.count("1 of 1 rails carry RDMA") == 6, "caption and title of three pairs"
    assert "→ 1.00 GB, 2.00 GB received there, GDR" in drawn, "what c received came from b; what b received did not come from c"
    two = str(rail_map(ends(("a", "b"), ("b", "a"))))
    assert "→ 1.00 GB  ← 2.00 GB, GDR" in two


def test_a_pipeline_is_drawn_as_a_line() -> None:
    """The last stage sends nothing: it names the one before it."""
    line = links(ends(("a", "b"), ("b", "c"), ("c", "b")))
    assert [(link.left.node, link.right and link.right.node, link.alone) for link in line] == [("a", "b", False), ("b", "c", False)]


def test_a_node_without_a_record_is_missed_by_the_one_before_it_only() -> None:
    ring = links(ends(("a", "b"), ("c", "a")))
    assert [(link.left.node, link.status) for link in ring] == [("a", Status.UNKNOWN), ("c", Status.PASS)]


def test_the_timeline_of_a_broken_start_ends_where_it_broke(sample: Sample) -> None:
    view = sample("aborted")
    found = {s.state: s for s in stretches(view.timeline, view.header.ended)}
    assert found["loading"].length == pytest.approx(31, abs=0.1)
    assert found["broken"].length is None
    assert "bring-up, 1 min 35 s in all" in read(view).text


def test_more_nodes_than_columns_are_grouped_by_value(sample: Sample) -> None:
    view = sample("clean")
    nodes = tuple(NodeColumn(node=f"n{i}", facts={"driver": "535" if i else "550"}) for i in range(16))
    text = Page(run_page(view.model_copy(update={"facts": nodes}))).text
    assert "550 : n0" in text


def test_page_one_on_paper_is_what_somebody_signs(sample: Sample) -> None:
    view = sample("clean")
    assert view.fingerprint is not None
    ids = {"gpu serials": "1650001000001, 1650001000002", "hca guids": "mlx5_1 a288:c203:0001:0001"}
    known = view.fingerprint.model_copy(
        update={"nodes": {"node01": ids}, "engines": {"sglang": {"tensor_parallel": "16", "nccl": "2.21.5"}}}
    )
    page = run_page(view.model_copy(update={"fingerprint": known}))
    (found,) = PAPER.findall(page)
    assert Page(page).problems == []
    paper = Page(found).text
    for words in (
        *("Accepted", "Without conditions", "node01", "1650001000002", "a288:c203:0001:0001", "2.21.5", "0.1.0", "tok/s per GPU"),
        *("Name", "Date", "Signature", sha256(view.path / "verdict.json")),
    ):
        assert words in paper, words
    for gate in view.decision.gates:
        assert GATE_TITLES[gate.name] in paper
    assert page.index("Page to sign") < page.index('aria-label="Result"'), "it comes first"
    assert "Conditions: REHEARSAL" in Page(run_page(sample("rehearsal"))).text


def test_the_map_is_grey_where_rdma_was_stood_in_or_not_judged(sample: Sample) -> None:
    clean = run_page(sample("clean"))
    assert "h20-rail h20-pass" in clean
    for view in (
        sample("rehearsal"),
        sample("clean").model_copy(update={"header": sample("clean").header.model_copy(update={"stood_in": ("RDMA",)})}),
        sample("clean").model_copy(update={"checks": tuple(c for c in sample("clean").checks if c.gate is not GateName.RDMA)}),
    ):
        assert view.rails
        page = run_page(view)
        assert "h20-rail h20-skip" in page
        assert "h20-rail h20-pass" not in page
        assert "rails carry RDMA" not in page
    faulty = sample("faulty")
    stood_in = faulty.model_copy(update={"header": faulty.header.model_copy(update={"stood_in": ("RDMA",)})})
    assert "h20-rail h20-fail" in run_page(stood_in), "a rail that failed is still red"


def test_recorded_is_not_the_same_as_not_measured(sample: Sample) -> None:
    equal = Limit(kind="equal", value=9.0, origin=Origin(kind="file"))
    recorded = CheckRow(check="environment.uptime", status=Status.SKIP, title="Time since boot", subject="node01", measured=42)
    skipped = recorded.model_copy(update={"subject": "node02", "measured": None, "reason": "nothing is expected"})
    view = sample("clean")
    checks = (*view.checks, recorded, skipped)
    decision = decide([c.bare() for c in checks], view.header.required)
    page = run_page(view.model_copy(update={"checks": checks, "decision": decision}))
    assert "recorded only node01 measured 42" in Page(page).text
    assert "skipped node02 nothing is expected" in Page(page).text
    assert Page(page).text.count("6 checks hold, 1 skipped, 1 recorded only") == 2, "on the screen and on paper"
    without_limit = CheckRow(
        check="throughput.recorded", status=Status.PASS, title="x", measured=9.0, limit=Limit(kind="info", origin=Origin(kind="file"))
    )
    assert without_limit.recorded
    assert not without_limit.model_copy(update={"limit": equal}).recorded
    assert not without_limit.model_copy(update={"status": Status.FAIL}).recorded
    assert not without_limit.model_copy(update={"measured": None}).recorded


def test_a_comparison_is_a_page(sample: Sample) -> None:
    found = Page(comparison_page(compare(side(sample("clean")), side(sample("faulty")))))
    assert found.problems == []
    assert len(found.ids) == len(set(found.ids))
    assert "Worse beyond noise" in found.text


def test_a_page_has_language_viewport_and_main() -> None:
    found = Page(page("x", tag("p", "y")))
    assert ("html", {"lang": "en"}) in found.tags
    assert {"main", "h1", "title"} <= {name for name, _ in found.tags}
    assert any(attrs.get("name") == "viewport" for _, attrs in found.tags)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.02, "0.0 s"), (9.99, "10 s"), (59.4, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (4320, "1 h 12 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (1092.91, "1\u202f093"), (0.001234567, "0.001235"), (17.4, "17.4"), ("x", "x"), (163, "163")]
)
def test_numbers(value: object, said: str) -> None:
    assert number(value) == said


def test_values_and_limits_in_words() -> None:
    origin = Origin(kind="builtin")
    assert measure(True) == "yes"
    assert measure(None, "GB") == "nothing"
    assert unit_of(CheckRow(check="environment.uptime", status=Status.SKIP, title="x", measured=336.0)) == "h", "its figure's"
    assert unit_of(CheckRow(check="environment.uptime", status=Status.SKIP, title="x", measured=14.0, unit="days")) == "days"
    assert unit_of(CheckRow(check="environment.uptime", status=Status.SKIP, title="x", measured="since yesterday")) == ""
    assert unit_of(CheckRow(check="environment.os", status=Status.SKIP, title="x", measured=1)) == ""
    assert limit_words(Limit(kind="equal", value=False, origin=origin)) == "no"
    assert limit_words(Limit(kind="min", value=261.666, unit="tok/s", origin=origin)) == "at least 261.7 tok/s"
    assert limit_words(Limit(kind="one_of", value=["a", "b"], origin=origin)) == "one of a, b"


def test_what_the_canaries_said_stands_beside_the_cells() -> None:
    said = Canaries(asked=10, questions=3, right=3, nonces=4, back=3, twins=2, alike=2, blank=1, examples=(f"x: wrong: {HOSTILE}",))
    cells = [
        CellRow(engine="sglang", input_len=128, output_len=128, concurrency=c, canaries=found)
        for c, found in ((1, Canaries()), (200, said), (512, None))
    ]
    text = render(answers(cells))
    found = Page(text)
    assert not found.problems
    assert [name for name, _ in found.tags].count("tr") == 2, "a head, and the one cell that carried canaries"
    for words in ("<b>3 of 4</b>", ">3 of 3<", ">2 of 2<", "<b>1 blank</b>"):
        assert words in text
    assert "<script>" not in text
    assert render(answers(cells[::2])) == ""


def test_a_count_of_checks_is_not_one_of_gates(sample: Sample) -> None:
    """ "2 hold, with warnings" beside a green gate made people wonder: two of the ten gates?"""
    assert (
        count_words({"pass": 379, "skip": 18, "warn": 2, "recorded": 17})
        == "381 checks hold (2 with a warning), 18 skipped, 17 recorded only"
    )
    assert count_words({"warn": 1, "fail": 2}) == "1 check holds (1 with a warning), 2 fail"
    assert count_words({"unknown": 1}) == "1 could not be measured"
    assert count_words({}) == ""
    view = sample("clean")
    found = tuple(g.model_copy(update={"status": Status.WARN}) if g.name is GateName.FABRIC else g for g in view.decision.gates)
    warned = view.model_copy(update={"decision": view.decision.model_copy(update={"gates": found})})
    required = sum(gate.required for gate in found)
    assert f"All {required} required gates hold." in read(view).text
    assert f"All {required} required gates hold, 1 of them with warnings to read." in read(warned).text


def test_a_warning_stands_before_the_fold_of_what_holds(sample: Sample) -> None:
    """So that it is on paper, where folds stay closed."""
    view = sample("clean")
    warned = CheckRow(check="fabric.mtu", status=Status.WARN, title="MTU", subject="node01", reason="smaller than it could be")
    text = str(gates(view.model_copy(update={"checks": (*view.checks, warned)})))
    at, after = text.index("smaller than it could be"), "more that do not keep the gate from holding"
    assert after in text[at:]
    assert "<details" not in text[text.rindex('<details class="h20-gate', 0, at) + 1 : at]


def test_a_gate_in_which_everything_was_skipped_says_why_once(sample: Sample) -> None:
    view = sample("clean")
    skipped = [
        CheckRow(check="rdma.x", status=Status.SKIP, title="x", subject=f"node0{n}", reason="the cluster is not up") for n in range(9)
    ]
    checks = (*(c for c in view.checks if c.gate is not GateName.RDMA), *skipped)
    decision = decide([c.bare() for c in checks], view.header.required)
    text = Page(str(gates(view.model_copy(update={"checks": checks, "decision": decision})))).text
    assert text.count("everything was skipped: the cluster is not up") == 1


def test_a_set_up_that_broke_is_marked_as_red(sample: Sample) -> None:
    """Its title says what should hold: "The engine could be started" alone would sound true."""
    (error,) = sample("aborted").setup_errors
    text = str(setup_error(error))
    assert text.index("fails") < text.index(error.title)


@pytest.mark.parametrize(
    ("told", "shown"), [("node01 GPUs", "node01 GPU"), ("node01 rails", "node01 rail"), ("node02 mlx5_1", "node02 mlx5_1")]
)
def test_what_a_verdict_is_about_takes_no_measure_word(told: str, shown: str) -> None:
    with lang.speaking("zh"):
        assert subject(told) == shown
    assert subject(told) == told
