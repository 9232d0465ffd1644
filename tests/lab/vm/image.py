"""Make the machines' kernel, initramfs and disk, once per host: Debian packages, no image of anybody else."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.lab.cluster import run
from tests.lab.image import archive
from tests.lab.node import PATH
from tests.lab.places import LabError
from tests.lab.vm import places
from tests.lab.vm.plan import MAX_NODES, QEMU, Machine, VmPlan

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
KERNEL = "linux-image-amd64"
HOST_PACKAGES = {
    QEMU: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "cpio": "cpio",
    "modprobe": "kmod",
    "mke2fs": "e2fsprogs",
    "ssh-keygen": "openssh-client",
}
PACKAGES = (
    "busybox-static",
    "docker.io",
    "ethtool",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "iputils-ping",
    "kmod",
    "openssh-server",
    "perftest",
    "procps",
    "python3",
    "rdma-core",
    "rdmacm-utils",
)
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
MODULES = (
    "bridge",
    "crc32_generic",  # without it rxe says "failed to init crc32 algorithm" and `rdma link add` "No such file or directory"
    "crc32_pclmul",
    "ib_uverbs",
    "nf_tables",  # so that the firewall can be read
    "nft_compat",
    "overlay",
    "rdma_rxe",
    "rdma_ucm",
    "sch_netem",  # so that a rail can be made to lose packets
    "veth",
    "virtio_net",
    "virtio_rng",
)
CONTAINER_PROGRAMS = ("ibv_devinfo", "ibv_devices", "ibv_rc_pingpong", "rping", "ib_write_bw", "ib_send_lat", "ib_send_bw")
DISK_SIZE = "8G"  # sparse
INITTAB = "::sysinit:/lab/rc\n::respawn:/bin/busybox sleep 2147483647\n::ctrlaltdel:/bin/busybox poweroff\n"
SSHD = (
    "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nUseDNS no\nHostKey /run/sshd/hostkey\n"
    "AllowStreamLocalForwarding yes\nMaxSessions 100\nMaxStartups 100\nPrintMotd no\n"
)
JUNK = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")
GUEST = Path(__file__).resolve().parent / "guest"
STANDINS = Path(__file__).resolve().parents[1] / "standins"
GUEST_STANDINS = ("ibdev2netdev", "nvidia-container-runtime-hook", "nvidia-smi", "show_gids")


def sources_digest() -> str:
    """What the disk is made from: changed scripts or packages need another disk."""
    digest = hashlib.sha256(repr((SUITE, PACKAGES, BOOT_MODULES, MODULES, CONTAINER_PROGRAMS)).encode())
    digest.update(repr((INITTAB, SSHD, places.IMAGE_NAME)).encode())
    for path in (GUEST / "init", GUEST / "rc", *(STANDINS / name for name in GUEST_STANDINS)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_built() -> bool:
    """Whether kernel and disk are there, made from these sources."""
    stamp = places.stamp_file()
    return stamp.exists() and places.disk_file().exists() and stamp.read_text() == sources_digest()


def missing_packages() -> list[str]:
    """Debian packages whose programs this host lacks."""
    return sorted({package for program, package in HOST_PACKAGES.items() if not shutil.which(program, path=PATH)})


def build(fresh: bool = False, tell: Callable[[str], None] = print) -> None:
    """Make everything that is not there already; saved machines go, they stand on the old disk.

    Args:
        fresh: install the Debian packages anew, too.
        tell: receives progress lines.

    Raises:
        LabError: no root, programs missing, machines up, or a step failed (with what it said).
    """
    if os.geteuid() != 0:
        raise LabError("build makes a Debian root file system: it needs root")
    if missing := missing_packages():
        raise LabError(f"programs are missing; run `apt-get install --no-install-recommends {' '.join(missing)}`")
    if places.run_dir().exists():
        raise LabError("machines are up (or were not taken down); run `python -m tests.lab.vm down` first")
    begin = time.monotonic()
    places.vm_dir().mkdir(parents=True, exist_ok=True)
    places.stamp_file().unlink(missing_ok=True)
    shutil.rmtree(places.saved_dir(), ignore_errors=True)
    installed = places.root_dir() / "lab/installed"
    if fresh or not installed.exists() or installed.read_text() != repr(PACKAGES):
        install(tell)
        installed.parent.mkdir(exist_ok=True)
        installed.write_text(repr(PACKAGES))
        tell(f"packages: {time.monotonic() - begin:.0f} s")
    boot_files()
    guest_files(places.root_dir())
    container_archive(places.root_dir())
    disk = places.disk_file()
    disk.unlink(missing_ok=True)
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-m", "0", "-d", str(places.root_dir())]
    run(["mke2fs", "-q", "-t", "ext4", *options, str(disk), DISK_SIZE])
    places.stamp_file().write_text(sources_digest())
    tell(f"built in {time.monotonic() - begin:.0f} s; the disk uses {disk.stat().st_blocks * 512 >> 20} MiB")


def install(tell: Callable[[str], None]) -> None:
    """A minimal Debian with the packages in ``root``, and its kernel package unpacked in ``kernel``."""
    root, kernel = places.root_dir(), places.kernel_dir()
    for folder in (root, kernel):
        shutil.rmtree(folder, ignore_errors=True)
    tell(f"installing Debian {SUITE} with {', '.join(PACKAGES)}")
    run(["debootstrap", "--variant=minbase", SUITE, str(root), MIRROR])
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    (root / "etc/apt/sources.list").write_text(f"deb {MIRROR} {SUITE} main\ndeb {MIRROR}-security {SUITE}-security main\n")
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    inside = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    run([*inside, "apt-get", "-q", "update"])
    run([*inside, "apt-get", "-qy", "install", "--no-install-recommends", *PACKAGES])
    # Of the kernel only the modules in use go in: it is unpacked beside the root.
    found = re.search(r"Depends: (linux-image-\S+)", run([*inside, "apt-cache", "depends", KERNEL]))
    if not found:
        raise LabError(f"{KERNEL} depends on no kernel; look at `apt-cache depends {KERNEL}` on Debian {SUITE}")
    run([*inside, "sh", "-c", f"cd /var/cache && apt-get download {found[1]}"])
    [package] = (root / "var/cache").glob(f"{found[1]}_*.deb")
    run(["dpkg-deb", "-x", str(package), str(kernel)])
    package.unlink()
    run([*inside, "apt-get", "clean"])
    for junk in JUNK:
        shutil.rmtree(root / junk, ignore_errors=True)


def uncompressed_kernel(image: bytes) -> bytes:
    """The ELF file inside a compressed kernel: QEMU boots it directly (PVH), which spares an emulated machine the unpacking.

    Raises ``LabError`` when there is none.
    """
    ways: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
        (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)),
        (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(31).decompress(data)),
        (b"\x28\xb5\x2f\xfd", _zstd),
    )
    for magic, unpack in ways:
        at = image.find(magic)
        while at >= 0:
            with contextlib.suppress(lzma.LZMAError, zlib.error, OSError):
                found = unpack(image[at:])
                if found.startswith(b"\x7fELF"):
                    return found
            at = image.find(magic, at + 1)
    raise LabError("the kernel package holds no kernel that can be unpacked (xz, gzip and zstd were tried)")


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-dc"], input=data, capture_output=True).stdout


def with_dependencies(base: Path, version: str, names: Iterable[str]) -> list[Path]:
    """These modules and what they need, in the order of loading, relative to ``base``."""
    found: dict[Path, None] = {}
    for name in names:
        shown = run(["modprobe", "-d", str(base), "-S", version, "--show-depends", "--ignore-install", name])
        for line in shown.splitlines():
            if line.startswith("insmod "):
                found[Path(os.path.relpath(line.split()[1], base))] = None
    return list(found)


def copy_into(source: Path, target: Path, names: Iterable[Path]) -> None:
    """Copy these files, with their folders."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


def boot_files() -> None:
    """Kernel and initramfs, and the modules in the machines' root."""
    kernel, root = places.kernel_dir(), places.root_dir()
    [version] = os.listdir(kernel / "lib/modules")
    places.kernel_file().write_bytes(uncompressed_kernel((kernel / f"boot/vmlinuz-{version}").read_bytes()))
    run(["depmod", "-b", str(kernel), version])
    modules = Path("lib/modules") / version
    shutil.rmtree(root / modules, ignore_errors=True)
    copy_into(kernel, root, with_dependencies(kernel, version, BOOT_MODULES + MODULES))
    copy_into(kernel, root, [modules / n for n in ("modules.order", "modules.builtin", "modules.builtin.modinfo")])
    run(["depmod", "-b", str(root), version])
    stage = places.vm_dir() / "initramfs"
    shutil.rmtree(stage, ignore_errors=True)
    for name in ("bin", "dev", "proc", "root"):
        (stage / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", stage / "bin/busybox")
    order = with_dependencies(kernel, version, BOOT_MODULES)
    copy_into(kernel, stage, order)
    (stage / "order").write_text("".join(f"{path}\n" for path in order))
    place(GUEST / "init", stage / "init")
    run(["sh", "-c", 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"', "sh", str(stage), str(places.initramfs_file())])
    shutil.rmtree(stage)


def place(source: Path, target: Path) -> None:
    """Copy a program."""
    shutil.copyfile(source, target)
    target.chmod(0o755)


def guest_files(root: Path) -> None:
    """What makes the Debian root one of our machines: start-up, keys, sshd's settings, stand-ins."""
    (root / "lab").mkdir(exist_ok=True)
    place(GUEST / "rc", root / "lab/rc")
    (root / "etc/inittab").write_text(INITTAB)
    (root / "sbin/init").unlink(missing_ok=True)
    (root / "sbin/init").symlink_to("/bin/busybox")
    keys = make_keys([machine.name for machine in VmPlan(MAX_NODES).machines])
    shutil.rmtree(root / "lab/host-keys", ignore_errors=True)
    shutil.copytree(keys, root / "lab/host-keys")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(f"{places.key_file()}.pub", root / "root/.ssh/authorized_keys")
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    (root / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD)
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/h20-lab").mkdir(exist_ok=True)
    for name in GUEST_STANDINS:
        place(STANDINS / name, root / "usr/local/bin" / name)


def make_keys(names: Sequence[str]) -> Path:
    """The key that opens the machines and their host keys; those that are there stay."""
    folder = places.host_key_dir()
    folder.mkdir(mode=0o700, exist_ok=True)
    for path, comment in [(places.key_file(), "h20-lab"), *((folder / name, name) for name in names)]:
        if not path.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return folder


def known_hosts(machines: Iterable[Machine]) -> str:
    """known_hosts lines of these machines."""
    return "".join(f"{m.address} {(places.host_key_dir() / f'{m.name}.pub').read_text()}" for m in machines)


def container_archive(root: Path) -> None:
    """A root file system of busybox, libibverbs and perftest as a container image, the same on every machine."""
    inside = ["chroot", str(root)]
    libraries = [p for pattern in ("usr/lib/x86_64-linux-gnu/libibverbs/*.so", "etc/libibverbs.d/*") for p in root.glob(pattern)]
    wanted = {"/bin/busybox", "/etc/passwd", "/etc/group", *(f"/{p.relative_to(root)}" for p in libraries)}
    wanted |= {f"/usr/bin/{name}" for name in CONTAINER_PROGRAMS}
    for name in sorted(w for w in wanted if w.startswith("/usr/")):
        wanted |= set(re.findall(r"(/\S+) \(0x", run([*inside, "ldd", name])))
    stage = places.vm_dir() / "container"
    shutil.rmtree(stage, ignore_errors=True)
    # Absolute links must be followed inside the root: readlink is asked there.
    names = sorted(wanted)
    real = run([*inside, "realpath", *names]).splitlines()
    for name, source in zip(names, real, strict=True):
        target = stage / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / source.lstrip("/"), target)
    for name in ("proc", "sys", "dev", "tmp", "root"):
        (stage / name).mkdir()
    for applet in run([*inside, "/bin/busybox", "--list"]).split():
        if applet != "busybox":
            (stage / "bin" / applet).symlink_to("busybox")
    layer = places.vm_dir() / "layer.tar"
    run(["tar", "-C", str(stage), "--owner=0", "--group=0", "-cf", str(layer), "."])
    shutil.rmtree(stage)
    (root / "lab/rdma-tools.tar").write_bytes(archive(places.IMAGE_NAME, layer.read_bytes(), {"PATH": "/bin:/usr/bin"}))
    layer.unlink()
