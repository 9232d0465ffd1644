"""What options an engine version really has, from the argument parsers of released wheels (``tools/engine_flags.py``)."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from pytest_h20.engines.base import EngineName, Version

FlagKind = Literal["value", "switch", "negatable", "boolean", "removed"]
"""``switch`` takes no value, ``negatable`` also exists as ``--no-x``, ``boolean`` is written ``--x`` or ``--x=False``,
``removed`` is parsed only to be refused (SGLang's DeprecatedAction)."""

# What users of the other engine (or of its older releases) write for the same thing.
_SAME_MEANING: Mapping[EngineName, Mapping[str, str]] = {
    "vllm": {
        "mem-fraction-static": "gpu-memory-utilization",
        "context-length": "max-model-len",
        "tp": "tensor-parallel-size",
        "tp-size": "tensor-parallel-size",
        "max-running-requests": "max-num-seqs",
        "disable-cuda-graph": "enforce-eager",
        "chunked-prefill-size": "max-num-batched-tokens",
        "model-path": "model",
    },
    "sglang": {
        "gpu-memory-utilization": "mem-fraction-static",
        "max-model-len": "context-length",
        "max-num-seqs": "max-running-requests",
        "tensor-parallel-size": "tp",
        "enforce-eager": "disable-cuda-graph",
        "max-num-batched-tokens": "chunked-prefill-size",
        "model": "model-path",
    },
}


@dataclass(frozen=True)
class FlagTable:
    """The options of one released version."""

    engine: EngineName
    version: Version
    flags: Mapping[str, FlagKind]
    aliases: Mapping[str, str]
    reasoning_parsers: tuple[str, ...]

    def name(self, flag: str) -> str | None:
        """The canonical name of an option, its alias, its underscore form (vLLM) or its unambiguous prefix (argparse)."""
        forms = [flag, flag.replace("_", "-")] if self.engine == "vllm" else [flag]
        for form in forms:
            if form in self.flags:
                return form
            if form in self.aliases:
                return self.aliases[form]
            if form.startswith("no-") and self.flags.get(form[3:]) == "negatable":
                return form[3:]
        starts = {name for name in self.flags if name.startswith(forms[-1])} if forms[-1] else set()
        starts |= {name for alias, name in self.aliases.items() if forms[-1] and alias.startswith(forms[-1])}
        return starts.pop() if len(starts) == 1 else None

    def kind(self, flag: str) -> FlagKind | None:
        """How the option is written, or None when this version has no such option."""
        name = self.name(flag)
        return self.flags[name] if name else None

    def suggest(self, flag: str) -> str | None:
        """The option that was probably meant."""
        same = _SAME_MEANING[self.engine].get(flag)
        if same and self.name(same):
            return same
        close = difflib.get_close_matches(flag.replace("_", "-"), [*self.flags, *self.aliases], n=1, cutoff=0.75)
        return close[0] if close else None


@functools.lru_cache(maxsize=2)
def _stored(engine: EngineName) -> Any:
    """``engines/data/<engine>.json``: the versions that were read, oldest first, and per name its bands
    ``[[what, since, until], …]``: ``since`` is the first version read that has it so, ``until`` the first that has not, or null."""
    return json.loads((resources.files("pytest_h20.engines") / "data" / f"{engine}.json").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=2)
def stored_versions(engine: EngineName) -> tuple[Version, ...]:
    """Versions whose options are stored, oldest first."""
    return tuple(map(Version.parse, _stored(engine)["versions"]))


@functools.lru_cache(maxsize=8)
def load(engine: EngineName, version: Version) -> FlagTable:
    """The stored options of exactly this version.

    Raises:
        KeyError: this version was not read; :func:`table_for` answers for any.
    """
    stored = _stored(engine)
    place = {text: number for number, text in enumerate(stored["versions"])} | {None: len(stored["versions"])}
    here = place[str(version)]

    def then(table: str) -> dict[str, Any]:
        return {name: what for name, bands in stored[table].items() for what, since, until in bands if place[since] <= here < place[until]}

    return FlagTable(engine, version, then("flags"), then("aliases"), tuple(then("reasoning_parsers")))


def neighbours(engine: EngineName, version: Version) -> tuple[FlagTable | None, FlagTable | None]:
    """The stored tables next below (or equal) and next above (or equal). Both are the same table for a stored version."""
    below = above = None
    for stored in stored_versions(engine):
        if version.at_least(str(stored)):
            below = stored
        if above is None and stored.at_least(_release(version)):
            above = stored
    return (load(engine, below) if below else None, load(engine, above) if above else None)


def _release(version: Version) -> str:
    return ".".join(map(str, version.release))


def table_for(engine: EngineName, version: Version) -> FlagTable | None:
    """The table to write a command line by: the newest that is not newer than ``version``, else the oldest there is."""
    below, above = neighbours(engine, version)
    return below or above


def unknown(engine: EngineName, version: Version, flag: str) -> bool:
    """True only when it is certain that this version has no such option: absent in the stored versions on both sides of
    it. Versions newer than the newest stored one are never certain."""
    below, above = neighbours(engine, version)
    if below is None or above is None:
        return False
    return below.name(flag) is None and above.name(flag) is None
