"""The page's part about a soak: a chart per figure, events and kernel lines on the time axis, text that stays text."""

from __future__ import annotations

from pytest_h20.core.verdict import GateName, Status
from pytest_h20.report.html.soak import soaks
from pytest_h20.report.model import KernelLine, SoakEvent, SoakRecord, SoakSeries

POINTS = tuple((0.1 * i, 100.0 - i) for i in range(10))


def record(*series: SoakSeries, **fields: object) -> SoakRecord:
    told: dict[str, object] = {"asked": 1.0, "lasted": 0.78, "stopped": "server_gone", "sent": 700, "complete": 640}
    return SoakRecord(engine="sglang", streams=64, lengths=((128, 128), (1024, 256)), series=series, **{**told, **fields})


def speed(status: Status = Status.FAIL, **fields: object) -> SoakSeries:
    return SoakSeries(
        check="soak.speed", name="output throughput", unit="tok/s", points=POINTS, status=status, said="falls: -2 %/h", **fields
    )


def test_a_chart_says_how_it_went_and_what_happened() -> None:
    line = KernelLine(node="node02", gate=GateName.SOAK, severity="reset", meaning="Xid 31 <b>", text="x", after_s=1800.0)
    other = line.model_copy(update={"gate": GateName.RDMA, "meaning": "not now"})
    page = str(soaks([record(speed(shift_at=0.7), events=(SoakEvent(hours=0.5, words="63 streams silent for 20 s"),))], [line, other]))
    assert "64 streams, lengths 128/128 + 1024/256" in page
    assert "640 of 700 requests were answered" in page
    assert "falls: -2 %/h" in page
    assert 'class="h20-odd"' in page
    assert "63 streams silent for 20 s" in page
    assert "Xid 31 &lt;b&gt;" in page
    assert "not now" not in page
    assert "level shift" in page


def test_a_quiet_soak_has_no_colour_and_no_events() -> None:
    page = str(soaks([record(speed(Status.PASS), stopped="duration")], []))
    assert 'class="h20-even"' in page
    assert "h20-odd" not in page
    assert "<li>" not in page


def test_a_rehearsal_says_that_its_hours_were_short() -> None:
    assert "hours are seen in one of traffic" in str(soaks([record(speed(), leap=75.0)], []))
