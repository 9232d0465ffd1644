"""The evidence holds everything that was asked and answered, no secret, and no flood of equal answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.core.errors import UsageError
from pytest_h20.core.redact import MASK
from pytest_h20.nodes.base import CommandResult, ContainerInfo, Containers, ContainerSpec, Node
from pytest_h20.nodes.local import LocalNode
from pytest_h20.nodes.recording import RecordingContainers, RecordingNode, unrecorded

SECRET = "hunter2-very-Secret-9"


class Shelf:
    """Keeps evidence in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def __call__(self, name: str, data: bytes) -> str:
        assert name not in self.files
        self.files[name] = data
        return f"evidence/{name}"


def recorded() -> tuple[RecordingNode, Shelf]:
    shelf = Shelf()
    return RecordingNode(LocalNode("node a/1"), shelf), shelf


def test_a_command_and_the_place_of_its_record() -> None:
    node, shelf = recorded()
    result = node.run("echo %s; echo err >&2; exit 4", "hello")
    assert (result.rc, result.stdout) == (4, "hello\n")
    assert result.evidence == "evidence/node-a-1/0001-run-echo-hello-echo-err-2-exit-4.txt"
    record = shelf.files[result.evidence.removeprefix("evidence/")].decode()
    head, _, streams = record.partition("--- stdout\n")
    told = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in head.splitlines())}
    assert (told["node"], told["command"], told["rc"], told["stdout"], told["stderr"]) == ("node a/1", result.command, 4, 6, 4)
    assert streams == "hello\n\n--- stderr\nerr\n\n"
    assert isinstance(node, Node)
    assert unrecorded(node) is node.inner
    assert node.address == "this machine"


def test_no_secret_reaches_the_evidence_and_the_caller_gets_the_truth(tmp_path: Path) -> None:
    node, shelf = recorded()
    assert SECRET in node.run(f"echo HF_TOKEN={SECRET}").stdout
    node.stream(f'echo \'{{"api_key": "{SECRET}"}}\'', on_line=lambda _: None)
    (tmp_path / "env").write_text(f"PATH=/bin\nAPI_KEY={SECRET}\n")
    assert SECRET.encode() in node.get(str(tmp_path / "env"))
    node.put(SECRET.encode(), str(tmp_path / "other"))
    assert len(shelf.files) == 4
    assert all(SECRET.encode() not in data and SECRET not in name for name, data in shelf.files.items())


def test_equal_answers_are_written_once_and_new_ones_again(tmp_path: Path) -> None:
    node, shelf = recorded()
    path = tmp_path / "log"
    path.write_text("one")
    for _ in range(3):
        node.get(str(path))
    assert node.get(str(path), 3) == b""
    path.write_text("onetwo")
    node.get(str(path), 3)
    node.get(str(path))
    assert [name.rpartition("-")[0] != "" for name in shelf.files] == [True] * 3
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            node.get(str(tmp_path / "nope"))
    assert sum("get-failed" in name for name in shelf.files) == 1


class FakeContainers:
    """Answers without a daemon."""

    def __init__(self) -> None:
        self.status = "running"

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        return ContainerInfo("f" * 64, spec.name, spec.image, self.status, None, False, dict(spec.labels), "2026-01-01T00:00:00Z")

    def inspect(self, container_id: str) -> ContainerInfo | None:
        return ContainerInfo(container_id, "x", "image", self.status, None, False, {}, "2026-01-01T00:00:00Z")

    def logs(self, container_id: str, tail: int | None = None) -> str:
        return f"started with --api-key {SECRET}\n"

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        raise UsageError(f"refused: --api-key {SECRET}")


def test_containers_are_recorded_without_secrets() -> None:
    node, shelf = recorded()
    fake = FakeContainers()
    containers = RecordingContainers(fake, node._recorder)  # type: ignore[arg-type]
    assert isinstance(containers, Containers)
    spec = ContainerSpec("engine", "vllm:1", ["vllm", "serve", "--api-key", SECRET], env={"HF_TOKEN": SECRET, "NCCL_DEBUG": "INFO"})
    started = containers.start(spec)
    for _ in range(3):
        containers.inspect(started.id)
    fake.status = "exited"
    containers.inspect(started.id)
    assert SECRET in containers.logs(started.id)
    with pytest.raises(UsageError):
        containers.run(spec)
    names = list(shelf.files)
    assert [n.split("-")[3] if n.startswith("node-a-1/") else n for n in names] == [
        "start",
        "inspect",
        "inspect",
        "logs",
        "container",
    ]
    assert all(SECRET.encode() not in data for data in shelf.files.values())
    start = json.loads(shelf.files[names[0]])
    assert start["spec"]["argv"] == ["vllm", "serve", "--api-key", MASK]
    assert start["spec"]["env"] == {"HF_TOKEN": MASK, "NCCL_DEBUG": "INFO"}
    assert start["answer"]["id"] == "f" * 64
