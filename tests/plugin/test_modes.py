"""Replay, attach, keep, and what the exit status says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h20.acceptance import test_bringup, test_endpoint, test_nccl_rdma, test_throughput
from pytest_h20.cluster.state import ClusterState, EngineVersions
from pytest_h20.report.run import hash_records, seal_of
from pytest_h20.run.bringup import keep_text
from pytest_h20.run.settings import Settings, build, create_run, with_run
from pytest_h20.run.store import CLUSTER
from tests.plugin.foreign import REHEARSAL, Done, pytest_in, write

GATED = "import pytest\npytestmark = pytest.mark.h20_gate('endpoint')\n"


# ---------------------------------------------------------------------- replay


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run of two gates."""
    folder = tmp_path_factory.mktemp("recorded")
    write(folder)
    return pytest_in(folder, *REHEARSAL, str(test_bringup.__file__), str(test_throughput.__file__), timeout=500)


def figures(done: Done) -> dict[tuple[str, str], object]:
    """(check, subject) → figure; numbers up to the rounding of another order of addition."""
    return {
        (c["check"], c["subject"]): pytest.approx(c["measured"]) if isinstance(c["measured"], float) else c["measured"]
        for c in done.verdict["checks"]
    }


def test_a_replay_gives_the_same_verdicts(recorded: Done, tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-replay={recorded.run}")
    assert done.statuses == recorded.statuses
    assert len(done.statuses) > 15
    assert {(c["check"], c["subject"]): c["measured"] for c in done.verdict["checks"]} == figures(recorded)
    assert done.status == recorded.status
    assert done.verdict["mode"] == "replay"
    assert done.verdict["accepted"] is False
    assert "h20: preflight" not in done.output, "a replay touches no machine"


def test_a_replay_with_other_limits_gives_other_verdicts(recorded: Done, tmp_path: Path) -> None:
    cells = (1, 8, 200)
    rows = "".join(f"  - {{input: 128, output: 128, concurrency: {c}, output_throughput: 100000}}\n" for c in cells)
    (tmp_path / "hard.yaml").write_text(
        f"name: hard\norigin: {{kind: file}}\nmetrics: {{output_throughput: {{kind: min, unit: tok/s}}}}\ncells:\n{rows}"
    )
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-replay={recorded.run}", "--h20-limits=hard.yaml")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert [c["status"] for c in done.check("throughput.output_throughput")] == ["fail"] * 3
    assert {c["measured"] for c in done.check("throughput.output_throughput")} == {
        c["measured"] for c in recorded.check("throughput.output_throughput")
    }
    assert {g["name"]: g["status"] for g in done.verdict["gates"]}["bringup"] == "pass"


def talked_green(path: Path) -> None:
    """Every verdict turned green by hand, and all of it hashed and sealed as if it had been so: only the evidence still tells."""
    lines = [json.loads(line) for line in (path / "verdicts.jsonl").read_text().splitlines()]
    for line in lines:
        line["verdict"] |= {"status": "pass", "limit": None}
    (path / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = path / "verdict.json"
    document = json.loads(file.read_text()) | {"records": hash_records(path), "green": True}
    document["checks"] = [c | {"status": "pass", "limit": None} for c in document["checks"]]
    file.write_text(json.dumps(document | {"seal": seal_of(document)}))


def test_a_replay_judges_the_evidence_and_not_what_was_made_of_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run")
    red = pytest_in(tmp_path / "run", *REHEARSAL, "--h20-fault=nccl-without-gdr", str(test_nccl_rdma.__file__), timeout=500)
    assert [c["status"] for c in red.check("rdma.channels_gdr")] == ["fail", "fail"]
    talked_green(red.run)
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-replay={red.run}")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert [c["status"] for c in done.check("rdma.channels_gdr")] == ["fail", "fail"]
    assert done.check("rdma.channels_gdr")[0]["reason"].endswith("; recorded was pass")
    assert "verdicts: its recorded evidence (probes, NCCL logs, counters) was judged again" in done.output


def test_a_replay_of_nothing_is_a_usage_error(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, "--h20-replay=nowhere")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "nowhere: no run here (verdict.json is missing)" in done.output


def test_a_replay_in_workers_is_refused(recorded: Done, tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-replay={recorded.run}", "-n", "2")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "leave -n out" in done.output


# ---------------------------------------------------------------------- attach


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The built-in server, which nobody of ours started."""
    argv = [sys.executable, "-m", "pytest_h20.load.reference", "--port", "0", "--with-parent", "--flavour", "sglang"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
            assert process.poll() is None, "it was stopped by a run that had not started it"
        finally:
            process.terminate()


def test_attached_to_what_runs(server: str, tmp_path: Path) -> None:
    write(tmp_path, test_it=GATED + "def test_it(client, endpoint): assert [m.id for m in client.models.list()] == [endpoint.model]\n")
    done = pytest_in(tmp_path, f"--h20-attach={server}", "--engine=sglang", "test_it.py")
    assert done.status == 0, done.output
    assert done.verdict["mode"] == "attach"
    assert done.verdict["accepted"] is False
    assert "attached without an inventory" in json.dumps(done.verdict["header"])
    assert "h20: launching" not in done.output
    assert "h20: down" not in done.output


def test_attached_gates_that_need_machines_are_left_out(server: str, tmp_path: Path) -> None:
    """The rdma gate of a bare URL: skipped with the reason, and so not green by itself."""
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-attach={server}", "--engine=sglang", "-rs", "--pyargs", "pytest_h20.acceptance.test_nccl_rdma")
    assert done.status != 0
    assert "there is no machine to look at" in done.output


def test_attached_workers_share_the_endpoint(server: str, tmp_path: Path) -> None:
    write(tmp_path, test_it=GATED + "@pytest.mark.parametrize('n', range(4))\ndef test_it(endpoint, n): assert endpoint.url\n")
    done = pytest_in(tmp_path, f"--h20-attach={server}", "--engine=sglang", "-n", "2", "test_it.py")
    assert done.status == 0, done.output
    assert done.counts == {"passed": 4}


# ---------------------------------------------------------------------- keep


def test_keep_says_how_to_attach_and_how_to_remove(tmp_path: Path) -> None:
    session = build(Settings(nodes="rehearsal:quick", engine=("sglang",)))
    session = with_run(session, create_run(session, tmp_path, "pytest"), "20250405-ab12")
    state = ClusterState("20250405-ab12", "sglang", "default", "node01", "http://10.63.65.207:8000", "R1", EngineVersions("0.4.4"))
    session.shared.once(CLUSTER("sglang"), lambda: state)
    assert keep_text(session, "sglang", "20250405-ab12").splitlines() == [
        "h20: kept: sglang stays up (run 20250405-ab12)",
        "h20:   test it again:  pytest --engine=sglang --nodes=rehearsal:quick --h20-attach=http://10.63.65.207:8000",
        "h20:   on node01: docker ps --filter label=io.pytest-h20.run=20250405-ab12",
        "h20:   on node02: docker ps --filter label=io.pytest-h20.run=20250405-ab12",
        "h20:   remove it:      python -m pytest_h20 reap --nodes rehearsal:quick --run 20250405-ab12",
    ]


def test_what_never_came_up_is_not_said_to_stay_up(tmp_path: Path) -> None:
    session = build(Settings(nodes="rehearsal:quick", engine=("sglang",)))
    session = with_run(session, create_run(session, tmp_path, "pytest"), "20250405-ab12")
    text = keep_text(session, "sglang", "20250405-ab12")
    assert text.startswith("h20: kept: sglang did not come up; its containers and logs are left as they are")
    assert "test it again" not in text
    assert "reap --nodes" in text


def test_a_rehearsal_cannot_be_kept(tmp_path: Path) -> None:
    """Its processes live and end with the run; nothing must suggest that they could be attached to."""
    write(tmp_path, test_it="def test_it(cluster): pass\n")
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-keep", "test_it.py")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --h20-keep: the rehearsal's cluster lives and ends with its run" in done.output


# ---------------------------------------------------------------------- exit status


@pytest.mark.parametrize(
    ("test", "status", "said"),
    [
        (GATED + "def test_it(inventory): pass\n", 0, "EVERY GATE HOLDS"),
        (GATED + "def test_it(inventory): assert False\n", 1, "NOT ACCEPTED"),
        (GATED + "def test_it(inventory): pytest.skip('not today')\n", 1, "everything was skipped"),
        (GATED + "def test_it(judge): judge()\n", 1, "could not measure: the check returned no verdict"),
        (GATED + "def test_it(inventory): raise RuntimeError('broke')\n", 1, "RuntimeError: broke"),
        (GATED + "@pytest.fixture\ndef own(): raise RuntimeError('early')\ndef test_it(own): pass\n", 1, "RuntimeError: early"),
        ("import pytest\ndef test_it(inventory): pytest.skip('not today')\n", 1, "1 skipped"),
        ("def test_it(inventory): pass\n", 0, "1 passed"),
        ("", 1, "no tests ran"),
        ("raise RuntimeError('in the module')\n", 2, "RuntimeError: in the module"),
        (GATED + "def test_it(inventory): raise KeyboardInterrupt\n", 2, "NOT FINISHED: interrupted"),
    ],
    ids=[
        *("holds", "fails", "skipped", "no-verdict", "broke", "set-up-broke", "foreign-skipped", "foreign-passed", "nothing"),
        *("module-broke", "interrupted"),
    ],
)
def test_exit_status(tmp_path: Path, test: str, status: int, said: str) -> None:
    write(tmp_path, test_it=test)
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py")
    assert done.status == status, done.output
    assert said in done.output
    assert done.verdict["accepted"] is False
    assert done.verdict["complete"] is True
    assert done.verdict["green"] is ("EVERY GATE HOLDS" in done.output)


@pytest.mark.parametrize(
    ("fixture", "said"),
    [
        ("raise RuntimeError('early')", "test failed: RuntimeError: early"),
        ("yield\n    raise RuntimeError('late')", "test failed: its tear-down broke"),
    ],
    ids=["fixture", "tear-down"],
)
def test_what_breaks_around_a_test_of_theirs_is_theirs_and_leaves_nothing_green(tmp_path: Path, fixture: str, said: str) -> None:
    theirs = f"import pytest\n@pytest.fixture\ndef own():\n    {fixture}\ndef test_theirs(own): pass\n"
    write(tmp_path, test_it=theirs, test_gate=GATED + "def test_ours(inventory): pass\n")
    done = pytest_in(tmp_path, *REHEARSAL, "test_it.py", "test_gate.py")
    assert done.status == 1, done.output
    assert {g["name"]: g["status"] for g in done.verdict["gates"]} == {"endpoint": "pass"}
    assert (done.verdict["green"], done.verdict["accepted"]) == (False, False)
    assert said in done.output
    assert "set-up error" not in done.output


def test_a_part_of_the_suite_is_green_but_no_acceptance(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, str(test_endpoint.__file__), "-k", "models")
    assert done.status == 0, done.output
    assert "tests of the suite gave no verdict of their own" in json.dumps(done.verdict["header"])


def test_collecting_only_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, "--co", "-q")
    assert done.status == 0
    assert not done.runs


def test_an_attached_server_of_the_other_engine_is_a_mistake_of_the_command_line(server: str, tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, f"--h20-attach={server}", "--engine=vllm")
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert "this server is sglang (owned_by of /v1/models), not vllm: give --engine=sglang" in done.output
    assert not done.runs


def test_collecting_asks_no_server(tmp_path: Path) -> None:
    """What is attached is asked once, by the process that starts the run; a plugin's configuration touches no network."""
    write(tmp_path)
    done = pytest_in(
        tmp_path,
        "--h20-attach=http://127.0.0.1:9",
        "--engine=vllm",
        "--collect-only",
        "-q",
        "--pyargs",
        "pytest_h20.acceptance.test_endpoint",
    )
    assert done.status == 0, done.output
    assert "test_property[chat]" in done.output


def test_an_inventory_without_rails_says_so_in_our_words(tmp_path: Path) -> None:
    bare = "def pytest_h20_inventory(inventory):\n    nodes = tuple(n.model_copy(update={'rails': ()}) for n in inventory.nodes)\n"
    write(tmp_path, conftest=bare + "    return inventory.model_copy(update={'nodes': nodes})\n")
    done = pytest_in(
        tmp_path, *REHEARSAL, "-rs", "--pyargs", "pytest_h20.acceptance.test_fabric", "-k", "mtu", f"--junitxml={tmp_path}/j.xml"
    )
    told = done.output + json.dumps(done.verdict) + (tmp_path / "j.xml").read_text(encoding="utf-8")
    assert "the inventory names no rail on node01, node02" in told
    assert "parameter set" not in told
