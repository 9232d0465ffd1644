"""What a GPU lab is made of, staged in a folder; and that folder as parts small enough to be carried to a machine without a network.

`stage` makes ``debian/`` (the nodes' root, from this machine's Debian packages), ``engines/vllm-gpu/`` (an engine's wheel and what the
GPU machine's Python lacks), ``suite/`` (what the suite itself needs there) and the models. `pack` writes them as ``lab.tar.xz.NNN``
with ``parts.json``; `unpack` puts the parts together, checks them and fills the lab's folder.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from tests.lab import image, trees
from tests.lab.gpu import fatbin
from tests.lab.places import LabError, lab_dir, models_dir, trees_dir

HERE = Path(__file__).resolve().parent
# fmt: off
DEBIAN = (
    "base-files", "bash", "ca-certificates", "coreutils", "dash", "docker.io", "containerd", "ethtool", "findutils", "grep", "gzip",
    "hostname", "iproute2", "iputils-ping", "kmod", "libc-bin", "login", "mawk", "mount", "ncurses-base", "netbase", "openssh-client",
    "openssh-server", "openssh-sftp-server", "passwd", "pciutils", "procps", "python3.11", "runc", "sed", "tar", "util-linux",
)
NOT_DEBIAN = frozenset({"perl", "perl-modules-5.36", "libperl5.36", "python3", "gcc-12-base"})
# In the engines' lists of requirements, needed by what this lab never runs: vision, sound, other kernels, grammars.
NOT_NEEDED = frozenset({
    "torch", "torchaudio", "torchvision", "flashinfer-cubin", "tilelang", "nvidia-cudnn-frontend", "fastsafetensors",
    "nvidia-cutlass-dsl", "quack-kernels", "tokenspeed-mla", "humming-kernels", "opencv-python-headless", "numba", "triton",
    "hf-xet", "grpcio", "setuptools", "fastapi-cli", "fastapi-cloud-cli", "email-validator", "jinja2", "numpy",
    "cuda-python", "cuda-tile", "flash-attn-4", "helion", "jedi", "kernels", "nvidia-mathdx", "sgl-deep-gemm", "smg-grpc-servicer",
    "torch-memory-saver", "torchcodec",
})
# fmt: on
SUITE = (
    "pytest-html>=4.1",
    "docker>=7.1",
    "paramiko>=3.4",
    "openai>=2,<3",
    "pydantic==2.13.4",
    "prometheus-client",
    "sqlalchemy",
    "pytest",
)
FOLDERS = ("boot", "dev", "etc", "mnt", "opt", "proc", "root", "run", "srv", "ssd1", "sys", "tmp", "usr/local/bin", "var/cache/ldconfig")
OWN_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\ndocker:x:101:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
}


VLLM_PROGRAM = """#!/usr/bin/env python3
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":  # vLLM starts its workers by importing this file again
    sys.exit(main())
"""


@dataclass(frozen=True)
class Engine:
    """An engine on GPUs: what is packed of it beside the machine's torch."""

    name: str
    version: str
    wanted: tuple[str, ...]
    not_needed: frozenset[str]
    """Of its requirements beside NOT_NEEDED."""
    left_out: tuple[str, ...]
    """Patterns of files of its wheels."""
    programs: Mapping[str, str]

    @property
    def tree(self) -> str:
        """Name of its folder in ``engines/``."""
        return f"{self.name}-gpu"

    @property
    def folder(self) -> Path:
        """Where it lies on the GPU machine."""
        return trees_dir() / self.tree

    @property
    def image(self) -> str:
        """Its image's tag."""
        return f"h20-lab/{self.name}:{self.version}-gpu"


# vLLM 0.24: the last release for torch 2.11 and CUDA 13, the newest of which no part compiles at start. Left out: FlashAttention 2
# (Hopper has 3), the server in Rust.
VLLM = Engine(
    name="vllm",
    version="0.24.0",
    wanted=("vllm==0.24.0",),
    not_needed=frozenset({"flashinfer-python", "pycountry"}),
    left_out=("vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so", "vllm/vllm-rs"),
    programs={"vllm": VLLM_PROGRAM},
)
# The release of the lab's CPU build, for torch 2.11 as well. Left out: FlashAttention (1.1 GB) and sparse attention, so that it is
# started with --attention-backend triton; what other chips than Hopper load.
SGLANG = Engine(
    name="sglang",
    version=trees.SGLANG.version,
    wanted=(
        *(one for one in trees.SGLANG.requirements if not one.startswith("torch==")),
        f"sglang=={trees.SGLANG.version}",
        "sglang-kernel==0.4.5",
        "flashinfer-python==0.6.14",
        "apache-tvm-ffi==0.1.11",
    ),
    not_needed=frozenset(),
    left_out=("sgl_kernel/flash_ops*", "sgl_kernel/flashmla_ops*", "sgl_kernel/infllm_ops*", "sgl_kernel/sm100/*"),
    programs={},
)
ENGINES = {engine.name: engine for engine in (VLLM, SGLANG)}


def engines_of(names: Iterable[str]) -> list[Engine]:
    """The engines of these names, vLLM where none is given."""
    wanted = [*dict.fromkeys(names)] or [VLLM.name]
    unknown = [name for name in wanted if name not in ENGINES]
    if unknown:
        raise LabError(f"{unknown[0]}: no engine of a GPU lab; there are {', '.join(sorted(ENGINES))}")
    return [ENGINES[name] for name in wanted]


def engines_there() -> list[Engine]:
    """The engines that lie in this machine's lab."""
    return [engine for engine in ENGINES.values() if (engine.folder / "site").is_dir()]


@dataclass(frozen=True)
class Target:
    """The machine that the lab is made for."""

    python: str = "3.12"
    chip: int = 90
    there: frozenset[str] = frozenset()
    """Normalised names of the Python packages that it has."""


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(text: str) -> frozenset[str]:
    """Package names of ``pip freeze`` or ``pip list`` output, or of a plain list."""
    found = (re.match(r"\s*([A-Za-z0-9][\w.-]*)", line) for line in text.replace(",", "\n").splitlines())
    return frozenset(normal(match[1]) for match in found if match)


def pins(name: str) -> dict[str, str]:
    """The versions that ran together, by normalised name: ``vllm.txt``, ``sglang.txt`` or ``suite.txt`` beside this file."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return {normal(package): version for package, _, version in (line.partition("==") for line in lines if not line.startswith("#"))}


def needs(metadata: str, python: str) -> list[str]:
    """Requirements (PEP 508) of a wheel's METADATA that hold on Linux with this Python, without extras."""
    from packaging.requirements import Requirement

    place = {"python_version": python, "python_full_version": f"{python}.3", "sys_platform": "linux", "platform_system": "Linux"}
    place.update(platform_machine="x86_64", os_name="posix", implementation_name="cpython", extra="")
    place["platform_python_implementation"] = "CPython"
    wanted = (Requirement(line) for line in Parser().parsestr(metadata).get_all("Requires-Dist") or ())
    return [f"{one.name}{one.specifier}" for one in wanted if one.marker is None or one.marker.evaluate(place)]


def download(
    wanted: Sequence[str],
    folder: Path,
    target: Target,
    tell: Callable[[str], None],
    pinned: Mapping[str, str],
    not_needed: frozenset[str] = frozenset(),
) -> list[Path]:
    """The wheels of these requirements and of all that they need and the target lacks; what is ``pinned`` in that version."""
    shutil.rmtree(folder, ignore_errors=True)  # of two versions of a package both would be spread
    folder.mkdir(parents=True)
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 26, 24, 17, 12, 5)] + [
        "manylinux2014_x86_64",
        "manylinux1_x86_64",
    ]
    base = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        "-d",
        str(folder),
    ]
    base += [f"--python-version={target.python}", *(f"--platform={platform}" for platform in platforms)]
    seen: set[str] = set()
    pending = list(wanted)
    while pending:
        fresh = {}
        for requirement in pending:
            name = normal(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
            if name not in seen | (target.there - pinned.keys()) | NOT_NEEDED | not_needed:
                fresh[name] = f"{name}=={pinned[name]}" if name in pinned else requirement
        seen |= set(fresh)
        if not fresh:
            break
        pip(base, list(fresh.values()))
        tell(f"{len(seen)} wheels")
        pending = [need for wheel in wheels_of(folder, fresh) for need in needs(metadata_of(wheel), target.python)]
    return wheels_of(folder, seen)


def pip(download: Sequence[str], wanted: Sequence[str]) -> None:
    """Have pip fetch these requirements. Raises ``LabError``."""
    done = subprocess.run([*download, *wanted], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"pip download {' '.join(wanted)}:\n{done.stderr[-2000:]}")


def wheels_of(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """The wheels in the folder of these packages."""
    keep = set(wanted)
    return [wheel for wheel in sorted(folder.glob("*.whl")) if normal(wheel.name.split("-")[0]) in keep]


def metadata_of(wheel: Path) -> str:
    """A wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def stage_debian(folder: Path) -> None:
    """A root file system from this machine's installed Debian packages."""
    installed = image.installed()
    packages = image.closure(DEBIAN, {name: depends for name, depends in installed.items() if name not in NOT_DEBIAN})
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/tmp", "var/log", "var/lib/docker", *FOLDERS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    listed = "\n".join(str(path).lstrip("/") for path in image.files_of(packages) if len(path.parts) > 2)
    reader = ["tar", "-C", "/", "-cf", "-", "--no-recursion", "-T", "-"]
    files = subprocess.run(reader, input=listed.encode(), check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", str(folder), "-xf", "-"], input=files.stdout, check=True)
    if not (folder / "usr/bin/python3").exists():
        (folder / "usr/bin/python3").symlink_to("python3.11")  # of a package that asks for all of Python
    for name, text in OWN_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text)


def stage_engine(engine: Engine, folder: Path, wheels: Path, target: Target, tell: Callable[[str], None]) -> None:
    """An engine and what the target lacks, in one folder for PYTHONPATH, GPU code of other chips blanked."""
    site = folder / "site"
    spread(download(engine.wanted, wheels, target, tell, pins(engine.name), engine.not_needed), site)
    for pattern in engine.left_out:
        for path in site.glob(pattern):
            path.unlink()
    gone = sum(fatbin.blank(path, target.chip) for path in site.rglob("*.so"))
    tell(f"{engine.name}: GPU code of other chips: {gone / 1e6:.0f} MB blanked")
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in engine.programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


def spread(wheels: Iterable[Path], site: Path) -> None:
    """Unpack wheels."""
    site.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def stage(folder: Path, target: Target, engines: Sequence[Engine], tell: Callable[[str], None] = print) -> None:
    """Everything that a GPU lab has beside the machine's own Python, torch and driver; what is there is made anew."""
    for name in ("debian", *(f"engines/{engine.tree}" for engine in engines), "suite"):
        shutil.rmtree(folder / name, ignore_errors=True)
    stage_debian(folder / "debian")
    wheels = lab_dir() / "wheels"
    for engine in engines:
        stage_engine(engine, folder / "engines" / engine.tree, wheels, target, tell)
    spread(download(SUITE, wheels, target, tell, pins("suite")), folder / "suite")
    shutil.rmtree(wheels)
    if folder.resolve() != lab_dir().resolve() and models_dir().is_dir():
        shutil.copytree(models_dir(), folder / "models", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.building"))


def has_model(folder: Path) -> bool:
    """Whether a model lies in this folder of models."""
    return any(folder.glob("*/config.json"))


def pack(folder: Path, part_size: int, target: Target, engines: Sequence[Engine], tell: Callable[[str], None] = print) -> list[Path]:
    """Stage and write the parts. ``part_size``: bytes at most of each. Returns the parts. Raises ``LabError``."""
    lacking = [name for name in ("tar", "xz", "dpkg-query") if not shutil.which(name)]
    if lacking:
        raise LabError(f"{', '.join(lacking)}: not found; pack on a Debian 12 (apt-get install xz-utils), or in a container of it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / "parts.json", *folder.glob("lab.tar.xz.*")):  # the list first: parts without it are not taken for a lab
            old.unlink(missing_ok=True)
        return _pack(folder, part_size, target, engines, tell)
    except OSError as error:
        raise LabError(f"{error.filename or folder}: {error.strerror or error}; parts and staging need some 4 GB in {folder}") from None


def _pack(folder: Path, part_size: int, target: Target, engines: Sequence[Engine], tell: Callable[[str], None]) -> list[Path]:
    staging = folder / "staging"
    stage(staging, target, engines, tell)
    tar = subprocess.Popen(["tar", "-C", str(staging), "--sort=name", "-cf", "-", "."], stdout=subprocess.PIPE)
    xz = subprocess.Popen(["xz", "-T0", "-2", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
    assert xz.stdout is not None
    parts: list[Path] = []
    while data := xz.stdout.read(part_size):
        path = folder / f"lab.tar.xz.{len(parts):03d}"
        path.write_bytes(data)
        parts.append(path)
    if tar.wait() or xz.wait():
        raise LabError(f"tar and xz ended with {tar.returncode} and {xz.returncode}; is there room in {folder}?")
    packed_models = has_model(staging / "models")
    shutil.rmtree(staging)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}
    (folder / "parts.json").write_text(json.dumps(sums, indent=1) + "\n")
    tell(f"{folder}: {len(parts)} parts, {sum(path.stat().st_size for path in parts) / 1e6:.0f} MB; carry them with parts.json")
    if not packed_models:
        tell(f"no model lies in {models_dir()}, so none is packed: that machine makes one (`setup --gpus --only model`)")
    return parts


def check_parts(folder: Path) -> list[Path]:
    """The parts in order; raises ``LabError`` naming the first that is missing or damaged."""
    try:
        sums = json.loads((folder / "parts.json").read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"{folder / 'parts.json'}: {error}; it comes with the parts of `python -m tests.lab pack`") from None
    if not sums:
        raise LabError(f"{folder / 'parts.json'}: names no parts; pack again")
    for name, wanted in sums.items():
        path = folder / name
        if not path.is_file():
            raise LabError(f"{path}: missing; parts.json names {len(sums)} parts, carry all of them")
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise LabError(f"{path}: damaged on the way; carry it again")
    return [folder / name for name in sorted(sums)]


class Joined:
    """Several files read as one."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = list(parts)
        self._file = self._parts.pop(0).open("rb")

    def read(self, size: int = -1) -> bytes:
        """As a file does, but never past the end of a part."""
        while not (data := self._file.read(size)) and self._parts:
            self._file.close()
            self._file = self._parts.pop(0).open("rb")
        return data


def unpack(folder: Path, tell: Callable[[str], None] = print) -> None:
    """Fill the lab's folder from the parts; what an earlier lab left there of the same is replaced whole. Raises ``LabError``."""
    parts = check_parts(folder)
    up = sorted(path.parent.name for path in lab_dir().glob("clusters/*/cluster.json"))
    if up:
        raise LabError(f"cluster {up[0]!r} uses {lab_dir()}; run `python -m tests.lab --name {up[0]} down` first")
    coming = lab_dir() / "unpacking"
    try:
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(parents=True)
        with tarfile.open(fileobj=Joined(parts), mode="r|xz") as archive:  # type: ignore[call-overload]
            # The parts are our own. Debian 12's Python 3.11.2 has no filters yet, 3.14 wants to be told.
            trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
            archive.extractall(coming, **trusted)
        for new in sorted((*coming.glob("debian"), *coming.glob("suite"), *coming.glob("engines/*"), *coming.glob("models/*"))):
            place = lab_dir() / new.relative_to(coming)
            place.parent.mkdir(exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            new.rename(place)
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        raise LabError(f"{lab_dir()} cannot be filled from {folder}: {error}; it needs some 4 GB, and parts of one `pack`") from None
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    following = "up --gpus" if has_model(models_dir()) else "setup --gpus --only model"
    tell(f"{lab_dir()}: filled from {len(parts)} parts; next: python -m tests.lab {following}")
