"""One process of the engine, played: ``python -m pytest_h20.rehearsal.actor SPEC.json``.

It prints what that process prints, at the moments at which it prints it, writes the NCCL logs of its node's ranks, serves HTTP
where that process does, and ends as it was told to. It never outlives the run: when the process that asked for it is gone, it goes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pytest_h20.core.whole import write_whole
from pytest_h20.engines.layout import Layout, layout_of
from pytest_h20.load.reference import ReferenceServer
from pytest_h20.rehearsal.drills import Struck
from pytest_h20.rehearsal.engine_log import Moment, Scene, moments_of
from pytest_h20.rehearsal.nccl_log import job_of
from pytest_h20.rehearsal.state import alive, soak_hours

ERRNO_98 = "[Errno 98] error while attempting to bind on address ('0.0.0.0', {port}): address already in use"


class Actor:
    """One role of one run."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.state = Path(spec["state"])
        self.argv: list[str] = spec["argv"]
        self.scale = float(spec["scale"])
        self.engine: dict[str, Any] = spec["engine"]
        self.http: dict[str, Any] = self.engine["http"]
        self.role = spec["log"].rsplit("/", 1)[1].removesuffix(".log")
        self.kind = "sglang" if "sglang.launch_server" in self.argv else "ray" if self.argv[:1] == ["ray"] else "vllm"
        self.server: ReferenceServer | None = None
        self.completions = 0
        self.struck = Struck(self.state, spec["drill"], self.scale)
        path = self.state / "nodes" / spec["node"] / spec["log"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = path
        self.log = path.open("ab", buffering=0)
        if spec["exec"]:
            Path(f"{path}.pid").write_text(f"{os.getpid()}\n")

    # ------------------------------------------------------------------ words of the command line
    def option(self, *names: str, default: str = "") -> str:
        """The value of a command-line option."""
        for i, word in enumerate(self.argv):
            for name in names:
                if word == name and i + 1 < len(self.argv):
                    return self.argv[i + 1]
                if word.startswith(name + "="):
                    return word.split("=", 1)[1]
        return default

    @property
    def model(self) -> str:
        """The model's path."""
        return self.option("--model-path", "--model") or (self.argv[2] if self.argv[:2] == ["vllm", "serve"] else "")

    @property
    def served(self) -> str:
        """The model's name in the API."""
        return self.option("--served-model-name") or self.model

    @property
    def port(self) -> int:
        """Where HTTP is served."""
        return int(self.option("--port", default="8000"))

    @property
    def layout(self) -> Layout:
        """How the command line cuts the model."""
        flags: dict[str, object] = {}
        for word, after in zip(self.argv, [*self.argv[1:], "--"], strict=True):
            if word.startswith("--"):
                flags[word[2:]] = True if after.startswith("--") else after
        known = [n["name"] for n in self.spec["inventory"]["nodes"]]
        tensor = int(self.option("--tp", "--tensor-parallel-size", default="16"))
        ranks = layout_of(self.kind, tensor, flags, 1).ranks
        return layout_of(self.kind, tensor, flags, max(1, min(len(known), ranks // 8)))

    @property
    def names(self) -> list[str]:
        """The nodes of the job: as many of the inventory's as the command line says."""
        return [n["name"] for n in self.spec["inventory"]["nodes"]][: self.layout.nodes]

    @property
    def rank(self) -> int:
        """Of the node."""
        first = int(self.option("--data-parallel-start-rank", default="0"))
        copies = int(self.option("--data-parallel-size-local", default="1"))
        return int(self.option("--node-rank", default=str(first // copies)))

    @property
    def _copies(self) -> bool:
        """Several copies, and each is cut over GPUs."""
        return self.layout.replicas > 1 and self.layout.tensor > 1

    def scene(self) -> Scene:
        """What the log lines speak about."""
        packages = self.spec["image"]["packages"]
        head = next(n for n in self.spec["inventory"]["nodes"] if n["name"] == self.names[0])
        own = next(n for n in self.spec["inventory"]["nodes"] if n["name"] == self.spec["node"])
        address = own["host_ip"] or own["address"] if self.kind == "ray" else head["host_ip"] or head["address"]
        return Scene(
            version=packages.get("sglang") or packages.get("vllm") or "0",
            nccl=self.spec["nccl"]["version"],
            model=self.model,
            argv=tuple(self.argv),
            port=self.port,
            rank=self.rank,
            nodes=len(self.names),
            per_node=8,
            address=address,
            extra=tuple(self.engine["lines"].get(self.role, ())),
            tensor=self.layout.tensor if self.layout.pipeline > 1 or self._copies else 0,
            copies=self.layout.replicas if self._copies else 1,
        )

    # ------------------------------------------------------------------ life
    def run(self) -> NoReturn:
        """Play the role to its end."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.engine["ignores_sigterm"] else lambda *_: self.leave())
        threading.Thread(target=self._watch_parent, daemon=True).start()
        if self.rank == 0 and self.struck.fails_to_start():
            self.die(1, ("RuntimeError: the memory of an earlier engine is still in use",))
        moments = moments_of(self.kind, self.scene())
        start = time.monotonic()
        span = float(self.engine["start_s"]) / self.scale if self.kind != "ray" else 0.0
        died = self.engine["dies"].get(self.role)
        hangs = self.engine["hangs_at"]
        seen = False
        for at, moment in [(m.at * span, m) for m in moments]:
            if hangs and seen and moment.stage != hangs:
                self._sleep_forever(start, died)
            seen = seen or (bool(hangs) and moment.stage == hangs)
            self._wait(start, at, died)
            self._play(moment)
        self._sleep_forever(start, died)

    def _wait(self, start: float, at: float, died: Sequence[Any] | None) -> None:
        end = start + at
        if died is not None and start + float(died[0]) / self.scale <= end:
            time.sleep(max(0.0, start + float(died[0]) / self.scale - time.monotonic()))
            self.die(int(died[1]), died[2])
        left = end - time.monotonic()
        if left > 0:
            time.sleep(left)

    def _sleep_forever(self, start: float, died: Sequence[Any] | None) -> NoReturn:
        if died is not None:
            self._wait(start, float(died[0]) / self.scale + 1e-3, died)
        while True:
            time.sleep(3600)

    def _play(self, moment: Moment) -> None:
        if moment.do == "nccl":
            self._write_nccl()
        elif moment.do == "serve":
            if self.engine["oom"] and self.rank == 0:
                self.leave(137, oom=True)
            self._serve()
        if moment.do == "ready":
            self._await_workers()
            if self.engine["exits_zero"]:
                self.leave(0)
            if self.engine["port_taken"] and not self.http.get("port_shared_silently"):
                self.print(f"ERROR:    {ERRNO_98.format(port=self.port)}\n")
            if self.engine["dead_after_ready"] and self.server is not None:
                self.server.dead = True  # type: ignore[attr-defined]
        if moment.text:
            self.print(moment.text)

    def print(self, text: str) -> None:
        """Write to the log, as the process's standard output."""
        self.log.write(text.encode())

    def leave(self, code: int | None = None, oom: bool = False) -> NoReturn:
        """End at once. SGLang kills itself with SIGKILL, vLLM ends with 0 (recorded)."""
        if code is None:
            code = 137 if self.kind == "sglang" else 0
        document = json.dumps({"code": code, "oom": oom})
        (self.state / "ports" / f"exit-{os.getpid()}.json").write_text(document)
        if self.spec["exec"]:
            Path(f"{self.log_path}.exit").write_text(f"{code}\n")
        os._exit(min(code, 255))

    def die(self, code: int, lines: Sequence[str]) -> NoReturn:
        """End as a fault says, after its last words."""
        self.print("".join(f"{line}\n" for line in lines))
        self.leave(code, oom=bool(self.engine["oom"]) and code == 137)

    def _watch_parent(self) -> None:
        parent = int(self.spec["parent"])
        while alive(parent):
            time.sleep(0.25)
        os._exit(1)

    # ------------------------------------------------------------------ NCCL
    def _write_nccl(self) -> None:
        pattern = self.spec["env"].get("NCCL_DEBUG_FILE", "")
        if not pattern:
            return
        tensor = self.layout.tensor if self.layout.pipeline > 1 or self._copies else 0
        job = job_of(self.spec["inventory"], self.names, self.spec["nccl"], self.spec["env"], tensor, self._copies)
        # Ray's workers write on their own nodes, told by nobody but the driver here.
        everywhere = self.kind == "vllm" and "ray" in self.argv
        if not everywhere:
            self._meet()
        for rank in range(job.nranks):
            node = self.names[rank // job.per_node]
            if everywhere or node == self.spec["node"]:
                run_dir = self.state / "nodes" / node / self.spec["run_dir"].lstrip("/")
                run_dir.mkdir(parents=True, exist_ok=True)
                (run_dir / job.name(rank)).write_text(job.log(rank))

    def _meet(self) -> None:
        """Communicators need everybody: whoever comes first waits for the others, as in real life."""
        marks = {name: self.state / "ports" / f"met-{name}-{self.spec['run_dir'].rsplit('/', 1)[1]}" for name in self.names}
        marks[self.spec["node"]].touch()
        while not all(mark.exists() for mark in marks.values()):
            time.sleep(0.02)

    # ------------------------------------------------------------------ HTTP
    def _await_workers(self) -> None:
        """SGLang's head is ready when its warm-up request went through every rank; their servers are up by then. Not for ever: a
        fault may have ended one."""
        if self.kind != "sglang" or self.rank > 0:
            return
        ports = [self.state / "ports" / f"{name}-{self.port}.json" for name in self.names[1:]]
        end = time.monotonic() + 1.0
        while not all(port.exists() for port in ports) and time.monotonic() < end:
            time.sleep(0.02)

    def _serve(self) -> None:
        self.server = self._worker() if self.rank > 0 else self._head()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        document = {"port": self.port, "real_port": self.server.port, "pid": os.getpid(), "container": self.spec["container"]}
        write_whole(self.state / "ports" / f"{self.spec['node']}-{self.port}.json", json.dumps(document))

    def _worker(self) -> ReferenceServer:
        from pytest_h20.rehearsal.server import WorkerServer

        return WorkerServer(self.served, self.http)

    def _head(self) -> ReferenceServer:
        from pytest_h20.rehearsal.replies import Replies
        from pytest_h20.rehearsal.server import EngineServer, config_of
        from pytest_h20.rehearsal.timing import Timing, TimingRow

        packages = self.spec["image"]["packages"]
        given = self.option("--context-length", "--max-model-len")
        max_len = int(given) if given else 163840
        replies = Replies(
            engine=self.kind,
            version=re.sub(r"\+.*", "", packages.get(self.kind, "0")),
            model=self.served,
            max_len=max_len,
            knobs=self.http,
            parser=bool(self.option("--reasoning-parser")),
            tool_parser=bool(self.option("--tool-call-parser")),
            api_key=self.option("--api-key") or "",
            thinking_switch=str(self.http.get("thinking_switch", "")),
        )
        (self.state / f"layout-{os.getpid()}").write_text(json.dumps(asdict(self.layout)))
        metrics = self.kind == "vllm" or "--enable-metrics" in self.argv
        rows = [TimingRow(int(i), int(o), int(c), ttft, tpot) for i, o, c, ttft, tpot in self.spec["timing"]]
        replies.language.spoilt = replies.language.spoilt or self.struck.talks_nonsense()
        server = EngineServer(
            replies,
            Timing(rows, self.scale, self.http),
            config_of(self.http, self.kind, self.served, max_len, metrics, drafts="speculative-" in " ".join(self.argv)),
            self.state / f"tokens-{os.getpid()}",
            self.state / f"late-{os.getpid()}",
            self.print,
            self._completion if self.http.get("completion_kills") or self.http.get("soak_ends") else lambda: None,
        )
        server.struck = self.struck
        threading.Thread(target=self._until_it_is_over, daemon=True).start()
        return server

    def _until_it_is_over(self) -> None:
        """A drill may end the engine."""
        while not self.struck.over():
            time.sleep(0.02)
        self.print("a rank is gone: the engine ends\n")
        self.leave(137)

    def _completion(self) -> None:
        """The so many-th request for a generation kills the engine, or the first at some hour of a soak."""
        self.completions += 1
        ends, kills = self.http.get("soak_ends"), self.http.get("completion_kills")
        if (kills and self.completions >= int(kills)) or (ends and (soak_hours(self.state) or 0.0) >= float(ends)):
            self.die(1, ("RuntimeError: CUDA error: an illegal memory access was encountered",))


def main(argv: Sequence[str]) -> NoReturn:
    """Read the spec and play."""
    Actor(json.loads(Path(argv[0]).read_text())).run()


if __name__ == "__main__":
    main(sys.argv[1:])
