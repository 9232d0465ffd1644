"""One-time set-up of a machine for the lab: Debian packages, engines, model, images."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab import image, model, questions, trees
from tests.lab.cluster import REPOSITORY
from tests.lab.node import PATH
from tests.lab.places import MODEL_NAME, LabError, lab_dir, models_dir, trees_dir

PACKAGES = (
    "ca-certificates",
    "docker.io",
    "iproute2",
    "iputils-ping",
    "libnuma1",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3-venv",
    "runc",
    "sudo",
    "util-linux",
)
POLICY = Path("/usr/sbin/policy-rc.d")
DEFAULT_ENGINES = ("vllm",)


def setup(more_engines: Sequence[str], only: str | None, tell: Callable[[str], None] = print) -> int:
    """Install and make everything the lab needs; what is there already is kept.

    Args:
        more_engines: engines beside the default ones.
        only: one step (``packages``, ``engines``, ``model``, ``images``), or None for all.
        tell: receives progress lines.
    """
    engines = [*dict.fromkeys((*DEFAULT_ENGINES, *more_engines))]
    unknown = sorted(set(engines) - set(trees.RECIPES))
    if unknown:
        raise LabError(f"--with={unknown[0]}: no such engine; there are {', '.join(sorted(trees.RECIPES))}")
    if os.geteuid() != 0:
        raise LabError("setup installs Debian packages and writes to /var/cache: it needs root")
    steps: dict[str, Callable[[], None]] = {
        "packages": lambda: install_packages(tell),
        "engines": lambda: build_trees(engines, tell),
        "model": lambda: make_model(tell),
        "images": lambda: make_images(tell),
    }
    for name, step in steps.items():
        if only in (None, name):
            begin = time.monotonic()
            step()
            tell(f"{name}: done in {time.monotonic() - begin:.0f} s")
    return 0


def setup_gpus(more_engines: Sequence[str], only: str | None, tell: Callable[[str], None] = print) -> int:
    """What a GPU lab needs, for the Python that runs this: Debian tree, vLLM and ``more_engines``, the Llama (the DeepSeek is made by a
    command of its own, docs/lab.md). ``only``: one step (``packages``, ``engines``, ``model``), or None for all; ``model`` needs no
    network."""
    from tests.lab.gpu import pack

    engines = pack.engines_of((*DEFAULT_ENGINES, *more_engines))

    def stage() -> None:
        from importlib.metadata import distributions

        there = frozenset(pack.normal(one.metadata["Name"]) for one in distributions())
        target = pack.Target(f"{sys.version_info.major}.{sys.version_info.minor}", 90, there)
        pack.stage(lab_dir(), target, engines, tell)

    def model() -> None:
        there = pack.engines_there()
        if not there:
            raise LabError(
                f"{trees_dir()}: no engine for GPUs is there, and the model is made with it; run `setup --gpus --only engines`, or `unpack`"
            )
        make_model(tell, sys.executable, (str(there[0].folder / "site"),))

    steps = {"packages": lambda: install_packages(tell), "engines": stage, "model": model}
    if only not in (None, *steps):
        raise LabError(f"--only={only}: a GPU lab has the steps {', '.join(steps)}; its image is made by `up`")
    if os.geteuid() != 0:
        raise LabError("setup installs Debian packages and writes to /var/cache: it needs root")
    for name, step in steps.items():
        if only in (None, name):
            step()
    return 0


def build_trees(engines: Sequence[str], tell: Callable[[str], None]) -> None:
    """Make the environments of these engines."""
    for engine in engines:
        trees.build(trees.RECIPES[engine], tell)


def missing_packages() -> list[str]:
    """Those of PACKAGES that are not installed."""
    form = "${Package} ${db:Status-Status}\n"
    done = subprocess.run(["dpkg-query", "-W", "-f", form, *PACKAGES], capture_output=True, text=True)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in PACKAGES if package not in there]


def install_packages(tell: Callable[[str], None]) -> None:
    """apt-get, without starting the daemons that come along: this machine's own sshd and Docker are not the lab's."""
    if not shutil.which("apt-get", path=PATH):
        raise LabError("apt-get: not found; the lab sets up Debian 12 only (elsewhere, install the programs it asks for)")
    missing = missing_packages()
    if not missing:
        return
    tell("installing " + ", ".join(missing))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_daemons_started():
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(command, capture_output=True, text=True, env=env)
            if done.returncode:
                raise LabError(f"{' '.join(command)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


@contextmanager
def no_daemons_started() -> Iterator[None]:
    """Debian's way to install without starting services: policy-rc.d says 101 (forbidden). One that is there stays."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def model_stamp() -> str:
    """What the model is made from: changed code or questions need another model."""
    sources = [Path(model.__file__), Path(questions.__file__), questions.SUITE_QUESTIONS]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def make_model(tell: Callable[[str], None], python: str = "", site: Sequence[str] = ()) -> None:
    """Make the tiny model, unless it is there, made from the same sources. ``python`` has torch and, with the folders ``site``,
    transformers; default: the vLLM environment's."""
    folder = models_dir() / MODEL_NAME
    stamp = models_dir() / f"{MODEL_NAME}.made-from"
    if folder.is_dir() and stamp.exists() and stamp.read_text() == model_stamp():
        tell(f"{folder}: there already")
        return
    models_dir().mkdir(parents=True, exist_ok=True)
    command = [python or str(trees.python_of("vllm")), "-s", "-m", "tests.lab.model", str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY), *site)), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=REPOSITORY)
    if done.returncode:
        raise LabError(f"the model could not be made (exit status {done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
    stamp.write_text(model_stamp())
    tell(done.stdout.strip().splitlines()[-1])


def make_images(tell: Callable[[str], None]) -> None:
    """One image archive for each engine whose environment is there."""
    there = {e: r.version for e, r in trees.RECIPES.items() if (trees_dir() / e / trees.STAMP).exists()}
    if not there:
        raise LabError("no engine's environment is there; run `python -m tests.lab setup --only engines`")
    for path in image.build(there):
        tell(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
