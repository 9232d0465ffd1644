"""Bring a cluster of namespace nodes up and down on this machine. Needs root; see docs/lab.md."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.gpu import machine, pack
from tests.lab.node import PATH, READY
from tests.lab.places import LabError, debian_dir, lab_dir, models_dir
from tests.lab.plan import USER, ClusterPlan, NodePlan, network_commands

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = ("ip", "nsenter", "unshare", "ssh-keygen", "ssh", "/usr/sbin/sshd")
DOCKER_PROGRAMS = ("dockerd", "docker", "runc")
DOWN_SECONDS = 15.0


@dataclass(frozen=True)
class NodeStatus:
    """What ``status`` tells of a node."""

    name: str
    address: str
    alive: bool
    ready: bool


def run(command: Sequence[str], text: str | None = None) -> str:
    """Run a program; raises ``LabError`` with what it said when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()} (exit status {done.returncode})")
    return done.stdout


def load_plan(state_file: Path) -> ClusterPlan | None:
    """The cluster of this state file, None when it is not up."""
    try:
        return ClusterPlan.from_json(state_file.read_text())
    except FileNotFoundError:
        return None


def require(plan: ClusterPlan) -> None:
    """Raise ``LabError`` when this machine cannot carry the cluster."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: it needs Linux and root")
    if plan.gpus:
        require_gpus(plan)
    # Nodes with a Debian tree as their root bring sshd and dockerd along; this machine's own PATH may have the rest.
    own = plan.gpus and debian_dir().is_dir()
    wanted = [p for p in PROGRAMS if not (own and p.startswith("/"))] + [*(DOCKER_PROGRAMS if plan.docker and not own else ())]
    missing = [p for p in wanted if not shutil.which(p, path=f"{lab_dir()}/bin:{PATH}")]
    if missing:
        raise LabError(f"{', '.join(missing)}: not found; run `python -m tests.lab setup` once")
    if plan.state_file.exists():
        raise LabError(f"cluster {plan.name!r} is already up, or was not taken down; run `python -m tests.lab down` first")
    for other in lab_dir().glob("clusters/*/cluster.json"):
        neighbour = load_plan(other)
        if neighbour and neighbour.net == plan.net:
            raise LabError(f"--net={plan.net} is taken by cluster {neighbour.name!r}; give another, for example 10.98")


def require_gpus(plan: ClusterPlan) -> None:
    """Raise ``LabError`` when the machine lacks the GPUs or the lab its parts."""
    there = machine.gpu_indices(machine.device_names())
    if len(there) < plan.gpus or not shutil.which("nvidia-smi"):
        tools = "" if shutil.which("nvidia-smi") else "no nvidia-smi in PATH and "
        raise LabError(f"--gpus: {tools}{len(there)} GPU devices in /dev; {plan.size} nodes need at least {plan.size}")
    if not pack.engines_there():
        raise LabError(
            "the GPU lab's engine is not there; run `python -m tests.lab setup --gpus`, or `unpack DIR` what `pack` made elsewhere"
        )
    if not pack.has_model(models_dir()):
        raise LabError(f"no model lies in {models_dir()}; run `python -m tests.lab setup --gpus --only model` (it needs no network)")


def up(plan: ClusterPlan, timeout: float = 90.0, tell: Callable[[str], None] = print) -> None:
    """Bring the cluster up and wait until every node is ready; take it down again when that fails.

    Args:
        plan: the cluster.
        timeout: seconds until every node must be ready.
        tell: receives one line per node.

    Raises:
        LabError: with the node's own output when a node did not come up.
    """
    require(plan)
    try:
        prepare(plan)
        for node in plan.nodes:
            launch(plan, node)
        wait(plan, timeout, tell)
    except BaseException:
        down(plan)
        raise


def prepare(plan: ClusterPlan) -> None:
    """State file first: from then on ``down`` finds whatever was made."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(mode=0o700, parents=True)
    plan.state_file.write_text(plan.to_json())
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
    run([*keygen, "-C", "h20-lab", "-f", str(plan.key)])
    known = []
    for node in plan.nodes:
        node.folder.mkdir()
        run([*keygen, "-C", node.name, "-f", str(node.folder / "hostkey")])
        known.append(f"{node.address} {(node.folder / 'hostkey.pub').read_text()}")
    plan.known_hosts.write_text("".join(known))
    commands, batches = network_commands(plan)
    for command in commands:
        run(command)
    for namespace, lines in batches.items():
        run(["ip", "-n", namespace, "-batch", "-"], text="\n".join(lines) + "\n")


def launch(plan: ClusterPlan, node: NodePlan) -> None:
    """Start the node's process 1, detached from this process."""
    command = ["nsenter", f"--net=/var/run/netns/{node.netns}", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"]
    command += ["--kill-child", "--mount-proc", sys.executable, "-s", "-m", "tests.lab.node", str(plan.state_file), node.name]
    # A node gets nothing of this machine's environment but what it needs.
    env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", "H20_LAB_DIR": str(lab_dir())}
    if node.gpus:  # ... and where its driver lies
        env |= {"PATH": f"{PATH}:{os.environ['PATH']}", "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
    with (node.folder / "node.log").open("wb") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env, cwd=REPOSITORY)


def wait(plan: ClusterPlan, timeout: float, tell: Callable[[str], None]) -> None:
    """Wait until every node has said that it is ready."""
    begin = time.monotonic()
    pending = list(plan.nodes)
    while pending:
        seconds = time.monotonic() - begin
        for node in list(pending):
            if is_ready(node):
                tell(f"{node.name} ready at {node.address} after {seconds:.1f} s")
                pending.remove(node)
            elif seconds > timeout or (seconds > 1 and not list(processes(plan, node))):
                raise LabError(f"{node.name} did not come up within {seconds:.0f} s:\n{read_log(node)[-3000:]}")
        time.sleep(0.05)


def read_log(node: NodePlan) -> str:
    """What the node's process 1 printed."""
    try:
        return (node.folder / "node.log").read_text(errors="replace")
    except FileNotFoundError:
        return ""


def is_ready(node: NodePlan) -> bool:
    """Whether sshd and dockerd of the node have answered."""
    return READY in read_log(node)


def processes(plan: ClusterPlan, node: NodePlan) -> Iterator[int]:
    """Pids of this node's ``unshare`` (not of what runs below it): found by its own state file and name in the
    command line, so that also a node is found whose starter was killed before it could note the pid."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        starts_node = Path(words[0]).name in ("unshare", "nsenter") and "tests.lab.node" in words
        if starts_node and str(plan.state_file) in words and node.name in words:
            yield int(entry.name)


def status(plan: ClusterPlan) -> list[NodeStatus]:
    """The state of every node."""
    return [NodeStatus(n.name, n.address, any(processes(plan, n)), is_ready(n)) for n in plan.nodes]


def down(plan: ClusterPlan) -> None:
    """End every node and remove everything the cluster made; the state file goes last."""
    children: list[int] = []
    for node in plan.nodes:
        for pid in processes(plan, node):
            # unshare heeds no SIGTERM while it waits. Killed, it takes its child along: process 1 of the node, and
            # with that every process, container and mount in the node's namespaces.
            with contextlib.suppress(OSError):
                children += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in children):
        time.sleep(0.02)
    for namespace in [*(n.netns for n in plan.nodes), plan.switch]:
        if Path(f"/var/run/netns/{namespace}").exists():
            run(["ip", "netns", "del", namespace])
    if Path(f"/sys/class/net/{plan.host_interface}").exists():
        # It goes with its peer, sooner or later: either way it is gone.
        subprocess.run(["ip", "link", "del", plan.host_interface], capture_output=True)
    for node in plan.nodes:
        remove_cgroups(node.netns)
        remove_tree(node.folder)
    for path in (plan.key, Path(f"{plan.key}.pub"), plan.known_hosts, plan.state_file):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        plan.folder.rmdir()


def remove_tree(folder: Path) -> None:
    """Remove a folder; the kernel may hold mounts of a namespace that is just ending for a moment."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    raise LabError(f"{folder} cannot be removed; something on this machine still uses it")


def remove_cgroups(name: str) -> None:
    """Remove the empty control groups that a node's dockerd left (they are not in a namespace)."""
    for base in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        for folder, _, _ in os.walk(base, topdown=False):
            for _ in range(20):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
                else:
                    break


def ssh_command(plan: ClusterPlan, node: NodePlan) -> list[str]:
    """The ssh(1) command line that reaches a node, host key checked."""
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={plan.known_hosts}"]
    return [
        "ssh",
        "-F",
        "none",
        "-i",
        str(plan.key),
        *(w for o in options for w in ("-o", o)),
        f"{'root' if plan.login == 'root' else USER}@{node.address}",
    ]
