"""The machines under load: for each check what it must catch, what looks like it and is well, and the case in which nothing was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.checks import machines
from pytest_h20.checks.machines import CellMachines, Said, Snapshot, say
from pytest_h20.core.verdict import Status
from pytest_h20.probes.counters import CounterDelta, CounterSnapshot, PortCounters
from pytest_h20.probes.dcgm import Dcgm
from pytest_h20.probes.gpu import Gpu, Gpus
from pytest_h20.probes.kernel_log import Stretch, parse_kernel_log
from pytest_h20.probes.script import Missing
from pytest_h20.probes.telemetry import Telemetry, Window

F, W, U, P, S = Status.FAIL, Status.WARN, Status.UNKNOWN, Status.PASS, Status.SKIP
SECONDS = 30
RECORDED = Path(__file__).parents[1] / "probes" / "data" / "telemetry-4xh200-matmul.txt"

Line = Callable[[int, int], str | None]


def well(index: int, second: int) -> str:
    """A GPU under load, with the small differences that real ones have."""
    watt, mhz, degrees = 380 + 7 * (index % 4) + second % 5, 1980 - 15 * (index % 3), 55 + index
    return f"{index}, {watt}, {mhz}, 2619, {degrees}, 0x0, 90000, 0, 0"


def window(node: str = "node01", line: Line = well, gpus: int = 8, silent: range = range(0)) -> Window:
    told = Telemetry(node)
    for index in range(gpus):
        told.feed(f"gpu {index}, 165{node[-2:]}{index:04d}, 00000000:{0x1B + 8 * index:02X}:00.0, NVIDIA H20", 0.0)
    for second in range(SECONDS + 1):
        if second in silent:
            continue
        told.feed(f"t {1000 + second} 0 {100 * second} 3", float(second))
        for index in range(gpus):
            if (text := line(index, second)) is not None:
                told.feed(text, float(second))
    return told.since(0.0, float(SECONDS))


def cell(line: Line = well, **more: object) -> CellMachines:
    """Two nodes; ``line`` is the second one's."""
    return CellMachines({"node01": window("node01"), "node02": window("node02", line, **more)}, {})  # type: ignore[arg-type]


def other(index: int, *, at: range = range(SECONDS + 1), **fields: str) -> Line:
    """One GPU differs in some fields of nvidia-smi's line, at some seconds."""
    names = ("index", "watt", "mhz", "mem", "degrees", "reasons", "mib", "sbe", "dbe")

    def line(gpu: int, second: int) -> str:
        cells = dict(zip(names, well(gpu, second).split(", "), strict=True))
        if gpu == index and second in at:
            cells |= fields
        return ", ".join(cells.values())

    return line


# ---------------------------------------------------------------------------------------------------------------- telemetry
def test_a_cell_that_was_seen_whole() -> None:
    verdict = machines.reported(say("throughput.telemetry", "c8"), cell())
    assert (verdict.status, verdict.measured) == (P, 100.0)


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (cell(silent=range(10, 15)), W, "node02: nothing about its GPUs between 0:09 and 0:15 of 0:30"),
        (cell(silent=range(5, 31)), U, "node02: nothing about its GPUs between 0:04 and 0:30"),
        (cell(other(3)), P, ""),
        (cell(lambda i, s: None if i == 5 and s > 3 else well(i, s)), U, "node02: nothing about its GPUs between 0:03 and 0:30"),
        (CellMachines({}, {"node01": "connection refused"}), U, "node01: connection refused"),
        (CellMachines({}, {}), U, "no node was watched"),
        (CellMachines({"node01": window(gpus=0)}, {}), U, "nothing about its GPUs"),
    ],
    ids=["gap", "stops", "well", "one-gpu-stops", "unreachable", "nothing", "no-gpu"],
)
def test_telemetry(told: CellMachines, status: Status, words: str) -> None:
    verdict = machines.reported(say("throughput.telemetry", "c8"), told)
    assert verdict.status is status
    assert words in verdict.reason


def test_four_real_gpus_at_their_power_limit_are_well() -> None:
    """Recorded: 4 x H200 (R580) for a minute of matrix multiplications, each at 690 W of 700 W, clocks between 1.4 and 1.6 GHz."""
    told = Telemetry("node01")
    second = 0.0
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        second += line.startswith("t ")
        told.feed(line, second)
    seen = CellMachines({"node01": told.since(1.0, second)}, {})
    verdicts = [check(say(name, "c8"), seen) for name, check in machines.OF_A_CELL.items()]
    assert {v.check: v.status for v in verdicts} == dict.fromkeys(machines.OF_A_CELL, P), [v.text() for v in verdicts]
    assert told.notes == []
    assert seen.windows["node01"].power_w == pytest.approx(4 * 691, rel=0.01)


# ---------------------------------------------------------------------------------------------------------------- throttling
@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (cell(other(3, at=range(12, 14), reasons="0x80")), F, "(serial 165020003, slot 00000000:33:00.0): hw_power_brake_slowdown in 2 of"),
        (cell(other(3, at=range(12, 13), reasons="0x40")), F, "hw_thermal_slowdown in 1 of 31"),
        (cell(other(3, reasons="0x20")), F, "sw_thermal_slowdown"),
        (cell(other(3, at=range(4, 8), reasons="0x8")), F, "hw_slowdown in 4"),
        (cell(other(3, at=range(4, 6), reasons="0x8")), P, ""),  # "may be also reported during PState or clock change"
        (cell(other(3, reasons="0x4")), P, ""),  # the card at its own power limit
        (cell(other(3, reasons="0x1")), P, ""),  # idle
        (CellMachines({"node01": window(gpus=0)}, {}), U, "no GPU"),
    ],
)
def test_throttling(told: CellMachines, status: Status, words: str) -> None:
    verdict = machines.throttled(say("throughput.throttled", "c8"), told)
    assert verdict.status is status
    assert words in verdict.reason


# --------------------------------------------------------------------------------------------------------- one stands apart
@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (cell(other(6, mhz="1188")), F, "node02 GPU 6 (serial 165020006, slot 00000000:4B:00.0): SM clock 1188 MHz, the median of 16"),
        (cell(other(6, watt="150")), F, "power 150 W"),
        (cell(other(6, degrees="88")), F, "temperature 88 °C"),
        (cell(other(6, mhz="1890")), P, ""),  # boost steps
        (cell(other(6, mhz="1980", degrees="40")), P, ""),  # a cool slot
        (cell(lambda i, s: other(i, watt="560")(i, s)), P, ""),  # one node draws more than the other: none is odd
        (cell(other(6, mib="12", mhz="345", watt="76")), P, ""),  # does not serve the model
        (CellMachines({"node01": window(gpus=2)}, {}), S, "it takes 4"),
        (CellMachines({"node01": window(gpus=0)}, {}), U, "no GPU"),
        (cell(other(6, mhz="[N/A]", watt="[N/A]", degrees="[N/A]")), P, ""),
    ],
)
def test_one_gpu_apart(told: CellMachines, status: Status, words: str) -> None:
    verdict = machines.apart(say("throughput.gpu_apart", "c8"), told)
    assert verdict.status is status, verdict.reason
    assert words in verdict.reason


def test_drivers_that_tell_nothing_are_not_compared() -> None:
    mute: Line = lambda i, _: f"{i}, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]"  # noqa: E731
    verdict = machines.apart(say("throughput.gpu_apart", "c8"), CellMachines({"node01": window(line=mute)}, {}))
    assert verdict.status is U


def test_energy_is_told_only_where_every_power_was_seen() -> None:
    told = CellMachines({"node01": window(line=lambda i, s: f"{i}, 500, 1980, 2619, 60, 0x0, 90000, 0, 0", gpus=2)}, {})
    assert machines.energy_wh_per_1k(told, seconds=3600.0, tokens=1_000_000) == pytest.approx(1.0)
    assert machines.energy_wh_per_1k(told, seconds=3600.0, tokens=0) is None
    assert machines.energy_wh_per_1k(replace(told, missing={"node02": "gone"}), 3600.0, 1000) is None
    assert machines.energy_wh_per_1k(cell(silent=range(5, 31)), 3600.0, 1000) is None
    assert machines.energy_wh_per_1k(cell(other(6, watt="[N/A]")), 3600.0, 1000) is None


# --------------------------------------------------------------------------------------------------------------------- rails
def moved(gigabytes: float = 500.0, reset: tuple[str, ...] = (), **counters: int) -> CounterDelta:
    half = int(gigabytes * 0.5e9)
    values = {"port_xmit_data": half, "port_rcv_data": half, "out_of_sequence": 0, "np_cnp_sent": 0, **counters}
    return CounterDelta("mlx5_1", 1, 600.0, values, reset)


BYTES = {"port_xmit_data": 10**12, "port_rcv_data": 10**12}


@pytest.mark.parametrize(
    ("delta", "status", "words"),
    [
        (moved(), P, ""),
        (moved(packet_seq_err=60), F, "packet_seq_err +60 while the rail carried 500.0 GB"),  # one in ten seconds, for ten minutes
        (moved(packet_seq_err=4), P, ""),
        (moved(packet_seq_err=1, gigabytes=3.0), W, "one event is no rate"),
        (moved(link_downed=1), F, "link_downed +1"),
        (moved(reset=("port_xmit_data",)), U, "went backwards"),
        (moved(gigabytes=0.0, packet_seq_err=5), U, "does not tell bytes"),
        (Missing("mlx5_1 port 1 has no counters"), U, "no counters"),
        (CounterDelta("rxe0", 1, 600.0, BYTES), U, "no error counters"),
    ],
)
def test_rail_errors(delta: CounterDelta | Missing, status: Status, words: str) -> None:
    verdict = machines.rail_errors(say("throughput.rail_errors", "node01 mlx5_1"), delta)
    assert verdict.status is status
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("delta", "status", "words"),
    [
        (moved(), P, ""),
        (moved(np_cnp_sent=5_000_000), F, "np_cnp_sent +5000000"),
        (moved(rx_prio3_pause=20_000), F, "rx_prio3_pause +20000"),
        (moved(np_cnp_sent=9_000, rx_prio3_pause=100), P, ""),
        (moved(port_xmit_wait=10**12), P, ""),
        (moved(gigabytes=0.0), U, "no byte was carried"),
        (Missing("gone"), U, "gone"),
        (CounterDelta("rxe0", 1, 600.0, BYTES), U, "no congestion counters"),
    ],
)
def test_rail_congestion(delta: CounterDelta | Missing, status: Status, words: str) -> None:
    verdict = machines.rail_congestion(say("throughput.rail_congestion", "node01 mlx5_1"), delta)
    assert verdict.status is status
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("rails", "status", "words"),
    [
        ({f"mlx5_{i}": moved() for i in range(8)}, P, ""),
        ({**{f"mlx5_{i}": moved() for i in range(7)}, "mlx5_7": moved(150.0)}, F, "mlx5_7 150.0 GB; the median rail carried 500.0 GB"),
        ({**{f"mlx5_{i}": moved() for i in range(7)}, "mlx5_7": moved(1500.0)}, F, "mlx5_7"),
        ({**{f"mlx5_{i}": moved() for i in range(7)}, "mlx5_7": moved(400.0)}, P, ""),
        ({"mlx5_1": moved(0.0), "mlx5_2": moved(0.0)}, U, "carried nothing"),
        ({"mlx5_1": moved(), "mlx5_2": Missing("gone")}, U, "mlx5_2: gone"),
        ({"mlx5_1": moved()}, S, "nothing to compare"),
        ({}, S, "nothing to compare"),
    ],
)
def test_rail_shares(rails: Mapping[str, CounterDelta | Missing], status: Status, words: str) -> None:
    verdict = machines.rail_shares(say("throughput.rail_shares", "node01"), rails)
    assert verdict.status is status
    assert words in verdict.reason


def test_rails_of_an_engine_that_moves_nothing_over_them() -> None:
    """Copies of a dense model, each inside a node: idle rails are no riddle, what errs or cannot be read is still told."""
    voice, why = say("throughput.rail_errors", "node01 mlx5_1"), "its copies share nothing"
    idle, noise = moved(0.0), {"mlx5_1": moved(0.001), "mlx5_2": moved(0.004)}
    assert [f(voice, idle, why).status for f in (machines.rail_errors, machines.rail_congestion)] == [S, S]
    assert (machines.rail_shares(voice, noise).status, machines.rail_shares(voice, noise, why).reason) == (F, why)
    assert machines.rail_errors(voice, moved(0.0, packet_seq_err=5), why).status is U
    assert machines.rail_errors(voice, moved(0.0, link_downed=1), why).status is F
    assert machines.rail_shares(voice, {"mlx5_1": moved(), "mlx5_2": Missing("gone")}, why).status is U
    still = {"mlx5_1": moved(0.0), "mlx5_2": moved(0.0)}
    assert [machines.rail_shares(voice, still, unsent=ended).status for ended in ("", "the run was ended")] == [U, S]
    assert machines.rail_shares(voice, {"mlx5_1": moved(0.1), "mlx5_2": moved(9.0)}, unsent="the run was ended").status is F


def test_a_rail_that_is_in_one_snapshot_only_was_not_measured() -> None:
    port = PortCounters("mlx5_1", 1, {"port_xmit_data": 4})
    full, empty = (Snapshot(CounterSnapshot(1.0, ports), Missing("not asked")) for ports in ((port,), ()))
    assert isinstance(machines.rail_delta(full, empty, "mlx5_1", 1), Missing)
    assert isinstance(machines.rail_delta(full, full, "mlx5_1", 1), CounterDelta)
    assert isinstance(machines.rail_delta(full, Snapshot(Missing("gone"), Missing("")), "mlx5_1", 1), Missing)


# ------------------------------------------------------------------------------------------------------------------ GPU state
def gpus(**changed: object) -> Gpus:
    held = [
        Gpu(
            i,
            "NVIDIA H20",
            f"GPU-{i}",
            f"00000000:{i:02X}:00.0",
            serial=f"165{i}",
            ecc_uncorrectable=0,
            remap_uncorrectable=0,
            remap_correctable=0,
            remap_pending=False,
            pcie_replays=3,
        )
        for i in range(8)
    ]
    held[3] = replace(held[3], **changed)  # type: ignore[arg-type]
    return Gpus("535.216.03", "12.2", tuple(held))


def state(found: Gpus | Missing) -> Snapshot:
    return Snapshot(Missing("not asked"), found)


@pytest.mark.parametrize(
    ("before", "after", "status", "words"),
    [
        (gpus(), gpus(), P, ""),
        (gpus(), gpus(remap_uncorrectable=1, remap_pending=True), F, "GPU 3 (serial 1653, slot 00000000:03:00.0): rows remapped"),
        (gpus(), gpus(ecc_uncorrectable=2), F, "uncorrectable memory errors +2"),
        (gpus(ecc_uncorrectable=2, remap_pending=True), gpus(ecc_uncorrectable=2, remap_pending=True), P, ""),  # it was so before
        (gpus(), gpus(remap_correctable=1), W, "correctable errors +1"),
        (gpus(), gpus(pcie_replays=5), W, "PCIe replays +2"),
        (gpus(), gpus(pcie_replays=300), F, "PCIe replays +297"),
        (gpus(), gpus(uuid="GPU-other"), F, "GPU 3 (serial 1653, slot 00000000:03:00.0) is gone"),
        (gpus(), Missing("nvidia-smi is gone"), U, "nvidia-smi is gone"),
        (Missing("nvidia-smi is gone"), gpus(), U, "nvidia-smi is gone"),
        (replace(gpus(), source="csv"), gpus(), U, "-q -x"),
        (Gpus("", "", ()), Gpus("", "", ()), U, "no GPU before"),
    ],
)
def test_gpu_state(before: Gpus | Missing, after: Gpus | Missing, status: Status, words: str) -> None:
    verdict = machines.gpu_state(say("throughput.gpu_state", "node01"), state(before), state(after))
    assert verdict.status is status
    assert words in verdict.reason


# ----------------------------------------------------------------------------------------------------------------------- DCGM
def told(health: str = "Healthy", incidents: str = "", **third: int) -> Dcgm:
    """Eight GPUs; of the third one something else. Of GPU 0 DCGM has no Xid."""
    figures = {"xid": 0, "NVLink replays": 4, "NVLink recoveries": 0, "NVLink flit CRC errors": 0, "NVLink data CRC errors": 7}
    names = {name.replace(" ", "_"): name for name in figures}
    gpus = {i: dict(figures) for i in range(8)} | {3: figures | {names[k]: v for k, v in third.items()}}
    gpus[0].pop("xid")
    return Dcgm(gpus, health, incidents)


@pytest.mark.parametrize(
    ("before", "after", "status", "words"),
    [
        (told(), told(), P, ""),
        (told(NVLink_replays=6), told(NVLink_replays=6), P, ""),  # it was so before
        (told(), told(NVLink_replays=5), F, "GPU 3: NVLink replays +1"),
        (told(), told(NVLink_recoveries=2), F, "GPU 3: NVLink recoveries +2"),
        (told(), told(NVLink_data_CRC_errors=9), W, "GPU 3: NVLink data CRC errors +2"),
        (told(), told(NVLink_replays=0), P, ""),  # the driver was loaded again: a counter that fell tells nothing
        (told(), told(xid=79), F, "GPU 3: Xid 79"),
        (told(xid=79), told(xid=79), P, ""),
        (told(), told(xid=63), W, "Xid 63"),
        (told(), told("Failure", "PCIe system Detected more than 8 PCIe replays"), F, "dcgmi health: Failure: PCIe system"),
        (told(), told("Warning", "Thermal system"), W, "Thermal system"),
        (told("Warning", "Thermal system"), told("Warning", "Thermal system"), P, ""),
        (told(""), told(""), P, ""),
        (told(), Dcgm({i: {} for i in range(7)}), F, "GPU 7 is gone"),
        (Missing("dcgmi is not installed"), Missing("dcgmi is not installed"), S, "dcgmi is not installed"),
        (told(), Missing("Unable to connect to host engine"), U, "none after it: Unable to connect"),
    ],
)
def test_dcgm(before: Dcgm | Missing, after: Dcgm | Missing, status: Status, words: str) -> None:
    one, two = (replace(state(gpus()), dcgm=found) for found in (before, after))
    verdict = machines.dcgm(say("throughput.dcgm", "node01"), one, two)
    assert verdict.status is status, verdict.reason
    assert words in verdict.reason
    assert verdict.looked_at == (8 * 5 - 1 if status is P else verdict.looked_at)


# ----------------------------------------------------------------------------------------------------------------- kernel log
def said(line: str) -> Said:
    (event,) = parse_kernel_log(f"source=dmesg\nfirst=0\nnow=99\nmatched=1\n> [ 12.5] {line}\n").events
    return Said(event, "in128-out128-c8", 67.0)


@pytest.mark.parametrize(
    ("lines", "unseen", "status", "words"),
    [
        ((), (), P, ""),
        (("NVRM: Xid (PCI:0000:1b:00): 31, pid=1",), (), F, "GPU memory page fault (NVIDIA: RESTART_APP) at 1:07 of in128-out128-c8"),
        (("NVRM: Xid (PCI:0000:1b:00): 145, RLW",), (), F, "NVLink: RLW error (NVIDIA: WORKFLOW_NVLINK5_ERR)"),
        (("NVRM: Xid (PCI:0000:1b:00): 63, row",), (), W, "row remap"),
        (("NVRM: Xid (PCI:0000:1b:00): 45, pid=1",), (), P, ""),
        (("mlx5_core 0000:30:00.0 xgbe3: Link down",), (), F, "the link of xgbe3 went down"),
        (("mlx5_core 0000:30:00.0 xgbe3: Link up",), (), P, ""),
        (("igb 0000:04:00.0 eno4: igb: eno4 NIC Link is Down",), (), W, "eno4 went down"),
        (("pcieport 0000:17:01.0: AER: Corrected error received: 0000:18:00.0",), (), W, "corrected an error"),
        ((), ("could not see between 0:00 min and 3:00 min",), U, "could not see between"),
        (("NVRM: Xid (PCI:0000:1b:00): 31, pid=1",), ("could not see",), F, "page fault"),
        (("pcieport 0000:17:01.0: AER: Corrected error received: 0000:18:00.0",), ("could not see",), U, "could not see"),
    ],
)
def test_kernel_log(lines: tuple[str, ...], unseen: tuple[str, ...], status: Status, words: str) -> None:
    seen = Stretch((), unseen, written=40, readings=2)
    verdict = machines.kernel_said(say("throughput.kernel_log", "node01"), [said(x) for x in lines], seen, ["xgbe1", "xgbe3"])
    assert verdict.status is status, verdict.reason
    assert words in verdict.reason
    assert verdict.gate.value == "throughput"


def test_an_expectation_can_let_it_stay_unmeasured() -> None:
    voice = say("throughput.kernel_log", "node01", ("throughput.kernel_*",))
    assert machines.kernel_said(voice, (), Stretch((), ("could not see",))).status is S


@pytest.mark.parametrize(
    ("written", "readings", "status", "looked_at"),
    [(40, 2, P, 40), (0, 2, P, 2), (0, 0, U, 0)],
    ids=["lines that are well", "a log that was silent", "nothing was read"],
)
def test_a_kernel_log_without_a_sick_line_says_how_much_was_looked_at(written: int, readings: int, status: Status, looked_at: int) -> None:
    verdict = machines.kernel_said(say("throughput.kernel_log", "node01"), (), Stretch((), (), written, readings))
    assert (verdict.status, verdict.looked_at, verdict.details["written"]) == (status, looked_at, written)
