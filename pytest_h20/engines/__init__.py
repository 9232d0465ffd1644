"""Engine dialects: how each version of vLLM and SGLang is launched, recognised in its logs, and spoken to. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_h20.core.errors import UsageError
from pytest_h20.engines.base import (
    VERSION_COMMANDS,
    Dialect,
    EngineName,
    ImageVersions,
    LaunchFacts,
    LaunchMode,
    LaunchPlan,
    LaunchProfile,
    NodePlan,
    PortNeed,
    ReadyRule,
    Refusal,
    Stage,
    Step,
    Version,
    parse_versions,
)

if TYPE_CHECKING:
    from pytest_h20.engines.sglang import SglangDialect
    from pytest_h20.engines.vllm import VllmDialect

__all__ = [
    "VERSION_COMMANDS",
    "Dialect",
    "EngineName",
    "ImageVersions",
    "LaunchFacts",
    "LaunchMode",
    "LaunchPlan",
    "LaunchProfile",
    "NodePlan",
    "PortNeed",
    "ReadyRule",
    "Refusal",
    "Stage",
    "Step",
    "Version",
    "dialect_for",
    "parse_versions",
]


def dialect_for(engine: str, version: str | Version, mode: str | None = None) -> VllmDialect | SglangDialect:
    """The dialect of one engine at one version.

    Args:
        engine: ``vllm`` or ``sglang``.
        version: as the image tells it, ``0.8.2``, ``0.5.10.post1``, ``0.32.0+cpu``.
        mode: ``ray``, ``native`` or None (vLLM only: the version decides).

    Raises:
        UsageError: unknown engine or mode, or a text that is no version.
    """
    from pytest_h20.engines.sglang import SglangDialect
    from pytest_h20.engines.vllm import VllmDialect

    parsed = version if isinstance(version, Version) else Version.parse(version)
    if engine == "sglang":
        if mode is not None:
            raise UsageError(f"mode {mode!r} is for vLLM only; SGLang has one way to span nodes: leave mode out")
        return SglangDialect(parsed)
    if engine == "vllm":
        if mode == "ray":
            return VllmDialect(parsed, "ray")
        if mode == "native":
            return VllmDialect(parsed, "native")
        if mode is None:
            return VllmDialect(parsed)
        raise UsageError(f"mode {mode!r} of engine vllm is unknown; accepted: ray, native, or nothing (the version decides)")
    raise UsageError(f"engine {engine!r} is unknown; accepted: vllm, sglang")
