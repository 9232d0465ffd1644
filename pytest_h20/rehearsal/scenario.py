"""The named rehearsals: which engine versions the images hold, which cells are measured, how fast time runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from pytest_h20.config.environments import environments
from pytest_h20.config.inventory import Inventory, SoakSettings, load_inventory
from pytest_h20.core.errors import UsageError, instead
from pytest_h20.rehearsal.world import ImageTruth, World, healthy

DEFAULT_SCALE = 60.0
QUICK_SCALE = 30.0
MOST_SCALE = 1000
"""Speeds up to which a rehearsal can be asked to run; from some 100 on its own machine is too slow to measure throughput."""

# Versions as the released images hold them (the project's engine facts, sections 1.8 and 2.8; 0.5.16 and 0.24.0 recorded).
_IMAGES: Mapping[tuple[str, str], tuple[dict[str, str], str, str]] = {
    ("sglang", "0.4.4"): ({"sglang": "0.4.4.post3", "torch": "2.5.1"}, "12.4", "2.21.5"),
    ("sglang", "0.5.16"): ({"sglang": "0.5.16", "torch": "2.11.0"}, "13.0", "2.28.9"),
    ("vllm", "0.8.2"): ({"vllm": "0.8.2", "torch": "2.6.0", "ray": "2.43.0"}, "12.4", "2.21.5"),
    ("vllm", "0.24.0"): ({"vllm": "0.24.0", "torch": "2.11.0", "ray": "2.49.0"}, "13.0", "2.28.9"),
    ("vllm", "0.32.0"): ({"vllm": "0.32.0", "torch": "2.11.0", "ray": "2.49.0"}, "13.0", "2.28.9"),
}
_NEW_DRIVER = {"driver": "580.159.04", "cuda": "13.0"}
"""What CUDA 13 images need: R580 (NVIDIA's compatibility table)."""


SOAK = SoakSettings(streams=32, lengths=((128, 16), (64, 24)), stall_s=15.0)
"""What a rehearsed soak sends: short answers, so that the seconds that stand for its hours hold many."""


@dataclass(frozen=True)
class Scenario:
    """One rehearsal.

    Attributes:
        time_scale: model seconds per wall second.
        versions: engine → version in its image, where it is not the write-up's.
        mode: how vLLM spans the nodes.
        concurrency: levels that are measured; None = the write-up's 13.
        start_s: model seconds the engine takes until it is ready.
        nodes: how many the cluster has.
        flags: options beyond those of the write-up's profiles, for the engines in ``versions``.
        tensor: their tensor parallel size, where it is not the write-up's 16.
        cut: the only engine that both of these are for.
    """

    name: str
    description: str
    time_scale: float = DEFAULT_SCALE
    versions: Mapping[str, str] = field(default_factory=dict)
    mode: str = "ray"
    concurrency: tuple[int, ...] | None = None
    start_s: float = 120.0
    nodes: int = 2
    flags: Mapping[str, JsonValue] = field(default_factory=dict)
    tensor: int | None = None
    cut: str = ""

    def world(self) -> World:
        """The healthy world of this scenario."""
        inventory = of_nodes(load_inventory(environments() / "h20-2node.yaml"), self.nodes)
        held = {"sglang": "0.4.4", "vllm": "0.8.2", **self.versions}
        if self.nodes == 1:  # no second node whose files could be compared, and no list of digests
            inventory = inventory.model_copy(update={"expect": inventory.expect.model_copy(update={"weights_full": None})})
        new_driver = any(_IMAGES[engine, version][1] >= "13" for engine, version in held.items())
        inventory = self._adapt(inventory, held, _NEW_DRIVER if new_driver else {})
        images = {}
        for engine, section in inventory.engines.items():
            packages, cuda, nccl = _IMAGES[engine, held[engine]]
            for profile in section.profiles.values():
                identity = "sha256:" + f"{abs(hash_of(profile.image)):064x}"
                images[profile.image] = ImageTruth(dict(packages), cuda, nccl, identity)
        world = healthy(inventory, images)
        world.engine.start_s = self.start_s
        if self.concurrency is not None:
            world.engine.http["kv_pool"] = QUICK_POOL
        world.nccl.version = max((i.nccl for i in images.values()), key=lambda v: v if new_driver else "")
        if new_driver:
            for machine in world.machines.values():
                machine.driver, machine.cuda = _NEW_DRIVER["driver"], _NEW_DRIVER["cuda"]
        return world

    def _adapt(self, inventory: Inventory, held: Mapping[str, str], expect: Mapping[str, str]) -> Inventory:
        engines = {}
        for engine, section in inventory.engines.items():
            change: dict[str, Any] = {}
            if engine in self.versions:
                change = {"image": f"{_REPOSITORY[engine]}:v{held[engine]}", "version": held[engine]}
            if engine == "vllm":
                change["mode"] = self.mode
                change["dist_port"] = 29501 if self.mode == "native" else None
            quick = str(environments() / "thresholds" / f"rehearsal-quick-{engine}.yaml") if self.concurrency is not None else None
            gone = _GONE if engine == "vllm" and "vllm" in self.versions else ()
            own = (self.cut,) if self.cut else tuple(self.versions)
            more = self.flags if engine in own else {}
            profiles = {
                name: p.model_copy(
                    update={
                        **change,
                        **({"tensor_parallel": self.tensor} if self.tensor and engine in own else {}),
                        "limits": p.limits and (quick or p.limits),
                        "flags": {k: v for k, v in p.flags.items() if k not in gone} | dict(more),
                    }
                )
                for name, p in section.profiles.items()
            }
            engines[engine] = section.model_copy(update={"profiles": profiles})
        load = inventory.load.model_copy(update={"recipe": "blog", "long_answer": LONG_ANSWER})
        if self.concurrency is not None:
            load = load.model_copy(update={"concurrency": self.concurrency, "lengths": ((128, 128),)})
        return inventory.model_copy(
            update={
                "name": "rehearsal" + (f"-{self.name}" if self.name != "blog" else ""),
                "kind": "rehearsal",
                "drills": "allowed",
                "description": self.description,
                "engines": engines,
                "load": load,
                "expect": inventory.expect.model_copy(update=dict(expect)),
                "soak": SOAK,
                "endpoint": inventory.endpoint.model_copy(update={"deadline": 8.0}),
            }
        )


_GONE = ("max-seq-len-to-capture", "enable-reasoning")
"""The write-up's options that vLLM 0.10 and 0.11 took away (engine facts, section 1.1)."""

_REPOSITORY = {"sglang": "lmsysorg/sglang", "vllm": "vllm/vllm-openai"}
_FEW = (1, 8, 200)
LONG_ANSWER = 384
"""Tokens: 8,192 would take a rehearsal as long as a dozen cells."""
QUICK_POOL = 56_000
"""Tokens of KV cache: room for 200 streams of 128 + 128, and not for an overload that takes long."""

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("blog", "The write-up's cluster: SGLang 0.4.4 and vLLM 0.8.2 with Ray, all 26 cells"),
    Scenario("quick", "The write-up's cluster, three cells", QUICK_SCALE, concurrency=_FEW, start_s=20.0),
    Scenario("sglang-0.5.16", "SGLang 0.5.16, three cells", QUICK_SCALE, {"sglang": "0.5.16"}, concurrency=_FEW, start_s=20.0),
    Scenario(
        "sglang-mtp",
        "SGLang 0.5.16 that drafts from the model's MTP layer, three cells",
        QUICK_SCALE,
        {"sglang": "0.5.16"},
        concurrency=_FEW,
        start_s=20.0,
        flags={
            "speculative-algorithm": "EAGLE",
            "speculative-num-steps": 3,
            "speculative-eagle-topk": 1,
            "speculative-num-draft-tokens": 4,
        },
    ),
    Scenario(
        "sglang-dp-ep",
        "SGLang 0.5.16 over two nodes with DP attention (16) and whole experts that DeepEP reaches, three cells",
        QUICK_SCALE,
        {"sglang": "0.5.16"},
        concurrency=_FEW,
        start_s=20.0,
        flags={"enable-dp-attention": True, "dp": 16, "moe-a2a-backend": "deepep"},
    ),
    Scenario("vllm-0.24", "vLLM 0.24.0 with Ray, three cells", QUICK_SCALE, {"vllm": "0.24.0"}, concurrency=_FEW, start_s=20.0),
    Scenario("vllm-0.32", "vLLM 0.32.0 with Ray, three cells", QUICK_SCALE, {"vllm": "0.32.0"}, concurrency=_FEW, start_s=20.0),
    *(
        Scenario(
            name,
            f"{said}: SGLang 0.5.16 and vLLM 0.32.0 without Ray, three cells",
            QUICK_SCALE,
            {"sglang": "0.5.16", "vllm": "0.32.0"},
            mode="native",
            concurrency=_FEW,
            start_s=20.0,
            nodes=count,
        )
        for name, said, count in (
            ("one-node", "One node, TP8", 1),
            ("three-nodes", "Three nodes, TP8 x PP3", 3),
            ("four-nodes", "Four nodes, SGLang TP16 x PP2, vLLM TP8 x PP4", 4),
            ("sixteen-nodes", "Sixteen nodes, SGLang TP16 x PP8, vLLM TP8 x PP16", 16),
        )
    ),
    Scenario(
        "vllm-native",
        "vLLM 0.32.0 over two nodes without Ray, three cells",
        QUICK_SCALE,
        {"vllm": "0.32.0"},
        mode="native",
        concurrency=_FEW,
        start_s=20.0,
    ),
    Scenario(
        "vllm-dp-ep",
        "vLLM 0.32.0 over two nodes with attention by data (16) and whole experts (16), three cells",
        QUICK_SCALE,
        {"vllm": "0.32.0"},
        mode="native",
        concurrency=_FEW,
        start_s=20.0,
        flags={"data-parallel-size": 16, "enable-expert-parallel": True},
        tensor=1,
    ),
    Scenario(
        "vllm-copies",
        "vLLM 0.32.0 over four nodes: two copies of two nodes each and whole experts (32), three cells",
        QUICK_SCALE,
        {"vllm": "0.32.0", "sglang": "0.5.16"},
        mode="native",
        concurrency=_FEW,
        start_s=20.0,
        nodes=4,
        flags={"pipeline-parallel-size": 1, "data-parallel-size": 2, "enable-expert-parallel": True},
        tensor=16,
        cut="vllm",
    ),
)


def of_nodes(inventory: Inventory, count: int) -> Inventory:
    """The write-up's cluster with so many nodes of its kind, and the model cut as people cut it over them: TP8 on one, TP16 on two;
    on more, stages of a pipeline, of two nodes each with SGLang (where they come out even), of one with vLLM."""
    if count == len(inventory.nodes):
        return inventory
    first, nodes = inventory.nodes[0], []
    for i in range(count):

        def moved(address: str | None, i: int = i) -> str | None:
            head, _, last = (address or "").rpartition(".")
            return f"{head}.{int(last) + i}" if head else address

        rails = tuple(r.model_copy(update={"address": moved(r.address)}) for r in first.rails)
        others = tuple(h.model_copy(update={"address": moved(h.address)}) for h in first.other_hcas)
        own = {"name": f"node{i + 1:02d}", "address": moved(first.address), "host_ip": moved(first.host_ip)}
        nodes.append(first.model_copy(update={**own, "rails": rails, "other_hcas": others}))
    engines = {}
    for engine, section in inventory.engines.items():
        wide = 2 if engine == "sglang" and count % 2 == 0 else 1
        size = {"tensor_parallel": 8 * wide, "nodes": None}
        more = {"pp-size" if engine == "sglang" else "pipeline-parallel-size": count // wide} if count > wide else {}
        profiles = {name: p.model_copy(update={**size, "flags": {**p.flags, **more}}) for name, p in section.profiles.items()}
        engines[engine] = section.model_copy(update={"profiles": profiles})
    return inventory.model_copy(update={"nodes": tuple(nodes), "engines": engines})


def scenario_named(text: str) -> Scenario:
    """The scenario of this name; no name is the write-up's. ``NAME@SPEED`` runs it at another speed than its own.

    Raises ``UsageError`` naming those that exist.
    """
    text, _, speed = text.partition("@")
    for scenario in SCENARIOS:
        if scenario.name == (text or "blog"):
            return replace(scenario, time_scale=_speed(speed)) if speed else scenario
    names = [s.name for s in SCENARIOS]
    raise UsageError(f"--nodes=rehearsal:{text}: no such scenario{instead(text, names, 'rehearsal:')}")


def _speed(text: str) -> float:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SCALE:
        raise UsageError(f"--nodes=rehearsal:…@{text}: the speed is a whole number from 1 (as in reality) to {MOST_SCALE}")
    return float(text)


def hash_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
