"""The file system of a node with real GPUs: an overlay on a Debian tree (or on the machine's own root), a /dev with its own GPUs
only, the machine's /usr and /opt below /opt/machine for containers, NVIDIA's tools where PATH and the linker find them."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from tests.lab.gpu import machine
from tests.lab.mounts import install, mount
from tests.lab.oci_runtime import MACHINE
from tests.lab.places import NODE_IMAGES, NODE_TREES, debian_dir, images_dir, lab_dir, trees_dir
from tests.lab.plan import NodePlan

HERE = Path(__file__).resolve().parent
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0), "kmsg": (1, 11)}
LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def build_root(node: NodePlan, tmpfs: str) -> Path:
    """Everything but the node's own files."""
    mount("--make-rprivate", "/")
    own = node.folder / "own"
    own.mkdir()
    mount("-t", "tmpfs", "-o", f"mode=755,size={tmpfs}", node.name, own)
    for name in ("up", "work", "root"):
        (own / name).mkdir()
    root = own / "root"
    debian = debian_dir().is_dir()
    lower = debian_dir() if debian else "/"
    mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={own}/up,workdir={own}/work", "overlay", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "sysfs", root / "sys")
    mount("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup")
    make_devices(root / "dev", node.gpus)
    for name, mode in (("run", "755"), ("tmp", "1777"), ("var/tmp", "1777"), ("root", "700"), ("dev/shm", "1777")):
        (root / name).mkdir(exist_ok=True, parents=True)
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", root / name)
    docker = node.folder / "docker"
    docker.mkdir()
    (root / "var/lib/docker").mkdir(parents=True, exist_ok=True)
    mount("--bind", docker, root / "var/lib/docker")
    show_machine(root)
    for source, target in ((trees_dir(), NODE_TREES), (images_dir(), NODE_IMAGES)):
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            mount("--bind", source, place)
            mount("-o", "remount,bind,ro", place)
    show_driver(own, root)
    if machine.container_runtime(debian, os.environ["PATH"]) == "wrapper":
        install(HERE / machine.HOOK, root / "usr/local/bin" / machine.HOOK)
    return root


def make_devices(dev: Path, gpus: tuple[int, ...]) -> None:
    """A /dev of its own: the usual files, and NVIDIA's as far as they are this node's."""
    mount("-t", "tmpfs", "-o", "mode=755,size=16m", "tmpfs", dev)
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620,gid=5", "devpts", dev / "pts")
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    numbers = {name: os.makedev(*number) for name, number in DEVICES.items()}
    for name in machine.devices_of(gpus, machine.device_names()):
        status = os.stat(f"/dev/{name}")
        if stat.S_ISCHR(status.st_mode):
            numbers[name] = status.st_rdev
    for name, number in numbers.items():
        (dev / name).parent.mkdir(exist_ok=True)
        os.mknod(dev / name, stat.S_IFCHR | 0o666, number)
        (dev / name).chmod(0o666)


def show_machine(root: Path) -> None:
    """The machine's own tree with what is mounted in it, for containers that ask for it (see ``oci_runtime``)."""
    place = root / MACHINE.lstrip("/")
    place.mkdir(parents=True)
    mount("--bind", "/", place)
    for inner in machine.inner_mounts(Path("/proc/self/mounts").read_text(), str(lab_dir())):
        mount("--bind", inner, f"{place}{inner}")
        own = root / inner.lstrip("/")
        if Path(inner).is_dir() and not (own.is_dir() and any(own.iterdir())):  # as a driver's tools find their own files
            if own.is_dir():
                own.rmdir()
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(f"{MACHINE}{inner}")


def show_driver(own: Path, root: Path) -> None:
    """nvidia-smi in PATH, its library where the linker looks, and a driver that makes no device files of other GPUs."""
    smi = shutil.which("nvidia-smi")
    tools = root / "usr/local/bin"
    tools.mkdir(parents=True, exist_ok=True)
    if smi and not (root / smi.lstrip("/")).exists():
        (tools / "nvidia-smi").symlink_to(f"{MACHINE}{os.path.realpath(smi)}")
    libraries = root / "usr/local/lib/nvidia"
    libraries.mkdir(parents=True)
    for folder in machine.driver_folders(os.environ):
        for file in Path(folder).glob("libnvidia-ml.so*"):  # NVIDIA's only: others there are of the machine's own system
            if not (libraries / file.name).is_symlink():
                (libraries / file.name).symlink_to(f"{MACHINE}{os.path.realpath(file)}")
    (root / "etc/ld.so.conf.d").mkdir(exist_ok=True)
    (root / "etc/ld.so.conf.d/h20-lab-nvidia.conf").write_text("/usr/local/lib/nvidia\n")
    params = Path("/proc/driver/nvidia/params")
    if params.exists():
        text = params.read_text().replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")
        (own / "params").write_text(text)
        mount("--bind", own / "params", root / "proc/driver/nvidia/params")
        (root / "run/lab-nvidia-params").write_text(text)
