"""Combinations of engine, NCCL and GPU that somebody was bitten by, as data, each with its public thread; and what the image says of
its NCCL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin, node_check, version_key
from pytest_h20.core.verdict import Limit, Verdict
from pytest_h20.probes.facts import View
from pytest_h20.probes.image import Versions
from pytest_h20.probes.script import Missing


@dataclass(frozen=True)
class Bad:
    """One combination. Versions: first and last that are affected, ``("", "")`` any. ``gpus``: words of the GPU's name, none: any.
    ``unless``: a variable and the value that takes it away. ``certain``: it ends the job wherever it was met; else a warning."""

    name: str
    symptom: str
    remedy: str
    thread: str
    nccl: tuple[str, str] = ("", "")
    engine: str = ""
    versions: tuple[str, str] = ("", "")
    gpus: tuple[str, ...] = ()
    nodes: int = 1
    unless: tuple[str, str] = ("", "")
    certain: bool = False


KNOWN = (
    Bad(
        "nccl-2.27.7-ras",
        "NCCL 2.27.7 ends with a segmentation fault in its RAS code (rasMsgHandlePeersUpdate) in long jobs, seen on H20 and H100",
        "set NCCL_RAS_ENABLE: '0' in the profile's env, or take an image with another NCCL",
        "nccl#1996 (its fix: nccl#2406)",
        nccl=("2.27.7", "2.27.7"),
        unless=("NCCL_RAS_ENABLE", "0"),
        certain=True,
    ),
    Bad(
        "vllm-0.8.0-nccl-2.21.5",
        "vLLM 0.8.0 (V1) with NCCL 2.21.5 crashed in NCCL when it loaded a MoE model on 16 H20",
        "pip install -U nvidia-nccl-cu12==2.26.2 in the image was the way out there; or vLLM 0.8.2",
        "vllm#15098",
        nccl=("2.21.5", "2.21.5"),
        engine="vllm",
        versions=("0.8.0", "0.8.0"),
        gpus=("H20",),
        nodes=2,
    ),
    Bad(
        "gb10-nccl-2.28.9-wheel",
        "NCCL 2.28.9 of the pip wheel hung after 20 to 26 minutes of load on two GB10; the system's build of the same version did not",
        "load the system's libnccl.so.2 instead of the wheel's; compare the SHA-256 of what the ranks have loaded (bringup.libraries)",
        "vllm#42354, vllm#41725",
        nccl=("2.28.9", "2.28.9"),
        engine="vllm",
        gpus=("GB10",),
        nodes=2,
    ),
)
"""Only what was read in its thread. What is older than any supported image, or was taken back there, is not in it."""


def within(version: str, span: tuple[str, str]) -> bool:
    """Whether a version lies between the first and the last affected one; every version, and an unknown one, where there is no span."""
    first, last = span
    if not first:
        return True
    key = version_key(version)[: len(version_key(last))]
    return bool(key) and version_key(first) <= key <= version_key(last)


def met(view: View, versions: Versions) -> Iterator[Bad]:
    """The combinations that this node and its image are, with the environment the engine will get."""
    env = {**(view.all.profile.env if view.all.profile is not None else {}), **view.spec.env}
    names = [] if isinstance(view.node.gpus, Missing) else [gpu.name for gpu in view.node.gpus.gpus]
    for bad in KNOWN:
        variable, value = bad.unless
        if variable and str(env.get(variable, "")) == value:
            continue
        if bad.engine and bad.engine != view.all.engine:
            continue
        if bad.gpus and not any(word in name.split() for word in bad.gpus for name in names):
            continue
        if len(view.all.nodes) < bad.nodes:
            continue
        if within(versions.nccl, bad.nccl) and within(versions.package(view.all.engine), bad.versions):
            yield bad


@node_check("environment.known_bad", "No combination that is known to break", "image/image_versions", "gpus", always=True)
def known_bad(say: Say, view: View) -> Verdict:
    """Engine, NCCL and GPU are none of the combinations that others were bitten by (``known_bad.py``, each with its thread)."""
    versions = view.node.image_versions
    if isinstance(versions, Missing):
        return say.missing(versions)
    if not versions.nccl:
        return say.skip("the image does not tell its NCCL, or has none")
    found = list(met(view, versions))
    names: list[JsonValue] = [bad.name for bad in found]
    details: dict[str, JsonValue] = {"nccl": versions.nccl, "engine": versions.package(view.all.engine), "met": names}
    told = "; ".join(f"{bad.symptom} ({bad.thread})" for bad in found)
    action = "; ".join(bad.remedy for bad in found)
    certain = [bad for bad in found if bad.certain]
    if found and not certain:
        return say.warn(len(found), told, action=action, details=details)
    limit = Limit(kind="max", value=0, unit="combinations", origin=builtin("public threads, each named with its combination"))
    return say.judge(len(found), limit, reason=told, action=action, details=details, of=len(KNOWN))


@node_check(
    "environment.nccl_in_image",
    "The NCCL of the image is the one its packages name",
    "image/image_versions",
    action="pip list | grep nccl and find / -name 'libnccl.so*' in the image; keep one of them",
)
def nccl_in_image(say: Say, view: View) -> Verdict:
    """The library calls itself what its package does, and two packages do not share its place (both wheels install the same path, and
    the last one wins: verl#6621 had three versions in one image). A warning: ``bringup.libraries`` sees what was loaded."""
    versions = view.node.image_versions
    if isinstance(versions, Missing):
        return say.missing(versions, wanted=False)
    named = {name: version for name, version in versions.packages if name.startswith("nvidia-nccl-cu")}
    if not versions.nccl or not named:
        return say.skip("the image has no NCCL package, or does not tell the library's version", versions.nccl or None)
    details: dict[str, JsonValue] = {"library": versions.nccl, "packages": {**named}}
    if len(named) > 1 and len(set(named.values())) > 1:
        told = " and ".join(f"{name} {version}" for name, version in named.items())
        return say.warn(versions.nccl, f"{told} are both installed into one path; the library there is {versions.nccl}", details=details)
    other = {name: version for name, version in named.items() if version_key(version)[:3] != version_key(versions.nccl)[:3]}
    if other:
        told = ", ".join(f"{name} is {version}" for name, version in other.items())
        return say.warn(versions.nccl, f"the library calls itself {versions.nccl}, {told}", details=details)
    limit = Limit(kind="equal", value=versions.nccl, origin=builtin("the package and the library are of one version"))
    return say.judge(versions.nccl, limit, details=details, of=len(named))
