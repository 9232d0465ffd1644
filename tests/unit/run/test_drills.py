"""How a client sees the end of its request, on a real server with real faults; and what the engine left, as the node tells it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_h20.checks.drill import AskedAfter, Attempt, Health, Restart, Seen
from pytest_h20.checks.under_load import Alone
from pytest_h20.cluster.drills import DRILLS
from pytest_h20.load import LoadPlan, Target
from pytest_h20.load.reference import ReferenceConfig, ReferenceServer
from pytest_h20.run.drills import Clients, one, patience_s, row_of, shm_left


@contextmanager
def serving(**config: object) -> Iterator[Target]:
    server = ReferenceServer(ReferenceConfig(flavour="vllm", model="m", **{"ttft": 0.001, "tpot": 0.001, **config}))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Target(f"http://127.0.0.1:{server.port}", "vllm", "m")
    finally:
        server.stop()
        thread.join(5)


PLAN = LoadPlan(time_scale=100.0, request_timeout_s=50.0, ignore_eos=False)
ANYTHING = Alone(None)


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("", "answered"),
        ("http500", "error"),
        ("reset", "error"),
        ("midstream", "error"),
        ("truncate", "cut"),
        ("eof", "error"),
        ("stall", "hang"),
    ],
)
def test_how_a_request_ends_for_its_client(fault: str, how: str) -> None:
    with serving(**({"fail_rate": 1.0, "fail_kind": fault} if fault else {})) as target:
        found, detail = one(target, PLAN, ANYTHING, 0)
    assert found == how, detail


def test_nobody_listens() -> None:
    with serving() as target:
        gone = target
    assert one(gone, PLAN, ANYTHING, 0)[0] == "error"


def test_clients_ask_until_they_are_stopped_and_see_that_all_is_well() -> None:
    with serving() as target:
        clients = Clients(target, PLAN, ANYTHING, 0.01)
        clients.start()
        for _ in range(200):
            if clients.well_since(0.0):
                break
            threading.Event().wait(0.02)
        clients.stop(2.0)
    attempts, health = clients.so_far()
    assert {a.how for a in attempts} == {"answered"}
    assert {h.status for h in health} == {200}


def test_what_is_still_open_at_the_end_hangs() -> None:
    with serving(fail_rate=1.0, fail_kind="stall") as target:
        clients = Clients(target, LoadPlan(request_timeout_s=60.0, ignore_eos=False), ANYTHING, 0.01)
        clients.start()
        threading.Event().wait(0.2)
        clients.stop(0.1)
    assert [a.how for a in clients.so_far()[0]] == ["hang"] * 4


def test_a_slow_answer_of_an_engine_that_is_well_does_not_hang() -> None:
    """Seen with vLLM on two busy cores: answers took 9 s, the watch ended 5 s after the last had begun."""
    with serving(ttft=0.3) as target:
        clients = Clients(target, LoadPlan(ignore_eos=False), Alone(None), 0.02)
        clients.start()
        clients.stop(patience_s(Seen(60.0, "x", settled="well")))
        asked, _ = clients.so_far()
    assert ([a.how for a in asked], patience_s(Seen(60.0, "x"))) == (["answered"] * 4, 5.0)


def test_files_that_hold_memory_are_left_behind_and_a_semaphore_of_32_bytes_is_not() -> None:
    semaphore, old = "shm 1764273600 32 sem.mp-5ltuffyr\n", "shm 1764273500 99000000 older\n"
    assert shm_left(f"{semaphore}port 1F40\n{old}", 1764273550.0) == []
    assert shm_left(f"{semaphore}shm 1764273601 2000000 nccl-a b\n{old}", 1764273550.0) == [
        "/dev/shm/sem.mp-5ltuffyr (32 bytes)",
        "/dev/shm/nccl-a b (2000000 bytes)",
    ]


def test_a_row_of_the_recovery_table() -> None:
    seen = Seen(
        told_s=60,
        why="x",
        proof="process 7 is gone",
        attempts=(Attempt(-4, -1, "answered"), Attempt(-1, 4.26, "error"), Attempt(5, 6, "answered")),
        health=(Health(-1, 200), Health(0.5, 200), Health(1, 503), Health(2, 503)),
        settled="down",
        settled_s=12.34,
        restart=Restart(True, 300.0),
        after=AskedAfter(4, 4),
    )
    row = row_of("sglang", DRILLS["kill-api"], seen)
    assert (row.clients, row.told_s, row.health) == ({"answered": 1, "error": 1}, 4.3, (200, 503))
    assert (row.settled, row.settled_s, row.restart, row.restart_s) == ("down", 12.3, "started again", 300.0)
