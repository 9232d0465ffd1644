"""A session built from options, without pytest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_h20.cluster.launch import Target
from pytest_h20.core.errors import UsageError
from pytest_h20.core.setting import OPTIONS, Setting
from pytest_h20.core.verdict import GateName
from pytest_h20.run.settings import NO_INVENTORY, Session, _checks_that_are_made, build, seed_asked


def session(**values: object) -> Session:
    settings = {o.dest: Setting(False if o.kind == "flag" else () if o.kind == "list" else None, "default") for o in OPTIONS}
    settings["h20_nodes"] = Setting("rehearsal", "option")
    settings["h20_engine"] = Setting(("sglang",), "option")
    return build(settings | {name: Setting(value, "option") for name, value in values.items()})


def test_every_run_sends_new_prompts_and_every_worker_of_it_the_same() -> None:
    """A second run against an engine that stayed up found 87.5 % of its prompts in the prefix cache: every cell could not be measured."""
    one, other = (replace(session(), run_id=name) for name in ("20261127-1", "20261127-2"))
    assert one.seed != other.seed
    assert one.seed == replace(session(), run_id="20261127-1", worker="gw1").seed
    assert 0 <= one.seed < 1 << 31


def test_a_seed_that_is_given_repeats_the_prompts() -> None:
    assert {replace(session(h20_seed="7"), run_id=name).seed for name in "ab"} == {7}


@pytest.mark.parametrize("text", ["", "-1", "1.5", "seven", "٣", "9" * 40])
def test_a_seed_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="a whole number from 0 is needed"):
        seed_asked(text)


def test_a_limit_of_a_check_that_the_run_never_makes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{name: x, origin: {kind: file}, checks: {fabric.all_reduce: {value: 190}, answers.accuracy: {value: 0.9}}}")
    target = cast(Target, SimpleNamespace(profile=SimpleNamespace(limits=str(path))))
    _checks_that_are_made((target,), {})
    with pytest.raises(UsageError, match=r"mine\.yaml: fabric\.all_reduce: this run does not look at it \(attached without"):
        _checks_that_are_made((target,), {GateName.FABRIC: NO_INVENTORY})
