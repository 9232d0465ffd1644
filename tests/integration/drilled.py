"""A node on which drills are real: sshd and dockerd of our own, an engine in Python with a core of its own, a rail that is a veth, and a
small ``/dev/shm`` in the container.

``systemctl`` is stood in: ``restart docker`` restarts the dockerd that the test itself started.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.cluster import drill_steps, labels
from pytest_h20.cluster.drill_steps import Broken
from pytest_h20.cluster.drills import DRILLS
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.config.inventory import Inventory, load_inventory
from pytest_h20.nodes import ContainerInfo, ContainerSpec, Mount
from pytest_h20.run.nodes import connect_all
from tests.integration.sshd import Sshd, free_port
from tests.integration.tiny import IMAGE, Tiny, clean_environment

SHM_MIB = 16
RAIL, PEER = "h20drill0", "h20drill1"
ROUTE = "10.251.9.0/24"

SYSTEM = {
    str(Path("/usr/bin/python3").resolve()): "/opt/py",
    str(Path("/bin/bash").resolve()): "/opt/bash",
    "/usr/lib": "/usr/lib",
    "/lib": "/lib",
    "/lib64": "/lib64",
}
"""What the engine needs of this machine, and where it is in the container: not in its PATH, where the image's own python3 is asked."""

# A server that asks its worker for every answer, and ends a second after worker or core. They have the titles of vLLM's.
ENGINE = r"""
import http.server, json, os, select, signal, subprocess, sys, threading, time
def titled(title, code):
    return subprocess.Popen(["/opt/bash", "-c", "exec -a " + title + " /opt/py -u -c '" + code + "'"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
core = titled("VLLM::EngineCore", "import time; time.sleep(3600)")
worker = titled("VLLM::Worker_TP0", "import sys\nfor line in sys.stdin: print(line, end=str(), flush=True)")
lock = threading.Lock()

def lives():
    return core.poll() is None and worker.poll() is None

def answer():
    with lock:
        worker.stdin.write(b"x\n"); worker.stdin.flush()
        while lives():
            if select.select([worker.stdout], [], [], 0.1)[0]:
                return worker.stdout.readline() != b""
    return False

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def send(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        if self.path == "/health":
            return self.send(200 if lives() else 503, b"")
        self.send(200, json.dumps({"object": "list", "data": [{"id": "/models/tiny", "object": "model", "max_model_len": 4096}]}).encode())
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if not answer(): return self.send(500, b"{}")
        except OSError:
            return self.send(500, b"{}")
        whole = {"id": "x", "object": "text_completion", "choices": [{"index": 0, "text": "1", "finish_reason": "stop"}],
                 "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        if not asked.get("stream"): return self.send(200, json.dumps(whole).encode())
        self.send(200, b"data: " + json.dumps(whole).encode() + b"\n\ndata: [DONE]\n\n", "text/event-stream")
    def log_message(self, *a): pass

port = int(sys.argv[sys.argv.index("--port") + 1])
print("INFO 04-05 12:00:00 [api_server.py:1839] vLLM API server version 0.11.0", flush=True)
print("INFO 04-05 12:00:02 [api_server.py:1912] Starting vLLM API server 0 on http://0.0.0.0:%d" % port, flush=True)
server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
def leave(*a): core.kill(); worker.kill(); os._exit(0)
signal.signal(signal.SIGTERM, leave)
def watch():
    while lives(): time.sleep(0.1)
    time.sleep(1); core.kill(); worker.kill(); os._exit(1)
threading.Thread(target=watch, daemon=True).start()
print("INFO:     Application startup complete.", flush=True)
server.serve_forever()
"""
_START = '#!/bin/sh\nexec env PYTHONHOME=/usr /opt/py /models/engine.py vllm "$@"\n'
_SYSTEMCTL = """#!/bin/sh
pid=$(cat {dockerd}/pid 2>/dev/null)
case $1 in
show) echo "${{pid:-0}}";;
is-active) if kill -0 "$pid" 2>/dev/null; then echo active; else echo inactive; exit 3; fi;;
restart) rm -f {folder}/restarted; touch {folder}/restart
  while [ ! -e {folder}/restarted ]; do sleep 0.1; done;;
start) :;;
esac
"""


class Drilled(Tiny):
    """The node. ``close`` ends everything that it started."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        super().__init__(_START)
        self.sshd.stop()
        tools = self.folder / "tools"
        tools.mkdir()
        (tools / "systemctl").write_text(_SYSTEMCTL.format(dockerd=self.dockerd.folder, folder=self.folder))
        (tools / "systemctl").chmod(0o755)
        path = f"{tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.sshd = Sshd(self.folder / "sshd-drilled", {"SetEnv": f"PATH={path}"})
        (self.folder / "models/engine.py").write_text(ENGINE)
        volumes = {source: f"{target}:ro" for source, target in SYSTEM.items()}
        container: dict[str, Any] = {
            "gpus": None,
            "privileged": False,
            "ulimits": {},
            "cap_add": [],
            "security_opt": [],
            "ipc": "private",
            "shm_size": f"{SHM_MIB}m",
            "volumes": volumes,
        }
        rail = {"hca": "mlx5_1", "interface": RAIL}
        node = {"name": "node01", "address": "127.0.0.1", "control_interface": "lo", "rails": [rail]}
        top = {"drills": "allowed", "nodes": [node], "stood_in": ["rdma", "gpu"]}
        self.inventory_file = self.inventory("drilled", container=container, top=top)
        self._restarter = threading.Thread(target=self._restart_when_asked, daemon=True)
        self._restarter.start()

    def _restart_when_asked(self) -> None:
        while not self._ending.wait(0.1):
            if (self.folder / "restart").exists():
                (self.folder / "restart").unlink()
                self.dockerd.stop(clean=False)
                self.dockerd.start()
                (self.folder / "restarted").touch()

    def close(self) -> None:
        """As the smaller one."""
        self._ending.set()
        if hasattr(self, "_restarter"):
            self._restarter.join(60)
        super().close()


@contextmanager
def rail() -> Iterator[str]:
    """A veth pair with an address and a static route that goes when the link does."""
    made = subprocess.run(["ip", "link", "add", RAIL, "type", "veth", "peer", "name", PEER], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no veth pair can be made here: {made.stderr.strip()}")
    try:
        for command in (
            f"ip addr add 10.251.8.1/24 dev {RAIL}",
            f"ip link set {RAIL} up",
            f"ip link set {PEER} up",
            f"ip route add {ROUTE} via 10.251.8.2 dev {RAIL}",
        ):
            subprocess.run(command.split(), check=True)
        yield RAIL
    finally:
        with suppress(OSError):
            subprocess.run(["ip", "link", "del", RAIL], check=False)


def inventory_of(tiny: Drilled) -> dict[str, Any]:
    """As it is written."""
    found: dict[str, Any] = yaml.safe_load(Path(tiny.inventory_file).read_text())
    return found


class Here:
    """The node over SSH, its record, and a container of ours with the engine in it. ``box``: the one that drills are made in."""

    def __init__(self, inventory: Inventory, folder: Path) -> None:
        self.folder = folder
        (inner,) = connect_all(inventory).values()
        self.inner, self.run = inner, f"r-{time.monotonic_ns()}"
        self.ledger = Ledger(inner, inventory.run_dir_on_node, self.run, Owner.me("me"))
        self.node = LedgerNode(inner, self.ledger, nullcontext)
        self.box = self.engine("0")

    def engine(self, number: str) -> ContainerInfo:
        """Another container, up as soon as its core is."""
        models = Mount(str(self.folder / "models"), "/models", True)
        system = [Mount(source, target, True) for source, target in SYSTEM.items()]
        argv = ("/bin/sh", "-c", f"trap 'exit 0' TERM; /bin/vllm serve /models/tiny --port {free_port()} & wait")
        own = labels.of_run(self.run, "rank0", "node01", "me", "/x")
        name, shm, mounts = f"h20-{self.run}-{number}", f"{SHM_MIB}m", [models, *system]
        box = self.node.containers.start(ContainerSpec(name, IMAGE, argv, labels=own, mounts=mounts, ipc="private", shm_size=shm))
        look = ("/bin/sh", "-c", "grep -l VLLM::EngineCore /proc/[0-9]*/cmdline")
        for _ in range(100):
            if self.node.containers.exec(box.id, look).stdout.count("/cmdline") > 1:  # the core, and grep itself
                break
            time.sleep(0.1)
        return box

    def broken(self, name: str, interface: str = "") -> Broken:
        """Choose, write down, break, prove."""
        planted = drill_steps.prepared(DRILLS[name], self.box.id, interface, self.node)
        return drill_steps.break_it(self.node, self.ledger, planted)

    def end(self, broken: Broken) -> str:
        """Take it back."""
        return drill_steps.end(self.node, self.ledger, broken)


@contextmanager
def killed_after(tiny: Drilled, made: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """A process that makes these drills, one after the other, and gets SIGKILL when the last of them is proved. (Drill, proof) of each."""
    argv = [sys.executable, "-m", "tests.integration.drilled", str(tiny.inventory_file), str(tiny.folder), *made]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=clean_environment(), text=True) as process:
        assert process.stdout is not None
        try:
            told = [line.rstrip("\n").partition("\t") for line in itertools.islice(process.stdout, len(made))]
        finally:
            process.kill()
    yield [(name, proof) for name, _, proof in told]


def main(inventory: str, folder: str, *made: str) -> None:
    """Make drills, each that ends an engine with one of its own, tell the proof of each, and wait for whatever comes."""
    here = Here(load_inventory(Path(inventory)), Path(folder))
    for name in made:
        if DRILLS[name].kind in ("kill", "container"):
            here.box = here.engine(name)
        print(name, here.broken(name, RAIL).proof, sep="\t", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
