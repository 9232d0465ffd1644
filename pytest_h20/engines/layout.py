"""How a profile cuts a model over GPUs: how many ranks there are, which groups they form, and which of these span nodes. Pure.

Both engines number their ranks alike: those of a stage of the pipeline come one after the other, tensor ranks innermost, and nodes are
filled in order (vLLM's ``parallel_state.initialize_model_parallel``, SGLang's ``launch_server`` by ``--node-rank``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_h20.core.errors import UsageError

if TYPE_CHECKING:
    from pytest_h20.engines.base import EngineName

PIPELINE = ("pipeline-parallel-size", "pp-size", "pp")
DATA = ("data-parallel-size", "dp-size", "dp")
ATTENTION = ("attn-dp-size", "attention-data-parallel-size")
EXPERTS = ("ep-size", "expert-parallel-size", "ep")


@dataclass(frozen=True)
class Layout:
    """The groups of one engine.

    Attributes:
        tensor: ranks of a stage that reduce with each other after every layer.
        pipeline: stages, one after the other.
        replicas: whole copies of tensor x pipeline (vLLM's ``--data-parallel-size``, SGLang's without DP attention).
        attention: groups of a stage's ranks of which each computes the attention of its own requests (DP attention).
        experts: ranks over which whole experts are spread (EP); 1: every rank holds a part of each expert.
        all_to_all: what carries tokens to experts in place of NCCL (``deepep``, ``mooncake`` …); "": NCCL does.
        joined: the copies of a model with experts share one set of them, whole (EP) or in parts (vLLM's data parallel, whose "expert
            layers by default form a tensor parallel group of size DP x TP"): each token goes to them over all copies.
    """

    tensor: int
    pipeline: int = 1
    replicas: int = 1
    attention: int = 1
    experts: int = 1
    all_to_all: str = ""
    nodes: int = 1
    joined: bool = False

    @property
    def ranks(self) -> int:
        """GPUs in use."""
        return self.tensor * self.pipeline * self.replicas

    @property
    def per_node(self) -> int:
        """GPUs in use on each node."""
        return max(1, self.ranks // self.nodes)

    @property
    def fills_nodes(self) -> bool:
        """Every stage fills one node or several: then all GPUs of a node, and all rails, are used alike."""
        return self.ranks % self.nodes == 0 and self.tensor % self.per_node == 0

    @property
    def nodes_per_stage(self) -> int:
        """Over how many nodes the ranks of one stage are spread."""
        return -(-self.tensor // self.per_node)

    @property
    def spanning(self) -> int:
        """Ranks of the communicators that leave a node: of a stage where it spans nodes, else one rank of each copy that shares experts
        with the others, or of each stage; 0: none leaves."""
        if self.nodes_per_stage > 1:
            return self.tensor
        if self.joined and self.nodes > 1:
            return self.replicas
        return self.pipeline if self.nodes > 1 and self.pipeline > 1 else 0

    @property
    def spanning_nodes(self) -> int:
        """Nodes over which each of these communicators is spread; 1: none leaves a node."""
        if self.nodes_per_stage > 1:
            return self.nodes_per_stage
        if self.joined:
            return self.nodes
        return len({node for stage in range(self.pipeline) for node in self.nodes_of_stage(stage)}) if self.spanning else 1

    @property
    def spanning_groups(self) -> int:
        """How many of these communicators there are."""
        return self.ranks // self.spanning if self.spanning else 0

    @property
    def expert_nodes(self) -> int:
        """Over how many nodes the experts of a layer are spread, where its model has some."""
        return min(self.nodes, -(-(self.tensor * (self.replicas if self.joined else 1)) // self.per_node))

    @property
    def copy(self) -> Layout:
        """One of the copies, on the nodes that it takes."""
        ranks = self.tensor * self.pipeline
        return replace(self, replicas=1, nodes=min(self.nodes, -(-ranks // self.per_node)), joined=False)

    @property
    def expert_parts(self) -> int:
        """Into how many parts each expert is cut."""
        return max(1, self.tensor * (self.replicas if self.joined else 1) // self.experts)

    @property
    def heads_over(self) -> int:
        """Over how many GPUs the attention heads are cut."""
        return max(1, self.tensor // self.attention)

    def nodes_of_stage(self, stage: int) -> tuple[int, ...]:
        """Nodes (by rank) that hold a part of this stage of the first replica."""
        first, last = stage * self.tensor, (stage + 1) * self.tensor - 1
        return tuple(range(first // self.per_node, last // self.per_node + 1))

    def __str__(self) -> str:
        words = [f"TP{self.tensor}"]
        words += [f"PP{self.pipeline}"] * (self.pipeline > 1) + [f"DP{self.replicas}"] * (self.replicas > 1)
        words += [f"DP attention {self.attention}"] * (self.attention > 1) + [f"EP{self.experts}"] * (self.experts > 1)
        return f"{' x '.join(words)} on {self.nodes} node{'s' * (self.nodes != 1)}"


def layout_of(engine: EngineName | str, tensor: int, flags: Mapping[str, object], nodes: int) -> Layout:
    """The layout that a profile's tensor parallel size and normalised flags ask for.

    Raises:
        UsageError: a size that is no whole number from 1.
    """
    pipeline, data, attention = _size(flags, PIPELINE), _size(flags, DATA), _size(flags, ATTENTION)
    if engine == "vllm":
        experts = tensor * data if flags.get("enable-expert-parallel") is True else 1
        backend = flags.get("all2all-backend")
        carried = str(backend) if experts > 1 and isinstance(backend, str) and backend.startswith(("deepep", "pplx", "nixl")) else ""
        return Layout(tensor, pipeline, data, experts=experts, all_to_all=carried, nodes=nodes, joined=data > 1)
    if flags.get("enable-dp-attention") is True:
        attention, data = max(attention, data), 1
    elif attention > 1:
        data = 1
    backend = "deepep" if flags.get("enable-deepep-moe") is True else flags.get("moe-a2a-backend")
    carried = backend if isinstance(backend, str) and backend not in ("none", "") else ""
    # Every all-to-all backend spreads whole experts over all ranks of a stage, whatever ep-size says (SGLang's server_args).
    experts = tensor if carried or flags.get("enable-ep-moe") is True else _size(flags, EXPERTS)
    return Layout(tensor, pipeline, data, attention, experts, carried, nodes)


def _size(flags: Mapping[str, object], names: tuple[str, ...]) -> int:
    for name in names:
        value = flags.get(name)
        if value is None or value is False:
            continue
        text = str(value)
        if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text) <= 4096:
            raise UsageError(f"flag {name} = {value!r}: the size of a parallel group is a whole number from 1")
        return int(text)
    return 1
