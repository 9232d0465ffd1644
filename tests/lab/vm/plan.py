"""What the machines are made of: pure, derived from a few settings, so that they can be taken down from a state file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.places import LabError
from tests.lab.vm import places

MAX_NODES = 4
MAX_RAILS = 4
QEMU = "qemu-system-x86_64"
SWITCH = "h20-vm-sw"
HOST_INTERFACE = "h20vm"
CONTROL_MTU = 1500


@dataclass(frozen=True)
class Nic:
    """A network card of a machine; every one but the first has an rxe device on it: mlx5_0 on eth1, mlx5_1 on eth2 ..."""

    index: int
    node: int
    net: str

    @property
    def name(self) -> str:
        """Net device in the machine."""
        return f"eth{self.index}"

    @property
    def hca(self) -> str:
        """RDMA device in the machine."""
        return f"mlx5_{self.index - 1}"

    @property
    def address(self) -> str:
        """IPv4 address; every rail is a subnet of its own."""
        return f"{self.net}.{self.index}.{self.node}"

    @property
    def mac(self) -> str:
        """Fixed, so that the GIDs are the same in every run."""
        return f"52:54:00:99:{self.index:02x}:{self.node:02x}"

    @property
    def tap(self) -> str:
        """Its end of the cable, in the switch."""
        return f"n{self.node}e{self.index}"


@dataclass(frozen=True)
class Machine:
    """One machine."""

    index: int
    net: str
    rails: int

    @property
    def name(self) -> str:
        """Host name: node01, node02, ..."""
        return f"node{self.index:02d}"

    @property
    def nics(self) -> tuple[Nic, ...]:
        """Control interface first, then the rails."""
        return tuple(Nic(i, self.index, self.net) for i in range(self.rails + 1))

    @property
    def address(self) -> str:
        """Address of the control interface."""
        return self.nics[0].address

    def file(self, suffix: str) -> Path:
        """A file of this machine in the run folder: ``qcow2``, ``console``, ``qmp``, ``err``."""
        return places.run_dir() / f"{self.name}.{suffix}"

    @property
    def control(self) -> str:
        """QEMU's control socket, as its command line names it; by this word the machine's process is found."""
        return f"unix:{self.file('qmp')},server=on,wait=off"


@dataclass(frozen=True)
class VmPlan:
    """The settings. Everything else follows from them. ``memory`` MiB, ``mtu`` bytes (of the rails)."""

    size: int = 2
    rails: int = 2
    memory: int = 1024
    mtu: int = 9000
    net: str = "10.97"
    accelerator: str = "tcg"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_NODES:
            raise LabError(f"-n {self.size}: this lab makes 1 to {MAX_NODES} machines")
        if not 1 <= self.rails <= MAX_RAILS:
            raise LabError(f"--rails={self.rails}: give 1 to {MAX_RAILS}")
        if not 512 <= self.memory <= 16384:
            raise LabError(f"--memory={self.memory}: give 512 to 16384 MiB")
        if not 1280 <= self.mtu <= 9000:
            raise LabError(f"--mtu={self.mtu}: give 1280 to 9000 bytes")
        if not re.fullmatch(r"10\.(25[0-5]|2[0-4]\d|1?\d?\d)", self.net):
            raise LabError(f"--net={self.net}: give the first two numbers of a private net 10.x, for example 10.96")

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines in order."""
        return tuple(Machine(i, self.net, self.rails) for i in range(1, self.size + 1))

    @property
    def host_address(self) -> str:
        """This machine's own address on the control net."""
        return f"{self.net}.0.254"

    def machine(self, name: str) -> Machine:
        """The machine of this name; raises ``LabError`` naming those there are."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise LabError(f"{name}: no such machine; there are {', '.join(m.name for m in self.machines)}")

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> VmPlan:
        """Read what ``to_json`` wrote; raises ``LabError`` when it is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise LabError(f"the state file of the machines is damaged ({error}); remove {places.run_dir()} by hand") from None


def choose_accelerator(cpuinfo: str, kvm_writable: bool) -> str:
    """``kvm`` only where the processor shows its own virtualisation.

    A KVM that stands in for one (kvm_pvm in some sandboxes) runs an unmodified kernel in its instruction emulator: slower than
    QEMU's own translation, and it stops at the first instruction that it does not know.
    """
    return "kvm" if kvm_writable and re.search(r"\b(vmx|svm)\b", cpuinfo) else "tcg"


def network_commands(plan: VmPlan) -> tuple[list[Sequence[str]], list[str]]:
    """How the network is made.

    Returns:
        Commands to run in order, and the lines for ``ip -n SWITCH -batch -`` to run after them.

    A bridge per net and a tap per card, in a namespace of their own in which the machines' QEMU runs: no packet leaves this
    machine, and its packet filter has no say.
    """
    commands: list[Sequence[str]] = [
        ["ip", "netns", "add", SWITCH],
        ["ip", "link", "add", HOST_INTERFACE, "type", "veth", "peer", "name", "host", "netns", SWITCH],
        ["ip", "addr", "add", f"{plan.host_address}/24", "dev", HOST_INTERFACE],
        ["ip", "link", "set", HOST_INTERFACE, "up"],
    ]
    lines = []
    for i in range(plan.rails + 1):
        mtu = plan.mtu if i else CONTROL_MTU
        lines += [f"link add br{i} mtu {mtu} type bridge", f"link set br{i} up"]
        for machine in plan.machines:
            tap = machine.nics[i].tap
            lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} mtu {mtu} master br{i} up"]
    return commands, [*lines, "link set host master br0 up"]


def kernel_line(plan: VmPlan, machine: Machine) -> str:
    """The kernel's command line; ``guest/rc`` reads the words that begin with ``lab.``."""
    words = "console=ttyS0 quiet panic=-1 mitigations=off audit=0 cryptomgr.notests nokaslr random.trust_cpu=on net.ifnames=0"
    # On a busy host the clock's watchdog would call the TSC unstable, and perftest, which counts in its cycles, then says 0.
    words += " tsc=reliable"
    return f"{words} lab.node={machine.index} lab.net={plan.net} lab.rails={plan.rails} lab.mtu={plan.mtu}"


def qemu_command(plan: VmPlan, machine: Machine, incoming: Path | None = None) -> list[str]:
    """The command that is the machine. ``incoming``: saved memory to go on from, instead of booting."""
    kvm = plan.accelerator == "kvm"
    command = ["nsenter", f"--net=/var/run/netns/{SWITCH}", QEMU, "-name", machine.name, "-nodefaults", "-no-reboot"]
    command += ["-display", "none", "-machine", "q35,usb=off", "-smp", "1", "-m", str(plan.memory)]
    # la57 off: five-level page tables cost the translator a lookup per miss. One core: two on a small host are slower.
    command += ["-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=256", "-cpu", "host" if kvm else "max,la57=off"]
    command += ["-kernel", str(places.kernel_file()), "-initrd", str(places.initramfs_file())]
    command += ["-append", kernel_line(plan, machine), "-serial", f"file:{machine.file('console')}", "-qmp", machine.control]
    command += ["-drive", f"if=virtio,format=qcow2,file={machine.file('qcow2')},cache=unsafe", "-device", "virtio-rng-pci"]
    for nic in machine.nics:
        mtu = plan.mtu if nic.index else CONTROL_MTU
        command += ["-netdev", f"tap,id={nic.name},ifname={nic.tap},script=no,downscript=no"]
        command += ["-device", f"virtio-net-pci,id=card{nic.index},netdev={nic.name},mac={nic.mac},romfile=,host_mtu={mtu}"]
    return [*command, "-incoming", f"exec:cat {incoming}"] if incoming else command
