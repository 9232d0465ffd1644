from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from pytest_h20.report import model
from pytest_h20.report.model import verdict_schema
from tests.unit.conftest import Sample
from tests.unit.report import samples

FILE = Path(model.__file__).with_name("verdict.schema.json")


def test_the_schema_in_the_repository_is_the_codes() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == verdict_schema(), "python -m pytest_h20 schema verdict > " + str(FILE)


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_the_verdict_of_every_sample_validates(sample: Sample, name: str) -> None:
    schema = verdict_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads((sample(name).path / "verdict.json").read_text(encoding="utf-8"))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(data)) == []


def test_the_schema_refuses_what_it_must(sample: Sample) -> None:
    data = json.loads((sample("clean").path / "verdict.json").read_text(encoding="utf-8"))
    data["checks"][0]["status"] = "fine"
    assert not jsonschema.Draft202012Validator(verdict_schema()).is_valid(data)


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_only_clean_runs_are_accepted(sample: Sample, name: str) -> None:
    data = json.loads((sample(name).path / "verdict.json").read_text(encoding="utf-8"))
    assert data["accepted"] is (name in ("clean", "two_engines"))
    assert data["complete"] is (name != "killed")
