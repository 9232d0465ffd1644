"""JUnit XML says what a pipeline wants to know: the decision, and of each case what was measured against which limit."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.plugin.foreign import REHEARSAL, pytest_in, write


@pytest.mark.parametrize("workers", ["0", "2"])
def test_properties_of_suite_and_cases(tmp_path: Path, workers: str) -> None:
    write(tmp_path)
    done = pytest_in(
        tmp_path, *REHEARSAL, "-n", workers, "-k", "distinct_machines or clock_to_us", "-p", "no:html", "--junit-xml=out.xml", timeout=120
    )
    suite = ET.parse(tmp_path / "out.xml").getroot().find("testsuite")
    assert suite is not None, done.output
    told: dict[str, list[str]] = {}
    for p in suite.findall("./properties/property"):
        told.setdefault(p.get("name", ""), []).append(p.get("value", ""))
    assert told["h20.accepted"] == ["false"]
    assert (told["h20.mode"], told["h20.engine"]) == (["rehearsal"], ["sglang"])
    assert told["h20.run"] == [done.run.name]
    assert len(told["h20.decision"]) == len(told["h20.reason"]) == 1
    assert any("REHEARSAL" in text for text in told["h20.obstacle"])
    cases = suite.findall("testcase")
    assert len(cases) == 3, done.output
    for case in cases:
        own = {p.get("name", "").split("[")[0]: p.get("value") for p in case.findall("./properties/property")}
        assert {"h20.status", "h20.measured", "h20.unit", "h20.limit", "h20.origin"} <= set(own), own
    names = [p.get("name") for case in cases for p in case.findall("./properties/property")]
    assert len(names) == len(set(names)), "no property is told twice"
    assert "h20.measured[environment.clock_to_us node02]" in names
