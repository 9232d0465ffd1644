"""The model's folder as a stand-in: DeepSeek-R1's real layout without payload, examined by the agent that examines real ones."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pytest_h20.checks.weights.published import published
from pytest_h20.probes.script import Section
from pytest_h20.rehearsal.sparse import R1_CONFIG, TOKENIZER, TOKENIZER_CONFIG, agent, header_of, shards_of

MTIME_NS = 1_742_200_000 * 10**9
INDEX = "model.safetensors.index.json"


@dataclass
class WeightsTruth:
    """What a fault changes of the folder of one node.

    ``absent``: files that are not there. ``sizes``: other sizes than the right ones, bytes. ``content``: first bytes of a file
    instead of the right ones (whole content of small files). ``flipped``: shards with a wrong byte in their payload;
    ``zeroed``: with nothing but zeros there. ``unreadable``: why nothing can be examined.
    """

    absent: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    flipped: set[str] = field(default_factory=set)
    zeroed: set[str] = field(default_factory=set)
    unreadable: str = ""


def shard(number: int, total: int = 163) -> str:
    """The name of a shard, 1 … 163."""
    return f"model-{number:05d}-of-{total:06d}.safetensors"


@lru_cache(maxsize=1)
def r1() -> Mapping[str, tuple[bytes, int]]:
    """Name → (first bytes, size) of every file: headers of 163 shards with 91 991 tensors, index, config and small files."""
    files: dict[str, tuple[bytes, int]] = {}
    placed: dict[str, str] = {}
    total = 0
    for number, part in enumerate(shards_of(agent.expected_tensors(R1_CONFIG), 163), 1):
        raw, size = header_of(part)
        files[shard(number)] = (struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + size)
        placed.update(dict.fromkeys(part, shard(number)))
        total += size
    small = {
        INDEX: json.dumps({"metadata": {"total_size": total}, "weight_map": placed}),
        "config.json": json.dumps(R1_CONFIG, indent=2),
        "generation_config.json": '{"eos_token_id": 1}\n',
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": TOKENIZER_CONFIG,
        "configuration_deepseek.py": "# stand-in\n",
        "modeling_deepseek.py": "# stand-in\n",
    }
    files.update({name: (text.encode(), len(text.encode())) for name, text in small.items()})
    return files


def index_without(number: int) -> bytes:
    """The index with the tensors of one shard left out, as a merge of two downloads leaves it."""
    index = json.loads(r1()[INDEX][0])
    index["weight_map"] = {k: f for k, f in index["weight_map"].items() if f != shard(number)}
    return json.dumps(index).encode()


class StandInFolder:
    """The folder as ``agent.Folder`` sees one."""

    def __init__(self, truth: WeightsTruth, path: str) -> None:
        self.path, self._zeroed = path, truth.zeroed
        self._files = {n: f for n, f in r1().items() if n not in truth.absent}
        for name, data in truth.content.items():
            self._files[name] = (data, truth.sizes.get(name, r1()[name][1] if name.endswith(".safetensors") else len(data)))
        for name, size in truth.sizes.items():
            self._files[name] = (self._files[name][0][:size], size)

    def files(self) -> list[tuple[str, int, int, int]]:
        """Name, size, mtime in ns, inode."""
        return [(name, size, MTIME_NS, 1000 + i) for i, (name, (_, size)) in enumerate(self._files.items())]

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of the header or of a small file; behind them a payload of one byte, again and again."""
        data, whole = self._files[name]
        if offset < len(data):
            return data[offset : offset + size]
        return (b"\0" if name in self._zeroed else b"\x5a") * max(0, min(size, whole - offset))


def sections(truth: WeightsTruth, asked: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, Section]:
    """The answers of the weights' own probes among those asked for."""
    found = {}
    for name, arguments in asked:
        if truth.unreadable and name.startswith("weights_"):
            found[name] = Section(1, "", truth.unreadable + "\n")
        elif name == "weights_fast":
            found[name] = Section(0, _fast(truth, arguments[0], int(arguments[1])), "")
        elif name == "weights_tensors":
            try:
                found[name] = Section(0, _tensors(truth, StandInFolder(truth, arguments[0]), arguments[1]), "")
            except ValueError as error:  # as the agent on a real node: it ends with a traceback
                found[name] = Section(1, "", f"ValueError: {error}\n")
    return found


_EXAMINED: dict[str, str] = {}
_EXAMINING = threading.Lock()


def _fast(truth: WeightsTruth, path: str, shards: int) -> str:
    """The agent's answer. Nodes with equal folders are examined once: each takes two seconds, one after the other here."""
    key = repr((truth, path, shards))
    with _EXAMINING:
        if key not in _EXAMINED:
            _EXAMINED[key] = json.dumps(agent.fast(StandInFolder(truth, path), shards)) + "\n"
        return _EXAMINED[key]


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _tensors(truth: WeightsTruth, folder: StandInFolder, name: str) -> str:
    size = next(s for n, s, _, _ in folder.files() if n == name)
    header, _, _ = agent.read_header(folder, name, size)
    names = sorted(header, key=lambda k: header[k]["data_offsets"][0])
    middle = names[len(names) // 2]
    return "".join(f"tensor\t{n}\t{_digest(n, n == middle and name in truth.flipped)}\n" for n in names)


def full(truth: WeightsTruth, path: str) -> str:
    """What the full check prints when nothing is cached. The hashes stand for contents: equal content, equal hash; files as they should be
    have the published one where there is one."""
    folder = StandInFolder(truth, path)
    right = published().revisions["DeepSeek-R1"].sha256
    files = [f for f in folder.files() if not agent.LEFTOVER.search(f[0])]

    def digest(name: str, size: int) -> str:
        first, hurt = folder.read(name, 0, 1 << 24), (name in truth.flipped, name in truth.zeroed)
        if name in right and (first, size) == r1()[name] and not any(hurt):
            return right[name]
        return _digest(name, size, first, *hurt)

    lines = [f"total\t{len(files)}\t{sum(f[1] for f in files)}"]
    lines += [f"file\t{n}\t{s}\t{digest(n, s)}\tread\t0" for n, s, _, _ in files]
    return "\n".join([*lines, "done\t311.4"]) + "\n"
