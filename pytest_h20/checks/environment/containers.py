"""Docker, the image, and what the engine finds inside its container."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, at_least, builtin, cluster_check, inventory, node_check
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Limit, Status, Verdict
from pytest_h20.engines import dialect_for
from pytest_h20.probes.facts import Facts, View
from pytest_h20.probes.gather import engine_ports
from pytest_h20.probes.image import shm_size_kib
from pytest_h20.probes.script import Missing

DOCKER = "environment.docker"


@node_check(DOCKER, "Container daemon", always=True, action="systemctl start docker; add the user to the docker group")
def docker(say: Say, view: View) -> Iterable[Verdict]:
    """The daemon answers, is not older than ``expect.docker_min``, and uses the expected storage driver."""
    d, e = say.need(view.node.daemon), view.expect
    told = []
    if e.docker_min is not None and d.podman:
        told.append(say.skip(f"the daemon is Podman {d.version}, and expect.docker_min is a version of Docker", d.version))
    elif e.docker_min is not None:
        told.append(at_least(say, "docker_min", e.docker_min, d.version))
    if e.storage_driver is not None:
        limit = Limit(kind="equal", value=e.storage_driver, origin=inventory("storage_driver"))
        told.append(say.about(f"{view.name} storage").judge(d.storage_driver or None, limit))
    answered = Limit(kind="equal", value=True, origin=builtin("containers cannot be started without it"))
    details: dict[str, JsonValue] = {"version": d.version, "podman": d.podman, "storage": d.storage_driver, "runtimes": list(d.runtimes)}
    return told or [say.judge(bool(d.version), answered, details=details)]


@node_check(
    "environment.nvidia_runtime",
    "NVIDIA container toolkit",
    "tools",
    action="install nvidia-container-toolkit; nvidia-ctk runtime configure; restart docker",
)
def nvidia_runtime(say: Say, view: View) -> Verdict:
    """The NVIDIA runtime is registered with docker, or its toolkit is installed (``--gpus`` needs it)."""
    d, t, wanted = view.node.daemon, view.node.tools, view.expect.nvidia_runtime
    if wanted is None:
        return say.skip(
            "recorded only: expect.nvidia_runtime is not given",
            "" if isinstance(t, Missing) else t.version("nvidia-container-runtime"),
        )
    runtimes = () if isinstance(d, Missing) else d.runtimes
    tools = (
        () if isinstance(t, Missing) else tuple(n for n in ("nvidia-container-runtime", "nvidia-container-cli", "nvidia-ctk") if t.path(n))
    )
    if isinstance(t, Missing) and not runtimes:
        return say.missing(t)
    present = "nvidia" in runtimes or bool(tools)
    details: dict[str, JsonValue] = {"runtimes": list(runtimes), "tools": list(tools)}
    details["version"] = "" if isinstance(t, Missing) else t.version("nvidia-container-runtime") or t.version("nvidia-container-cli")
    return say.judge(present, Limit(kind="equal", value=wanted, origin=inventory("nvidia_runtime")), details=details)


@node_check("environment.docker_disk", "Space for images and containers", "disks", action="docker system df; make room")
def docker_disk(say: Say, view: View) -> Verdict:
    """The file system docker keeps its data on has at least ``expect.docker_free_gib``."""
    disks, d, wanted = view.node.disks, view.node.daemon, view.expect.docker_free_gib
    disks = say.need(disks, wanted=wanted is not None)
    root = "/var/lib/docker" if isinstance(d, Missing) or not d.root_dir else d.root_dir
    here = disks.get(root)
    if here is None or here.free_kib is None:
        return say.missing(
            Missing(f"free space of {root} is not known", "move docker's data, or set its root to /var/lib/docker"),
            wanted=wanted is not None,
        )
    free = round(here.free_kib / 2**20, 1)
    if wanted is None:
        return say.unexpected("docker_free_gib", free)
    return say.judge(free, Limit(kind="min", value=wanted, unit="GiB", origin=inventory("docker_free_gib")), details={"folder": root})


@node_check("environment.image", "The engine's image is on the node", always=True)
def image(say: Say, view: View) -> Verdict:
    """The profile's image is there (nothing is pulled), and is the expected one."""
    i, wanted = view.node.image, view.expect.image_digest
    profile = view.all.profile
    if profile is None:
        return say.skip("no engine profile was chosen")
    if isinstance(i, Missing):
        if i.hint.startswith("docker pull"):
            limit = Limit(kind="equal", value=True, origin=builtin("the image must be there before the start"))
            return say.judge(False, limit, reason=str(i), action=i.hint)
        return say.missing(i)
    details: dict[str, JsonValue] = {"id": i.id, "digests": list(i.digests), "size": i.size, "created": i.created}
    if wanted is None:
        return say.judge(True, Limit(kind="equal", value=True, origin=builtin("the image must be there before the start")), details=details)
    fits = any(wanted in x for x in (i.id, *i.digests))
    limit = Limit(kind="equal", value=True, origin=inventory("image_digest"))
    return say.judge(fits, limit, reason=f"it is {i.id}", action=f"docker pull {profile.image} on every node", details=details)


@cluster_check(
    "environment.image_equal",
    "All nodes have the same image",
    always=True,
    action="docker pull the same digest on every node (F09)",
)
def image_equal(say: Say, facts: Facts) -> Verdict:
    """The image's id is equal on all nodes: a tag is not."""
    if facts.profile is None:
        return say.skip("no engine profile was chosen")
    ids: dict[str, str] = {}
    for view in facts.views:
        if isinstance(view.node.image, Missing):
            return say.missing(view.node.image)
        ids[view.name] = view.node.image.id
    details: dict[str, JsonValue] = {"ids": dict(ids)}
    limit = Limit(kind="equal", value=1, unit="different images", origin=builtin("ranks of different versions do not work together"))
    return say.judge(len(set(ids.values())), limit, reason=", ".join(f"{n}: {i[:19]}" for n, i in ids.items()), details=details)


@node_check(
    "environment.image_versions",
    "Versions inside the image",
    "image/image_versions",
    action="take the image the inventory names",
)
def image_versions(say: Say, view: View) -> Iterable[Verdict]:
    """Engine, torch, NCCL and CUDA of the image begin with what is expected."""
    v, e = view.node.image_versions, view.expect
    pairs = {
        "engine_version": e.engine_version,
        "torch_version": e.torch_version,
        "nccl_version": e.nccl_version,
        "cuda_runtime": e.cuda_runtime,
    }
    wanted = any(x is not None for x in pairs.values())
    v = say.need(v, wanted=wanted)
    found = {
        "engine_version": v.package(view.all.engine) if view.all.engine else "",
        "torch_version": v.package("torch"),
        "nccl_version": v.nccl,
        "cuda_runtime": v.cuda,
    }
    if not wanted:
        return [say.unexpected("engine_version", ", ".join(f"{k.split('_')[0]} {x}" for k, x in found.items() if x), dict(found))]
    return [say.about(f"{view.name} {f.split('_')[0]}").begins(f, x, found[f]) for f, x in pairs.items() if x is not None]


@node_check(
    "environment.gpus_in_container",
    "GPUs visible in the container",
    "image/image_devices",
    "gpus",
    action="install the NVIDIA container toolkit; docker run --gpus all",
)
def gpus_in_container(say: Say, view: View) -> Verdict:
    """The container sees as many GPUs as the node has."""
    d, g, profile = view.node.image_devices, view.node.gpus, view.all.profile
    if profile is None or profile.container.gpus is None:
        return say.skip("the profile asks for no GPU")
    if isinstance(d, Missing):
        return say.missing(d)
    count = view.expect.gpu_count if view.expect.gpu_count is not None else None if isinstance(g, Missing) else len(g.gpus)
    if d.gpus is None:
        return say.unknown(f"nvidia-smi in the container: {d.gpu_error or 'no answer'}")
    if count is None:
        return say.unknown("how many GPUs the node has is not known")
    return say.judge(d.gpus, Limit(kind="equal", value=count, unit="GPUs", origin=builtin("as many as on the node")))


@node_check(
    "environment.rdma_in_container",
    "RDMA usable in the container",
    "image/image_devices",
    action="--device /dev/infiniband --cap-add IPC_LOCK, or --privileged; an image with libibverbs (F24, F25)",
)
def rdma_in_container(say: Say, view: View) -> Verdict:
    """The container has a uverbs device per HCA of the inventory, and libibverbs."""
    d = view.node.image_devices
    if view.all.profile is None or not view.spec.rails:
        return say.skip("the inventory names no rail of this node, or no profile was chosen")
    if "rdma" in {s.lower() for s in view.all.inventory.stood_in}:
        return say.skip("the inventory says that RDMA is stood in")
    if isinstance(d, Missing):
        return say.missing(d)
    details: dict[str, JsonValue] = {"uverbs": d.uverbs, "libibverbs": d.libibverbs, "rdma_cm": d.rdma_cm}
    if not d.libibverbs:
        limit = Limit(kind="equal", value=True, origin=builtin("NCCL opens libibverbs.so.1; without it there is no RDMA (F25)"))
        return say.judge(False, limit, reason="libibverbs.so.1 is not in the image", details=details)
    limit = Limit(kind="min", value=len(view.spec.rails), unit="uverbs devices", origin=builtin("one per rail of the inventory (F24)"))
    return say.judge(d.uverbs, limit, reason=f"/dev/infiniband has {d.uverbs} uverbs devices", details=details)


@node_check(
    "environment.memlock",
    "Locked memory in the container",
    "image/limits",
    always=True,
    action="--ulimit memlock=-1 (and LimitMEMLOCK=infinity of dockerd)",
)
def memlock(say: Say, view: View) -> Verdict:
    """The container may lock any amount of memory: RDMA registers the whole buffer (F27)."""
    x = view.node.image_limits
    if view.all.profile is None:
        return say.skip("no engine profile was chosen")
    if isinstance(x, Missing):
        return say.missing(x)
    if not view.expect.memlock_unlimited:
        return say.skip("expect.memlock_unlimited is false", x.memlock_kib)
    limit = Limit(kind="equal", value="unlimited", unit="", origin=inventory("memlock_unlimited"))
    return say.judge("unlimited" if x.memlock_kib is None else f"{x.memlock_kib} KiB", limit)


def _asked(view: View, name: str) -> int | None:
    profile = view.all.profile
    value = profile.container.ulimits.get(name) if profile else None
    return value[0] if isinstance(value, tuple) else value


@node_check(
    "environment.nofile",
    "Open files in the container",
    "image/limits",
    action="raise LimitNOFILE of dockerd (systemctl edit docker), or give container.ulimits.nofile in the profile",
)
def nofile(say: Say, view: View) -> Verdict:
    """The container may open as many files as expected, or as the profile asks for."""
    x = view.node.image_limits
    wanted = view.expect.nofile_min if view.expect.nofile_min is not None else _asked(view, "nofile")
    x = say.need(x, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("nofile_min", x.nofile)
    origin = inventory("nofile_min") if view.expect.nofile_min is not None else builtin("the profile's ulimits")
    if x.nofile is None or wanted < 0:
        return say.judge(x.nofile is None, Limit(kind="equal", value=True, origin=origin), reason=f"it is {x.nofile}")
    return say.judge(x.nofile, Limit(kind="min", value=wanted, unit="files", origin=origin))


@node_check("environment.stack", "Stack in the container", "image/limits", action="--ulimit stack=67108864")
def stack(say: Say, view: View) -> Verdict:
    """The container's stack limit is what is expected, or what the profile asks for (bytes there, KiB here)."""
    x = view.node.image_limits
    asked = _asked(view, "stack")
    wanted = view.expect.stack_min_kib if view.expect.stack_min_kib is not None else None if asked is None else asked // 1024
    x = say.need(x, wanted=wanted is not None)
    if wanted is None:
        return say.unexpected("stack_min_kib", x.stack_kib)
    origin = inventory("stack_min_kib") if view.expect.stack_min_kib is not None else builtin("the profile's ulimits")
    if x.stack_kib is None or wanted < 0:
        return say.judge(x.stack_kib is None, Limit(kind="equal", value=True, origin=origin), reason=f"it is {x.stack_kib} KiB")
    return say.judge(x.stack_kib, Limit(kind="min", value=wanted, unit="KiB", origin=origin))


@node_check(
    "environment.shm",
    "Shared memory in the container",
    "image/limits",
    always=True,
    action="--shm-size 128g, or --ipc host with a large /dev/shm on the host (F34)",
)
def shm(say: Say, view: View) -> Verdict:
    """/dev/shm has what is expected or asked for, and is not full. Without either: 1 GiB, docker's 64 MiB being the usual cause of a
    crash."""
    x, profile = view.node.image_limits, view.all.profile
    if profile is None:
        return say.skip("no engine profile was chosen")
    if isinstance(x, Missing):
        return say.missing(x)
    asked = shm_size_kib(profile)
    if view.expect.shm_min_gib is not None:
        wanted, origin = view.expect.shm_min_gib, inventory("shm_min_gib")
    elif asked is not None:
        wanted, origin = round(asked / 2**20, 3), builtin("the profile's shm_size")
    else:
        wanted, origin = 1.0, builtin("NCCL's and the engines' shared buffers of 8 local ranks need hundreds of MiB")
    measured = None if x.shm_kib is None else round(x.shm_kib / 2**20, 3)
    told = say.judge(measured, Limit(kind="min", value=wanted, unit="GiB", origin=origin))
    if told.status is not Status.PASS or x.shm_free_kib is None:
        return told
    free = Limit(kind="min", value=min(wanted, 1.0), unit="GiB free", origin=builtin("NCCL and the engines make their buffers there"))
    left = round(x.shm_free_kib / 2**20, 3)
    full = say.judge(
        left, free, reason=f"/dev/shm is full: {left:g} of {measured:g} GiB free", action="ls -la /dev/shm: remove what a dead job left"
    )
    return told if full.status is Status.PASS else full


@node_check("environment.nccl_left", "What NCCL left in /dev/shm of the node", "nccl_shm", always=True)
def nccl_left(say: Say, view: View) -> Verdict:
    """NCCL's files in the node's /dev/shm that no process uses are a warning: memory that a job which was killed keeps until they are
    removed. Those of a server that runs are left alone."""
    files = say.need(view.node.nccl_shm)
    left = [f for f in files if not f.used]
    if not left:
        return say.judge(0, Limit(kind="max", value=0, unit="files", origin=builtin("a job that ends well removes its files")))
    size = round(sum(f.size for f in left) / 2**20, 1)
    names = ", ".join(f.name for f in left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
    owner = "no process uses them" if all(f.used is False for f in left) else "whether a process uses them only root may see"
    return say.warn(
        len(left),
        f"{size:g} MiB in /dev/shm ({names}): {owner}",
        action=f"once no job runs on {view.node.name}: rm {' '.join(f'/dev/shm/{f.name}' for f in left[:16])}",
        details={"files": {f.name: f.size for f in left[:64]}},
    )


@node_check("environment.ipc", "IPC namespace of the container", "image/limits", "limits", action="--ipc host")
def ipc(say: Say, view: View) -> Verdict:
    """With ``ipc: host`` the container shares the node's IPC namespace (F35)."""
    inside, outside, profile = view.node.image_limits, view.node.limits, view.all.profile
    if profile is None or profile.container.ipc != "host":
        return say.skip("the profile does not ask for the host's IPC namespace")
    if isinstance(inside, Missing):
        return say.missing(inside)
    if isinstance(outside, Missing):
        return say.missing(outside)
    if not inside.ipc_namespace or not outside.ipc_namespace:
        return say.unknown("the namespace could not be read from /proc/self/ns/ipc")
    limit = Limit(kind="equal", value=outside.ipc_namespace, origin=builtin("the profile asks for ipc: host"))
    return say.judge(inside.ipc_namespace, limit)


def _bound(view: View) -> tuple[int, ...]:
    """What the engine binds on this node by its dialect; where the image did not tell a version, what any version binds."""
    facts, versions = view.all, view.node.image_versions
    if facts.profile is None or isinstance(versions, Missing) or not versions.package(facts.engine):
        return engine_ports(facts.profile, facts.engine, view.head)
    profile, target = facts.profile, LaunchTarget(facts.inventory, facts.engine, "", facts.profile)
    try:
        dialect = dialect_for(facts.engine, versions.package(facts.engine), profile.mode)
        plan = dialect.plan(target.engine_profile(), target.node_plans())
    except UsageError:  # told where it is refused
        return engine_ports(profile, facts.engine, view.head)
    return tuple(need.port for need in plan.ports_needed.get(view.name, ()))


@node_check(
    "environment.ports",
    "The engine's ports are free",
    "listeners",
    always=True,
    action="what a killed run left goes with: python -m pytest_h20 reap --nodes INVENTORY; else stop the owner, or give the profile "
    "other ports; nothing was ended for you",
)
def ports(say: Say, view: View) -> Iterable[Verdict]:
    """No process listens on a port that this version of the engine will bind (F10, F11). The owner is named."""
    x, wanted = view.node.listeners, _bound(view)
    if view.all.profile is None:
        return [say.skip("no engine profile was chosen")]
    if not wanted:
        return [say.skip(f"{view.all.engine} binds no port of its own on this node")]
    if view.all.inventory.attach is not None:
        return [say.skip("attached: the engine that is tested holds its ports")]
    if isinstance(x, Missing):
        return [say.missing(x)]
    if not x and view.spec.transport == "ssh":
        return [say.unknown("no listener is told at all, not even the SSH server we came through", "install iproute2 on the node")]
    told = []
    for port in wanted:
        busy = [y for y in x if y.port == port]
        unread = view.unread("listeners", "ss")
        owner = busy[0].owner if busy and busy[0].owner else f"an unknown process ({unread or 'rights missing to name it'})"
        limit = Limit(kind="max", value=0, unit="listeners", origin=builtin("the engine must be able to bind it"))
        told.append(say.about(f"{view.name} :{port}").judge(len(busy), limit, of=len(x) or 1, reason=f"port {port} is taken by {owner}"))
    return told


@node_check(
    "environment.model_path",
    "The model's folder, on the node and in the container",
    "disks",
    "image/model_folder",
    always=True,
    action="check model.host_path and model.mount of the inventory; permissions; NFS root squash",
)
def model_path(say: Say, view: View) -> Iterable[Verdict]:
    """The folder exists on the node, and config.json in it can be read in the container where the engine will look."""
    h, c = view.node.host_model, view.node.model_folder
    there = builtin("the engine reads it at the start")
    if isinstance(h, Missing):
        told = [say.missing(h)]
    else:
        told = [
            say.judge(
                h.exists and h.readable,
                Limit(kind="equal", value=True, origin=there),
                reason=f"{h.path} is not there or not readable",
            )
        ]
    inside = say.about(f"{view.name} container")
    if view.all.profile is None:
        return told
    if isinstance(c, Missing):
        return [*told, inside.missing(c)]
    details: dict[str, JsonValue] = {"path": c.path, "shards": c.shards, "device": c.device}
    reason = f"{c.path} is not there" if not c.exists else f"{c.path}/config.json cannot be read"
    return [
        *told,
        inside.judge(c.exists and c.config_readable, Limit(kind="equal", value=True, origin=there), reason=reason, details=details),
    ]
