"""How a cell is run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pytest_h20.core.errors import UsageError
from pytest_h20.load.arrivals import Arrivals
from pytest_h20.load.canary import Canary
from pytest_h20.load.cells import RECIPES
from pytest_h20.load.prompts import PromptRecipe
from pytest_h20.load.selfcheck_types import SelfCheck


@dataclass(frozen=True)
class Slo:
    """Limits a request has to keep to count as goodput. Milliseconds in model time; None = no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """`ttft=2s,itl=80ms`: a request's TTFT, and its mean time per output token. Raises UsageError."""
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", value.strip())
            if name not in ("ttft", "itl") or name in found or match is None or not float(match[1]) > 0:
                wanted = "ttft=TIME, itl=TIME or both, each once and with its unit, ms or s, such as ttft=2s,itl=80ms"
                raise UsageError(f"{part.strip()!r} is no service level; accepted is {wanted}")
            found[name] = float(match[1]) * (1e3 if match[2] == "s" else 1.0)
        return cls(ttft_ms=found.get("ttft"), tpot_ms=found.get("itl"))

    def __bool__(self) -> bool:
        return (self.ttft_ms, self.tpot_ms, self.e2e_ms) != (None, None, None)


@dataclass(frozen=True)
class LoadPlan:
    """Everything about a run that is not the cell or the server. All times are model time, in seconds.

    recipe             steady (several waves, the steady part counts) | blog (num_prompts == concurrency)
    requests           number of requests; None = by the recipe
    duration_s         stop sending after this time; with `requests` whichever comes first
    arrivals           closed loop (default) or a plan of send times
    prompts            what is sent
    canaries           prompts with known answers, sent in place of as many of `prompts`, spread over the cell (`canary.py`)
    seed               of prompts and arrivals; recorded in every result
    warmup             requests sent one after another before the clock starts, of the cell's own shape
    request_timeout_s  deadline of one request, send to last byte
    cell_timeout_s     deadline of the whole cell; what is unfinished then is `cancelled`
    processes          client processes; 0 = as many as the machine has cores to give (one up to 256 streams)
    max_connections    open loop: at most so many at once; a due request waits for one and its lag is reported
    time_scale         model seconds per wall second: 1.0 on real hardware; a rehearsal that runs 50 x faster than
                       the engine it plays has 50.0, and every latency and rate is reported as that engine's
    slo                limits for goodput
    percentiles        percentiles of every latency that are wanted beside the median, 90, 95 and 99
    temperature        sampling temperature of requests
    ignore_eos         the server must produce exactly the asked number of tokens
    usage_each         ask for usage in every event: exact tokens per event, more work for the server
    kernel_stamps      stamp arrivals with the kernel's receive time (Linux, not with TLS) instead of the clock at read:
                       right even while the client itself waits for a CPU
    metrics_every_s    wall seconds between two looks at /metrics
    records_path       JSONL file for one record per request; None = keep none on disk
    tpot_floor_ms      the hardware's lower bound of TPOT (`roofline.py`), for the sanity rule
    drafts             the server decodes speculatively: the most tokens that one of its steps can give, 0 when only the engine knows;
                       None = one token a step
    selfcheck          this client's own error at this concurrency (`selfcheck.py`), for the sanity rule
    """

    recipe: str = "steady"
    requests: int | None = None
    duration_s: float | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    prompts: PromptRecipe = field(default_factory=PromptRecipe)
    canaries: tuple[Canary, ...] = ()
    seed: int = 20250405
    warmup: int = 1
    request_timeout_s: float = 900.0
    cell_timeout_s: float | None = None
    processes: int = 1
    max_connections: int = 4096
    time_scale: float = 1.0
    slo: Slo = field(default_factory=Slo)
    percentiles: tuple[float, ...] = ()
    temperature: float = 0.0
    ignore_eos: bool = True
    usage_each: bool = False
    kernel_stamps: bool = True
    metrics_every_s: float = 1.0
    records_path: str | None = None
    tpot_floor_ms: float | None = None
    drafts: float | None = None
    selfcheck: SelfCheck | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UsageError(f"load plan: recipe {self.recipe!r}, one of {', '.join(RECIPES)} is needed")
        if self.requests is not None and self.requests < 1:
            raise UsageError(f"load plan: requests = {self.requests}, at least 1 is needed")
        for name in ("duration_s", "cell_timeout_s", "request_timeout_s", "time_scale", "metrics_every_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"load plan: {name} = {value}, a number above 0 is needed")
        for name, least in (("warmup", 0), ("processes", 0), ("max_connections", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"load plan: {name} = {getattr(self, name)}, at least {least} is needed")
