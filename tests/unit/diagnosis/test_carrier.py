"""Whoever carried a log, and wherever its lines were broken: the judgement is that of the log as the engine wrote it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pytest_h20.diagnosis import FatalWatch, diagnose
from pytest_h20.diagnosis.carrier import unfold
from tests.corpus_score import folders

TAGS: dict[str, Callable[[int], str]] = {
    "an unknown word": lambda _: "prod-blue ",
    "another": lambda _: "[MYJOB/eu-west] ",
    "without a blank": lambda _: "node-a>",
    "Chinese": lambda _: "【节点1】",
    "kubectl logs --prefix": lambda _: "[pod/vllm-deepseek-0/server] ",
    "stern": lambda _: "vllm-deepseek-5d9c7b66f-x2x8z server ",
    "docker compose": lambda _: "deepseek-r1-1  | ",
    "loki": lambda i: f'2026-01-02 03:{i // 60 % 60:02}:{i % 60:02}.123 {{app="llm"}} ',
    "journald": lambda i: f"Jan 02 03:{i // 60 % 60:02}:{i % 60:02} gpu07 vllm-serve[31{i % 2}4]: ",
    "Ray": lambda i: f"(ServeReplica:app:VLLM pid={4100 + i % 3}, ip=10.0.0.{1 + i % 12}) ",
    "Ray in colour": lambda i: f"\x1b[36m(RayWorkerWrapper pid={998 + i % 3}, ip=10.0.0.7)\x1b[0m ",
    "glog": lambda i: f"I0102 03:{i // 60 % 60:02}:{i % 60:02}.{i:06} 4711 runner.py:55] ",
    "Airflow": lambda i: f"[2026-01-02, 03:{i // 60 % 60:02}:{i % 60:02} UTC] {{subprocess.py:93}} INFO - ",
}
WIDTHS = (80, 97, 118, 157, 200, 240)


def tagged(lines: Iterable[str], tag: Callable[[int], str]) -> list[str]:
    return [tag(i) + line for i, line in enumerate(lines)]


def broken(lines: Iterable[str], width: int) -> list[str]:
    return [line[at : at + width] for line in lines for at in range(0, max(1, len(line)), width)]


def logs() -> list[Path]:
    shared = Path(os.environ.get("H20_SHARED", Path(__file__).resolve().parents[4] / "shared"))
    found = [path for folder in folders("engine") for path in sorted(Path(folder).glob("*.log"))]
    found += sorted(shared.glob("transcripts/**/*.log"))
    return [path for path in found if path.stat().st_size < 30_000]


def test_no_tag_and_no_edge_changes_what_a_log_says() -> None:
    """A sample, another one of each log; those that were misread before are always in it."""
    chance = random.Random(17)
    every = logs()
    assert len(every) >= 26
    once_misread = [p for p in every if p.name.startswith(("launch-process-killed-9.", "sigterm-to-node1.node1.", "sigterm-never-ends-l"))]
    for path in [*once_misread, *chance.sample(every, 8)]:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        said = diagnose(lines)
        name, width = chance.choice(list(TAGS)), chance.choice(WIDTHS)
        for how, carried in (
            (name, tagged(lines, TAGS[name])),
            (f"{width} wide", broken(lines, width)),
            (f"{name}, then {width} wide", broken(tagged(lines, TAGS[name]), width)),
            (f"{width} wide, then {name}", tagged(broken(lines, width), TAGS[name])),
        ):
            got = diagnose(carried)
            assert (got.outcome, got.cause) == (said.outcome, said.cause), (path.name, how)


START = [
    "(APIServer pid=7) INFO 11-23 18:09:03 [api_server.py:1351] vLLM API server version 0.21.0",
    "(EngineCore pid=9) INFO 11-23 18:09:13 [parallel_state.py:1400] world_size=2 rank=0 local_rank=0 distributed_init_method=tcp://10.0.0.1:1",
    "(EngineCore pid=9) ERROR 11-23 18:09:20 [core.py:1006] Traceback (most recent call last):",
    '(EngineCore pid=9) ERROR 11-23 18:09:20 [core.py:1006]   File "/x/vllm/v1/engine/core.py", line 980, in run_engine_core',
    "(EngineCore pid=9) ERROR 11-23 18:09:20 [core.py:1006] ValueError: unheard of",
]


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
def test_lines_come_back_as_they_were(tag: Callable[[int], str]) -> None:
    assert diagnose(tagged(START, tag)).decisive_line.endswith("ValueError: unheard of")
    assert diagnose(tagged(START, tag)).outcome == "failed"


def test_lines_that_break_come_back_in_one_piece() -> None:
    assert list(unfold(broken(START, 80))) == START
    assert list(unfold([line.rstrip(" ") for line in broken(START, 80)])) == START
    assert list(unfold(tagged(broken(START, 80), TAGS["an unknown word"]))) == START


@pytest.mark.parametrize(
    "lines",
    [
        [f"Loading safetensors checkpoint shards:  {i}0% Completed | {i}/9 [00:0{i}<00:09,  1.2it/s]" for i in range(1, 9)],
        [f"RuntimeError: the same, {i} times" for i in range(5)],
        [f"node1:47:47 [{i}] NCCL INFO Channel 0{i}/0 : {i}[{i}] -> 2[2] via P2P/IPC" for i in range(5)],
        [f"(VllmWorker rank={i} pid=4) ERROR 11-23 18:09:03 [core.py:7] ValueError: x" for i in range(5)],
        ["Killed", "Killed"],
        ["x" * 100, "y" * 100, "Killed"],  # two lines of one length may be chance
        [f"{c}: " + "=" * 90 for c in "abc"] + ["INFO 11-23 18:09:03 [a.py:1] next"],
        [],
        [f"E0523 06:50:40.07{i} 223 client.cpp:444] Transfer failed for task{i}" for i in range(9)],  # Mooncake's own
    ],
)
def test_what_only_looks_like_it_stays(lines: list[str]) -> None:
    assert list(unfold(lines)) == lines


def watched(lines: Iterable[str]) -> tuple[str | None, str]:
    watch = FatalWatch()
    said = [hit.id for line in lines if (hit := watch.feed(line))]
    last = watch.settle()
    said += [last.id] if last else []
    assert len(said) <= 1  # it is said once
    return (said[0] if said else None), watch.diagnosis().outcome


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
def test_a_log_that_grows_is_read_alike(tag: Callable[[int], str]) -> None:
    log = [
        *START[:2] * 3,
        *START[2:4],
        "(EngineCore pid=9) ERROR 11-23 18:09:20 [core.py:1006] torch.OutOfMemoryError: CUDA out of memory.",
    ]
    for carried in (tagged(log, tag), broken(tagged(log, tag), 97), tagged(broken(log, 118), tag)):
        assert watched(carried) == watched(log) == ("cuda_out_of_memory", "failed")


def test_a_recorded_log_that_grows_is_read_alike() -> None:
    chance = random.Random(29)
    for path in chance.sample(logs(), 8):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        tag = TAGS[chance.choice(list(TAGS))]
        assert watched(tagged(lines, tag)) == watched(lines), path.name
        assert watched(broken(tagged(lines, tag), 157))[1] == diagnose(lines).outcome, path.name


def test_a_carried_error_is_known_in_the_line_that_proves_it() -> None:
    watch = FatalWatch()
    log = [*[f"prod-blue {START[1]}"] * 2, *[f"prod-blue INFO 11-23 18:09:1{i} [a.py:{i}] word {'x' * i}" for i in range(8)]]
    assert not any(watch.feed(line) for line in log)
    hit = watch.feed("prod-blue Killed")
    assert hit is not None
    assert hit.id == "killed"
