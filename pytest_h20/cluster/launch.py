"""From inventory and dialect to containers: what is started, how, and where its output goes. Pure but for ``start_step``."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_h20.cluster import labels
from pytest_h20.cluster.state import RoleRef
from pytest_h20.config.inventory import ContainerOptions, Inventory, NodeSpec, Profile
from pytest_h20.core.door import shown_argv
from pytest_h20.core.redact import secret_name
from pytest_h20.engines.base import Fits, LaunchPlan, LaunchProfile, NodePlan, Step
from pytest_h20.engines.common import parallel
from pytest_h20.engines.layout import Layout
from pytest_h20.nodes import ContainerSpec, Mount, Node

MOUNT_POINT = "/h20"
"""Where the run's folder of the node appears in every container: output of each role, NCCL's log of each process."""

# The first process writes to a file: it survives a broken connection, is read by offset, and is the same for the main process
# of a container and for one that was exec'd into it. `docker logs` then holds one line that says where the output is.
#
# The engine is not process 1: that one gets no signal it has no handler for, and `ray start --block` has none, so `docker stop`
# would wait its whole time. The shell passes SIGTERM on and ends with the engine's own exit status.
_MAIN = """echo "pytest-h20: output goes to $1 on this host"
shift
"$@" >>"$0" 2>&1 &
p=$!
trap 'kill -TERM $p 2>/dev/null' TERM INT
wait $p; s=$?
while kill -0 $p 2>/dev/null; do wait $p; s=$?; done
exit $s"""
_EXEC = '"$@" >>"$0" 2>&1 & echo $! >"$0.pid"; wait $!; echo $? >"$0.exit"'
STOP_EXECS = """for f in /h20/*.pid; do
  p=$(cat "$f"); kill -TERM "$p" 2>/dev/null; i=0
  while [ $i -lt 50 ] && kill -0 "$p" 2>/dev/null; do sleep 0.2; i=$((i+1)); done
done"""
"""Ends what was exec'd into a container, before the container is stopped: Ray drains its node for 30 s while an engine lives."""


@dataclass(frozen=True)
class LaunchTarget:
    """One profile on one set of nodes: everything a bring-up needs to know from the inventory."""

    inventory: Inventory
    engine: str
    profile_name: str
    profile: Profile

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes in use, head first."""
        return self.inventory.nodes_of(self.profile)

    @property
    def head(self) -> NodeSpec:
        """The node of rank 0."""
        return self.nodes[0]

    @property
    def layout(self) -> Layout:
        """How the profile cuts the model over these nodes."""
        return parallel(self.engine_profile(), self.node_plans())

    @property
    def served_model(self) -> str:
        """The model id the API must show."""
        return self.inventory.model.served_name or self.inventory.model.path

    def engine_profile(self) -> LaunchProfile:
        """The profile in the words of the dialects."""
        p, model = self.profile, self.inventory.model
        default_port = 30000 if self.engine == "sglang" else 29501
        return LaunchProfile(
            engine=self.engine,
            name=self.profile_name,
            image=p.image,
            model_path=model.path,
            served_model_name=model.served_name,
            flags=p.flags,
            env=p.env,
            tensor_parallel=p.tensor_parallel,
            mode=p.mode,
            http_port=p.http_port,
            dist_port=p.dist_port or default_port,
            ray_port=p.ray_port,
            ready_timeout_s=p.ready_timeout,
            nccl_debug_dir=MOUNT_POINT,
            fits=Fits(p.fits.versions, p.fits.models, p.fits.gpus, p.fits.nodes),
        )

    def node_plans(self) -> tuple[NodePlan, ...]:
        """The nodes in the words of the dialects."""
        return tuple(
            NodePlan(
                name=node.name,
                rank=rank,
                host_ip=node.engine_ip,
                control_interface=node.control_interface,
                hcas=tuple(rail.device_port for rail in node.rails) if self.has_rdma else (),
                gid_index=self._gid_index(node) if self.has_rdma else None,
            )
            for rank, node in enumerate(self.nodes)
        )

    @property
    def has_rdma(self) -> bool:
        """False where the rails are stood in by plain network interfaces (the lab): NCCL must not be pointed at them."""
        return any(n.rails for n in self.nodes) and "rdma" not in {s.lower() for s in self.inventory.stood_in}

    @staticmethod
    def _gid_index(node: NodeSpec) -> int | None:
        indices = {node.rail_gid_index(rail) for rail in node.rails}
        return indices.pop() if len(indices) == 1 else node.gid_index

    def node_dir(self, run_id: str) -> str:
        """The run's folder on each node."""
        return f"{self.inventory.run_dir_on_node.rstrip('/')}/{run_id}"


def mounts(target: LaunchTarget, node_dir: str) -> tuple[Mount, ...]:
    """The model, the run's folder, and the profile's own volumes."""
    model, options = target.inventory.model, target.profile.container
    own = []
    for source, where in options.volumes.items():
        path, _, mode = where.partition(":")
        own.append(Mount(source, path, read_only=mode == "ro"))
    return (Mount(model.host_path, model.mount, read_only=True), Mount(node_dir, MOUNT_POINT), *own)


def ulimits(options: ContainerOptions) -> dict[str, tuple[int, int]]:
    """One number means soft and hard alike."""
    return {k: (v, v) if isinstance(v, int) else (v[0], v[1]) for k, v in options.ulimits.items()}


def started_by() -> str:
    """Who started a container: ``user@host:pid``, so that a leftover can be told from a run in progress."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def container_name(run_id: str, role: str) -> str:
    """``h20-<run>-<role>``."""
    return f"h20-{run_id}-{role}"


def container_spec(target: LaunchTarget, step: Step, run_id: str, node: NodeSpec) -> ContainerSpec:
    """The container of one step."""
    options = target.profile.container
    node_dir = target.node_dir(run_id)
    host_log = f"{node_dir}/{step.role}.log"
    return ContainerSpec(
        name=container_name(run_id, step.role),
        image=target.profile.image,
        argv=("/bin/sh", "-c", _MAIN, f"{MOUNT_POINT}/{step.role}.log", host_log, *step.argv),
        env={"PYTHONUNBUFFERED": "1", **step.env, **node.env},
        labels=labels.of_run(run_id, step.role, node.name, started_by(), node_dir),
        mounts=mounts(target, node_dir),
        gpus=options.gpus,
        network=options.network,
        ipc=options.ipc,
        shm_size=options.shm_size,
        privileged=options.privileged,
        ulimits=ulimits(options),
        cap_add=options.cap_add,
        security_opt=options.security_opt,
        devices=options.devices,
        runtime=options.runtime,
    )


def secrets_of(target: LaunchTarget, plan: LaunchPlan) -> dict[str, list[str]]:
    """The secrets in the environment of each node's containers, by name: Docker shows it, however it was given."""
    found: dict[str, dict[str, None]] = {}
    for step in plan.steps:
        env = {**step.env, **next(n for n in target.nodes if n.name == step.node).env}
        found.setdefault(step.node, {}).update(dict.fromkeys(name for name, value in env.items() if value and secret_name(name)))
    return {node: list(names) for node, names in found.items() if names}


def secrets_note(target: LaunchTarget, plan: LaunchPlan) -> str:
    """Which secrets others on the nodes can read while the engine runs; empty when there are none."""
    told = [f"{name} on {node}" for node, names in secrets_of(target, plan).items() for name in names]
    return f"visible to who may run `docker inspect` there: {', '.join(told)}" if told else ""


def exec_argv(step: Step) -> tuple[str, ...]:
    """The command of a step that runs inside a container that is up already."""
    return ("/bin/sh", "-c", _EXEC, f"{MOUNT_POINT}/{step.role}.log", *step.argv)


def start_step(target: LaunchTarget, step: Step, run_id: str, node: Node, containers: Mapping[str, RoleRef]) -> RoleRef:
    """Start one step of the plan. ``containers``: the container of each node that is up already, for ``exec`` steps.

    Raises:
        H20Error: the daemon refused, with its own words.
    """
    spec = next(n for n in target.nodes if n.name == step.node)
    rank = target.nodes.index(spec)
    log_path = f"{target.node_dir(run_id)}/{step.role}.log"
    command = " ".join(shown_argv(step.argv))
    if step.kind == "container":
        info = node.containers.start(container_spec(target, step, run_id, spec))
        return RoleRef(step.node, step.role, rank, info.id, info.name, log_path, command)
    host = containers[step.node]
    node.containers.exec_detached(host.container_id, exec_argv(step), {"PYTHONUNBUFFERED": "1", **step.env, **spec.env})
    return RoleRef(step.node, step.role, rank, host.container_id, host.container_name, log_path, command)


def docker_run_text(spec: ContainerSpec) -> str:
    """The container as the ``docker run`` command a person would type, for plans and reports."""
    groups = [["docker", "run", "-d", "--name", spec.name, "--entrypoint", spec.argv[0]]]
    groups += [["--gpus", spec.gpus]] if spec.gpus else []
    groups.append(["--network", spec.network, *(["--ipc", spec.ipc] if spec.ipc else [])])
    groups[-1] += (["--shm-size", spec.shm_size] if spec.shm_size else []) + (["--privileged"] if spec.privileged else [])
    limits = [f"{name}={soft}" if soft == hard else f"{name}={soft}:{hard}" for name, (soft, hard) in spec.ulimits.items()]
    groups += [[word for limit in limits for word in ("--ulimit", limit)]]
    groups += [[word for cap in spec.cap_add for word in ("--cap-add", cap)]]
    groups += [[word for option in spec.security_opt for word in ("--security-opt", option)]]
    groups += [[word for device in spec.devices for word in ("--device", device)]]
    groups += [["-v", f"{m.source}:{m.target}" + (":ro" if m.read_only else "")] for m in spec.mounts]
    groups += [["--label", f"{k}={v}"] for k, v in spec.labels.items()]
    groups += [["-e", f"{k}={v}"] for k, v in spec.env.items()]
    groups += [[spec.image, *spec.argv[1:]]]
    return _lines(groups)


def _lines(groups: Sequence[Sequence[str]]) -> str:
    """One shell command over several lines, each group of words on its own."""
    return " \\\n  ".join(shlex.join(group) for group in groups if group)


def plan_text(target: LaunchTarget, plan: LaunchPlan, run_id: str = "RUN") -> list[tuple[str, str]]:
    """(node, command line) for every step, in order: what ``--h20-plan`` prints and the report repeats."""
    lines = []
    for step in plan.steps:
        spec = next(n for n in target.nodes if n.name == step.node)
        if step.kind == "container":
            text = docker_run_text(container_spec(target, step, run_id, spec))
        else:
            host = next(s for s in plan.steps if s.node == step.node and s.kind == "container")
            env = [["-e", f"{key}={value}"] for key, value in step.env.items()]
            text = _lines([["docker", "exec", "-d"], *env, [container_name(run_id, host.role), *exec_argv(step)]])
        lines.append((step.node, text))
    return lines
