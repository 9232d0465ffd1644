"""The stand-in's container engine: images from the truth, containers as real child processes, their state on disk."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from pytest_h20.checks.compute.runner import burn_source
from pytest_h20.checks.fabric.rounds import pair_source
from pytest_h20.cluster import drills
from pytest_h20.cluster.launch import MOUNT_POINT, STOP_EXECS
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.nodes import CommandResult, ContainerInfo, ContainerSpec, DaemonInfo, ImageInfo
from pytest_h20.probes import hang as probe_hang
from pytest_h20.probes.libraries import MARK as LIBRARIES
from pytest_h20.probes.perf import TORCH_ALL_REDUCE
from pytest_h20.probes.script import requests
from pytest_h20.rehearsal import burn, libraries
from pytest_h20.rehearsal.all_reduce import printed
from pytest_h20.rehearsal.answers import answers
from pytest_h20.rehearsal.drills import StandInDrills, processes
from pytest_h20.rehearsal.state import Held, State, alive
from pytest_h20.rehearsal.timing import rows_of
from pytest_h20.rehearsal.world import ImageTruth, World

ALONE = 0.7
"""Part of the time of a token on two nodes that one node takes: the write-up found two to be slower, and gives no figure."""


class StandInContainers:
    """Containers of one node. Implements ``transport.Containers``."""

    def __init__(self, node: str, world: World, state: State, time_scale: float) -> None:
        self._node = node
        self._world = world
        self._state = state
        self._scale = time_scale

    # ------------------------------------------------------------------ questions
    def daemon(self) -> DaemonInfo:
        """The write-up tells only that docker and nvidia-container-runtime are there."""
        if self._node in self._world.daemon_down:
            raise TransportError(f"{self._node}: {self._world.daemon_down[self._node]}")
        runtimes = self._world.runtimes.get(self._node, ("nvidia", "runc"))
        return DaemonInfo("20.10.24", "1.41", "overlay2", runtimes, "/var/lib/docker")

    def image(self, reference: str) -> ImageInfo | None:
        """The image unless it is absent on this node."""
        truth = self._image(reference)
        if truth is None or self._node in truth.absent_on:
            return None
        identity = self._world.image_ids.get((self._node, reference), truth.id)
        return ImageInfo(reference, identity, (), 19_327_352_832, "2025-03-25T03:12:44Z")

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        """Only probe scripts are run in short-lived containers."""
        text = spec.argv[-1]
        truth = self._image(spec.image)
        if truth is not None and spec.env.get("H20_SCRIPT") == TORCH_ALL_REDUCE:
            return self._all_reduce(spec, truth)
        if truth is not None and spec.env.get("H20_SCRIPT") == pair_source():
            return CommandResult(self._node, "docker run", 0, self._pairs(spec), "", 0.0)
        if truth is not None and spec.env.get("H20_SCRIPT") == burn_source():
            machine = replace(self._world.machines[self._node], image_cuda=truth.cuda, nccl=truth.nccl)
            self._state.burns(self._node)
            out = burn.printed(self._world.burn, machine, text, truth.packages.get("torch", ""))
            return CommandResult(self._node, "docker run", 0, out, "", 0.0)
        if not requests(text) or truth is None:
            raise H20Error(f"the rehearsal's image on {self._node} does not know {text[:120]!r}")
        machine = self._world.machines[self._node]
        machine = replace(machine, packages=dict(truth.packages), image_cuda=truth.cuda, nccl=truth.nccl)
        out = answers(self._world, self._node, machine, text, inside=True)
        return CommandResult(self._node, "docker run", 0, out, "", 0.0)

    def _pairs(self, spec: ContainerSpec) -> str:
        """One end of the GPU pairs by torch; rank 1 prints what arrived."""
        rank, pairs = spec.argv[5], spec.argv[7:]
        sender = next(m for m in self._world.machines.values() if m.address == spec.argv[3])
        shares = [sender.gpu_share.get(pair.split(",")[1].partition(":")[0], 1.0) for pair in pairs]
        lines = [json.dumps({"pair": i, "gbps": sender.write_gbps * sender.beside_share * share}) for i, share in enumerate(shares)]
        return "".join(f"{line}\n" for line in lines) if rank == "1" else ""

    def _all_reduce(self, spec: ContainerSpec, image: ImageTruth) -> CommandResult:
        """One container of the all-reduce benchmark; rank 0 prints the figures."""
        truth = self._world.all_reduce
        if truth.error:
            return CommandResult(self._node, "docker run", 1, "", truth.error + "\n", 0.0)
        nodes, rank, gpus = (int(w) for w in spec.argv[-3:])
        rails = len(self._world.inventory.nodes[0].rails)
        members = self._state.met("-".join(spec.argv[-5:-2]), self._node, nodes)
        out = printed(truth, members, nodes * gpus, rails, image.nccl) if rank == 0 else ""
        return CommandResult(self._node, "docker run", 0, out, "", 0.0)

    def exec(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0) -> CommandResult:
        """Who listens on a port, what Ray counts: the two questions a bring-up asks inside."""
        text = " ".join(argv)
        if argv[-1].startswith(drills.MARK):
            return self._drill(container_id, argv[-1])
        if "h20-ask: listeners" in text:
            port = int(text.split("h20-ask: listeners", 1)[1].split()[0])
            return CommandResult(self._node, "docker exec", 0, self._listeners(container_id, port), "", 0.0)
        if LIBRARIES in text:
            return CommandResult(self._node, "docker exec", 0, self._libraries(container_id), "", 0.0)
        if probe_hang.MARK in text:
            return self._hang(container_id, f"{probe_hang.MARK} ras" in text)
        if STOP_EXECS in argv:
            self._stop_execs(container_id)
            return CommandResult(self._node, "docker exec", 0, "", "", 0.0)
        if "H20RAY" in text:
            return CommandResult(self._node, "docker exec", 0, self._ray(), "", 0.0)
        raise H20Error(f"the rehearsal's container on {self._node} does not know {text[:120]!r}")

    def _drill(self, container_id: str, script: str) -> CommandResult:
        """A drill on what runs in the container."""
        if script != drills.PROCESSES:
            rc, out = StandInDrills(self._node, self._state, self._world.drill).answer(script)
            return CommandResult(self._node, "docker exec", rc, out, "", 0.0)
        specs = [json.loads(p.read_text()) for p in self._state.folder.glob("actor-*.json")]
        mine = [s["argv"] for s in specs if s["container"] == container_id]
        rank = [n.name for n in self._world.inventory.nodes].index(self._node)
        return CommandResult(self._node, "docker exec", 0, processes(mine, rank), "", 0.0)

    def _hang(self, container_id: str, ras: bool) -> CommandResult:
        """What a container tells when something hangs: the ranks of its node, and on the head NCCL's report."""
        truth, names = self._world.hang, list(self._world.machines)
        if ras and truth.ras_crashes:
            held = self._state.load(container_id)
            for pid in held.pids if held is not None else ():
                _signal(pid, signal.SIGKILL)
            raise H20Error("the connection was reset while NCCL's RAS was asked")
        text = truth.report() if ras else truth.stacks(names.index(self._node))
        return CommandResult(self._node, "docker exec", 0, text, "", 0.0)

    def _stop_execs(self, container_id: str) -> None:
        """SIGTERM to what was exec'd into the container, and a moment for it to go."""
        held = self._state.load(container_id)
        pids = held.pids[1:] if held is not None else ()
        for pid in pids:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5.0
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            _reap(pids)
            time.sleep(0.02)

    def logs(self, container_id: str, tail: int | None = None) -> str:
        """Containers of this suite write to files; docker only has the line that says so."""
        return "pytest-h20: output goes to a file\n"

    # ------------------------------------------------------------------ life
    def start(self, spec: ContainerSpec) -> ContainerInfo:
        """Spawn the actor that plays this role."""
        if self._node in self._world.start_refused:
            raise H20Error(f"{self._node}: docker refused to start {spec.name}: {self._world.start_refused[self._node]}")
        if self._image(spec.image) is None:
            raise H20Error(f"{self._node}: no such image: {spec.image}")
        held = Held(
            id=secrets.token_hex(32),
            name=spec.name,
            image=spec.image,
            node=self._node,
            labels=dict(spec.labels),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            env=dict(spec.env),
        )
        with self._state.locked():
            self._state.save(held)
            held = self._state.add_pid(held, self._spawn(held, spec.argv))
        return self._info(held)

    def exec_detached(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Spawn an actor inside a container that is up."""
        with self._state.locked():
            held = self._state.load(container_id)
            if held is None:
                raise H20Error(f"{self._node}: no such container: {container_id[:12]}")
            pid = self._spawn(replace(held, env={**held.env, **dict(env or {})}), argv)
            self._state.save(replace(held, pids=(*held.pids, pid)))

    def _spawn(self, held: Held, argv: Sequence[str]) -> int:
        """The actor's argv is the engine's own, after our shell wrapper's words."""
        log = next(w for w in argv if w.startswith(MOUNT_POINT + "/") and w.endswith(".log"))
        words = list(argv[argv.index(log) + 1 :])
        wrapped_main = words[:1] and words[0].endswith(".log")
        words = words[1:] if wrapped_main else words
        run_dir = next(v for k, v in held.labels.items() if k.endswith(".run-dir"))
        spec = {
            "node": self._node,
            "container": held.id,
            "state": str(self._state.folder),
            "log": f"{run_dir}/{log.rsplit('/', 1)[1]}",
            "run_dir": run_dir,
            "argv": words,
            "env": held.env,
            "exec": not wrapped_main,
            "scale": self._scale,
            "image": asdict(self._image(held.image) or ImageTruth({}, "", "", "")) | {"absent_on": []},
            "nccl": _plain(self._world.nccl),
            "engine": _plain(self._world.engine),
            "inventory": self._world.inventory.model_dump(mode="json"),
            "timing": self._timing(words),
            "parent": self._state.owner,
            "drill": asdict(self._world.drill),
        }
        path = self._state.folder / f"actor-{secrets.token_hex(6)}.json"
        path.write_text(json.dumps(spec))
        out = (self._state.folder / "actors.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_h20.rehearsal.actor", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        out.close()
        _CHILDREN[process.pid] = process
        return process.pid

    def _timing(self, words: Sequence[str]) -> list[list[float]]:
        engine = "sglang" if "sglang.launch_server" in words else "vllm"
        rows = rows_of(self._world.inventory, engine) if words[:1] != ["ray"] else []
        alone = "--nnodes" not in words and engine == "sglang"
        return [[i, o, streams, ttft, tpot * ALONE] for i, o, streams, ttft, tpot in rows] if alone else rows

    def find(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """By labels, as docker does it."""
        if self._node in self._world.daemon_down:
            raise TransportError(f"{self._node}: {self._world.daemon_down[self._node]}")
        mine = [h for h in self._state.all() if h.node == self._node]
        return [self._info(h) for h in mine if all(k in h.labels and v in ("", h.labels[k]) for k, v in labels.items())]

    def inspect(self, container_id: str) -> ContainerInfo | None:
        """The container as it is now."""
        held = self._state.load(container_id)
        return self._info(held) if held is not None else None

    def stop(self, container_id: str, timeout: float = 10.0) -> None:
        """SIGTERM to the main process, SIGKILL to everything after the time."""
        held = self._state.load(container_id)
        if held is None:
            return
        for pid in held.pids[:1]:
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and alive(held.pids[0] if held.pids else 0):
            _reap(held.pids)
            time.sleep(0.02)
        self._kill(held)

    def remove(self, container_id: str) -> None:
        """Kill what runs and forget the container."""
        if self._node in self._world.removal_refused:
            raise H20Error(f"{self._node}: docker refused to remove it: {self._world.removal_refused[self._node]}")
        held = self._state.load(container_id)
        if held is not None:
            self._kill(held)
            self._state.forget(container_id)

    def _kill(self, held: Held) -> None:
        for pid in held.pids:
            if alive(pid):
                _signal(pid, signal.SIGKILL)
        _reap(held.pids)

    # ------------------------------------------------------------------ helpers
    def _image(self, reference: str) -> ImageTruth | None:
        return self._world.images.get(reference)

    def _info(self, held: Held) -> ContainerInfo:
        _reap(held.pids)
        main = held.pids[0] if held.pids else 0
        running = alive(main)
        left = self._state.exit_status(main) or {}
        return ContainerInfo(
            id=held.id,
            name=held.name,
            image=held.image,
            status="running" if running else "exited",
            exit_code=None if running else int(left.get("code", 137)),
            oom_killed=bool(left.get("oom", False)),
            labels=held.labels,
            created=held.created,
        )

    def _listeners(self, container_id: str, port: int) -> str:
        served = self._state.ports(self._node).get(port)
        lines = []
        if served is not None:
            lines.append("inode 424242")
            if served["container"] == container_id:
                lines.append(f"owner 424242 {served['pid']} python3 -m server")
        foreign = self._world.machines[self._node].listeners.get(port)
        if foreign is not None or self._world.engine.port_taken:
            lines = ["inode 171717"]
        return "\n".join([*lines, "end"]) + "\n"

    def _libraries(self, container_id: str) -> str:
        held = self._state.load(container_id)
        image = self._image(held.image) if held is not None else None
        if held is None or image is None:
            return ""
        kind = "vllm" if "vllm" in image.packages else "sglang"
        return libraries.printed(self._world.libraries, self._node, held.env, image.nccl, kind, len(self._world.machines[self._node].gpus))

    def _ray(self) -> str:
        nodes = []
        for spec in self._world.inventory.nodes:
            up = any(h.node == spec.name and h.pids and alive(h.pids[0]) for h in self._state.all())
            gpus = self._world.engine.ray_gpus.get(spec.name, 8.0)
            if up and gpus >= 0:
                nodes.append({"ip": spec.engine_ip, "alive": True, "gpus": gpus})
        return "H20RAY " + json.dumps(nodes) + "\n"


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        child = _CHILDREN.get(pid)
        if child is not None and child.poll() is not None:
            _CHILDREN.pop(pid, None)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _plain(value: object) -> dict[str, object]:
    data = asdict(value)  # type: ignore[call-overload]
    return {k: sorted(v) if isinstance(v, set) else v for k, v in data.items()}
