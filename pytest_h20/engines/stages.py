"""Log lines that say how far a starting engine is. One table per engine; the lines were read in the released sources
(vLLM 0.7.2…0.33.0, SGLang 0.4.4…0.5.23) and in recorded logs. Pure data and one look-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_h20.engines.base import EngineName, Stage, StageName

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

SHARDS = re.compile(r"(?:Loading|loading)[^:]{0,40}shards:\s+\d+% Completed \| (?P<done>\d+)/(?P<total>\d+)")
"""tqdm bar of both engines: ``Loading safetensors checkpoint shards:  21% Completed | 34/163`` (SGLang 0.5.11+: ``Multi-thread
loading shards``; vLLM: also ``pt checkpoint shards`` and ``Loading safetensors using … `` loaders)."""


@dataclass(frozen=True)
class StageRule:
    """One line shape. Named groups ``done``, ``total`` and ``detail`` fill the stage."""

    name: StageName
    pattern: re.Pattern[str]
    unit: str = ""


def _rule(name: StageName, pattern: str, unit: str = "") -> StageRule:
    return StageRule(name, re.compile(pattern), unit)


# The first rule that matches decides: the particular stand before the general.
_COMMON: tuple[StageRule, ...] = (
    StageRule("loading", SHARDS, "shards"),
    _rule("compile", r"Entering DeepGEMM JIT Pre-Compile session|DeepGEMM warmup|\[aiter\] (?:start build" r"|waiting for baton)"),
    _rule("compile", r"waiting for baton release at|Try DeepGEMM JIT Compiling|\bninja: |Building extension module"),
    _rule("nccl", r"NCCL version \d|NCCL INFO (?:Bootstrap|NCCL version|comm 0x)|ncclCommInitRank\w* comm"),
)

_VLLM: tuple[StageRule, ...] = (
    _rule("ready", r"Application startup complete\."),
    _rule("serving", r"Starting vLLM (?:API )?server(?: \d+)? on (?P<detail>\S+)"),
    _rule("serving", r"Available routes are:|Waiting for application startup"),
    _rule("warmup", r"init engine \(profile, create kv cache, warmup model\) took|Warming up (?:model|chat)|Warmup took"),
    _rule(
        "graphs",
        r"Captur\w+ (?:CUDA|cudagraph|CUDA graph)[^:]*:\s+\d+%[^|]*\|[^" r"|]*\| (?P<done>\d+)/(?P<total>\d+)",
        "graphs",
    ),
    _rule("graphs", r"Capturing (?:the model|cudagraphs|CUDA graph)|Graph capturing finished" r"|Profiling CUDA graph memory"),
    _rule(
        "compile",
        r"torch\.compile takes|Using cache directory: .*torch_compile|Dynamo bytecode transform"
        r"|Compiling a graph|Start compiling function",
    ),
    _rule("kv-cache", r"# (?:\w+ )?blocks: \d+|GPU KV cache size: (?P<detail>[\d,]+ tokens)" r"|Available KV cache memory:"),
    _rule(
        "kv-cache",
        r"Maximum concurrency for|the current vLLM instance can use total_gpu_memory" r"|Memory profiling (?:takes|results)",
    ),
    _rule("loaded", r"Loading model weights took|Model loading took|Loading weights took"),
    _rule("loading", r"Starting to load model|Loading model weights|Time spent downloading weights"),
    _rule("nccl", r"vLLM is using nccl==(?P<detail>\S+)|Found nccl from library"),
    _rule("dist-init", r"world_size=(?P<detail>\d+) rank=\d+|rank \d+ in world size \d+ is assigned" r"|distributed_init_method="),
    _rule("placement", r"Waiting for creating a placement group of specs for (?P<done>\d+) seconds", "seconds"),
    _rule("placement", r"Waiting for removing a placement group|No current placement group found" r"|use_ray_spmd_worker"),
    _rule("joining", r"Connect(?:ed|ing) to (?:existing )?Ray cluster|Initializing Ray|Ray runtime started|Local node IP:"),
    _rule("joining", r"headless (?:multiproc executor|mode), with head node address (?P<detail>\S+?)\.?(?:\s|$)"),
    _rule("arguments", r"vLLM API server version (?P<detail>\S+)|non-default args:|args: Namespace\("),
    _rule(
        "arguments",
        r"Initializing a V[01] LLM engine \(v(?P<detail>[^)]+)\)|Started engine process with PID"
        r"|█  version (?P<version>\S+)",
    ),
    _rule("imports", r"Automatically detected platform|Available plugins for group"),
)

_SGLANG: tuple[StageRule, ...] = (
    _rule("ready", r"The server is fired up and ready to roll!"),
    _rule("warmup", r"Uvicorn running on (?P<detail>\S+)|Application startup complete\." r"|Start of (?:disaggregation )?warmup"),
    _rule("serving", r"Started server process|Waiting for application startup|Dummy health check server started"),
    _rule("graphs", r"Capturing (?:batches|num tokens)[^|]*\|[^|]*\| (?P<done>\d+)/(?P<total>\d+)", "graphs"),
    _rule("graphs", r"Capture (?P<detail>[\w ]*graph)s? (?:begin|end)"),
    _rule("graphs", r"\| (?P<done>\d+)/(?P<total>\d+) \[[^\]]*it\]?.*Captur", "graphs"),
    _rule(
        "kv-cache",
        r"max_total_num_tokens=(?P<detail>\d+)|KV Cache is allocated|Memory pool end" r"|#tokens: \d+, (?:KV|K) size",
    ),
    _rule("loaded", r"Load weight end"),
    _rule("loading", r"Load weight begin|Beginning to load weights"),
    _rule("nccl", r"sglang is using nccl==(?P<detail>\S+)|Init torch distributed ends"),
    _rule("dist-init", r"Init torch distributed begin|\[Gloo\] Rank \d+ is connected|attn_tp_size="),
    _rule("arguments", r"server_args=ServerArgs\(|launch_server\.py|Attention backend not specified"),
    _rule("imports", r"Using default HuggingFace chat template|Ignore import error when loading"),
)

TABLES: dict[EngineName, tuple[StageRule, ...]] = {"vllm": _VLLM + _COMMON, "sglang": _SGLANG + _COMMON}


_LONGEST = 8192  # characters of a line that are looked at


def strip_ansi(text: str) -> str:
    """Without terminal colours."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def recognise(engine: EngineName, line: str) -> Stage | None:
    """The stage that one line of this engine's log announces, or None. A line may hold several overwritten progress
    bars (carriage returns): the last one counts."""
    line = strip_ansi(line)
    if "\r" in line:
        for piece in reversed(line.split("\r")):
            if (stage := recognise(engine, piece)) is not None:
                return stage
        return None
    line = line[:_LONGEST]
    for rule in TABLES[engine]:
        if rule.pattern.search(line) is None:
            continue
        *_, last = rule.pattern.finditer(line)  # the last bar on the line is the newest
        groups = last.groupdict()
        done, total = groups.get("done"), groups.get("total")
        return Stage(
            name=rule.name,
            done=int(done) if done else None,
            total=int(total) if total else None,
            unit=rule.unit,
            detail=groups.get("detail") or "",
        )
    return None
