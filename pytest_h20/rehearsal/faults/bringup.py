"""Faults of the start: processes that die, hang or lie, ports that belong to others, an engine that does not end."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Change, Fault, engine, expecting, http, ids, profile, says, together
from pytest_h20.rehearsal.world import World

_QUICK_LIMIT_S = 240.0
"""The profiles wait half an hour of model time; a fault that runs into the limit need not."""


def _dies(role: str, part: float, code: int, *lines: str) -> Change:
    """A process ends on this part of its way to ready, with these last words."""

    def change(world: World) -> None:
        world.engine.dies[role] = (part * world.engine.start_s, code, lines)

    return change


def _too_slow(world: World) -> None:
    world.engine.start_s = 240.0
    profile(ready_timeout=120.0)(world)


def _ray_alone(world: World) -> None:
    world.engine.ray_gpus[list(world.machines)[1]] = -1.0


def _ray_without_gpus(world: World) -> None:
    world.engine.ray_gpus[list(world.machines)[1]] = 0.0


def _docker_refuses(world: World) -> None:
    world.start_refused[list(world.machines)[1]] = 'could not select device driver "" with capabilities: [[gpu]]'


def _removal_refused(world: World) -> None:
    world.removal_refused[list(world.machines)[1]] = "device or resource busy"


def _no_engine_in_image(world: World) -> None:
    for image in world.images.values():
        image.packages.pop("sglang", None)


def _no_interface(world: World) -> None:
    node = list(world.machines)[1]
    warning = f"[2026-11-27 07:54:32] {node}:346:346 [0] bootstrap.cc:114 NCCL WARN Bootstrap : no socket interface found"
    world.nccl.extra_lines[node] = [warning]


_OTHER_CUDA = "python=3.12.3\ncuda=12.6\nnccl=2.21.5\npackage\tsglang\t0.4.4.post3\npackage\ttorch\t2.5.1\n"
_OTHER_PYTHON = "python=3.11.9\ncuda=12.4\nnccl=2.21.5\npackage\tsglang\t0.4.4.post3\npackage\ttorch\t2.5.1\n"


def _fault(
    name: str,
    sentence: str,
    source: str,
    change: Change,
    phrase: str,
    red: str = "ready",
    engine: str = "sglang",
    options: tuple[str, ...] = (),
) -> Fault:
    return Fault(name, "bringup", sentence, source, change, ids("bringup", red), phrase, engine=engine, options=options)


def _other_build(world: World) -> None:
    world.libraries.other[world.other.hostname] = "another build of the same version"


def _ranks_blind(world: World) -> None:
    world.libraries.blind.add(world.other.hostname)


def _nccl_of_another_version(world: World) -> None:
    world.libraries.version = "2.18.1"


def _setting_lost(world: World) -> None:
    world.libraries.env[world.other.hostname] = {"NCCL_IB_TIMEOUT": "14"}


FAULTS = (
    _fault(
        "ray-sees-8-gpus", "The worker never joins Ray: 8 GPUs instead of 16.", "F06, F08", _ray_alone, "Ray did not join", engine="vllm"
    ),
    _fault(
        "other-build-loaded",
        "The ranks of one node have another build of the same NCCL loaded.",
        "vllm#42354: another build of one version was the fix",
        _other_build,
        "8 of 16 ranks have",
        red="libraries",
    ),
    _fault(
        "other-nccl-loaded",
        "All ranks have another NCCL loaded than the image's.",
        "verl#6621: three versions in one image",
        _nccl_of_another_version,
        "2.18.1 is loaded, the image's library is",
        red="nccl_loaded",
    ),
    _fault(
        "setting-lost",
        "The ranks of one node run with an NCCL setting that the others do not have.",
        "issue 15: ENV of an image, a wrapper",
        _setting_lost,
        "NCCL_IB_TIMEOUT differs",
        red="nccl_settings",
    ),
    _fault(
        "ranks-not-seen",
        "What the ranks of one node have loaded cannot be seen.",
        "could not measure is no pass",
        _ranks_blind,
        "8 of 16 ranks could be looked at",
        red="libraries nccl_loaded nccl_settings",
    ),
    _fault("ray-node-without-gpus", "The worker joined Ray without its GPUs.", "F08", _ray_without_gpus, "Ray did not join", engine="vllm"),
    _fault(
        "rank1-dies",
        "Rank 1 dies while it loads: out of GPU memory.",
        "F54",
        _dies(
            "rank1",
            0.5,
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 7.00 GiB. GPU 3 has a total capacity of 95.58 GiB of which 1.20 GiB is free.",
        ),
        "rank1",
    ),
    _fault(
        "rank1-disappears",
        "Rank 1 ends without a word.",
        "a killed process tells nothing",
        _dies("rank1", 0.5, 139),
        "rank1 ended (exit code 139)",
        red="every_rank_runs",
    ),
    _fault(
        "hang-while-loading",
        "The engine prints nothing more while it loads.",
        "F03, F51, F59",
        together(profile(ready_timeout=_QUICK_LIMIT_S), engine(hangs_at="loading")),
        "not ready after 240 s",
    ),
    _fault(
        "hang-at-nccl",
        "The ranks wait for each other for ever.",
        "F14, F16",
        together(profile(ready_timeout=_QUICK_LIMIT_S), engine(hangs_at="dist-init")),
        "not ready after 240 s",
    ),
    _fault("too-slow", "The engine is ready, but later than its profile allows.", "F50", _too_slow, "not ready after 120 s"),
    _fault(
        "oom-killed",
        "The kernel kills the head for memory.",
        "host memory runs out while 163 shards are read",
        engine(oom=True),
        "killed for memory",
        red="every_rank_runs",
    ),
    _fault(
        "unknown-argument",
        "The engine does not know one of its arguments.",
        "F22",
        _dies("rank0", 0.05, 2, "launch_server.py: error: unrecognized arguments: --enable-reasoning"),
        "unrecognized arguments",
    ),
    _fault(
        "not-enough-memory",
        "No memory is left for the KV cache.",
        "F52",
        _dies("rank0", 0.7, 1, "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."),
        "--mem-fraction-static",
    ),
    _fault(
        "shard-unreadable",
        "A rank cannot read a shard.",
        "F47",
        _dies("rank1", 0.4, 1, "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"),
        "weight file",
    ),
    _fault(
        "gloo-cannot-connect",
        "Gloo picked an address that the other node cannot reach.",
        "F01",
        _dies(
            "rank0", 0.09, 1, "RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error"
        ),
        "GLOO_SOCKET_IFNAME",
    ),
    _fault(
        "nccl-warns-in-its-own-file",
        "NCCL's reason stands in its own file; the engine's log says only that NCCL failed.",
        "recorded on two H200 (NCCL 2.28.9)",
        together(_no_interface, _dies("rank1", 0.5, 1, "RuntimeError: NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)")),
        "NCCL_SOCKET_IFNAME matches",
    ),
    _fault(
        "rendezvous-times-out",
        "The other rank never arrives at the rendezvous.",
        "F14",
        _dies("rank0", 0.3, 1, "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined."),
        "clients joined",
    ),
    _fault(
        "ready-but-port-taken",
        "The ready line is there, but the port was taken and another server answers.",
        "F11; recorded with SGLang 0.5.16",
        engine(port_taken=True),
        "address already in use",
    ),
    _fault(
        "port-shared-silently",
        "Another server shares the port: no complaint, and the socket is not ours.",
        "vLLM 0.24 binds with SO_REUSEPORT (recorded)",
        together(engine(port_taken=True), http("port_shared_silently")),
        "is not held by our container",
        red="ours",
    ),
    _fault(
        "ready-but-dead",
        "The ready line and /health are there; no completion ever comes back.",
        "F69",
        engine(dead_after_ready=True),
        "first completion failed",
        red="first_completion",
    ),
    _fault(
        "head-dead-worker-healthy", "The head's /health is 503 while the worker's dummy says 200.", "F68", http("unhealthy"), "answers 503"
    ),
    _fault(
        "first-completion-kills",
        "The first completion kills the engine.",
        "F40",
        http(completion_kills=1),
        "when it was asked for its first completion",
        red="every_rank_runs",
    ),
    _fault(
        "exits-with-0",
        "The engine ends with status 0 before it serves.",
        "vLLM ends with 0 after a fatal error of its core (recorded)",
        engine(exits_zero=True),
        "exit code 0",
        red="every_rank_runs",
    ),
    _fault(
        "sigterm-ignored",
        "The engine does not end on SIGTERM.",
        "SGLang 0.5.16 after a request with n > 1 (recorded)",
        engine(ignores_sigterm=True),
        "ignored SIGTERM",
        red="stops",
    ),
    _fault(
        "container-stays",
        "Docker of one node cannot remove the container.",
        "moby: device or resource busy",
        _removal_refused,
        "device or resource busy",
        red="nothing_left",
    ),
    _fault(
        "docker-refuses",
        "Docker of one node refuses to start the container.",
        "NVIDIA container toolkit missing or broken",
        _docker_refuses,
        "could not select device driver",
    ),
    _fault("image-without-engine", "The image holds another engine.", "wrong tag", _no_engine_in_image, "holds no sglang"),
    _fault(
        "python-differs",
        "One node's image holds another Python.",
        "F09: Ray refuses",
        says("image/image_versions", _OTHER_PYTHON),
        "node02 3.11.9",
        red="same_versions",
        options=("--h20-force",),
    ),
    _fault(
        "forced-with-other-cuda",
        "One node's image was built for another CUDA, and the start is forced.",
        "F09",
        says("image/image_versions", _OTHER_CUDA),
        "12.6",
        red="same_versions",
        options=("--h20-force",),
    ),
    _fault(
        "early-gate-red",
        "A red early gate keeps the engine from being started.",
        "one failure, told once",
        expecting(gpu_count=9),
        "--h20-force brings the engine up",
    ),
)
