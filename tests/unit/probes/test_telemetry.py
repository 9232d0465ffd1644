"""The telemetry of a node: its command, its lines, and what a stretch of time holds of them. Lines of nvidia-smi are recorded (R580)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.probes import telemetry
from pytest_h20.probes.script import ProbeError
from pytest_h20.probes.telemetry import GpuIdentity, GpuSample, HostSample, Spread, Telemetry, command, parse_gpu

RECORDED = """\
gpu 0, 1654124045319, 00000000:00:06.0, NVIDIA H200
gpu 1, 1654124045999, 00000000:00:07.0, NVIDIA H200
rail mlx5_1/1 port_xmit_data port_rcv_data out_of_sequence
mem 3f2a9c1e77b0
0, 690.92, 1545, 3201, 59, 0x0000000000000004, 885, 0, 0
1, 694.81, 1440, 3201, 64, 0x0000000000000004, 885, 0, 0
t 128.98 10 1000 3 4096
r mlx5_1/1 100 200 0
rows 00000000:00:06.0, 0, 0, No, No
"""


def fed(*ticks: str, node: str = "node01") -> Telemetry:
    """One tick a second from second 0."""
    told = Telemetry(node)
    for second, tick in enumerate(ticks):
        for line in tick.splitlines():
            told.feed(line, float(second))
    return told


def test_a_recorded_second_is_read_whole() -> None:
    told = fed(RECORDED)
    assert told.notes == []
    assert told.gpus[1] == GpuIdentity(1, "1654124045999", "00000000:00:07.0", "NVIDIA H200")
    samples = [s for _, s in told.samples]
    assert samples[0] == GpuSample(0, 690.92, 1545.0, 3201.0, 59.0, ("sw_power_cap",), 885.0, 0, 0)
    assert samples[2] == HostSample(128.98, 10, 1000, 3, (4096,))
    assert samples[3] == telemetry.RailSample("mlx5_1/1", {"port_xmit_data": 400, "port_rcv_data": 800, "out_of_sequence": 0})
    assert samples[4] == telemetry.RowsSample("00000000:00:06.0", 0, 0, False, False)


def test_what_a_driver_does_not_tell_stays_unknown() -> None:
    sample = parse_gpu("3, [N/A], 1980, [N/A], 61, 0x00000000000000C0, [N/A], [N/A], [N/A]")
    assert sample == GpuSample(3, None, 1980.0, None, 61.0, ("hw_thermal_slowdown", "hw_power_brake_slowdown"), None, None, None)


def test_lines_that_are_no_samples_are_notes_and_their_samples_gaps() -> None:
    told = fed("Unable to determine the device handle for GPU0: 0000:1B:00.0: GPU is lost.  Reboot the system", "r mlx5_9/1 1 2", "0, 1, 2")
    assert len(told.notes) == 3
    assert told.samples == []


def test_a_stretch_has_least_median_and_most_of_each_gpu() -> None:
    said = enumerate([(400, 1), (500, 1), (420, 3)])
    told = fed(*(f"0, {watt}, 1980, 2619, 60, 0x0, 90000, 0, {ecc}\nt {100 + i} {i} {100 * i} 4\n" for i, (watt, ecc) in said))
    seen = told.since(0.0, 2.0)
    assert seen.gpus[0].spreads["power_w"] == Spread(400.0, 420.0, 500.0, 3)
    assert seen.gpus[0].ecc == (0, 2)
    assert seen.gpus[0].series["sm_mhz"] == ((0.0, 1980.0), (1.0, 1980.0), (2.0, 1980.0))
    assert seen.power_w == 420.0
    assert seen.gaps == {"gpu": (), "host": ()}
    assert seen.steal_share == pytest.approx(0.01)
    assert seen.uptime_at == 100.0


def test_a_gap_is_told_and_not_filled() -> None:
    told = Telemetry("node01")
    for at in (0.0, 1.0, 2.0, 12.0):
        told.feed("0, 400, 1980, 2619, 60, 0x0, 90000, 0, 0", at)
    seen = told.since(0.0, 20.0)
    assert seen.gaps["gpu"] == ((2.0, 12.0), (12.0, 20.0))
    assert seen.seen("gpu") == pytest.approx(0.1)
    assert seen.gpus[0].samples == 4
    assert seen.gaps["host"] == ((0.0, 20.0),)
    assert seen.seen("host") == 0.0


def test_a_stretch_shorter_than_a_gap_without_a_sample_is_not_seen() -> None:
    seen = fed(RECORDED).since(100.0, 100.5)
    assert seen.seen("gpu") == 0.0
    assert seen.gaps["gpu"] == ((0.0, 0.5),)


def test_one_gpu_that_falls_silent_is_a_gap_although_the_others_speak() -> None:
    told = Telemetry("node01")
    for second in range(30):
        for index in range(8):
            if index != 5 or second < 3:
                told.feed(f"{index}, 400, 1980, 2619, 60, 0x0, 90000, 0, 0", float(second))
    assert told.since(0.0, 29.0).gaps["gpu"] == ((2.0, 29.0),)


def test_counters_rise_over_a_stretch_and_a_reset_one_is_left_out() -> None:
    told = fed("rail mlx5_1/1 port_xmit_data out_of_sequence link_downed", "r mlx5_1/1 100 5 7", "r mlx5_1/1 - 6 7", "r mlx5_1/1 300 9 1")
    assert told.since(0.0, 9.0).rails == {"mlx5_1/1": {"port_xmit_data": 800, "out_of_sequence": 4}}


def test_what_is_drawn_is_thinned_and_never_made_up() -> None:
    points = [(float(i), float(i * i)) for i in range(1000)]
    kept = telemetry.thinned(points)
    assert len(kept) == telemetry.MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert set(kept) <= set(points)


def test_old_samples_are_forgotten() -> None:
    told = fed("t 1 0 0 0", "t 2 0 0 0", "t 3 0 0 0")
    told.forget(before=2.0)
    assert [at for at, _ in told.samples] == [2.0]


_LINE = st.one_of(
    st.text(max_size=60),
    st.tuples(st.sampled_from(["gpu ", "rail ", "mem ", "t ", "r ", "rows ", "0, "]), st.text(max_size=40)).map("".join),
    st.lists(st.integers(-5, 2**70).map(str), max_size=12).map(", ".join),
    st.lists(st.integers(-5, 2**70).map(str), max_size=12).map(lambda cells: "t " + " ".join(cells)),
)


@given(st.lists(_LINE, max_size=20))
def test_any_line_is_a_sample_or_a_note(lines: list[str]) -> None:
    told = fed(*lines)
    seen = told.since(0.0, 30.0)
    assert len(told.notes) <= telemetry.MOST_NOTES
    assert all(0.0 <= seen.seen(kind) <= 1.0 for kind in ("gpu", "host"))


@given(_LINE)
def test_a_line_of_nvidia_smi_is_a_sample_or_one_error(line: str) -> None:
    with contextlib.suppress(ProbeError):
        assert 0 <= parse_gpu(line).index <= 255


_WATT = st.floats(0, 2000).map(lambda watt: round(watt, 2))
_BITS = st.sets(st.sampled_from(list(telemetry.REASONS)))


@given(st.lists(st.tuples(_WATT, st.integers(0, 3000), st.integers(0, 120), _BITS), min_size=1, max_size=8))
def test_what_nvidia_smi_prints_comes_back(gpus: list[tuple[float, int, int, set[int]]]) -> None:
    lines = [f"{i}, {w:.2f}, {mhz}, 2619, {c}, {sum(bits):#018x}, 90000, 0, 0" for i, (w, mhz, c, bits) in enumerate(gpus)]
    told = fed("\n".join(lines))
    assert told.notes == []
    for (w, mhz, c, bits), (_, sample) in zip(gpus, told.samples, strict=True):
        assert isinstance(sample, GpuSample)
        assert (sample.power_w, sample.sm_mhz, sample.temperature_c) == (w, mhz, c)
        assert set(sample.reasons) == {telemetry.REASONS[b] for b in bits}


# ---------------------------------------------------------------------------------------------------------- the command itself
@pytest.fixture
def node(tmp_path: Path) -> str:
    """The command on a machine with one rail of made-up counters and an nvidia-smi that loops, as the driver's does."""
    port = tmp_path / "ib" / "mlx5_1" / "ports" / "1"
    counters = {"counters/port_xmit_data": "100", "hw_counters/out_of_sequence": "3", "counters/symbol_error": "odd"}
    for name, value in counters.items():
        (port / name).parent.mkdir(parents=True, exist_ok=True)
        (port / name).write_text(f"{value}\n")
    held = tmp_path / "cg" / "docker" / "abc"
    held.mkdir(parents=True)
    (held / "memory.stat").write_text("anon 8192\nfile 999424\nshmem 4096\n")
    first = tmp_path / "cg" / "memory" / "docker" / "old"
    first.mkdir(parents=True)
    (first / "memory.stat").write_text("cache 999424\nrss 1\nshmem 1\ntotal_rss 16384\ntotal_shmem 4096\n")
    own = (
        tmp_path / "cg" / "cpu" / "site" / "apart",
        tmp_path / "cg" / "memory" / "site" / "apart",
        tmp_path / "cg" / "user.slice" / "libpod-pod.scope",
    )
    for parent in own:  # dockerd --cgroup-parent; Podman's scope, beside which its monitor has one
        parent.mkdir(parents=True)
    (own[1] / "memory.stat").write_text("total_rss 4096\ntotal_shmem 0\n")
    (own[2] / "memory.stat").write_text("anon 512\nshmem 0\n")
    monitor = tmp_path / "cg" / "user.slice" / "libpod-conmon-pod.scope"
    monitor.mkdir()
    (monitor / "memory.stat").write_text("anon 1\nshmem 0\n")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        "case $1 in *serial*) echo '0, 165, 00000000:1B:00.0, NVIDIA H20'; exit;; *event*) exit 2;;\n"
        "*remapped*) echo '00000000:1B:00.0, 0, 1, Yes, No'; exit;; esac\n"
        "echo '0, 400.5, 1980, 2619, 60, 0x0, 90000, 0, 0'\ncase $* in *-l*) exec sleep 60;; esac\n"
    )
    smi.chmod(0o755)
    text = command(["abc", "gone", "old", "apart", "pod"], 0.2).replace(
        "S=/sys/class/infiniband; C=/sys/fs/cgroup", f"S={tmp_path}/ib; C={tmp_path}/cg"
    )
    return text.replace('PATH="$PATH:', f'PATH="{tmp_path}:$PATH:')


def test_the_command_speaks_as_its_parser_hears(node: str) -> None:
    """Read until the third second, then the reader goes: the command must not outlive it."""
    process = subprocess.Popen(["/bin/sh", "-c", node], stdout=subprocess.PIPE, text=True, start_new_session=True)
    told = Telemetry("node01")
    try:
        assert process.stdout is not None
        while sum(isinstance(s, HostSample) for _, s in told.samples) < 3:
            told.feed(process.stdout.readline().rstrip("\n"), 0.0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
    assert told.notes == []
    assert told.gpus == {0: GpuIdentity(0, "165", "00000000:1B:00.0", "NVIDIA H20")}
    assert told.containers == ("abc", "old", "apart", "pod")
    assert {s.memory for _, s in told.samples if isinstance(s, HostSample)} == {(12288, 20480, 4096, 512)}, (
        "without page cache, by cgroup v2 and v1, wherever it is"
    )
    kinds = {type(s) for _, s in told.samples}
    assert kinds == {GpuSample, HostSample, telemetry.MemorySample, telemetry.RailSample, telemetry.RowsSample}
    rail = next(s for _, s in told.samples if isinstance(s, telemetry.RailSample))
    assert rail.values == {"port_xmit_data": 400, "out_of_sequence": 3}
    assert next(s for _, s in told.samples if isinstance(s, telemetry.RowsSample)).pending
