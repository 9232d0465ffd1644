"""A drill is proved or it did nothing, it is written down before it breaks anything, and whoever comes next takes it back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_h20.cluster import drill_steps, drills
from pytest_h20.cluster.drills import DRILLS, DidNothing, Planted
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner, entries, started
from pytest_h20.cluster.preflight import refuse_leftovers
from pytest_h20.cluster.teardown import leftovers, reap
from pytest_h20.core.errors import BringUpError, TransportError, UsageError
from pytest_h20.nodes import CommandResult, ContainerInfo, Node
from pytest_h20.nodes.local import LocalNode

ID = "0123abcd"
STAT = "77 (py (x) thon) {state} 5 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 999 1"


def stat(state: str = "S", start: int = 4242) -> str:
    return STAT.format(state=state, start=start)


KILL = Planted(ID, "kill-scheduler", pid=77, start=4242)
FREEZE = Planted(ID, "stop-worker", pid=77, start=4242)
LINK = Planted(ID, "rail-down", interface="rail0", routes=("route -4 10.9.0.0/16 via 10.1.0.1",))
LOSS = Planted(ID, "rail-loss-1", interface="rail0")
DELAY = Planted(ID, "control-delay-20ms", interface="eth0")
FULL = Planted(ID, "fill-shm")
DOCKER = Planted(ID, "restart-dockerd")
SSH = Planted(ID, "break-ssh")

UP, DOWN = "flags 0x1003\noper up\n", "flags 0x1002\noper down\n"
ROUTE = LINK.routes[0] + "\n"
PLAIN = "qdisc noqueue 0: root refcnt 2\n Sent 0 bytes 0 pkt (dropped 0, overlimits 0 requeues 0)\n"
NETEM = "qdisc netem 4820: root refcnt 2 limit 1000 loss 1%\n Sent {b} bytes {p} pkt (dropped {d}, overlimits 0 requeues 0)\n"
MEMORY = "MemTotal: 2000000 kB\nMemAvailable: 1900000 kB\n"
EMPTY_SHM = f"shm 1000000 10 999990 1% /dev/shm\n{MEMORY}"
FULL_SHM = f"shm 1000000 1000000 0 100% /dev/shm\nfile\n{MEMORY}"


def netem(packets: int, dropped: int = 0) -> str:
    return NETEM.format(b=packets * 100, p=packets, d=dropped)


def rules(packets: int, dropped: int, identity: str = ID) -> str:
    """As `tc` and iptables 1.8.9 print them on a kernel without netem."""
    return (
        f"{PLAIN}-A INPUT -i rail0 -m comment --comment h20-drill-{identity}-seen -c {packets} {packets * 100}\n"
        f"-A INPUT -i rail0 -m statistic --mode random --probability 0.01000000000 -m comment --comment h20-drill-{identity}"
        f" -c {dropped} {dropped * 100} -j DROP\n"
    )


HAPPENED = (
    (KILL, stat(), "gone\n", True),
    (KILL, stat(), stat("Z"), True),
    (KILL, stat(), stat(start=9999), True),  # the pid is somebody else's by now
    (KILL, stat(), stat(), False),
    (FREEZE, stat(), stat("T"), True),
    (FREEZE, stat(), stat("S"), False),
    (FREEZE, stat(), "gone\n", False),
    (LINK, UP, DOWN, True),
    (LINK, UP, UP, False),
    (LINK, UP, "", False),
    (LOSS, PLAIN, netem(0), True),
    (LOSS, PLAIN, PLAIN, False),
    (LOSS, PLAIN, netem(0).replace("4820", "8001"), False),  # somebody else's
    (LOSS, PLAIN, rules(0, 0), True),
    (LOSS, PLAIN, rules(0, 0, "89abcdef"), False),  # another drill's
    (FULL, EMPTY_SHM, FULL_SHM, True),
    (FULL, EMPTY_SHM, EMPTY_SHM, False),
    (DOCKER, f"pid 77\nactive\n{stat()}", f"pid 78\nactive\n{stat(start=5000)}", True),
    (DOCKER, f"pid 77\nactive\n{stat()}", f"pid 77\nactive\n{stat()}", False),
    (DOCKER, f"pid 77\nactive\n{stat()}", "pid 0\ninactive\n", False),
    (SSH, "connection 10.0.0.1 4001 10.0.0.2 22\n", "connection 10.0.0.1 4007 10.0.0.2 22\n", True),
    (SSH, "connection 10.0.0.1 4001 10.0.0.2 22\n", "connection 10.0.0.1 4001 10.0.0.2 22\n", False),
)


@pytest.mark.parametrize(("planted", "before", "now", "yes"), HAPPENED)
def test_a_fault_that_happened_and_one_that_did_not(planted: Planted, before: str, now: str, yes: bool) -> None:
    assert drills.happened(planted, before, now).yes is yes


EFFECT = (
    (LOSS, netem(5000, 51), True),
    (LOSS, netem(5000, 0), False),
    (LOSS, netem(0), False),
    (LOSS, rules(5000, 51), True),
    (LOSS, rules(5000, 0), False),
    (LOSS, rules(0, 0), False),
    (DELAY, netem(5000), True),
    (DELAY, netem(0), False),
    (DELAY, PLAIN, False),
    (LINK, DOWN, True),
)


@pytest.mark.parametrize(("planted", "last", "yes"), EFFECT)
def test_a_network_fault_that_nothing_met_proves_nothing(planted: Planted, last: str, yes: bool) -> None:
    assert drills.had_effect(planted, last).yes is yes


BACK = (
    (FREEZE, stat(), stat("R"), True),
    (FREEZE, stat(), "gone\n", True),
    (FREEZE, stat(), stat("T"), False),
    (LINK, UP, UP + ROUTE, True),
    (LINK, UP, UP, False),  # its route is missing
    (LINK, UP, DOWN + ROUTE, False),
    (LINK, "", UP + ROUTE, True),
    (LOSS, PLAIN, PLAIN, True),
    (LOSS, PLAIN, netem(9), False),
    (LOSS, PLAIN, rules(9, 1), False),
    (LOSS, PLAIN, rules(9, 1, "89abcdef"), True),
    (FULL, EMPTY_SHM, EMPTY_SHM, True),
    (FULL, EMPTY_SHM, FULL_SHM, False),
    (DOCKER, "", "pid 78\nactive\n", True),
    (DOCKER, "", "pid 0\ninactive\n", False),
)


@pytest.mark.parametrize(("planted", "before", "now", "yes"), BACK)
def test_what_was_taken_back_and_what_was_not(planted: Planted, before: str, now: str, yes: bool) -> None:
    assert drills.taken_back(planted, before, now).yes is yes


REFUSED = (
    (KILL, "gone\n", "gone already"),
    (LINK, DOWN, "down already"),
    (LOSS, "qdisc tbf 8001: root refcnt 2 rate 1Gbit\n", "somebody's"),
    (LOSS, PLAIN, ""),
    (LOSS, "qdisc mq 0: root\nqdisc fq_codel 0: parent :1\n", ""),
    (FULL, EMPTY_SHM.replace("1900000", "1100000"), "could not go on"),
    (FULL, EMPTY_SHM, ""),
)


@pytest.mark.parametrize(("planted", "before", "why"), REFUSED)
def test_what_must_not_be_broken(planted: Planted, before: str, why: str) -> None:
    assert (why in drills.refuse(planted, before)) is True
    assert bool(drills.refuse(planted, before)) is bool(why)


def table(*rows: tuple[int, int, int, str]) -> str:
    return "".join(f"{pid} (x y) S {parent} {' 0' * 17} {start} 0 | {command}\n" for pid, parent, start, command in rows)


SGLANG = table(
    (1, 0, 1, "/bin/sh -c shift /h20/rank0.log python3 -m sglang.launch_server --tp 16"),
    (7, 1, 10, "python3 -m sglang.launch_server --tp 16"),
    (20, 7, 20, "sglang::scheduler_TP0"),
    (21, 7, 21, "sglang::scheduler_TP1"),
    (30, 7, 30, "sglang::detokenizer"),
)
VLLM = table((7, 1, 10, "/usr/bin/python3 /usr/local/bin/vllm serve /m"), (8, 7, 12, "VLLM::EngineCore"), (9, 8, 14, "VLLM::Worker_TP1"))


@pytest.mark.parametrize(
    ("text", "drill", "pid"),
    [
        (SGLANG, "kill-worker-rank", 21),
        (SGLANG, "kill-scheduler", 20),
        (SGLANG, "kill-api", 7),
        (VLLM, "kill-worker-rank", 9),
        (VLLM, "kill-scheduler", 8),
        (VLLM, "kill-api", 7),
    ],
)
def test_the_victim_is_known_by_its_title(text: str, drill: str, pid: int) -> None:
    assert drills.choose(drills.processes_of(text), DRILLS[drill].victim).pid == pid


def test_without_a_victim_the_drill_did_nothing_and_says_what_runs() -> None:
    with pytest.raises(DidNothing, match="its processes: nginx"):
        drills.choose(drills.processes_of(table((30, 1, 1, "nginx"))), "worker")


@pytest.mark.parametrize(
    "said",
    [
        {"drill": "rm-rf"},
        {"interface": "eth0; reboot"},
        {"container": "../x"},
        {"pid": 1},
        {"pid": -1},
        {"pid": "7 8"},
        {"routes": ["-4 default; reboot"]},
        {"id": "x/../../etc"},
        {"more": 1},
    ],
)
def test_a_record_names_no_command(said: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Planted.read({"id": ID, "drill": "rail-down", **said})


def test_a_name_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="did you mean kill-api"):
        drills.drill_named("kill-appi")


# ------------------------------------------------------------------------------------------------------------ a scripted node
class Scripted:
    """A node that answers scripts of drills from a list of looks, and does what it is told to do with them."""

    name = "n1"

    def __init__(self, looks: Sequence[str], fails: str = "") -> None:
        self.looks, self.fails = list(looks), fails
        self.asked: list[str] = []
        self.noted: list[dict[str, Any]] = []

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        word = command.split()[2]
        self.asked.append(word)
        out = ""
        if word == "look":
            out = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if word == "break" and self.fails == "cut":
            raise TransportError("n1: the connection broke")
        return CommandResult("n1", command, 1 if word == self.fails else 0, out, "not permitted" if word == self.fails else "", 0.0)

    def note(self, **said: Any) -> None:
        self.noted.append(said)
        self.asked.append("note")


def make(node: Scripted, planted: Planted) -> drill_steps.Broken:
    return drill_steps.break_it(cast("Node", node), cast("Ledger", node), planted, lambda _: None)


def test_it_is_written_down_before_it_is_broken_and_struck_out_after() -> None:
    node = Scripted([UP + ROUTE, DOWN, UP + ROUTE])
    broken = make(node, Planted(ID, "rail-down", interface="rail0"))
    assert node.asked == ["look", "note", "break", "look"]
    assert node.noted[0]["drill"] == LINK.plain(), "with the routes that go with the link"
    assert drill_steps.end(cast("Node", node), cast("Ledger", node), broken, lambda _: None) == ""
    assert node.noted[-1] == {"taken_back": ID}


def test_a_drill_that_does_nothing_says_so_and_leaves_nothing() -> None:
    node = Scripted([UP], fails="break")
    with pytest.raises(DidNothing, match=r"nothing shows that it happened.*not permitted"):
        make(node, Planted(ID, "rail-down", interface="rail0"))
    assert node.asked[-3:] == ["undo", "look", "note"]


def test_a_drill_that_cannot_be_taken_back_stays_in_the_record_with_what_to_type() -> None:
    node = Scripted([PLAIN, netem(0)])
    broken = make(node, LOSS)
    why = drill_steps.end(cast("Node", node), cast("Ledger", node), broken, lambda _: None)
    assert "netem is still there" in why
    assert "tc qdisc del dev rail0 root handle 4820:" in why
    assert not [said for said in node.noted if "taken_back" in said]


def test_a_connection_that_breaks_in_the_middle_is_only_the_drill_of_ssh() -> None:
    looks = [line.strip() + "\n" for line in ("connection a 1 b 22", "connection a 2 b 22")]
    assert "connection a 2 b 22" in make(Scripted(looks, fails="cut"), SSH).proof
    with pytest.raises(DidNothing, match="it could not be made"):
        make(Scripted([UP], fails="cut"), Planted(ID, "rail-down", interface="rail0"))


# ----------------------------------------------------------------------------------------------------- a run that was killed
class NoContainers:
    def find(self, wanted: Mapping[str, str]) -> list[ContainerInfo]:
        return []

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def node_here() -> LocalNode:
    node = LocalNode("n1")
    node._containers = cast("Any", NoContainers())
    return node


def test_what_a_killed_run_stopped_is_named_by_the_next_one_and_goes_on_after_reap(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """Real processes of this machine: SIGSTOP, the run is gone, the next one refuses, reap takes it back, a bystander is never touched."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        base, dead = f"{tmp_path}/base", Owner("ann", Owner.me("ann").machine, 1, 1)
        inner = node_here()
        ledger = Ledger(inner, base, "r1", dead, process=dead)
        node = cast("Node", LedgerNode(inner, ledger, nullcontext))
        planted = Planted(ID, "stop-worker", pid=sleeper.pid, start=started(sleeper.pid) or 0)
        broken = drill_steps.break_it(node, ledger, planted)
        ledger.close()
        assert (state_of(sleeper.pid), state_of(bystander.pid)) == ("T", "S")
        assert broken.proof == f"process {sleeper.pid}: state T"
        with pytest.raises(BringUpError, match=f"drill stop-worker of process {sleeper.pid}, which was not taken back"):
            refuse_leftovers({"n1": node_here()}, base, "r2", "my.yaml")
        said: list[str] = []
        assert reap({"n1": node_here()}, base, said.append) == 0
        assert "drill stop-worker" in said[0]
        assert (state_of(sleeper.pid), state_of(bystander.pid)) == ("S", "S")
        assert leftovers({"n1": node_here()}, base) == []
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_took_the_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    node, stranger = node_here(), Planted(ID, "kill-scheduler", pid=sleeper.pid, start=(started(sleeper.pid) or 0) + 1)
    assert not node.run(drills.break_it(stranger)).ok
    assert sleeper.poll() is None


def test_the_run_itself_takes_back_what_is_still_broken_at_its_end(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    inner = node_here()
    ledger = Ledger(inner, f"{tmp_path}/base", "r1", Owner.me("me"))
    planted = Planted(ID, "stop-worker", pid=sleeper.pid, start=started(sleeper.pid) or 0)
    drill_steps.break_it(inner, ledger, planted)
    (entry,) = entries(inner, f"{tmp_path}/base")
    assert entry.drills == (planted,)
    assert ledger.take_back() == []
    (entry,) = entries(inner, f"{tmp_path}/base")
    assert (entry.drills, state_of(sleeper.pid)) == ((), "S")
    ledger.end()


def test_every_process_of_this_machine_is_read() -> None:
    found = drills.processes_of(node_here().run(drills.PROCESSES).stdout)
    me = [p for p in found if p.pid == Owner.me("me").pid]
    assert [p.start for p in me] == [Owner.me("me").started]


def every(function: Callable[[Planted], str]) -> Iterator[str]:
    for name in DRILLS:
        yield function(Planted(ID, name, container="", pid=77, start=4242, interface="rail0", routes=LINK.routes))


@pytest.mark.parametrize("script", [*every(drills.look), *every(drills.break_it), *every(drills.undo)])
def test_every_script_is_a_script(script: str) -> None:
    assert script.startswith(drills.MARK)
    assert subprocess.run(["/bin/sh", "-n"], input=script.encode(), check=False, capture_output=True).stderr == b""
