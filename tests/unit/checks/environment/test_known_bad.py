"""Known-bad combinations and what an image says of its NCCL."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_h20.checks.environment.known_bad import KNOWN, known_bad, nccl_in_image, within
from pytest_h20.core.verdict import Status, Verdict
from tests.unit.probes.cluster import blog_cluster


def judged(nccl: str, engine: str = "0.8.2", gpu: str = "NVIDIA H20", env: dict[str, str] | None = None, **packages: str) -> Verdict:
    return both(nccl, engine, gpu, env, **packages)[0]


def both(
    nccl: str, engine: str = "0.8.2", gpu: str = "NVIDIA H20", env: dict[str, str] | None = None, **packages: str
) -> tuple[Verdict, Verdict]:
    cluster = blog_cluster("vllm")
    machine = cluster.head.machine
    machine.nccl, machine.packages = nccl, {"vllm": engine, **{name.replace("_", "-"): v for name, v in packages.items()}}
    for stand_in in machine.gpus:
        stand_in.name = gpu
    view = cluster.gather().of("node01")
    view = replace(view, spec=view.spec.model_copy(update={"env": env or {}}))
    return known_bad(view)[0], nccl_in_image(view)[0]


def test_nccl_2_27_7_is_red_unless_its_ras_is_off() -> None:
    red = judged("2.27.7")
    assert red.status is Status.FAIL
    assert "segmentation fault in its RAS code" in red.reason
    assert "nccl#1996" in red.reason
    assert "NCCL_RAS_ENABLE" in red.action
    assert judged("2.27.7", env={"NCCL_RAS_ENABLE": "0"}).status is Status.PASS
    assert judged("2.27.7", env={"NCCL_RAS_ENABLE": "1"}).status is Status.FAIL


@pytest.mark.parametrize("nccl", ["2.27.5", "2.27.70", "2.28.9", "2.21.5"])
def test_its_neighbours_are_left_alone(nccl: str) -> None:
    found = judged(nccl)
    assert (found.status, found.looked_at) == (Status.PASS, len(KNOWN))


def test_what_one_thread_saw_is_a_warning() -> None:
    assert judged("2.21.5", engine="0.8.0").status is Status.WARN
    assert judged("2.21.5", engine="0.8.0", gpu="NVIDIA H100 80GB HBM3").status is Status.PASS
    assert judged("2.26.2", engine="0.8.0").status is Status.PASS
    assert judged("2.28.9", gpu="NVIDIA GB10").status is Status.WARN


def test_without_nccl_there_is_nothing_to_say() -> None:
    assert judged("").status is Status.SKIP


def test_versions_are_compared_by_number() -> None:
    assert within("2.27.7", ("2.27.7", "2.27.7"))
    assert within("2.27.7.post1", ("2.27.7", "2.27.7"))
    assert not within("", ("2.27.7", "2.27.7"))
    assert within("", ("", ""))


def test_every_row_names_a_thread_and_what_to_do() -> None:
    for bad in KNOWN:
        assert re.match(r"[a-z]+#[0-9]+", bad.thread), bad.name
        assert bad.symptom, bad.name
        assert bad.remedy, bad.name
        assert any(bad.nccl) or any(bad.versions), bad.name


def test_a_library_that_is_another_than_its_package_is_told() -> None:
    """verl#6621: the package said 2.30.4, the library that was loaded 2.28.9."""
    told = both("2.28.9", nvidia_nccl_cu13="2.30.4")[1]
    assert (told.status, told.reason) == (Status.WARN, "the library calls itself 2.28.9, nvidia-nccl-cu13 is 2.30.4")
    two = both("2.28.9", nvidia_nccl_cu13="2.30.7", nvidia_nccl_cu12="2.28.9")[1]
    assert two.status is Status.WARN
    assert "installed into one path" in two.reason
    assert both("2.28.9", nvidia_nccl_cu13="2.28.9")[1].status is Status.PASS
    assert both("2.28.9")[1].status is Status.SKIP
