"""A stand-in node: answers the suite's probe scripts from its truth, and its few plain commands on a sandbox folder."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_h20.cluster import drills
from pytest_h20.cluster.ledger import MARK
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import CommandResult, quote
from pytest_h20.probes import hang as probe_hang
from pytest_h20.probes.script import requests
from pytest_h20.rehearsal import standin, weights
from pytest_h20.rehearsal.containers import StandInContainers
from pytest_h20.rehearsal.drills import StandInDrills
from pytest_h20.rehearsal.state import State
from pytest_h20.rehearsal.under_load import as_now, asked_for, ticks
from pytest_h20.rehearsal.world import World


class StandInNode:
    """One node of the rehearsal. Implements ``transport.Node``."""

    tunnel_only = True

    def __init__(self, name: str, world: World, state: State, time_scale: float) -> None:
        self._name = name
        self._world = world
        self._state = state
        self._scale = time_scale
        self._closed = threading.Event()
        self._drills = StandInDrills(name, state, world.drill)
        self.containers = StandInContainers(name, world, state, time_scale)

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self._name

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        """Answer a command. Raises ``H20Error`` for one the stand-in does not know: the suite must ask nothing else."""
        text = quote(command, *args)
        began = time.monotonic()
        if self._name in self._world.unreachable:
            raise TransportError(f"{self._name}: {self._world.unreachable[self._name]}")
        if text.startswith(MARK):
            return self._ledger(text, began)
        if text.startswith(drills.MARK):
            rc, out = self._drills.answer(text)
            return CommandResult(self._name, text, rc, out, "", time.monotonic() - began)
        asked = requests(text)
        if asked and asked[0][0] == "weights_full":
            rc, out = 0, weights.full(self._world.weights[self._name], asked[0][1][0])
        else:
            rc, out = (0, self._probes(text)) if asked else self._plain(text, stdin)
        return CommandResult(self._name, text, rc, out, "", time.monotonic() - began)

    def stream(self, command: str, *args: object, on_line: Callable[[str], None], timeout: float = 3600.0) -> CommandResult:
        """As ``run``; the lines come at once."""
        text = quote(command, *args)
        every_s = asked_for(text)
        if every_s is None:
            result = self.run(command, *args, timeout=timeout)
            for line in result.stdout.splitlines():
                on_line(line)
            return result
        for line in ticks(self._world, self._state, self._name, self._scale):
            if line:
                on_line(line)
            else:
                time.sleep(every_s)
        self._closed.wait()  # a command that says nothing more lives until its connection ends
        return CommandResult(self._name, text, 130, "", "", 0.0)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write into the sandbox."""
        target = self._state.path(self._name, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(mode)

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Read from the sandbox."""
        with self._state.path(self._name, path).open("rb") as file:
            file.seek(offset)
            return file.read() if limit is None else file.read(limit)

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """Where the stand-in's server really listens. A port nobody serves leads to a closed one."""
        owner = next((n for n in self._world.inventory.nodes if n.engine_ip == host), None)
        name = owner.name if owner is not None else self._name
        served = self._state.ports(name).get(port)
        return ("127.0.0.1", int(served["real_port"])) if served else ("127.0.0.1", 1)

    def close(self) -> None:
        """What still waits ends."""
        self._closed.set()

    # ------------------------------------------------------------------ answers
    def _ledger(self, text: str, began: float) -> CommandResult:
        """A script of the run's record is run as it is, in the sandbox."""
        base = re.search(r"^b=(.*)$", text, re.M)
        assert base is not None, text
        real = self._state.path(self._name, shlex.split(base[1])[0])
        script = text[: base.start(1)] + shlex.quote(str(real)) + text[base.end(1) :]
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
        return CommandResult(self._name, text, done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def _probes(self, text: str) -> str:
        served = self._state.ports(self._name)
        self._state.loads(self._name, more=any(name in ("ib_client", "ib_server") for name, _ in requests(text)))
        machine = as_now(self._world, self._state, self._name, self._scale)
        if self._drills.made() and self._world.drill.left_mib:
            machine = replace(machine, gpus=[replace(gpu, used_mib=self._world.drill.left_mib) for gpu in machine.gpus])
        now = replace(
            machine,
            listeners={**machine.listeners, **{p: f'users:(("python3",pid={d["pid"]},fd=21))' for p, d in served.items()}},
            overrides={**weights.sections(self._world.weights[self._name], requests(text)), **machine.overrides},
        )
        return standin.answer(now, text, now=time.time())

    def _plain(self, text: str, stdin: bytes | None) -> tuple[int, str]:
        if text.startswith(probe_hang.MARK):
            return 0, self._world.hang.gpus()
        rc, out = 0, ""
        for part in text.replace(" 2>/dev/null || true", "").split(" && "):
            rc, more = self._one(shlex.split(part), part)
            out += more
            if rc:
                break
        return rc, out

    def _one(self, words: Sequence[str], text: str) -> tuple[int, str]:
        name, *rest = words
        paths = [self._state.path(self._name, w) for w in rest if w.startswith("/")]
        if name == "mkdir":
            for path in paths:
                path.mkdir(parents=True, exist_ok=True)
            return 0, ""
        if name == "chmod":
            return 0, ""
        if name == "rm":
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            return 0, ""
        if name == "test":
            return (0 if paths and paths[0].exists() else 1), ""
        if name == "find" and "-print" in rest:
            return 0, "".join(f"{rest[0]}/{f.name}\n" for path in paths[:1] for f in sorted(path.glob("nccl.*")))
        if name == "find" and "tail" in rest:
            return 0, "".join(path.read_text(errors="replace") for path in paths[:1] if path.is_file())
        if name == "find" and "NCCL WARN" in rest:
            lines = (line for path in paths[:1] for file in sorted(path.glob("nccl.*")) for line in file.read_text().splitlines())
            return 0, "".join(f"{line}\n" for line in lines if "NCCL WARN" in line)
        if name == "ls":
            return 0, self._list(rest, paths)
        raise H20Error(f"the rehearsal's {self._name} does not know the command {text!r}; teach pytest_h20/rehearsal/node.py")

    def _list(self, words: Sequence[str], paths: Sequence[Path]) -> str:
        root = self._state.path(self._name, "/")
        if "-1d" in words:
            found = [p for path in paths for p in glob.glob(str(path))]
            return "".join(f"/{os.path.relpath(p, root)}\n" for p in sorted(found))
        names = [p.name for path in paths if path.is_dir() for p in path.iterdir()]
        return "".join(f"{n}\n" for n in sorted(names))
