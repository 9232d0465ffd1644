"""Where the soft-RoCE lab keeps its things on this machine."""

from __future__ import annotations

from pathlib import Path

from tests.lab.places import lab_dir

IMAGE_NAME = "h20-lab/rdma-tools:1"
"""The container image that every machine loads: a shell, the verbs library, perftest."""


def vm_dir() -> Path:
    """Everything of this lab: about 1.2 GB, and 0.4 GB per saved machine."""
    return lab_dir() / "vm"


def root_dir() -> Path:
    """The machines' root file system as a folder, from which the disk is made."""
    return vm_dir() / "root"


def kernel_dir() -> Path:
    """Debian's kernel package, unpacked."""
    return vm_dir() / "kernel"


def kernel_file() -> Path:
    """The uncompressed kernel that QEMU boots."""
    return vm_dir() / "vmlinux"


def initramfs_file() -> Path:
    """What finds and mounts the disk."""
    return vm_dir() / "initramfs.cpio"


def disk_file() -> Path:
    """The disk that every machine's own overlay stands on."""
    return vm_dir() / "base.ext4"


def stamp_file() -> Path:
    """What the disk was made from."""
    return vm_dir() / "made-from"


def key_file() -> Path:
    """Private key that opens every machine."""
    return vm_dir() / "id_ed25519"


def host_key_dir() -> Path:
    """The machines' host keys, made once: they are part of the disk."""
    return vm_dir() / "host-keys"


def known_hosts_file() -> Path:
    """Public host keys of the machines that are up."""
    return vm_dir() / "known_hosts"


def run_dir() -> Path:
    """State, overlays, consoles and control sockets; exists while the machines are up."""
    return vm_dir() / "run"


def saved_dir() -> Path:
    """Memory and disks of saved machines."""
    return vm_dir() / "saved"
