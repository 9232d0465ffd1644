"""Process 1 of a node: builds the node's file system, moves into it, starts sshd and dockerd, then reaps.

Started by ``tests.lab.cluster`` in fresh pid, mount, UTS and IPC namespaces inside the node's network namespace:
``python -m tests.lab.node CLUSTER_JSON NODE_NAME``. Everything the node writes goes to a tmpfs (Docker's data to the
machine's disk), so a test may write to /etc or /root of a node, and two nodes never share a file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pytest_h20.probes.rights import rights, sudoers
from tests.lab import oci_runtime, sysfs
from tests.lab.gpu import machine
from tests.lab.gpu import root as gpu_root
from tests.lab.mounts import install, mount, run
from tests.lab.places import NODE_IMAGES, NODE_MODELS, NODE_TREES, debian_dir, images_dir, models_dir, trees_dir
from tests.lab.plan import UID, USER, ClusterPlan, NodePlan

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY = "LAB_NODE_READY"
HERE = Path(__file__).resolve().parent
DOCKER_SECONDS = 60.0


def build_root(node: NodePlan, tmpfs: str) -> Path:
    """An overlay on the machine's own root, with own proc, sysfs, dev, run, tmp and root's home."""
    mount("--make-rprivate", "/")
    own = node.folder / "own"
    own.mkdir()
    mount("-t", "tmpfs", "-o", f"mode=755,size={tmpfs}", node.name, own)
    for name in ("up", "work", "root", "class", "module", "dev", "devwork"):
        (own / name).mkdir()
    root = own / "root"
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={own}/up,workdir={own}/work", "overlay", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "sysfs", root / "sys")  # of this network namespace: /sys/class/net is the node's
    mount("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup")  # the new sysfs has none, and dockerd needs it
    mount("-t", "overlay", "-o", f"lowerdir=/dev,upperdir={own}/dev,workdir={own}/devwork", "overlay", root / "dev")
    mount("--rbind", "/dev/pts", root / "dev/pts")
    for name, mode in (
        ("run", "755"),
        ("tmp", "1777"),
        ("var/tmp", "1777"),
        ("root", "700"),
        ("dev/shm", f"1777,size={tmpfs}"),  # one that can be filled
    ):
        (root / name).mkdir(exist_ok=True)
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", root / name)
    docker = node.folder / "docker"
    docker.mkdir()
    (root / "var/lib/docker").mkdir(parents=True, exist_ok=True)
    mount("--bind", docker, root / "var/lib/docker")
    for source, target in ((trees_dir(), NODE_TREES), (images_dir(), NODE_IMAGES)):
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            mount("--bind", source, place)
            mount("-o", "remount,bind,ro", place)
    return root


def stand_in_drivers(node: NodePlan, root: Path) -> None:
    """RDMA and GPU as far as files go: sysfs trees, inert device nodes, loaded modules, the vendors' tools."""
    own = node.folder / "own"
    sysfs.write_infiniband(own / "class", node.interfaces)
    sysfs.write_modules(own / "module")
    for name in ("class", "module"):
        mount("-t", "overlay", "-o", f"lowerdir={own / name}:{root}/sys/{name}", "overlay", root / "sys" / name)
    if (root / "proc/driver").is_dir():
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "proc/driver")
        sysfs.write_proc_driver(root / "proc/driver")
    if (root / "proc/modules").exists():  # a kernel without loadable modules has none, and nothing can be put there
        (own / "modules").write_text(sysfs.proc_modules((root / "proc/modules").read_text()))
        mount("--bind", own / "modules", root / "proc/modules")
    # The numbers of the real devices; no driver is behind them, opening one is ENXIO.
    devices = root / "dev/infiniband"
    devices.mkdir(exist_ok=True)
    numbers = {"rdma_cm": (10, 250), **{f"uverbs{nic.index}": (231, 192 + nic.index) for nic in node.interfaces}}
    for name, number in numbers.items():
        (devices / name).unlink(missing_ok=True)
        os.mknod(devices / name, stat.S_IFCHR | 0o666, os.makedev(*number))
        (devices / name).chmod(0o666)
    tools = root / "usr/local/bin"
    tools.mkdir(parents=True, exist_ok=True)
    for tool in sorted((HERE / "standins").iterdir()):
        install(tool, tools / tool.name)
    settings = root / "etc/h20-lab"
    settings.mkdir(exist_ok=True)
    (settings / "gpu.env").write_text(f"GPU_NODE={node.index}\nGPU_NICS={len(node.interfaces)}\n")


def write_files(plan: ClusterPlan, node: NodePlan, root: Path) -> None:
    """The node's own files: names, key, sshd's configuration, the model."""
    (root / "etc/hostname").write_text(node.name + "\n")
    hosts = [f"{other.address} {other.name}\n" for other in plan.nodes]
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
    for name in ("etc/resolv.conf", "etc/motd"):  # links to the machine's own, on some
        (root / name).unlink(missing_ok=True)
        (root / name).write_text("")
    shadow = root / "etc/shadow"
    shadow.write_text(re.sub(r"(?m)^root:[^:]*:", "root:*:", shadow.read_text()))  # "!" would lock key log-ins too
    lab = root / "run/lab"
    for folder in (lab, root / "run/sshd", root / "root/.ssh"):
        folder.mkdir(parents=True)
    (root / "root/.ssh").chmod(0o700)
    shutil.copyfile(f"{plan.key}.pub", root / "root/.ssh/authorized_keys")
    shutil.copyfile(node.folder / "hostkey", lab / "hostkey")
    (lab / "hostkey").chmod(0o600)
    (lab / "sshd_config").write_text(sshd_config(node.address))
    install(Path(oci_runtime.__file__), lab / "oci-runtime")
    for model in models_dir().iterdir() if models_dir().is_dir() else ():
        if model.is_dir() and not model.name.endswith(".building"):
            shutil.copytree(model, root / NODE_MODELS.lstrip("/") / model.name)


def write_login(plan: ClusterPlan, node: NodePlan, root: Path) -> None:
    """A user that is not root, with root's leave for the commands that the suite lists, or in the group of the daemon's socket."""
    home = root / "tmp" / USER  # this node's own tmpfs
    (home / ".ssh").mkdir(parents=True)
    shutil.copyfile(f"{plan.key}.pub", home / ".ssh/authorized_keys")
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, UID, UID)
    in_group = USER if plan.login == "docker" else ""
    lines = {
        "passwd": f"{USER}:x:{UID}:{UID}::/tmp/{USER}:/bin/sh\n",
        "group": f"{USER}:x:{UID}:\n{USER}-docker:x:{UID + 1}:{in_group}\n",
        "shadow": f"{USER}:*:1::::::\n",
    }
    for name, text in lines.items():
        path = root / "etc" / name
        path.write_text(path.read_text() + text)
    if plan.login == "sudo":
        allowed = root / "etc/sudoers.d/pytest-h20"
        allowed.write_text(sudoers([USER], rights((nic.name for nic in node.interfaces), (), "/var/run/docker.sock")))
        allowed.chmod(0o440)


def sshd_config(address: str) -> str:
    """Root by key only, with the forwarding that the Docker API over SSH needs."""
    return (
        f"Port 22\nListenAddress {address}\nHostKey /run/lab/hostkey\nPidFile none\nUsePAM no\nUseDNS no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "AuthorizedKeysFile .ssh/authorized_keys\nAllowStreamLocalForwarding yes\nAllowTcpForwarding yes\n"
        f"Subsystem sftp internal-sftp\nMaxSessions 100\nMaxStartups 100\nPrintMotd no\nSetEnv PATH={PATH}\n"
    )


def enter(root: Path, name: str) -> None:
    """Make ``root`` this process's root and let go of the machine's."""
    run("pivot_root", root, root / "mnt")
    os.chdir("/")
    run("umount", "-l", "/mnt")
    run("hostname", name)


def start(command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
    """Start a daemon that lives as long as the node."""
    with open(f"/run/lab/{log}", "ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def start_docker(node: NodePlan, options: Sequence[str] = (), **settings: str) -> None:
    """dockerd without bridge and packet filter, with the lab's runtime and its settings; returns when it answers and has the images."""
    command = [
        "dockerd",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--add-runtime=lab=/run/lab/oci-runtime",
        "--default-runtime=lab",
        f"--cgroup-parent=/{node.netns}",
        *options,
    ]
    words = [f"{name}={value}" for name, value in {"LAB_OCI_LOG": "/run/lab/oci.log", **settings}.items()]
    script = Path("/run/lab/dockerd")  # the stand-in systemctl starts it again with the same
    script.write_text(f"#!/bin/sh\nexec env {shlex.join([*words, *command])}\n")
    script.chmod(0o755)
    daemon = start([str(script)], "dockerd.log")
    end = time.monotonic() + DOCKER_SECONDS
    while subprocess.run(["docker", "version"], capture_output=True).returncode:
        if daemon.poll() is not None or time.monotonic() > end:
            sys.exit("dockerd did not start:\n" + Path("/run/lab/dockerd.log").read_text()[-3000:])
        time.sleep(0.1)
    for image in sorted(p for p in Path(NODE_IMAGES).glob("*.tar") if p.stem.endswith("-gpu") == bool(node.gpus)):
        run("docker", "load", "--quiet", "--input", image)


def reap() -> NoReturn:
    """Wait for whatever falls to process 1; end on SIGTERM, and the namespace with it."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def main(argv: Sequence[str]) -> NoReturn:
    """Be the node."""
    plan = ClusterPlan.from_json(Path(argv[0]).read_text())
    node = plan.node(argv[1])
    if node.gpus:
        lender = machine.container_runtime(debian_dir().is_dir(), PATH)
        settings, options = {"LAB_OCI_GPUS": str(lender)}, machine.daemon_options(lender, PATH)
        root = gpu_root.build_root(node, plan.tmpfs)
    else:
        settings, options = {"LAB_OCI_BIND": "/sys/class:/sys/module"}, []
        root = build_root(node, plan.tmpfs)
        stand_in_drivers(node, root)
    write_files(plan, node, root)
    if plan.login != "root":
        write_login(plan, node, root)
    enter(root, node.name)
    if node.gpus:
        run("ldconfig")
        os.environ["PATH"] = PATH
    start(["/usr/sbin/sshd", "-D", "-e", "-f", "/run/lab/sshd_config"], "sshd.log")
    if plan.docker:
        start_docker(node, options, **settings)
        if plan.login != "root":
            os.chown("/var/run/docker.sock", 0, UID + 1)
    print(READY, flush=True)
    reap()


if __name__ == "__main__":
    main(sys.argv[1:])
