"""A node that writes down everything it was asked and what came back: the raw evidence of a run, without secrets.

``RecordingNode(node, sink)`` gives every record to ``sink(name, data) -> path``; the path comes back in
``CommandResult.evidence``, so that a verdict can name its file. The caller gets the true result, the evidence is redacted.
Polling does not flood the evidence: an answer equal to the last one to the same question is not written again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_h20.core.redact import DEFAULT, Redactor
from pytest_h20.nodes.base import CommandResult, ContainerInfo, Containers, ContainerSpec, DaemonInfo, ImageInfo, Node

Sink = Callable[[str, bytes], str]
"""Stores one piece of evidence under a relative name (``node/0007-run-nvidia-smi.txt``); returns where it lies."""


def render_command(result: CommandResult, at: str, redactor: Redactor = DEFAULT) -> bytes:
    """A command's record: a header of ``key: JSON`` lines (lengths in characters), then both streams."""
    out, err = redactor.text(result.stdout), redactor.text(result.stderr)
    head = {
        "node": result.node,
        "command": redactor.text(result.command),
        "rc": result.rc,
        "seconds": round(result.seconds, 3),
        "at": at,
        "stdout": len(out),
        "stderr": len(err),
    }
    lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in head.items())
    return f"{lines}--- stdout\n{out}\n--- stderr\n{err}\n".encode("utf-8", "replace")


class _Recorder:
    """Numbers, redacts and writes the records of one node."""

    def __init__(self, node: str, sink: Sink, redactor: Redactor) -> None:
        self.node = node
        self.redactor = redactor
        self._sink = sink
        self._numbers = itertools.count(1)
        self._last: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def write(self, kind: str, subject: str, data: bytes, suffix: str, question: str | None = None) -> str:
        """Write one record. With ``question``, an answer equal to the last one is not written again."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            if question is not None and question in self._last and self._last[question][0] == digest:
                return self._last[question][1]
            number = next(self._numbers)
        slug = re.sub(r"[^A-Za-z0-9]+", "-", self.redactor.text(subject)).strip("-")[:48].strip("-").lower()
        node = re.sub(r"[^A-Za-z0-9._-]+", "-", self.node)
        path = self._sink(f"{node}/{number:04d}-{kind}{f'-{slug}' if slug else ''}.{suffix}", data)
        if question is not None:
            with self._lock:
                self._last[question] = (digest, path)
        return path

    def command(self, result: CommandResult, kind: str = "run") -> CommandResult:
        """Write a command's record and note its place in the result."""
        data = render_command(result, _now(), self.redactor)
        return dataclasses.replace(result, evidence=self.write(kind, result.command, data, "txt"))

    def event(self, kind: str, subject: str, question: Mapping[str, Any], answer: Any, repeats: bool = False) -> str:
        """Write a question and its answer as JSON."""
        asked = self.redactor.data(dict(question))
        body = {"node": self.node, "asked": kind, **asked, "answer": self.redactor.data(answer)}
        text = json.dumps(body, ensure_ascii=False, indent=1, default=str)
        key = json.dumps([kind, asked], ensure_ascii=False, default=str) if repeats else None
        return self.write(kind, subject, text.encode("utf-8", "replace"), "json", key)

    def failure(self, kind: str, subject: str, question: Mapping[str, Any], error: BaseException) -> None:
        """Write that there was no answer."""
        self.event(f"{kind}-failed", subject, question, f"{type(error).__name__}: {error}", repeats=True)


class RecordingNode:
    """A ``Node`` around another one that writes evidence; everything else it has is the inner node's. Thread-safe."""

    def __init__(self, node: Node, sink: Sink, redactor: Redactor = DEFAULT) -> None:
        self.inner = node
        self._recorder = _Recorder(node.name, sink, redactor)
        self._containers: RecordingContainers | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def tunnel_only(self) -> bool:
        """As the inner node says."""
        return self.inner.tunnel_only

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self.inner.name

    @property
    def containers(self) -> Containers:
        """The recorded container engine."""
        inner = self.inner.containers
        if self._containers is None or self._containers.inner is not inner:
            self._containers = RecordingContainers(inner, self._recorder)
        return self._containers

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """Run and record; ``evidence`` of the result names the record."""
        try:
            return self._recorder.command(self.inner.run(command, *args, timeout=timeout, stdin=stdin))
        except Exception as error:
            self._recorder.failure("run", command, {"command": command, "args": [str(a) for a in args]}, error)
            raise

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """Run and record, with each line as it comes."""
        try:
            return self._recorder.command(self.inner.stream(command, *args, on_line=on_line, timeout=timeout), "stream")
        except Exception as error:
            self._recorder.failure("stream", command, {"command": command, "args": [str(a) for a in args]}, error)
            raise

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file; its size and digest are recorded, not its contents."""
        self.inner.put(data, path, mode)
        answer = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": f"{mode:o}"}
        self._recorder.event("put", path, {"path": path}, answer)

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Read a file; what was read is recorded as it is (redacted). Empty reads are not: nothing was there yet."""
        try:
            data = self.inner.get(path, offset, limit)
        except Exception as error:
            self._recorder.failure("get", path, {"path": path}, error)
            raise
        if data:
            place = f"{path}-at-{offset}" if offset else path
            question = json.dumps(["get", path, offset, limit])
            self._recorder.write("get", place, self._recorder.redactor.bytes(data), "txt", question)
        return data

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """A tunnel; recorded once."""
        address = self.inner.forward(host, port)
        self._recorder.event("forward", f"{host}-{port}", {"host": host, "port": port}, list(address), repeats=True)
        return address

    def close(self) -> None:
        """Close the inner node."""
        self.inner.close()


class RecordingContainers:
    """``Containers`` that write evidence."""

    def __init__(self, inner: Containers, recorder: _Recorder) -> None:
        self.inner = inner
        self._recorder = recorder

    def _record(self, kind: str, subject: str, question: Mapping[str, Any], call: Callable[[], Any], repeats: bool = False) -> Any:
        try:
            answer = call()
        except Exception as error:
            self._recorder.failure(kind, subject, question, error)
            raise
        self._recorder.event(kind, subject, question, _plain(answer), repeats)
        return answer

    def daemon(self) -> DaemonInfo:
        """See ``Containers``."""
        answer: DaemonInfo = self._record("daemon", "", {}, self.inner.daemon, repeats=True)
        return answer

    def image(self, reference: str) -> ImageInfo | None:
        """See ``Containers``."""
        question = {"reference": reference}
        answer: ImageInfo | None = self._record("image", reference, question, lambda: self.inner.image(reference), repeats=True)
        return answer

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        """See ``Containers``."""
        question = {"spec": self._spec(spec)}
        answer: ContainerInfo = self._record("start", spec.name, question, lambda: self.inner.start(spec))
        return answer

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        """See ``Containers``."""
        try:
            return self._recorder.command(self.inner.run(spec, timeout), "container-run")
        except Exception as error:
            self._recorder.failure("container-run", spec.name, {"spec": self._spec(spec)}, error)
            raise

    def exec(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0) -> CommandResult:
        """See ``Containers``."""
        try:
            return self._recorder.command(self.inner.exec(container_id, argv, env, timeout), "exec")
        except Exception as error:
            self._recorder.failure("exec", " ".join(argv), self._exec(container_id, argv, env), error)
            raise

    def exec_detached(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """See ``Containers``."""
        question = self._exec(container_id, argv, env)
        self._record("exec-detached", " ".join(argv), question, lambda: self.inner.exec_detached(container_id, argv, env))

    def find(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """See ``Containers``."""
        question = {"labels": dict(labels)}
        answer: list[ContainerInfo] = self._record("find", "", question, lambda: self.inner.find(labels), repeats=True)
        return answer

    def inspect(self, container_id: str) -> ContainerInfo | None:
        """See ``Containers``."""
        question = {"container": container_id}
        answer: ContainerInfo | None = self._record(
            "inspect", container_id[:12], question, lambda: self.inner.inspect(container_id), repeats=True
        )
        return answer

    def logs(self, container_id: str, tail: int | None = None) -> str:
        """See ``Containers``."""
        text = self.inner.logs(container_id, tail)
        data = self._recorder.redactor.text(text).encode("utf-8", "replace")
        self._recorder.write("logs", container_id[:12], data, "txt", f"logs {container_id} {tail}")
        return text

    def stop(self, container_id: str, timeout: float = 10.0) -> None:
        """See ``Containers``."""
        question = {"container": container_id}
        self._record("stop", container_id[:12], question, lambda: self.inner.stop(container_id, timeout))

    def remove(self, container_id: str) -> None:
        """See ``Containers``."""
        question = {"container": container_id}
        self._record("remove", container_id[:12], question, lambda: self.inner.remove(container_id))

    def _spec(self, spec: ContainerSpec) -> dict[str, Any]:
        return {**dataclasses.asdict(spec), "env": self._recorder.redactor.env(spec.env)}

    def _exec(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None) -> dict[str, Any]:
        return {"container": container_id, "argv": list(argv), "env": self._recorder.redactor.env(env or {})}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def unrecorded(node: Node) -> Node:
    """The node without its recorder: for what is asked every second and kept elsewhere as a whole (growing logs)."""
    return node.inner if isinstance(node, RecordingNode) else node
