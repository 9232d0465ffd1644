"""A cell in which nothing is wrong."""

from __future__ import annotations

from pytest_h20.load import Cell, CellResult, SelfCheck
from pytest_h20.load.metrics import Rates, Summary
from pytest_h20.load.result import ClientView, Flight, RequestCounts, TokenCounts
from pytest_h20.load.server_metrics import ServerView

GOOD = CellResult(
    cell=Cell(128, 128, 64),
    generator="pytest-h20",
    url="http://h:1",
    dialect="sglang",
    model="m",
    started_at="2026-01-01T00:00:00Z",
    recipe="steady",
    arrivals="closed",
    prompts="random",
    seed=1,
    requests=RequestCounts(192, 192, 192, 0, {"ok": 192}),
    tokens=TokenCounts(24576, 24576, 24576, 24576, cached=0),
    ttft=Summary(192, 1000.0, 1000.0, 0.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0),
    tpot=Summary(192, 200.0),
    itl=Summary(24384, 200.0),
    e2e=Summary(192, 26400.0),
    connect=Summary(64, 1.0),
    whole=Rates(79.2, 310.3, 310.3, 620.6, 2.424),
    steady=Rates(79.0, 310.0, 310.0, 620.0, 2.42),
    flight=Flight(64.0, 64.0, 64),
    server=ServerView(50, 64, 0, 24576, 24576, 0.0, 0.0),
    client=ClientView(1, 0.2, 0.008, 0.05, 0.001, 0, 0.0, 0),
    selfcheck=SelfCheck(64, 0.0001, 0.0, 0.0, 3000.0, 0.01),
)
