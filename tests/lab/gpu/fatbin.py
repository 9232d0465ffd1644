"""Blank the GPU code of other chips in a shared library, so that it packs small: vLLM 0.24 is 618 MB, 49 MB as xz.

The fat binaries of a CUDA library lie in two ELF sections. Each holds modules (magic BA55ED50), each module entries for one chip:
machine code (kind 2) or PTX (kind 1). Nothing is moved or cut off: what the chip does not need becomes zeros of the same length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
MAGIC = 0xBA55ED50
PTX, CODE = 1, 2
OLDEST = 80
"""The oldest chip whose machine code a newer one of the same generation may still run (CUDA: within a major version)."""


@dataclass(frozen=True)
class Entry:
    """One chip's code in a module: where its bytes lie in the file."""

    kind: int
    chip: int
    start: int
    size: int


def sections(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """(start, end) of the sections with GPU code of a 64-bit ELF file; none when it is something else."""
    if data[:5] != b"\x7fELF\x02":
        return
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    if not headers:
        return
    strings = headers[names][4]
    for name, _, _, _, start, length in headers:
        if data[strings + name : data.index(0, strings + name)] in SECTIONS:
            yield start, start + length


def modules(data: bytes | bytearray, start: int, end: int) -> Iterator[list[Entry]]:
    """The entries of each module of a section."""
    at = start
    while at < end - 16:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            at += 8
            continue
        entries, inner, last = [], at + header, at + header + length
        while inner < last:
            kind, _, head, size = struct.unpack_from("<HHIQ", data, inner)
            (chip,) = struct.unpack_from("<I", data, inner + 28)
            entries.append(Entry(kind, chip, inner + head, size))
            inner += head + size
        yield entries
        at = (last + 7) // 8 * 8


def needless(entries: list[Entry], chip: int) -> list[Entry]:
    """Those of a module that ``chip`` (90 = Hopper) can do without: all but its own machine code; where it has none, all but the
    newest code or, failing that, the PTX that it can use."""
    code = {entry.chip for entry in entries if entry.kind == CODE}
    usable = [one for one in code if OLDEST <= one < chip]
    keep: set[tuple[int, int]] = set()
    if chip in code:
        keep = {(CODE, chip)}
    elif usable:
        keep = {(CODE, max(usable))}
    else:
        keep = {(PTX, entry.chip) for entry in entries if entry.kind == PTX and entry.chip <= chip}
    return [entry for entry in entries if (entry.kind, entry.chip) not in keep]


def blank(path: Path, chip: int) -> int:
    """Blank a file in place; returns how many bytes became zeros."""
    data = bytearray(path.read_bytes())
    gone = 0
    for start, end in list(sections(data)):
        for entries in modules(data, start, end):
            for entry in needless(entries, chip):
                data[entry.start : entry.start + entry.size] = bytes(entry.size)
                gone += entry.size
    if gone:
        path.write_bytes(data)
    return gone
