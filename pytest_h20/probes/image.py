"""What the engine will find inside its container: versions, limits, devices, model, and its own address as the engine
computes it."""

# ruff: noqa: E501 - shell and foreign text stay on their own lines
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_h20.config.inventory import Inventory, NodeSpec, Profile
from pytest_h20.nodes.base import ContainerSpec, Mount
from pytest_h20.probes.script import Missing, Probe, ProbeError, integer, pairs, rows


@dataclass(frozen=True)
class Versions:
    """Packages in the image's Python, and the NCCL library as it calls itself. Empty text = not there."""

    python: str
    packages: tuple[tuple[str, str], ...]
    cuda: str
    nccl: str
    compat: str

    def package(self, name: str) -> str:
        """The version of a package, or an empty text."""
        return dict(self.packages).get(name, "")


def parse_versions(text: str) -> Versions:
    """``python=3.12.3``, ``cuda=12.4`` (torch/version.py), ``nccl=2.21.5`` (ncclGetVersion, else the wheel), ``compat=PATH``
    (cuda-compat), and
    ``package<TAB>NAME<TAB>VERSION`` for vllm, sglang, torch, ray, transformers and others."""
    p = pairs(text)
    if not p.get("python"):
        raise ProbeError("no python= line")
    packages = tuple((n, v) for n, v in rows(text, "package", 2))
    return Versions(p["python"], packages, p.get("cuda", ""), p.get("nccl", ""), p.get("compat", ""))


VERSIONS = Probe(
    "image_versions",
    r"""
p=; for c in python3 python; do $c -c pass >/dev/null 2>&1 && { p=$c; break; }; done
[ -n "$p" ] || { echo "no Python in the image" >&2; exit 127; }
for f in /usr/local/cuda/compat /usr/local/cuda-*/compat; do [ -e $f/libcuda.so.1 ] && { echo "compat=$f"; break; }; done
$p - <<'PY'
import ctypes, glob, os, re, sys
print("python=%d.%d.%d" % sys.version_info[:3])
try:
    from importlib import metadata
except ImportError:
    metadata = None
def version(name):
    try:
        return metadata.version(name) if metadata else ""
    except Exception:
        return ""
names = ["vllm", "sglang", "torch", "ray", "transformers", "flashinfer-python", "sgl-kernel", "sglang-kernel", "deep_gemm",
         "nvidia-nccl-cu12", "nvidia-nccl-cu13", "safetensors"]
found = dict((n, version(n)) for n in names)
for n in names:
    if found[n]:
        print("package\t%s\t%s" % (n, found[n]))
nccl = found["nvidia-nccl-cu13"] or found["nvidia-nccl-cu12"]
for base in sys.path:
    v = os.path.join(base, "torch", "version.py")
    if os.path.exists(v):
        m = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)", open(v).read(), re.M)
        if m:
            print("cuda=%s" % m.group(1))
        libs = glob.glob(os.path.join(base, "nvidia", "nccl", "lib", "libnccl.so*"))
        for lib in libs + ["libnccl.so.2"]:
            try:
                n = ctypes.c_int()
                ctypes.CDLL(lib).ncclGetVersion(ctypes.byref(n))
                k = n.value
                nccl = "%d.%d.%d" % ((k // 10000, k // 100 % 100, k % 100) if k >= 10000 else (k // 1000, k // 100 % 10, k % 100))
                break
            except (OSError, AttributeError):
                continue
        break
print("nccl=%s" % nccl)
PY
""",
    parse_versions,
    seconds=60,
    hint="the image needs Python to tell its versions",
)


@dataclass(frozen=True)
class Devices:
    """What of the hardware the container sees. ``uverbs``: /dev/infiniband/uverbs* files; ``libibverbs``: the library is
    installed."""

    gpus: int | None
    uverbs: int
    rdma_cm: bool
    libibverbs: bool
    gpu_error: str = ""


def parse_devices(text: str) -> Devices:
    """``gpus=N`` (lines of ``nvidia-smi -L``; empty when it failed), ``uverbs=N``, ``rdma_cm=0|1``, ``libibverbs=0|1``,
    ``gpu_error=``."""
    p = pairs(text)
    uverbs = integer(p.get("uverbs"))
    if uverbs is None:
        raise ProbeError("no uverbs= line")
    return Devices(integer(p.get("gpus")), uverbs, p.get("rdma_cm") == "1", p.get("libibverbs") == "1", p.get("gpu_error", ""))


DEVICES = Probe(
    "image_devices",
    r"""
if command -v nvidia-smi >/dev/null; then
  if g=`nvidia-smi -L 2>&1`; then echo "gpus=`printf '%s\n' "$g" | grep -c '^GPU '`"; else echo "gpu_error=`printf '%s\n' "$g" | head -n 1`"; fi
else echo "gpu_error=nvidia-smi is not in the container"; fi
n=0; for f in /dev/infiniband/uverbs*; do [ -e "$f" ] && n=$((n + 1)); done; echo "uverbs=$n"
[ -e /dev/infiniband/rdma_cm ] && echo rdma_cm=1 || echo rdma_cm=0
l=0; ldconfig -p 2>/dev/null | grep -q 'libibverbs\.so\.1' && l=1
[ $l = 0 ] && for f in /usr/lib*/libibverbs.so.1 /usr/lib/*/libibverbs.so.1 /lib*/libibverbs.so.1; do [ -e "$f" ] && l=1; done
echo "libibverbs=$l"
""",
    parse_devices,
    seconds=60,
)


@dataclass(frozen=True)
class ModelFolder:
    """The model's folder as the engine will see it."""

    path: str
    exists: bool
    config_readable: bool
    shards: int
    device: str
    config_json: str = ""
    """The text of config.json in one line; empty when it could not be read whole."""

    @property
    def config(self) -> Mapping[str, Any] | Missing:
        """config.json's object."""
        try:
            told = json.loads(self.config_json)
        except (ValueError, RecursionError):
            return Missing(f"config.json of {self.path} could not be read", "see that it lies in the folder that the engine mounts")
        return told if isinstance(told, Mapping) else Missing(f"config.json of {self.path} is no object")


def parse_model_folder(text: str) -> ModelFolder:
    """``path=``, ``exists=0|1``, ``config=0|1`` (config.json can be read), ``shards=N`` (``*.safetensors``), ``device=`` (its
    mount's source), ``config_json=`` (its text)."""
    p = pairs(text)
    if "exists" not in p:
        raise ProbeError("no exists= line")
    return ModelFolder(
        p.get("path", ""),
        p["exists"] == "1",
        p.get("config") == "1",
        integer(p.get("shards")) or 0,
        p.get("device", ""),
        p.get("config_json", ""),
    )


# Argument: the folder. Reading one byte proves more than a permission bit (NFS with squashed root).
MODEL_FOLDER = Probe(
    "model_folder",
    r"""
echo "path=$1"
[ -d "$1" ] && echo exists=1 || echo exists=0
[ -n "`head -c 1 "$1/config.json" 2>/dev/null`" ] && echo config=1 || echo config=0
n=0; for f in "$1"/*.safetensors; do [ -e "$f" ] && n=$((n + 1)); done; echo "shards=$n"
echo "device=`df -P "$1" 2>/dev/null | tail -n 1 | cut -d' ' -f1`"
printf 'config_json='; head -c 65536 "$1/config.json" 2>/dev/null | tr -d '\r\n'; echo
""",
    parse_model_folder,
)


@dataclass(frozen=True)
class EngineAddress:
    """What one rule gives. ``how``: the step that decided (``VLLM_HOST_IP``, ``route to 8.8.8.8``, ``IPv6 route`` ...)."""

    rule: str
    with_env: bool
    address: str
    how: str


def parse_engine_addresses(text: str) -> tuple[EngineAddress, ...]:
    """``ip<TAB>RULE<TAB>with|without<TAB>ADDRESS<TAB>HOW``: with the container's environment, and as it would be without it."""
    found = tuple(EngineAddress(r[0], r[1] == "with", r[2], r[3]) for r in rows(text, "ip", 4))
    if not found:
        raise ProbeError("no ip line")
    return found


# The rules of both engines, from reading them (E-env): 8.8.8.8 is never contacted, a UDP "connect"
# only asks the routing table.
ENGINE_ADDRESS = Probe(
    "engine_address",
    r"""
p=; for c in python3 python; do $c -c pass >/dev/null 2>&1 && { p=$c; break; }; done
[ -n "$p" ] || { echo "no Python in the image" >&2; exit 127; }
$p - <<'PY'
import fcntl, os, socket, struct
def route(family, target):
    s = socket.socket(family, socket.SOCK_DGRAM)
    try:
        s.connect((target, 80))
        return s.getsockname()[0]
    except (OSError, socket.error):
        return ""
    finally:
        s.close()
v4 = lambda: (route(socket.AF_INET, "8.8.8.8"), "route to 8.8.8.8")
def v6():
    try:
        return route(socket.AF_INET6, "2001:4860:4860::8888"), "IPv6 route"
    except (OSError, socket.error):
        return "", "IPv6 route"
def own_name():
    try:
        a = socket.gethostbyname(socket.gethostname())
    except (OSError, socket.error):
        a = ""
    return ("" if a in ("127.0.0.1", "0.0.0.0") else a), "host name"
def variable(*names):
    def get():
        for n in names:
            if os.environ.get(n):
                return os.environ[n], n
        return "", ""
    return get
def nic():
    n = os.environ.get("SGLANG_LOCAL_IP_NIC")
    if not n:
        return "", ""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        return socket.inet_ntoa(fcntl.ioctl(s.fileno(), 0x8915, struct.pack("256s", n[:15].encode()))[20:24]), "SGLANG_LOCAL_IP_NIC"
    except (OSError, IOError):
        return "", ""
last = lambda: ("0.0.0.0", "nothing found")
env = {"vllm": [variable("VLLM_HOST_IP")], "sglang": [variable("SGLANG_HOST_IP", "HOST_IP")],
       "sglang-0.5.3": [variable("SGLANG_HOST_IP", "HOST_IP"), nic]}
rest = {"vllm": [v4, v6], "sglang": [v4, v6], "sglang-0.5.3": [v4, own_name, v6]}
for rule in ("vllm", "sglang", "sglang-0.5.3"):
    for word, steps in (("with", env[rule] + rest[rule]), ("without", rest[rule])):
        for step in steps + [last]:
            a, how = step()
            if a:
                print("ip\t%s\t%s\t%s\t%s" % (rule, word, a, how))
                break
PY
""",
    parse_engine_addresses,
    seconds=30,
    hint="the image needs Python to compute the engine's address",
)


def address_rule(engine: str, version: str) -> str:
    """Which rule a release follows: ``vllm``; ``sglang`` up to 0.5.2; ``sglang-0.5.3`` from then on (unknown release: the
    newer)."""
    if engine != "sglang":
        return "vllm"
    numbers = tuple(int(n) for n in re.findall("[0-9]{1,9}", version)[:3])
    return "sglang" if numbers and numbers < (0, 5, 3) else "sglang-0.5.3"


def gpu_driver_floor(cuda: str) -> str:
    """The oldest driver branch that runs a CUDA release without a compat package: CUDA 13 R580, CUDA 12 R525, CUDA 11 R450.

    Source: NVIDIA's minor-version compatibility table (E-image).
    """
    major = cuda.split(".", 1)[0]
    return {"13": "580", "12": "525", "11": "450"}.get(major, "")


def _size_kib(text: str | None) -> int | None:
    """docker's notation (``128g``) in KiB."""
    m = re.match(r"^(\d+(?:\.\d+)?)\s*([bkmgt]?)b?$", (text or "").strip().lower())
    if not m:
        return None
    return int(float(m[1]) * {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}[m[2]] / 1024)


def shm_size_kib(profile: Profile) -> int | None:
    """What the profile asks for as /dev/shm, KiB; None when the container shares the host's IPC (docker then ignores
    shm_size)."""
    return None if profile.container.ipc == "host" else _size_kib(profile.container.shm_size)


def container_spec(
    inventory: Inventory, node: NodeSpec, profile: Profile, argv: Sequence[str], env: dict[str, str], name: str, run: str
) -> ContainerSpec:
    """A short-lived container made like the engine's own, so that limits, devices, mounts and network are the engine's."""
    o = profile.container
    mounts = [Mount(inventory.model.host_path, inventory.model.mount, read_only=True)]
    for source, target in o.volumes.items():
        path, _, mode = target.partition(":")
        mounts.append(Mount(source, path, read_only=mode == "ro"))
    ulimits = {k: (v, v) if isinstance(v, int) else (v[0], v[1]) for k, v in o.ulimits.items()}
    return ContainerSpec(
        name=name,
        image=profile.image,
        argv=argv,
        env={**node.env, **profile.env, **env},
        labels={"io.pytest-h20.role": "probe", "io.pytest-h20.node": node.name},
        mounts=mounts,
        gpus=o.gpus,
        network=o.network,
        ipc=o.ipc,
        shm_size=o.shm_size,
        privileged=o.privileged,
        ulimits=ulimits,
        cap_add=o.cap_add,
        security_opt=o.security_opt,
        devices=o.devices,
        runtime=o.runtime,
    )
