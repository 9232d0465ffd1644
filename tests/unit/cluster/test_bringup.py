"""The bring-up of two ranks on nodes that follow a script: what makes it ready, and every way in which it does not become so."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.cluster.bringup import BringUp
from pytest_h20.cluster.clock import Clock
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.preflight import Preflight
from pytest_h20.cluster.state import EngineVersions, Phase
from pytest_h20.config.inventory import load_inventory
from pytest_h20.core.errors import BringUpError, H20Error, TransportError
from pytest_h20.engines import dialect_for
from pytest_h20.nodes import CommandResult, ContainerInfo, ContainerSpec, Node
from pytest_h20.nodes.local import LocalNode

INVENTORY = Path(__file__).parents[3] / "environments" / "h20-2node.yaml"
READY = "INFO:     Uvicorn running on http://10.63.65.207:8000 (Press CTRL+C to quit)\nThe server is fired up and ready to roll!\n"
OURS = "inode 11\nowner 11 7 python3 -m sglang.launch_server\nend\n"


class Fast(Clock):
    """A thousand seconds in one."""

    def __init__(self) -> None:
        super().__init__(1000.0)


class Script:
    """What happens: the daemon's answers, each rank's log, and what the engine's port answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = {0: READY, 1: "loading\n"}
        self.exits: dict[int, int] = {}
        self.oom = True
        self.removed: set[int] = set()
        self.refuses: Exception | None = None
        self.listeners = OURS
        self.health, self.completion, self.tokens = 200, 200, 1
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.started: dict[str, int] = {}

    # --- the journal
    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def evidence(self, name: str, data: bytes | str) -> str:
        return name

    # --- the daemon
    def start(self, spec: ContainerSpec) -> ContainerInfo:
        if self.refuses is not None:
            raise self.refuses
        rank = len(self.started)
        self.started[f"id-{spec.name}"] = rank
        role = spec.labels["io.pytest-h20.role"]
        (self.folder / "r1" / f"{role}.log").write_text(self.logs[rank])
        return self._info(f"id-{spec.name}", spec.name)

    def _info(self, identity: str, name: str = "c") -> ContainerInfo:
        code = self.exits.get(self.started[identity])
        return ContainerInfo(identity, name, "image", "running" if code is None else "exited", code, code == 137 and self.oom, {}, "now")

    def inspect(self, container: str) -> ContainerInfo | None:
        return None if self.started[container] in self.removed else self._info(container)

    def exec(self, container: str, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0) -> CommandResult:
        return CommandResult("node01", "exec", 0, self.listeners, "", 0.0)


class Scripted(LocalNode):
    """A node of the script, whose files are real and whose only port is the stand-in's."""

    def __init__(self, name: str, script: Script, port: int) -> None:
        super().__init__(name)
        self._containers = cast("Any", script)
        self._port = port
        self.ledger = SimpleNamespace(make_folder=lambda name: (script.folder / name).mkdir(exist_ok=True))

    @property
    def tunnel_only(self) -> bool:
        return True

    def forward(self, host: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", self._port


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.fixture
def port(script: Script) -> Iterator[int]:
    class Engine(BaseHTTPRequestHandler):
        def _say(self, status: int, data: object) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._say(script.health, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(script.completion, {"usage": {"completion_tokens": script.tokens}})

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def bring(script: Script, port: int, tmp_path: Path) -> BringUp:
    inventory = load_inventory(INVENTORY).model_copy(update={"run_dir_on_node": str(tmp_path)})
    target = LaunchTarget(inventory, *inventory.engine_profile("sglang"))
    dialect = dialect_for("sglang", "0.4.4", target.profile.mode)
    plan = dialect.plan(target.engine_profile(), target.node_plans())
    nodes = {n.name: cast("Node", Scripted(n.name, script, port)) for n in target.nodes}
    return BringUp(target, nodes, "r1", script, Preflight(dialect, plan, EngineVersions("0.4.4")), clock=Fast())


def failed(bring: BringUp) -> BringUpError:
    with pytest.raises(BringUpError) as caught:
        bring.up()
    assert bring.phase is Phase.BROKEN
    return caught.value


def test_a_cluster_is_up_when_line_health_token_and_socket_agree(bring: BringUp, script: Script) -> None:
    state = bring.up()
    assert [phase for phase, _ in state.timeline] == ["launching", "loading", "ready"]
    assert [(r.node, r.rank) for r in state.roles] == [("node01", 0), ("node02", 1)]
    assert (state.run_id, state.engine, state.head) == ("r1", "sglang", "node01")
    assert state.first_completion_s is not None
    assert "belongs to our container (pid 7: python3 -m sglang.launch_server)" in state.proof
    assert [data["node"] for kind, data in script.events if kind == "command"] == ["node01", "node02"]


def test_a_daemon_that_refuses_is_the_bring_ups_failure_and_a_lost_node_is_not(bring: BringUp, script: Script) -> None:
    script.refuses = H20Error("no such image")
    assert "could not be started: no such image" in str(failed(bring))
    script.refuses = TransportError("node01: connection lost")
    bring.roles.clear()
    with pytest.raises(TransportError, match="connection lost"):
        bring.up()


@pytest.mark.parametrize(("rank", "code", "words"), [(0, 1, "ended (exit code 1)"), (1, 137, "ended (killed for memory)")])
def test_a_rank_that_ends_is_named(bring: BringUp, script: Script, rank: int, code: int, words: str) -> None:
    script.logs[0] = "loading\n"
    script.exits[rank] = code
    error = failed(bring)
    assert f"node0{rank + 1}: " in str(error)
    assert f"{words} before the engine was ready" in str(error)
    assert error.check == "bringup.every_rank_runs"


def test_a_rank_that_somebody_killed_is_named_with_that_cause_although_its_log_says_nothing(bring: BringUp, script: Script) -> None:
    script.logs[0] = "loading\n"
    script.exits[1], script.oom = 137, False
    error = str(failed(bring))
    assert error.startswith(
        "killed: the process was killed with SIGKILL, most often by the host's out-of-memory killer; node02: rank1 ended"
    )
    assert "fix: dmesg -T | grep -i kill" in error


def test_a_container_that_somebody_removed_is_told_as_that(bring: BringUp, script: Script) -> None:
    script.logs[0] = "loading\n"
    script.removed = {1}
    assert "is gone; somebody removed it" in str(failed(bring))


def test_no_ready_line_in_time(bring: BringUp, script: Script) -> None:
    script.logs[0] = "loading\n"
    bring.target = replace(bring.target, profile=bring.target.profile.model_copy(update={"ready_timeout": 50.0}))
    error = failed(bring)
    assert "not ready after 50 s (ready_timeout of profile 'default')" in str(error)
    assert "end of its log:\nloading" in str(error), "every rank's own words stand below"


def test_the_line_of_another_rank_does_not_count(bring: BringUp, script: Script) -> None:
    script.logs = {0: "loading\n", 1: READY}
    bring.target = replace(bring.target, profile=bring.target.profile.model_copy(update={"ready_timeout": 50.0}))
    assert "not ready after 50 s" in str(failed(bring))


def test_a_ready_line_before_a_server_that_does_not_answer(bring: BringUp, script: Script) -> None:
    script.health = 503
    error = failed(bring)
    assert "the ready line is there, but the server does not answer: GET /health answers 503" in str(error)


@pytest.mark.parametrize(("status", "tokens", "words"), [(500, 1, "answered 500"), (200, 0, "reported completion_tokens=0")])
def test_a_server_that_gives_no_token(bring: BringUp, script: Script, status: int, tokens: int, words: str) -> None:
    script.completion, script.tokens = status, tokens
    error = failed(bring)
    assert words in str(error)
    assert error.check == "bringup.first_completion"


def test_a_port_that_another_server_holds(bring: BringUp, script: Script) -> None:
    script.listeners = "inode 11\ninode 12\nowner 11 7 python3\nend\n"
    error = failed(bring)
    assert "answers, but the socket is not held by our container" in str(error)
    assert error.check == "bringup.ours"


def test_where_nobody_tells_whose_the_socket_is_the_access_log_must(bring: BringUp, script: Script) -> None:
    script.listeners = ""
    error = failed(bring)
    assert "neither its socket nor its access log is our container's" in str(error)
    assert error.check == "bringup.ours"
