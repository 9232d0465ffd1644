"""Boot, save, restore and end the machines on this host. Needs root; see docs/lab.md."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.cluster import run
from tests.lab.places import LabError
from tests.lab.vm import image, places
from tests.lab.vm.plan import HOST_INTERFACE, QEMU, SWITCH, Machine, VmPlan, network_commands, qemu_command

READY = "LAB_READY"
DOWN_SECONDS = 5.0


@dataclass(frozen=True)
class MachineStatus:
    """What ``status`` tells of a machine. ``memory_mib``: of this host, in use by it."""

    name: str
    address: str
    alive: bool
    ready: bool
    memory_mib: int


def state_file() -> Path:
    """Written before anything is made, removed when everything is gone."""
    return places.run_dir() / "machines.json"


def load_plan(path: Path) -> VmPlan | None:
    """The plan in a state file, None when there is none."""
    try:
        return VmPlan.from_json(path.read_text())
    except FileNotFoundError:
        return None


def require() -> None:
    """Raise ``LabError`` when this host cannot carry the machines now."""
    if os.geteuid() != 0:
        raise LabError("the soft-RoCE lab makes taps and a network namespace: it needs root")
    if not image.is_built():
        raise LabError("the machines' disk is not built, or from other sources; run `python -m tests.lab.vm build`")
    if state_file().exists():
        raise LabError("the machines are already up, or were not taken down; run `python -m tests.lab.vm down` first")


def up(plan: VmPlan, timeout: float = 240.0, tell: Callable[[str], None] = print) -> None:
    """Boot the machines and wait until sshd, rxe and dockerd of each are ready; take them down again when that fails.

    Args:
        plan: the machines.
        timeout: seconds until every machine must be ready.
        tell: receives one line per machine and stage.

    Raises:
        LabError: with the machine's console when it did not come up.
    """
    require()
    begin = time.monotonic()
    try:
        prepare(plan)
        for machine in plan.machines:
            launch(plan, machine, places.disk_file(), "raw")
        wait(plan, begin, timeout, tell)
    except BaseException:
        down(plan)
        raise


def restore(timeout: float = 240.0, tell: Callable[[str], None] = print) -> None:
    """Go on with the saved machines. Raises ``LabError`` when none are saved or one does not answer."""
    saved = places.saved_dir()
    plan = load_plan(saved / "machines.json")
    if plan is None:
        raise LabError("no machines are saved; run `python -m tests.lab.vm up` and then `save`")
    require()
    begin = time.monotonic()
    try:
        prepare(plan)
        for machine in plan.machines:
            launch(plan, machine, saved / f"{machine.name}.qcow2", "qcow2", saved / f"{machine.name}.memory")
        for machine in plan.machines:
            thaw(machine, begin + timeout)
            machine.file("console").write_text(f"{READY} restored\n")
            tell(f"{machine.name} ready at {machine.address} after {time.monotonic() - begin:.1f} s, restored")
    except BaseException:
        down(plan)
        raise


def prepare(plan: VmPlan) -> None:
    """State file first: from then on ``down`` finds whatever was made."""
    shutil.rmtree(places.run_dir(), ignore_errors=True)
    places.run_dir().mkdir(mode=0o700, parents=True)
    state_file().write_text(plan.to_json())
    places.known_hosts_file().write_text(image.known_hosts(plan.machines))
    commands, lines = network_commands(plan)
    for command in commands:
        run(command)
    run(["ip", "-n", SWITCH, "-batch", "-"], text="\n".join(lines) + "\n")


def launch(plan: VmPlan, machine: Machine, disk: Path, form: str, memory: Path | None = None) -> None:
    """Start a machine on an overlay of its own, detached from this process."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(disk), str(machine.file("qcow2"))])
    with machine.file("err").open("wb") as log:
        command = qemu_command(plan, machine, memory)
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def wait(plan: VmPlan, begin: float, timeout: float, tell: Callable[[str], None]) -> None:
    """Wait until every machine has said on its console that it is ready."""
    told: set[tuple[str, str]] = set()
    while True:
        seconds = time.monotonic() - begin
        for machine in plan.machines:
            for stage in re.findall(r"LAB_\w+", console(machine)):
                if (machine.name, stage) not in told:
                    told.add((machine.name, stage))
                    tell(f"{machine.name} {stage.removeprefix('LAB_').lower()} after {seconds:.1f} s")
        waiting = [machine for machine in plan.machines if (machine.name, READY) not in told]
        if not waiting:
            return
        for machine in waiting:
            if seconds > timeout or (seconds > 1 and not any(processes(machine))):
                words = machine.file("err").read_text(errors="replace") + console(machine)
                raise LabError(f"{machine.name} did not come up within {seconds:.0f} s:\n{words[-3000:]}")
        time.sleep(0.2)


def console(machine: Machine) -> str:
    """What the machine printed so far."""
    try:
        return machine.file("console").read_text(errors="replace")
    except FileNotFoundError:
        return ""


def processes(machine: Machine) -> Iterator[int]:
    """Pids of this machine's QEMU: found by its own control socket in the command line, so that also one is found whose starter
    was killed before it could note the pid."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name in (QEMU, "nsenter") and machine.control in words:
            yield int(entry.name)


def status(plan: VmPlan) -> list[MachineStatus]:
    """The state of every machine."""
    found = []
    for machine in plan.machines:
        pid = next(processes(machine), None)
        ready = pid is not None and READY in console(machine)
        found.append(MachineStatus(machine.name, machine.address, pid is not None, ready, _resident_mib(pid)))
    return found


def _resident_mib(pid: int | None) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) >> 10 if found else 0
    return 0


def down(plan: VmPlan) -> None:
    """End every machine and remove everything ``up`` made; the state file goes last."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for machine in plan.machines:
            for pid in processes(machine):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        end = time.monotonic() + DOWN_SECONDS
        while time.monotonic() < end and any(any(processes(machine)) for machine in plan.machines):
            time.sleep(0.05)
    if Path(f"/var/run/netns/{SWITCH}").exists():
        run(["ip", "netns", "del", SWITCH])
    if Path(f"/sys/class/net/{HOST_INTERFACE}").exists():
        # It goes with its peer, sooner or later: either way it is gone.
        subprocess.run(["ip", "link", "del", HOST_INTERFACE], capture_output=True)
    places.known_hosts_file().unlink(missing_ok=True)
    for path in places.run_dir().iterdir():
        if path != state_file():
            path.unlink()
    state_file().unlink(missing_ok=True)
    places.run_dir().rmdir()


def save(plan: VmPlan) -> None:
    """Freeze every machine, memory and disk, and end it. Raises ``LabError`` when one is not ready or cannot be saved."""
    if not all(machine.ready for machine in status(plan)):
        raise LabError("not every machine is ready; see `python -m tests.lab.vm status`")
    saved = places.saved_dir()
    shutil.rmtree(saved, ignore_errors=True)
    saved.mkdir(mode=0o700)
    for machine in plan.machines:
        on(machine, "sync; echo 3 >/proc/sys/vm/drop_caches")
        with Monitor(machine) as monitor:
            monitor.ask("stop")
            monitor.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
            monitor.ask("migrate", uri=f"exec:cat >{saved / machine.name}.memory")
            while (state := monitor.ask("query-migrate").get("status")) in ("setup", "active", "device", None):
                time.sleep(0.1)
        if state != "completed":
            raise LabError(f"{machine.name}: saving its memory ended with {state!r}")
    for machine in plan.machines:
        # A hard link outlives the run folder; QEMU stopped writing with `stop`.
        os.link(machine.file("qcow2"), saved / f"{machine.name}.qcow2")
    down(plan)
    (saved / "machines.json").write_text(plan.to_json())


def thaw(machine: Machine, end: float) -> None:
    """Set a restored machine going and its clock right; return when its sshd and dockerd answer."""
    while True:
        if not any(processes(machine)):
            raise LabError(f"{machine.name} is gone: {machine.file('err').read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), Monitor(machine) as monitor:
            if monitor.ask("query-status").get("status") != "inmigrate":
                monitor.ask("cont")
                break
        if time.monotonic() > end:
            raise LabError(f"{machine.name}: its saved memory was not read in time")
        time.sleep(0.1)
    while True:
        try:
            on(machine, f"date -s @{time.time():.2f} >/dev/null; docker version >/dev/null")
        except LabError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def link(machine: Machine, interface: str, on: bool) -> None:
    """Plug or pull the cable of a card: its driver sees the carrier come or go. Raises ``LabError`` for an unknown card."""
    for nic in machine.nics:
        if nic.name == interface:
            with Monitor(machine) as monitor:
                monitor.ask("set_link", name=f"card{nic.index}", up=on)
            return
    raise LabError(f"{interface}: {machine.name} has {', '.join(nic.name for nic in machine.nics)}")


def ssh_command(machine: Machine) -> list[str]:
    """The ssh(1) command line that reaches a machine, host key checked."""
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15"]
    options.append(f"UserKnownHostsFile={places.known_hosts_file()}")
    words = [w for option in options for w in ("-o", option)]
    return ["ssh", "-F", "none", "-i", str(places.key_file()), *words, f"root@{machine.address}"]


def on(machine: Machine, command: str) -> str:
    """Run a shell command on a machine; raises ``LabError`` with what it said when it fails."""
    return run([*ssh_command(machine), command])


class Monitor:
    """QEMU's control socket (QMP). ``OSError`` while QEMU has not made it yet."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Monitor:
        try:
            self.socket.connect(str(self.machine.file("qmp")))
        except OSError:
            self.socket.close()
            raise
        self.stream = self.socket.makefile("rw", encoding="utf-8")
        self.stream.readline()
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()
        self.socket.close()

    def ask(self, command: str, **arguments: object) -> Mapping[str, Any]:
        """Run one command. Raises ``LabError`` with QEMU's words when it refuses."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}))
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise LabError(f"{self.machine.name}: {command}: {answer['error']['desc']}")
            if "return" in answer:
                found: Mapping[str, Any] = answer["return"]
                return found
        raise LabError(f"{self.machine.name}: QEMU closed its control socket at {command}")
