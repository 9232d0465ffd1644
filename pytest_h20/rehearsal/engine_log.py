"""What each process of an engine prints while it starts: the real lines of both engines, with their moments.

Lines: recorded from SGLang 0.5.16 and vLLM 0.24 … 0.32, and read in the released sources and logs of the older versions. A moment
is a part of the time to ready, 0 … 1.
"""

# ruff: noqa: E501 - foreign text stays on its own lines
from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SHARDS = 163


@dataclass(frozen=True)
class Moment:
    """At this part of the way: text to print (complete lines), or something to do (``nccl``, ``serve``, ``ready``)."""

    at: float
    text: str = ""
    stage: str = ""
    do: str = ""


@dataclass(frozen=True)
class Scene:
    """What the lines speak about."""

    version: str
    nccl: str
    model: str
    argv: tuple[str, ...]
    port: int
    rank: int
    nodes: int
    per_node: int
    address: str
    extra: tuple[str, ...] = ()
    tensor: int = 0
    copies: int = 1

    @property
    def tp(self) -> int:
        """Ranks in all."""
        return self.nodes * self.per_node

    @property
    def stage(self) -> int:
        """Ranks of a stage of the pipeline."""
        return self.tensor or self.tp

    @property
    def leads(self) -> bool:
        """A headless node that is the first of its copy runs the copy's engine; any other one its workers only."""
        return "--data-parallel-size-local" in self.argv or (self.copies > 1 and self.rank % (self.nodes // self.copies) == 0)

    def release(self) -> tuple[int, ...]:
        """The version's first three numbers."""
        parts = self.version.replace("post", "").replace("rc", ".").split(".")
        return tuple(int(p) for p in parts[:3] if p.isdigit())


def _bars(name: str, count: int, seconds_each: float = 1.0) -> Iterator[str]:
    for done in range(count + 1):
        took = int(done * seconds_each)
        yield f"{name}: {100 * done // count:3d}% Completed | {done}/{count} [{took // 60:02d}:{took % 60:02d}<00:00,  1.05it/s]\r"


def sglang(s: Scene) -> list[Moment]:
    """One node of SGLang. Rank 0 serves; the others answer ``/health`` and nothing else."""
    first = s.rank * s.per_node

    def line(text: str, tp: int | None = None) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        return f"[{stamp}{'' if tp is None else f' TP{tp}'}] {text}\n"

    def ranks(text: str) -> str:
        return "".join(line(text, first + i) for i in range(s.per_node))

    moments = [
        Moment(
            0.01,
            line(
                f"server_args=ServerArgs(model_path='{s.model}', tokenizer_path='{s.model}', tp_size={s.stage}, nnodes={s.nodes}, node_rank={s.rank}, port={s.port}, dist_init_addr='{s.address}')"
            ),
            "arguments",
        ),
        *[Moment(0.02, f"{text}\n") for text in s.extra],
        Moment(0.06, ranks("Init torch distributed begin."), "dist-init"),
        Moment(
            0.08,
            "".join(
                f"[Gloo] Rank {first + i} is connected to {s.tp - 1} peer ranks. Expected number of connected peer ranks is : {s.tp - 1}\n"
                for i in range(s.per_node)
            ),
        ),
        Moment(0.10, line(f"sglang is using nccl=={s.nccl}", 0) if s.rank == 0 else "", "nccl", "nccl"),
        Moment(0.14, ranks("Init torch distributed ends. mem usage=1.56 GB"), "nccl"),
        Moment(0.16, ranks("Load weight begin. avail mem=93.17 GB"), "loading"),
    ]
    name = "Loading safetensors checkpoint shards" if s.release() < (0, 5, 11) else "Multi-thread loading shards"
    moments += [Moment(0.18 + 0.5 * i / SHARDS, bar, "loading") for i, bar in enumerate(_bars(name, SHARDS))]
    moments += [
        Moment(
            0.70,
            "\n" + ranks("Load weight end. type=DeepseekV3ForCausalLM, dtype=torch.bfloat16, avail mem=51.44 GB, mem usage=41.73 GB."),
            "loaded",
        ),
        Moment(
            0.73,
            ranks("KV Cache is allocated. #tokens: 409726, KV size: 26.81 GB") + ranks("Memory pool end. avail mem=14.70 GB"),
            "kv-cache",
        ),
        Moment(0.75, ranks("Capture cuda graph begin. This can take up to several minutes. avail mem=14.27 GB"), "graphs"),
        *[
            Moment(
                0.76 + 0.01 * i,
                f"Capturing batches (avail_mem=13.{90 - i} GB): {100 * i // 23:3d}%|{'#' * (i // 3):<10}| {i}/23 [00:{i:02d}<00:00,  1.20it/s]\r",
                "graphs",
            )
            for i in range(0, 24, 4)
        ],
        Moment(0.84, "\n" + ranks("Capture cuda graph end. Time elapsed: 41.90 s. mem usage=2.41 GB. avail mem=11.86 GB."), "graphs"),
        Moment(
            0.86,
            line(
                "max_total_num_tokens=409726, chunked_prefill_size=8192, max_prefill_tokens=16384, max_running_requests=2049, context_len=163840",
                first,
            ),
            "kv-cache",
        ),
    ]
    if s.rank > 0:
        moments.append(
            Moment(0.87, line(f"Dummy health check server started in background thread at 0.0.0.0:{s.port}"), "serving", "serve")
        )
        return sorted(moments, key=lambda m: m.at)
    moments += [
        Moment(0.88, f"INFO:     Started server process [{7000 + s.rank}]\nINFO:     Waiting for application startup.\n", "serving"),
        Moment(0.90, "", "serving", "serve"),
        Moment(
            0.91,
            f"INFO:     Application startup complete.\nINFO:     Uvicorn running on http://0.0.0.0:{s.port} (Press CTRL+C to quit)\n",
            "warmup",
        ),
        Moment(0.97, 'INFO:     127.0.0.1:40518 - "POST /generate HTTP/1.1" 200 OK\n', "warmup"),
        Moment(1.00, line("The server is fired up and ready to roll!"), "ready", "ready"),
    ]
    return sorted(moments, key=lambda m: m.at)


def vllm_server(s: Scene) -> list[Moment]:
    """vLLM's API server with its engine: Ray's driver, or the head without Ray; a headless node prints the workers' part."""
    stamp = time.strftime("%m-%d %H:%M:%S", time.gmtime())

    def line(text: str, where: str = "api_server.py:1028") -> str:
        return f"INFO {stamp} [{where}] {text}\n"

    first = s.rank * s.per_node
    headless = "--headless" in s.argv
    ray = "ray" in s.argv
    moments = [
        Moment(0.01, line("Automatically detected platform cuda.", "__init__.py:239"), "imports"),
        Moment(
            0.02,
            line(f"vLLM API server version {s.version}")
            + line(f"args: Namespace(model='{s.model}', tensor_parallel_size={s.stage}, port={s.port})"),
            "arguments",
        ),
        *[Moment(0.02, f"{text}\n") for text in s.extra],
        Moment(
            0.05,
            line(
                f"Initializing a V1 LLM engine (v{s.version}) with config: model='{s.model}', tensor_parallel_size={s.stage}, enforce_eager=True",
                "core.py:61",
            ),
            "arguments",
        ),
    ]
    if ray:
        moments += [
            Moment(
                0.06,
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())},118\tINFO worker.py:1654 -- Connecting to existing Ray cluster at address: {s.address}...\n",
                "joining",
            ),
            Moment(0.07, line("No current placement group found. Creating a new placement group.", "ray_utils.py:328"), "placement"),
        ]
    elif headless:
        of_all = f"Launching vLLM (v{s.version}) headless multiproc executor, with head node address {s.address} for torch.distributed process group."
        many, port = (1, 29502) if s.copies > 1 else (s.per_node, 29501)
        copies = f"Launching {many} data parallel engine(s) in headless mode, with head node address tcp://{s.address}:{port}."
        moments.append(Moment(0.06, line(copies if s.leads else of_all), "joining"))
    moments += [
        Moment(
            0.09,
            "".join(
                line(
                    f"world_size={s.tp} rank={first + i} local_rank={i} distributed_init_method=tcp://{s.address}:29501 backend=nccl",
                    "parallel_state.py:957",
                )
                for i in range(s.per_node)
            ),
            "dist-init",
        ),
        Moment(0.10, line(f"vLLM is using nccl=={s.nccl}", "pynccl.py:69") if first == 0 else "", "nccl", "nccl"),
        Moment(
            0.15,
            "".join(
                line(
                    f"rank {first + i} in world size {s.tp} is assigned as DP rank {(first + i) // (s.tp // s.copies)}, "
                    f"PP rank {(first + i) % (s.tp // s.copies) // s.stage}, TP rank {(first + i) % s.stage}",
                    "parallel_state.py:967",
                )
                for i in range(s.per_node)
            ),
            "dist-init",
        ),
        Moment(0.17, line(f"Starting to load model {s.model}...", "gpu_model_runner.py:1110"), "loading"),
    ]
    moments += [
        Moment(0.19 + 0.55 * i / SHARDS, bar, "loading") for i, bar in enumerate(_bars("Loading safetensors checkpoint shards", SHARDS))
    ]
    moments += [
        Moment(0.76, "\n" + line("Model loading took 41.6975 GiB and 102.412070 seconds", "gpu_model_runner.py:1122"), "loaded"),
        Moment(
            0.84,
            line("GPU KV cache size: 409,728 tokens", "kv_cache_utils.py:537")
            + line("Maximum concurrency for 16,384 tokens per request: 25.01x", "kv_cache_utils.py:540"),
            "kv-cache",
        ),
        Moment(0.90, line("init engine (profile, create kv cache, warmup model) took 27.56 seconds", "core.py:151"), "warmup"),
    ]
    if headless:
        return sorted(moments, key=lambda m: m.at)
    moments += [
        Moment(
            0.95,
            line(f"Starting vLLM API server on http://0.0.0.0:{s.port}", "api_server.py:1081")
            + line("Available routes are:", "launcher.py:26"),
            "serving",
        ),
        Moment(0.97, "INFO:     Started server process [9931]\nINFO:     Waiting for application startup.\n", "serving", "serve"),
        Moment(1.00, "INFO:     Application startup complete.\n", "ready", "ready"),
    ]
    return sorted(moments, key=lambda m: m.at)


def ray_node(s: Scene) -> list[Moment]:
    """``ray start --block`` on the head (rank 0) or a worker."""
    text = f"Local node IP: {s.address}\n\n--------------------\nRay runtime started.\n--------------------\n"
    return [Moment(0.0, text, "joining")] + [Moment(0.0, f"{t}\n") for t in s.extra]


def moments_of(kind: str, scene: Scene) -> list[Moment]:
    """``sglang``, ``vllm`` or ``ray``."""
    table: Mapping[str, object] = {"sglang": sglang, "vllm": vllm_server, "ray": ray_node}
    found: Sequence[Moment] = table[kind](scene)  # type: ignore[operator]
    return list(found)
