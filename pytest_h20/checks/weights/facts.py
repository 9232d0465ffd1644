"""What the agent reports, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field, JsonValue, ValidationError

from pytest_h20.core.model import Frozen
from pytest_h20.probes.script import Missing, ProbeError


class Short(Frozen):
    """A list that may be long: how many, and the first of them."""

    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        shown = self.first[:4]
        return ", ".join(shown) + (f", and {self.count - len(shown)} more" if self.count > len(shown) else "")


class Shard(Frozen):
    """One ``*.safetensors`` file. ``problem``/``kind``: what is wrong with its header or its size; ``first_bad``: the first
    tensor hit. ``hollow``: part of the blocks looked at that held zeros only."""

    name: str
    size: int
    mtime: int
    inode: int
    problem: str = ""
    kind: str = ""
    header: int | None = None
    data: int | None = None
    tensors: int | None = None
    header_sha256: str = ""
    first_bad: str = ""
    hollow: float = 0.0


class SmallFile(Frozen):
    """A small file, hashed whole."""

    size: int
    sha256: str


class Source(Frozen):
    """Where the files came from: ``huggingface``, ``huggingface-cache``, ``modelscope`` or unknown (empty)."""

    kind: str
    revision: str


class Tokenizer(Frozen):
    """What the tokenizer's files say. ``ids``: of the tokens that begin and end a text; ``vocabulary``: how many; ``largest`` of all."""

    error: str = ""
    bos_token: str = ""
    eos_token: str = ""
    ids: dict[str, int] = Field(default_factory=dict)
    vocabulary: int | None = None
    largest: int | None = None
    template: str = ""


class FastFacts(Frozen):
    """The fast check of one folder: sizes in bytes. See ``agent.fast`` for each field."""

    version: int
    path: str
    python: str
    shards: tuple[Shard, ...]
    total: int
    totals: tuple[int, ...]
    missing: Short
    extra: Short
    config_error: str
    config: dict[str, JsonValue] = Field(default_factory=dict)
    tokenizer: Tokenizer = Tokenizer(error="not looked at")
    blocks: int = 0
    hollow: Short = Short(count=0, first=())
    model_type: str
    index_error: str
    index_total: int | None
    data_bytes: int
    tensors: int
    expected_bytes: int | None
    expected_tensors: int | None
    absent: Short | None
    shapes: Short
    gaps: Short
    duplicate: Short
    index_missing_files: Short
    index_only: Short
    header_only: Short
    leftovers: Short
    pointers: Short
    small: dict[str, SmallFile]
    source: Source
    seconds: float

    @property
    def signature(self) -> tuple[tuple[str, int, str], ...]:
        """(name, size, header hash) of every shard: equal on two nodes iff the layout is."""
        return tuple((s.name, s.size, s.header_sha256) for s in self.shards)


def parse_fast(text: str) -> FastFacts:
    """The JSON object that ``agent.py fast`` prints."""
    start = text.find("{")
    if start < 0:
        raise ProbeError("no JSON in it")
    try:
        return FastFacts.model_validate_json(text[start:].strip())
    except ValidationError as error:
        first = error.errors()[0]
        raise ProbeError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True)
class DigestProgress:
    """How far a full check is. Bytes, bytes/s, seconds (None: not known yet)."""

    done: int
    total: int
    rate: int
    left_s: int | None

    def __str__(self) -> str:
        share = 100 * self.done / self.total if self.total else 100
        left = "" if self.left_s is None else f", {self.left_s // 60}:{self.left_s % 60:02d} left"
        return f"{self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB ({share:.0f} %), {self.rate / 1e9:.2f} GB/s{left}"


@dataclass
class FullFacts:
    """The full check of one folder. ``hashes``: name -> SHA-256; ``known``: name -> (SHA-256, where it is known from)."""

    hashes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    known: dict[str, tuple[str, str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    cached: int = 0
    oldest_s: int = 0
    """Age of the oldest digest that was taken from the cache."""
    files: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    progress: DigestProgress | None = None

    @property
    def complete(self) -> bool:
        """Every file has a hash or an error, and the run said that it was done."""
        return self.seconds is not None and self.files == len(self.hashes) + len(self.errors)

    def take(self, line: str) -> bool:
        """Take one line of the agent; True when it was a progress line. Lines that are not the agent's are left out."""
        fields = line.rstrip("\n").split("\t")
        kind = fields[0]
        try:
            if kind == "total":
                self.files, self.bytes = int(fields[1]), int(fields[2])
            elif kind == "known":
                self.known[fields[1]] = (fields[2], fields[3])
            elif kind == "file":
                self.hashes[fields[1]], self.sizes[fields[1]] = fields[3], int(fields[2])
                self.cached += fields[4] == "cached"
                self.oldest_s = max(self.oldest_s, int(fields[5]))
            elif kind == "error":
                self.errors[fields[1]] = fields[2]
            elif kind == "done":
                self.seconds = float(fields[1])
            elif kind == "progress":
                left = int(fields[4])
                self.progress = DigestProgress(int(fields[1]), int(fields[2]), int(fields[3]), left if left >= 0 else None)
                return True
        except (IndexError, ValueError) as error:
            raise ProbeError(f"line {line!r}: {error}") from None
        return False


@dataclass(frozen=True)
class WeightFacts:
    """The weights of all nodes. ``where``: node -> container, host, or host without Python. ``evidence``: node -> path."""

    fast: Mapping[str, FastFacts | Missing]
    where: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
