"""A session built from options, without pytest."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.checks.compute.runner import expected_seconds
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.environments import environments
from pytest_h20.core.errors import UsageError
from pytest_h20.core.setting import BY_DEST, OPTIONS, Setting, resolve
from pytest_h20.core.verdict import ALWAYS, GateName
from pytest_h20.run.attached_server import Served
from pytest_h20.run.forecast import judged
from pytest_h20.run.settings import (
    NO_INVENTORY,
    Session,
    Settings,
    _checks_that_are_made,
    _without_burn,
    attach_inventory,
    build,
    seed_asked,
    soak_hours,
)


def session(nodes: str = "rehearsal", **values: Any) -> Session:
    return build(Settings(nodes=nodes, engine=("sglang",), **values))


def test_every_option_has_its_field_of_its_kind() -> None:
    """What a field would forget, no run would hear of."""
    kinds: dict[str, set[type]] = {"flag": {bool}, "list": {tuple}, "text": {str, int, type(None)}}
    defaults = Settings()
    assert {f"h20_{f.name}" for f in fields(Settings)} - {"h20_origins"} == set(BY_DEST)
    for option in OPTIONS:
        assert type(getattr(defaults, option.dest.removeprefix("h20_"))) in kinds[option.kind], option.name


def test_what_was_given_is_told_with_its_origin() -> None:
    nothing = {o.dest: resolve(o, None, lambda name: None) for o in OPTIONS}
    assert Settings.of(nothing) == Settings()
    given = {"h20_seed": Setting("0", "ini"), "h20_fault": Setting(("a", "b"), "option"), "h20_keep": Setting(True, "option")}
    settings = Settings.of(nothing | given)
    assert (settings.seed, settings.fault, settings.keep, settings.load) == (0, ("a", "b"), True, "own")
    assert list(settings.given()) == [("h20-keep", "True", "option"), ("h20-seed", "0", "ini"), ("h20-fault", "a, b", "option")]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("h20_weights", "some", r"h20_weights = some \(from ini\): choose from fast, full, skip"),
        ("h20_load", "wrk", "choose from own, sglang-bench, vllm-bench"),
        ("h20_repeats", "2", "--h20-repeats=2: a whole number from 3 is needed"),
        ("h20_seed", "x", "--h20-seed=x: a whole number from 0 is needed"),
    ],
)
def test_a_word_or_number_that_is_none(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Settings.of({name: Setting(value, "ini")})


def test_every_run_sends_new_prompts_and_every_worker_of_it_the_same() -> None:
    """A second run against an engine that stayed up found 87.5 % of its prompts in the prefix cache: every cell could not be measured."""
    one, other = (replace(session(), run_id=name) for name in ("20261127-1", "20261127-2"))
    assert one.seed != other.seed
    assert one.seed == replace(session(), run_id="20261127-1", worker="gw1").seed
    assert 0 <= one.seed < 1 << 31


def test_a_seed_that_is_given_repeats_the_prompts() -> None:
    assert {replace(session(seed=7), run_id=name).seed for name in "ab"} == {7}


@pytest.mark.parametrize("text", ["", "-1", "1.5", "seven", "٣", "9" * 40])
def test_a_seed_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="a whole number from 0 is needed"):
        seed_asked(text)


def test_one_node_has_no_rdma_to_prove() -> None:
    """Its gate was "could not measure: everything was skipped", so that one node could never be accepted."""
    one = session("rehearsal:one-node")
    assert GateName.RDMA not in one.required
    assert one.left_out[GateName.RDMA] == "one node: nothing crosses the network"
    assert GateName.RDMA in session("rehearsal:four-nodes").required


def test_the_gpus_are_burned_unless_somebody_says_no() -> None:
    assert GateName.COMPUTE in session().required
    without = session(burn="off")
    assert GateName.COMPUTE not in without.required
    assert without.left_out[GateName.COMPUTE] == "--h20-burn=off"
    assert "the GPUs were not burned in (--h20-burn=off)" in without.cannot_accept


def test_the_plan_says_how_long_each_gate_takes_and_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**values: Any) -> dict[str, str]:
        lines = [line.split("expected time of ", 1)[1] for line in judged(session(**values)) if "expected time of " in line]
        return dict(line.split(": ", 1) for line in lines)

    fast, full = told(), told(burn="full", soak="2h")
    assert fast["bringup"].startswith("30 min at most")
    assert fast["compute"] == "0.5 min (--h20-burn=fast, 8 GPUs a node)"
    assert full["compute"] == "3.5 min (--h20-burn=full, 8 GPUs a node)"
    assert full["soak"] == "120 min"
    together = [float(t["the whole"].split(" ", 1)[0]) for t in (fast, full)]
    assert together[1] - together[0] == pytest.approx(123, abs=1)
    assert "compute" not in told(burn="off")
    assert fast["throughput, beyond"].count(".") >= 4
    monkeypatch.setattr(Session, "limits_of", lambda self, label: None)
    unknown = told()
    assert unknown["throughput"] == "26 cells have no rate in a limits file: their time is not known"
    assert unknown["the whole"].startswith("at least ")


@pytest.mark.parametrize(("how", "gpus", "seconds"), [("fast", 2, 20.0), ("fast", 8, 29.0), ("full", 8, 212.0), ("fast", 1, 19.0)])
def test_how_long_the_burn_takes(how: str, gpus: int, seconds: float) -> None:
    """20.0 s on two H100 (docs/measured.md)."""
    assert expected_seconds(how, gpus) == pytest.approx(seconds, abs=1)


def test_a_labs_gpus_are_burned_when_asked() -> None:
    lab = session().inventory.model_copy(update={"kind": "lab"})
    assert "--h20-burn=fast only" in _without_burn(None, lab)
    assert _without_burn("fast", lab) == ""


def test_gpus_that_somebody_uses_are_never_burned() -> None:
    nodes = str(environments() / "h20-2node.yaml")
    attached = session(nodes=nodes, attach="http://127.0.0.1:8000")
    assert attached.left_out[GateName.COMPUTE].startswith("attached: it would disturb")
    assert GateName.COMPUTE not in attached.required
    with pytest.raises(UsageError, match="--h20-burn=full: it needs idle GPUs"):
        session(nodes=nodes, attach="http://127.0.0.1:8000", burn="full")


def test_a_limit_of_a_check_that_the_run_never_makes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{name: x, origin: {kind: file}, checks: {fabric.all_reduce: {value: 190}, answers.accuracy: {value: 0.9}}}")
    target = cast(LaunchTarget, SimpleNamespace(profile=SimpleNamespace(limits=str(path))))
    _checks_that_are_made((target,), {})
    with pytest.raises(UsageError, match=r"mine\.yaml: fabric\.all_reduce: this run does not look at it \(attached without"):
        _checks_that_are_made((target,), {GateName.FABRIC: NO_INVENTORY})


def test_rehash_reads_every_file_again_and_is_refused_where_none_is_read() -> None:
    made = session(rehash=True, weights="full")
    assert {made.inventory.expect_of(n).weights_cache_max_days for n in made.inventory.nodes} == {0.0}
    assert made.targets[0].inventory is made.inventory
    with pytest.raises(UsageError, match="--h20-rehash: no file is hashed in this run; add --h20-weights=full"):
        session(rehash=True, weights="fast")


@pytest.mark.parametrize(("text", "hours"), [("20m", 1 / 3), ("1h", 1.0), ("1h30m", 1.5), ("90s", 0.025), ("24h", 24.0)])
def test_a_soak_has_its_hours(text: str, hours: float) -> None:
    assert soak_hours(text) == pytest.approx(hours)


@pytest.mark.parametrize("text", ["", "0h", "30s", "1", "1.5h", "-1h", "1d", "1m1h", "200h", "h"])
def test_a_soak_of_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 20m, 1h, 1h30m or 24h"):
        soak_hours(text)


def test_a_soak_is_a_gate_only_when_it_is_asked_for() -> None:
    assert GateName.SOAK not in session().required
    assert session(soak="1h").required == (*ALWAYS, GateName.SOAK)


def test_on_an_attached_cluster_a_soak_is_all_there_is() -> None:
    found = build(Settings(attach="http://127.0.0.1:9", engine=("vllm",), soak="20m"))
    assert found.required == (GateName.SOAK,)
    assert GateName.ENDPOINT in found.left_out
    assert "only the soak of an attached cluster was asked for" in found.cannot_accept


def test_a_server_whose_model_is_a_path_can_be_attached_to() -> None:
    """SGLang's router gives the path as the model's name (sglang_router 0.3.2, as it ran)."""
    model = attach_inventory("http://127.0.0.1:31900", ["sglang"], Served(model="/mnt/models/DeepSeek-R1")).model
    assert (model.path, model.mount, model.served_name) == ("/mnt/models/DeepSeek-R1", "/mnt/models", "/mnt/models/DeepSeek-R1")
    assert attach_inventory("http://127.0.0.1:8000", ["sglang"], Served(model="R1")).model.path == "R1"
