"""The inventory: which machines, which rails, which model, which engines, what is expected of them.

YAML (``safe_load``) into pydantic models that refuse what they do not know. Every error is one line with file, field, value and
what is accepted. The JSON Schema of these models is checked in as ``environments/inventory.schema.json``.
"""

from __future__ import annotations

import difflib
import getpass
import ipaddress
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from pytest_h20.config.environments import environments
from pytest_h20.config.expect import Expect
from pytest_h20.core.errors import UsageError
from pytest_h20.core.model import Frozen

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _gpus_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _bare_host(text: str) -> str:
    """Only a host: what else people write there would be taken for a part of its name, and every node would be unreachable."""
    if "@" in text:
        raise ValueError("give the host alone, and the user in `ssh: {user: ...}`")
    host, colon, port = text.rpartition(":")
    if colon and ":" not in host and port.isdigit():
        raise ValueError(f"give the host alone, and the port in `ssh: {{port: {port}}}`")
    if not text or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("give a host name or an IP address, without blanks or line ends")
    return text


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Ssh(Frozen):
    """How to log in. Unset fields come from ``~/.ssh/config`` (when ``use_config``) and then from OpenSSH's defaults."""

    user: str | None = Field(None, description="log in as; default: ~/.ssh/config, then your own name")
    port: Port | None = Field(None, description="default: ~/.ssh/config, then 22")
    key: str | None = Field(None, description="private key file; ~ is expanded")
    jump: str | None = Field(
        None,
        pattern=r"^([^@\s]+@)?[^@:\s]+(:\d{1,5})?$",
        description="jump host as user@host:port; user and port may be left out",
    )
    known_hosts: str | None = Field(None, description="known_hosts file; default ~/.ssh/known_hosts")
    host_key_checking: Literal["strict", "off"] = Field("strict", description="'off' is reported in every header and report")
    use_agent: bool = Field(True, description="offer the keys of the SSH agent")
    use_config: bool = Field(True, description="heed ~/.ssh/config, as `ssh -G HOST` shows it; false: nothing of it")
    connect_timeout: Seconds = Field(15.0, description="seconds until a host that does not answer is given up")
    keepalive: Seconds = Field(15.0, description="seconds between keep-alive packets")
    docker_socket: str = Field(
        "/var/run/docker.sock", description="the container daemon's socket on the node; rootful Podman's: /run/podman/podman.sock"
    )
    sudo: bool = Field(
        False, description="a login that is not root runs what needs root with `sudo -n`: the commands that --h20-plan lists, and no other"
    )


class Rail(Frozen):
    """One RDMA port that carries collectives. Per node: names, ports and GID indices differ in real life."""

    hca: str = Field(description="RDMA device as ibv_devices names it, for example mlx5_1")
    port: Annotated[int, Field(ge=1)] = Field(1, description="port of the device")
    interface: str = Field(description="its net device, for example xgbe1")
    gid_index: int | None = Field(None, ge=0, description="overrides the node's gid_index")
    address: str | None = Field(None, description="IPv4 address of the interface; read from the node when not given")
    gid: str | None = Field(None, description="the GID expected at gid_index; derived from address when not given")
    rate_gbps: float | None = Field(None, gt=0, description="line rate in Gbit/s; read from the node when not given")

    @property
    def device_port(self) -> str:
        """As NCCL_IB_HCA wants it: ``mlx5_1:1``."""
        return f"{self.hca}:{self.port}"


class ManagementHca(Frozen):
    """An RDMA device that must exist but must not carry collectives (the write-up's mlx5_0 on xgbe0)."""

    hca: str = Field(description="RDMA device, for example mlx5_0")
    port: Annotated[int, Field(ge=1)] = Field(1, description="port of the device")
    interface: str = Field(description="its net device, for example xgbe0")
    address: str | None = Field(None, description="IPv4 address of the interface")
    gid: str | None = Field(None, description="the GID expected on it")


class NodeSpec(Frozen):
    """One machine."""

    name: Name = Field(description="how reports call the machine")
    address: Annotated[str, AfterValidator(_bare_host)] = Field(description="where SSH (or the local transport) reaches it")
    transport: Literal["ssh", "local"] = Field("ssh", description="'local': the node is this machine")
    ssh: Ssh | None = Field(None, description="what differs from the common `ssh`")
    host_ip: str | None = Field(None, description="address the engine must use (IPv4 on dual-stack hosts); default: address")
    control_interface: str = Field(description="net device of host_ip: NCCL/Gloo bootstrap")
    gid_index: int | None = Field(None, ge=0, description="NCCL_IB_GID_INDEX of this node's rails")
    rails: tuple[Rail, ...] = Field((), description="the rails in order: rail 0 of one node faces rail 0 of the others")
    other_hcas: tuple[ManagementHca, ...] = Field((), description="RDMA devices that must not carry collectives")
    expect: Expect = Field(default_factory=Expect, description="what differs from the common `expect`")
    env: dict[str, str] = Field(default_factory=dict, description="added to every container on this node")

    @property
    def engine_ip(self) -> str:
        """The address the engine must use."""
        return self.host_ip or self.address

    def rail_gid_index(self, rail: Rail) -> int | None:
        """The GID index this rail must use."""
        return rail.gid_index if rail.gid_index is not None else self.gid_index


class Model(Frozen):
    """The weights."""

    host_path: str = Field(description="folder on the node that is mounted into the containers, for example /ssd1/models")
    mount: str = Field(description="where that folder appears in the container, for example /mnt/models")
    path: str = Field(description="the model inside the container, for example /mnt/models/DeepSeek-R1")
    served_name: str | None = Field(None, description="default: path, as both engines do")
    shards: Annotated[int, Field(ge=1)] | None = Field(None, description="number of *.safetensors files; DeepSeek-R1 has 163")
    total_bytes: Annotated[int, Field(ge=1)] | None = Field(None, description="sum of tensor bytes over all shards")
    sha256: str | None = Field(None, description="file with 'sha256  name' lines to hold the full check against")
    vocab_size: Annotated[int, Field(ge=16)] = Field(129280, description="as in config.json")
    special_ids_from: Annotated[int, Field(ge=1)] | None = Field(
        None, description="prompts draw ids below this one; default: vocab_size less 5 %"
    )
    kind: Literal["deepseek-r1", "other"] = Field(
        "deepseek-r1", description="'deepseek-r1' also checks its code files and knows the hardware floor of its TPOT"
    )
    thinking_switch: Literal["thinking", "enable_thinking"] | None = Field(
        None,
        description="argument of the chat template that switches thinking: thinking (DeepSeek-V3.1 to V4), enable_thinking (Qwen3, "
        "GLM-4.5); it is on in every request but those that try it off; default: the model always thinks, as R1 does",
    )

    @model_validator(mode="after")
    def _inside_its_mount(self) -> Model:
        mount = self.mount.rstrip("/")
        if self.path.startswith("/") and self.path.rstrip("/") != mount and not self.path.startswith(mount + "/"):
            raise ValueError(f"path {self.path!r} is outside mount {self.mount!r}: the container would not see it; begin it with the mount")
        return self

    @property
    def on_host(self) -> str:
        """The model's folder on the node, outside the container."""
        if not self.path.startswith(self.mount.rstrip("/") + "/") and self.path != self.mount:
            return self.path
        return self.host_path.rstrip("/") + self.path[len(self.mount.rstrip("/")) :]


def _blog_ulimits() -> dict[str, int | tuple[int, int]]:
    return {"memlock": -1, "nofile": 120000, "stack": 67108864}


class ContainerOptions(Frozen):
    """Options of every engine container; the write-up's are the defaults."""

    gpus: Annotated[str | None, BeforeValidator(_gpus_text)] = Field("all", description="docker's --gpus; null: none")
    network: str = Field("host", description="docker's --network")
    ipc: str | None = Field("host", description="docker's --ipc")
    shm_size: str | None = Field("128g", description="docker's --shm-size; has no effect with ipc: host")
    privileged: bool = Field(True, description="docker's --privileged")
    ulimits: dict[str, int | tuple[int, int]] = Field(
        default_factory=_blog_ulimits, description="name: limit, or name: [soft, hard]; -1: unlimited"
    )
    cap_add: tuple[str, ...] = Field(("SYS_PTRACE",), description="docker's --cap-add")
    security_opt: tuple[str, ...] = Field(("seccomp=unconfined",), description="docker's --security-opt")
    devices: tuple[str, ...] = Field((), description="docker's --device, for example /dev/infiniband")
    volumes: dict[str, str] = Field(default_factory=dict, description="host path: container path, ':ro' may follow")
    runtime: str | None = Field(None, description="docker's --runtime, for example nvidia")


class LoadSettings(Frozen):
    """What the throughput gate sends."""

    concurrency: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(None, description="default: the write-up's 13 levels")
    lengths: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] | None = Field(
        None, description="pairs of input and output length; default: the write-up's 128/128 and 256/256"
    )
    recipe: Literal["steady", "blog"] = Field("steady", description="'blog': as many requests as streams, one wave")
    seed: int = Field(20250405, description="of the random prompts, mixed with the id of the run; --h20-seed repeats one")
    min_requests: Annotated[int, Field(ge=1)] | None = Field(None, description="requests per cell, at least; default: by recipe")
    canaries: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="part of each cell's requests, from 8 streams on, that ask something with a known answer; 0: none, and nobody knows "
        "what is answered under load",
    )
    beyond: tuple[Literal["overload", "shapes", "chat", "long"], ...] = Field(
        ("overload", "shapes", "chat", "long"), description="cells after those of concurrency and lengths; [] leaves all of them out"
    )
    long_answer: Annotated[int, Field(ge=1)] = Field(8192, description="tokens of the long answer, a quarter of the context at most")
    limit: Literal["all", "none"] = Field("all", description="'none' records without judging; such a run cannot be accepted")
    dataset: str | None = Field(None, description="ShareGPT file inside the container, for the engine's own benchmark")
    slo_ttft_ms: float | None = Field(None, gt=0, description="requests must have at most this TTFT, ms (goodput counts those that do)")
    slo_tpot_ms: float | None = Field(None, gt=0, description="requests must have at most this TPOT, ms")
    slo_share: float = Field(0.99, ge=0.5, le=1, description="part of the requests of each cell that must keep what slo_* says")


class SoakSettings(Frozen):
    """What ``--h20-soak`` sends, and how small a slope it must be able to see."""

    streams: Annotated[int, Field(ge=1, le=512)] = Field(64, description="users at a time; each rests for a moment now and then")
    lengths: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] = Field(
        ((128, 128), (256, 256), (1024, 256), (128, 512)), min_length=1, description="pairs of input and output length, mixed evenly"
    )
    slope: float | None = Field(
        None,
        gt=0,
        description="%/h: a slope of throughput or token time that must be visible; a soak too short for it is 'could not measure'; "
        "default: what the time allows, told beside each figure",
    )
    stall_s: Seconds = Field(10.0, description="an answer that pauses for longer, and goes on, is red")
    client_load: Annotated[float, Field(gt=0)] = Field(
        4.0,
        description="processes per core that run or wait on the machine of the run: with more, a slower engine is 'could not measure'; "
        "raise it where they have a lower priority than the run (nice)",
    )


class ProfileFits(Frozen):
    """What a profile was made for. Elsewhere it is refused, with the reason."""

    versions: tuple[Annotated[str, Field(pattern=r"^(>=|<)\d+(\.\d+)*((rc|\.post)\d+)?$")], ...] = Field(
        (), description="bounds on the engine's version: ['>=0.5.10', '<0.6']"
    )
    models: tuple[str, ...] = Field((), description="model_type of config.json, for example deepseek_v3 (R1, V3, V3.1)")
    gpus: tuple[str, ...] = Field((), description="product names: H20 is not H200 and not H20-3e")
    nodes: Annotated[int, Field(ge=1)] | None = Field(None, description="how many nodes; default: any number")


class Profile(Frozen):
    """One way to launch an engine."""

    image: str = Field(description="image with tag or digest; it must be on the nodes already")
    version: str | None = Field(
        None,
        description="engine version the image is believed to hold: --h20-plan goes by it, and a run attached to what tells none; any other "
        "run asks the image or the running server",
    )
    mode: Literal["ray", "native"] | None = Field(None, description="vLLM only: Ray or --nnodes; default by version")
    flags: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="the engine's options without '--'; true: a switch that is on; false: off, in the words of the version",
    )
    env: dict[str, str] = Field(default_factory=dict, description="added to every container; wins over what the suite sets")
    container: ContainerOptions = Field(default_factory=ContainerOptions, description="Docker options of the containers")
    nodes: tuple[str, ...] | None = Field(None, description="names of the nodes to use, head first; default: all")
    tensor_parallel: Annotated[int, Field(ge=1)] = Field(
        16, description="ranks that reduce with each other after every layer; stages and copies come from the engine's flags"
    )
    http_port: Port = Field(8000, description="where the API listens, on the head")
    dist_port: Port | None = Field(None, description="SGLang --dist-init-addr (30000) or vLLM --master-port (29501)")
    ray_port: Port = Field(8379, description="vLLM with Ray: the head's port")
    ready_timeout: Seconds = Field(1800.0, description="seconds from the first container to the ready line")
    first_completion_timeout: Seconds = Field(120.0, description="seconds the first completion may take after that")
    stack_signal: Literal["SIGUSR1", "SIGUSR2"] | None = Field(
        None, description="the signal at which your image's processes print their stacks (faulthandler.register); sent when something hangs"
    )
    reasoning_parser: str | None = Field(None, description="the parser asked for in flags, when responses must be split")
    tool_parser: str | None = Field(None, description="the tool-call parser asked for in flags, when tool calls must be parsed")
    max_model_len: Annotated[int, Field(ge=1)] | None = Field(None, description="what /v1/models must say, when it says it")
    limits: str | None = Field(None, description="limits file for the throughput gate: relative to the inventory, else one that is shipped")
    load: LoadSettings | None = Field(None, description="what differs from the common `load`")
    fits: ProfileFits = Field(default_factory=ProfileFits, description="what it was made for; it is refused elsewhere")
    description: str = Field("", description="for people")

    @model_validator(mode="after")
    def _ports_differ(self) -> Profile:
        if self.dist_port is not None and self.dist_port == self.http_port:
            raise ValueError(
                f"dist_port and http_port are both {self.http_port}: the HTTP bind would fail after the whole load; "
                "give them different ports"
            )
        return self


class Engine(Frozen):
    """An engine and its profiles."""

    default: str = Field(description="the profile taken when none is named: --engine=sglang means this one")
    profiles: dict[Name, Profile] = Field(min_length=1, description="name: profile")

    @model_validator(mode="after")
    def _default_exists(self) -> Engine:
        if self.default not in self.profiles:
            raise ValueError(f"default profile {self.default!r} is not among the profiles {sorted(self.profiles)}")
        return self


class EndpointSettings(Frozen):
    """How patient the endpoint's checks are."""

    deadline: Seconds = Field(60.0, description="seconds one ordinary answer may take")
    answer_tokens: Annotated[int, Field(ge=16)] = Field(4096, description="most tokens one graded answer may take")


class Attach(Frozen):
    """A running endpoint to test instead of starting one."""

    url: str = Field(pattern=r"^https?://", description="for example http://10.63.65.207:8000")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the API key")
    nccl_logs: dict[str, str] = Field(
        default_factory=dict,
        description="node: glob of its NCCL logs (`*`, `?`, `[...]`; braces and `~` are taken as they are); those of processes that ended "
        "are left out",
    )
    servers: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s]")], ...] = Field(
        (),
        description="URLs of the engines behind a router: they are asked for version and context, which a gateway does not pass on, with "
        "the same API key",
    )
    kv_logs: dict[str, str] = Field(
        default_factory=dict,
        description="node: glob of the logs of its prefill or decode servers (Mooncake, NIXL, UCX), where the endpoint is the router of a "
        "prefill/decode split",
    )


def user_name() -> str:
    """Who runs pytest, as a word in a path."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) or f"uid{os.getuid()}"


class Inventory(Frozen):
    """The whole file."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: Name = Field(description="appears in reports and run folders")
    description: str = Field("", description="for people")
    kind: Literal["hardware", "lab", "rehearsal"] = Field(
        "hardware", description="only 'hardware' can be accepted; the others say so in every report"
    )
    stood_in: tuple[str, ...] = Field((), description="what is stood in (GPU, RDMA ...), told in every report")
    ssh: Ssh = Field(default_factory=Ssh, description="how to log in, for all nodes")
    nodes: tuple[NodeSpec, ...] = Field(min_length=1, description="the machines, head first")
    model: Model = Field(description="the weights")
    engines: dict[Literal["vllm", "sglang"] | Name, Engine] = Field(min_length=1, description="vllm and sglang: their profiles")
    expect: Expect = Field(default_factory=Expect, description="what the machines must be; see checks-environment.md")
    load: LoadSettings = Field(default_factory=LoadSettings, description="what the throughput gate sends")
    soak: SoakSettings = Field(default_factory=SoakSettings, description="what --h20-soak sends")
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings, description="how patient the endpoint's checks are")
    gates: tuple[str, ...] | None = Field(None, description="gates that must pass; default: all")
    drills: Literal["forbidden", "allowed"] = Field(
        "forbidden", description="whether --h20-drill may break this cluster: only one that nobody else uses"
    )
    attach: Attach | None = Field(None, description="test this running endpoint instead of starting one")
    run_dir_on_node: str = Field(
        "/var/tmp/pytest-h20-{user}",
        validate_default=True,
        description="absolute path on each node of the folder that holds what a run leaves there; closed to everybody but the "
        "log-in user; {user} is who runs pytest",
    )
    redact: tuple[str, ...] = Field((), description="extra regular expressions whose matches never reach a report")

    @field_validator("run_dir_on_node")
    @classmethod
    def _of_its_user(cls, path: str) -> str:
        if not re.fullmatch(r"/[^\0\n]*[^/\0\n.][^\0\n]*", path):
            raise ValueError("an absolute path of a folder of its own is needed, for example /var/tmp/pytest-h20-{user}")
        return path.replace("{user}", user_name()).rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Inventory:
        problems: list[str] = []
        for what, values in (
            ("name", [n.name for n in self.nodes]),
            ("address", [f"{n.address}:{(n.ssh or self.ssh).port or 22}" for n in self.nodes]),
            ("host_ip", [n.engine_ip for n in self.nodes]),
        ):
            for i, value in enumerate(values):
                if value in values[:i]:
                    problems.append(
                        f"nodes[{i}].{what}: {value.removesuffix(':22')!r} is already that of nodes[{values.index(value)}]; "
                        f"every node needs its own"
                    )
        for i, node in enumerate(self.nodes):
            problems.extend(self._node_problems(i, node))
        names = {n.name for n in self.nodes}
        for engine, section in self.engines.items():
            for profile, spec in section.profiles.items():
                unknown = [n for n in spec.nodes or () if n not in names]
                if unknown:
                    problems.append(f"engines.{engine}.profiles.{profile}.nodes: {unknown[0]!r} is not a node; nodes are {sorted(names)}")
        with_rails = [n for n in self.nodes if n.rails]
        if with_rails:
            most = max(len(n.rails) for n in self.nodes)
            problems += [
                f"nodes[{i}].rails: {len(n.rails)} rails where another node has {most}; every node needs the same number"
                for i, n in enumerate(self.nodes)
                if len(n.rails) != most
            ]
        elif self.kind == "hardware" and len(self.nodes) > 1:
            problems.append("nodes[0].rails: missing; a hardware inventory of several nodes needs the RDMA rails of each node")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _node_problems(self, i: int, node: NodeSpec) -> Iterator[str]:
        seen: dict[str, int] = {}
        for j, rail in enumerate(node.rails):
            if rail.device_port in seen:
                yield f"nodes[{i}].rails[{j}].hca: {rail.device_port!r} is already rails[{seen[rail.device_port]}]"
            seen.setdefault(rail.device_port, j)
            if node.rail_gid_index(rail) is None and self.kind == "hardware":
                yield f"nodes[{i}].rails[{j}].gid_index: missing; give it here or as nodes[{i}].gid_index (show_gids tells it)"
            if rail.address is not None:
                yield from _ip_problem(f"nodes[{i}].rails[{j}].address", rail.address)
        if node.host_ip is not None:
            yield from _ip_problem(f"nodes[{i}].host_ip", node.host_ip)

    def engine_profile(self, text: str) -> tuple[str, str, Profile]:
        """``sglang`` or ``sglang:tuned`` -> engine, profile name, profile. Raises ``UsageError`` naming what there is."""
        engine, _, wanted = text.partition(":")
        section = self.engines.get(engine)
        if section is None:
            have = ", ".join(sorted(self.engines))
            raise UsageError(f"--engine={text}: the inventory has no engine {engine!r}; it has {have}")
        name = wanted or section.default
        if name not in section.profiles:
            raise UsageError(f"--engine={text}: engine {engine!r} has no profile {name!r}; it has {', '.join(sorted(section.profiles))}")
        return engine, name, section.profiles[name]

    def nodes_of(self, profile: Profile) -> tuple[NodeSpec, ...]:
        """The nodes a profile runs on, head first."""
        if profile.nodes is None:
            return self.nodes
        by_name = {n.name: n for n in self.nodes}
        return tuple(by_name[n] for n in profile.nodes)

    def ssh_of(self, node: NodeSpec) -> Ssh:
        """The node's SSH settings over the common ones, field by field."""
        if node.ssh is None:
            return self.ssh
        return self.ssh.model_copy(update=node.ssh.model_dump(exclude_unset=True))

    def expect_of(self, node: NodeSpec) -> Expect:
        """What is expected of this node: the common expectations overridden, field by field, by the node's own."""
        return self.expect.merged(node.expect)

    def load_of(self, profile: Profile) -> LoadSettings:
        """The profile's load settings over the common ones, field by field."""
        if profile.load is None:
            return self.load
        return self.load.model_copy(update=profile.load.model_dump(exclude_unset=True))


def _ip_problem(where: str, value: str) -> Iterator[str]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield f"{where}: {value!r} is not an IP address; give IPv4 (or IPv6) in numbers, not a name"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later duplicate key win silently; an inventory must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory file.

    Raises:
        UsageError: one line per problem: file, field, value, what is accepted.
    """
    return parse_inventory(read_file(path), str(path), base=path.parent)


def read_file(path: Path) -> object:
    """What an inventory file holds, unchecked. Raises ``UsageError`` as :func:`load_inventory` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        name = str(path).split(":")[0]
        meant = name != "rehearsal" and difflib.get_close_matches(name, ["rehearsal"])
        hint = "did you mean 'rehearsal', the built-in stand-in?" if meant else "`python -m pytest_h20 example` prints one"
        raise UsageError(f"{path}: no such inventory file; {hint}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; give the inventory, a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    return read_yaml(text, str(path))


def read_yaml(text: str, source: str) -> object:
    """Safe YAML with duplicate keys refused. Raises ``UsageError`` with line and column."""
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > MOST_NODES:
            raise UsageError(f"{source}: more than {MOST_NODES} values once its aliases (*name) are followed; write them out")
        data = loader.construct_document(node)
        if problem := _no_plain_data(data, ""):
            raise UsageError(f"{source}: {problem}")
        return data
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UsageError(f"{source}{where}: not valid YAML: {problem}{_shown(text, mark, problem)}") from None
    except RecursionError:
        raise UsageError(f"{source}: not valid YAML: nested too deeply, or an alias (*name) inside of what it names") from None
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError) as error:  # PyYAML's constructors, of odd scalars
        raise UsageError(f"{source}: not valid YAML: {type(error).__name__}: {str(error)[:200]}; quote what is meant as text") from None


MOST_NODES = 200_000
"""A cluster of a thousand nodes has fewer; 700 bytes of nested aliases stand for billions."""
MOST = 2**63
HINTS = (
    ("mapping values are not allowed", "quote a value that holds ': '; and indent the lines of one mapping alike"),
    ("'\\t'", "indent with blanks, not with tabs"),
    ("cannot start any token", "quote a value that begins with this character"),
    ("expected ',' or", "close the bracket, or put a comma between the items"),
    ("could not find expected ':'", "a pair is `key: value`, with a blank after the colon"),
    ("expected <block end>", "indent all items of a list, and all keys of a mapping, alike"),
    ("alias", "quote a value that begins with * or &"),
    ("while scanning a quoted scalar", "close the quotation mark"),
)
"""Words of PyYAML's problem -> what most people meant."""


def _shown(text: str, mark: yaml.Mark | None, problem: str) -> str:
    """The line with a caret below the place, and a hint."""
    lines = text.split("\n")
    found = _no_key(lines, mark.line) if mark is not None else ""
    hint = next((f"\n    hint: {hint}" for hint in (found, *(hint for words, hint in HINTS if words in problem)) if hint), "")
    if mark is None or mark.line >= len(lines):
        return hint
    start = max(0, mark.column - 80)
    line = "".join(c if c.isprintable() else " " for c in lines[mark.line][start : start + 120])
    return f"\n    {line}\n    {' ' * (mark.column - start)}^{hint}"


def _no_key(lines: Sequence[str], marked: int) -> str:
    """What is wrong with the line above the marked one: of one without ``: `` YAML makes a text, and complains about the line after it."""
    number = next((i for i in range(min(marked, len(lines)) - 1, -1, -1) if lines[i].split("#")[0].strip()), None)
    if number is None:
        return ""
    line = lines[number].split(" #")[0].strip()
    foreign = next((name for sign, name in FOREIGN.items() if sign in line), "")
    if foreign:
        return f"line {number + 1} has a {foreign}; YAML knows ':' and a plain blank after it"
    plain = re.fullmatch(r"\w+ [^:\[\]{}]+", line)
    return f"line {number + 1} has no ': ' between its key and its value: {line[:60]}" if plain else ""


FOREIGN = {"\uff1a": "full-width colon", "\u00a0": "no-break blank", "\u3000": "full-width blank"}
"""What a keyboard or a web page puts where YAML wants its own."""


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a document holds once its aliases are followed, counted without following any twice."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_NODES  # what holds itself has no end
        inner = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_expanded(n, known) for n in inner)
    return known[id(node)]


def _no_plain_data(value: object, where: str) -> str:
    """What no field of ours takes, found before anything reckons with it: keys that are not text, numbers without end."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                return f"{where or 'the file'}: key {str(key)[:40]} is not text: quote it"
            if problem := _no_plain_data(inner, f"{where}.{key}".lstrip(".")):
                return problem
    elif isinstance(value, list):
        return next((p for i, inner in enumerate(value) if (p := _no_plain_data(inner, f"{where}[{i}]"))), "")
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{where} = {value}: a finite number is needed"
    elif isinstance(value, int) and not -MOST < value < MOST:
        return f"{where}: the number has more digits than any figure of ours; quote it if it is text"
    return ""


def parse_inventory(data: object, source: str, base: Path | None = None) -> Inventory:
    """Check data that came from YAML. ``base``: the folder relative paths in the file start from."""
    if not isinstance(data, Mapping):
        found = "it is empty" if data is None else f"this is {'a list' if isinstance(data, list) else 'one value'}"
        raise UsageError(f"{source}: an inventory has fields: name, nodes, model and engines; {found}")
    try:
        inventory = Inventory.model_validate(data)
    except ValidationError as error:
        raise UsageError("\n".join(explain(error, source))) from None
    return _resolve_paths(inventory, base) if base is not None else inventory


def _resolve_paths(inventory: Inventory, base: Path) -> Inventory:
    """Make ``limits``, ``key``, ``known_hosts`` and ``sha256`` absolute: they are written relative to the file. Limits that are not
    beside it are those that are shipped, so that the printed example is complete wherever it is kept."""

    def absolute(text: str | None) -> str | None:
        return None if text is None else str((base / Path(text).expanduser()).resolve())

    def limits_file(text: str | None) -> str | None:
        beside = absolute(text)
        shipped = environments() / text if text is not None else None
        return str(shipped) if beside and not Path(beside).exists() and shipped is not None and shipped.is_file() else beside

    def ssh(settings: Ssh) -> Ssh:
        fields = {f: absolute(getattr(settings, f)) for f in ("key", "known_hosts") if getattr(settings, f)}
        return settings.model_copy(update=fields)

    nodes = tuple(n.model_copy(update={"ssh": ssh(n.ssh)}) if n.ssh else n for n in inventory.nodes)
    model = inventory.model.model_copy(update={"sha256": absolute(inventory.model.sha256)})
    inventory = with_limits(inventory, lambda _, engine, profile: limits_file(inventory.engines[engine].profiles[profile].limits))
    return inventory.model_copy(update={"nodes": nodes, "ssh": ssh(inventory.ssh), "model": model})


def with_limits(inventory: Inventory, limits_of: Callable[[Inventory, str, str], str | None]) -> Inventory:
    """The inventory with the limits file that ``limits_of(inventory, engine, profile)`` names; None leaves the profile's own."""

    def profile(engine: str, name: str, spec: Profile) -> Profile:
        limits = limits_of(inventory, engine, name)
        return spec if limits is None else spec.model_copy(update={"limits": limits})

    engines = {
        engine: section.model_copy(update={"profiles": {n: profile(engine, n, p) for n, p in section.profiles.items()}})
        for engine, section in inventory.engines.items()
    }
    return inventory.model_copy(update={"engines": engines})


_LIST = "a list is needed: [a, b], or one `- a` line for each"
_WHOLE, _NUMBER, _YES_NO = "a whole number is needed", "a number is needed", "true or false is needed"
_FIELDS = "fields are needed: `key: value`, one on a line"
NEEDED = {
    **dict.fromkeys(("tuple_type", "list_type"), _LIST),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _YES_NO),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type"), _FIELDS),
}
"""What pydantic calls a value of the wrong kind -> what to write."""


def explain(error: ValidationError, source: str) -> list[str]:
    """One line per problem: file, field path, value, what is accepted."""
    lines = []
    meant = {(*item["loc"][:-1], near) for item in error.errors() if (near := _nearest(item)) is not None}
    for item in error.errors():
        if item["type"] == "missing" and item["loc"] in meant:
            continue  # it is there, under a name that is told below
        if item["type"] == "too_short" and any(other["loc"][: len(item["loc"])] == item["loc"] != other["loc"] for other in error.errors()):
            continue  # it is short of those that are told to be wrong
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error":
            for line in message.splitlines():
                prefix = f"{where}: " if where and not line.startswith(("nodes[", "engines.")) else ""
                lines.append(f"{source}: {prefix}{line}")
            continue
        if item["type"] == "extra_forbidden":
            fields, near = _fields_at(item["loc"][:-1]), _nearest(item)
            message = f"unknown field; accepted here: {', '.join(fields) or 'none'}" + (f"; did you mean {near!r}?" if near else "")
        elif item["type"] in NEEDED:
            message = NEEDED[item["type"]]
        elif item["type"] == "missing":
            lines.append(f"{source}: {where}: missing; this field is required")
            continue
        lines.append(f"{source}: {where} = {_value(item.get('input'))}: {message[:1].lower()}{message[1:]}")
    return lines


def _nearest(item: ErrorDetails) -> str | None:
    """The field that an unknown one is likeliest meant to be."""
    if item["type"] != "extra_forbidden":
        return None
    return next(iter(difflib.get_close_matches(str(item["loc"][-1]), _fields_at(item["loc"][:-1]), 1)), None)


def _value(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        text = f"({type(value).__name__})"
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """The field names accepted at a place of the inventory, found by walking its JSON Schema."""
    schema = inventory_schema()
    here: Any = schema
    for part in loc:
        options = [_deref(o, schema) for o in [here, *here.get("anyOf", [])]]
        for option in options:
            if isinstance(part, int):
                step = option.get("items") or (option.get("prefixItems") or [None])[0]
            else:
                step = option.get("properties", {}).get(part)
                if step is None:
                    others = [option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
                    step = next((o for o in others if isinstance(o, dict)), None)
            if step is not None:
                here = _deref(step, schema)
                break
        else:
            return []
    options = [_deref(o, schema) for o in [here, *here.get("anyOf", [])]]
    return sorted({name for option in options for name in option.get("properties", {})})


def _deref(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    ref = node.get("$ref")
    found: dict[str, Any] = schema["$defs"][ref.rsplit("/", 1)[1]] if isinstance(ref, str) else node
    return found


def inventory_schema() -> dict[str, Any]:
    """The JSON Schema of an inventory file."""
    schema = Inventory.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "pytest-h20 inventory"
    return schema
