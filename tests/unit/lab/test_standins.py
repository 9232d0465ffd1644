"""The stand-in tools and the sysfs tree they read: the write-up's forms."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pytest_h20.probes.telemetry import GpuSample, HostSample, Telemetry, command
from tests.lab import sysfs
from tests.lab.plan import ClusterPlan

STANDINS = Path(sysfs.__file__).parent / "standins"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A node's stand-in /sys."""
    nics = ClusterPlan(rails=2).nodes[0].interfaces
    sysfs.write_infiniband(tmp_path / "class", nics)
    sysfs.write_modules(tmp_path / "module")
    for nic in nics:
        folder = tmp_path / "class/net" / nic.name
        folder.mkdir(parents=True)
        (folder / "carrier").write_text("0\n" if nic.index == 2 else "1\n")
    return tmp_path


def tool(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a stand-in."""
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "H20_LAB_GPU_ENV": "/nowhere"}
    return subprocess.run(["sh", str(STANDINS / name), *arguments], capture_output=True, text=True, env={**path, **env})


def smi(*arguments: str, **env: str) -> str:
    """nvidia-smi that must succeed."""
    done = tool("nvidia-smi", *arguments, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ibdev2netdev(tree: Path) -> None:
    assert tool("ibdev2netdev", SYSFS=str(tree)).stdout.splitlines() == [
        "mlx5_0 port 1 ==> xgbe0 (Up)",
        "mlx5_1 port 1 ==> xgbe1 (Up)",
        "mlx5_2 port 1 ==> xgbe2 (Down)",
    ]


def test_show_gids(tree: Path) -> None:
    lines = tool("show_gids", SYSFS=str(tree)).stdout.splitlines()
    assert lines[0].split() == ["DEV", "PORT", "INDEX", "GID", "IPv4", "VER", "DEV"]
    rows = [line.split() for line in lines[2:-1]]
    assert ["mlx5_1", "1", "3", "0000:0000:0000:0000:0000:ffff:0a63:0101", "10.99.1.1", "v2", "xgbe1"] in rows
    assert ["mlx5_1", "1", "0", "fe80:0000:0000:0000:0088:c2ff:fe59:0101", "v1", "xgbe1"] in rows
    assert lines[-1] == "n_gids_found=12"


def test_unused_slots_are_unreadable_as_in_the_kernel(tree: Path) -> None:
    port = tree / "class/infiniband/mlx5_1/ports/1"
    assert set((port / "gids/9").read_text().strip()) == {"0", ":"}
    with pytest.raises(OSError, match="symbolic link"):
        (port / "gid_attrs/types/9").read_text()


def test_counters_can_be_read(tree: Path) -> None:
    counters = tree / "class/infiniband/mlx5_2/ports/1/counters"
    assert int((counters / "port_xmit_data").read_text()) > 0
    assert int((counters / "link_downed").read_text()) == 0


def test_lsmod_lists_the_stood_in_drivers(tree: Path) -> None:
    assert "nvidia_peermem" in [line.split()[0] for line in tool("lsmod", SYSFS=str(tree)).stdout.splitlines()]


def test_query_with_units_and_heading() -> None:
    lines = smi("--query-gpu=index,name,memory.total,power.limit,clocks.sm", "--format=csv").splitlines()
    assert lines[0] == "index, name, memory.total [MiB], power.limit [W], clocks.current.sm [MHz]"
    assert lines[1] == "0, NVIDIA H20, 97871 MiB, 500.00 W, 345 MHz"
    assert len(lines) == 9


def test_every_field_a_probe_may_ask_for() -> None:
    fields = (
        "index,name,uuid,serial,pci.bus_id,pci.device_id,vbios_version,driver_version,compute_cap,persistence_mode,"
        "memory.total,memory.used,memory.free,memory.reserved,ecc.mode.current,ecc.mode.pending,"
        "ecc.errors.corrected.volatile.total,ecc.errors.uncorrected.volatile.total,ecc.errors.corrected.aggregate.total,"
        "ecc.errors.uncorrected.aggregate.total,retired_pages.sbe,retired_pages.dbe,retired_pages.pending,"
        "clocks.sm,clocks.gr,clocks.mem,clocks.max.sm,clocks.max.memory,clocks.applications.graphics,"
        "clocks_throttle_reasons.active,clocks_event_reasons.active,clocks_throttle_reasons.hw_slowdown,"
        "clocks_event_reasons.sw_thermal_slowdown,power.draw,power.limit,power.default_limit,power.max_limit,"
        "enforced.power.limit,temperature.gpu,temperature.memory,pcie.link.gen.current,pcie.link.gen.max,"
        "pcie.link.width.current,pcie.link.width.max,mig.mode.current,utilization.gpu,pstate,fabric.state"
    )
    rows = smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits").splitlines()
    assert [len(row.split(", ")) for row in rows] == [fields.count(",") + 1] * 8
    assert len({row.split(", ")[2] for row in rows}) == 8


@pytest.mark.parametrize("field", ["colour", "remapped_rows.pending", "clocks_throttle_reasons.mood"])
def test_an_unknown_field_is_refused_as_by_the_real_one(field: str) -> None:
    done = tool("nvidia-smi", f"--query-gpu=index,{field}", "--format=csv")
    assert done.returncode == 2
    assert f'Field "{field}" is not a valid field to query.' in done.stdout


def test_remapped_rows_are_a_query_of_their_own() -> None:
    lines = smi("--query-remapped-rows=gpu_uuid,remapped_rows.pending,remapped_rows.uncorrectable", "--format=csv").splitlines()
    assert lines[0] == "gpu_uuid, remapped_rows.pending, remapped_rows.uncorrectable"
    assert lines[1].endswith(", No, 0")


def test_one_gpu_only() -> None:
    assert smi("-i", "3", "--query-gpu=index,pci.bus_id", "--format=csv,noheader").split() == ["3,", "00000000:5A:00.0"]


def test_settings_break_one_gpu(tmp_path: Path) -> None:
    settings = tmp_path / "gpu.env"
    settings.write_text("GPU_COUNT=2\nGPU_SET_memory_used=70000\nGPU_SET_1_ecc_errors_uncorrected_volatile_total=4\n")
    query = "--query-gpu=memory.used,ecc.errors.uncorrected.volatile.total"
    rows = smi(query, "--format=csv,noheader,nounits", H20_LAB_GPU_ENV=str(settings)).splitlines()
    assert rows == ["70000, 0", "70000, 4"]


def test_a_broken_driver(tmp_path: Path) -> None:
    settings = tmp_path / "gpu.env"
    settings.write_text("GPU_FAIL='Failed to initialize NVML: Driver/library version mismatch'\n")
    done = tool("nvidia-smi", H20_LAB_GPU_ENV=str(settings))
    assert (done.returncode, done.stdout) == (9, "Failed to initialize NVML: Driver/library version mismatch\n")


def test_table_and_lists() -> None:
    assert "Driver Version: 535.216.03" in smi()
    assert "CUDA Version: 12.2" in smi()
    assert len(smi("-L").splitlines()) == 8
    assert smi("nvlink", "-s").count("26.562 GB/s") == 8 * 18


def test_topology_is_a_matrix() -> None:
    lines = smi("topo", "-m").splitlines()
    heads = lines[0].split("\t")
    row = dict(zip(heads, lines[6].split("\t"), strict=False))
    assert row[""] == "GPU5"
    assert (row["GPU0"], row["GPU5"].strip(), row["NIC6"], row["NIC5"], row["NIC1"]) == ("NV18", "X", "PIX", "NODE", "SYS")


def test_xml_report_is_what_the_suites_probe_reads(tmp_path: Path) -> None:
    from pytest_h20.probes.gpu import parse_gpus

    settings = tmp_path / "gpu.env"
    settings.write_text("GPU_SET_3_ecc_errors_uncorrected_volatile_dram=2\nGPU_SET_5_remapped_rows_pending=Yes\n")
    found = parse_gpus(smi("-q", "-x", H20_LAB_GPU_ENV=str(settings)))
    assert (found.driver, found.cuda, len(found.gpus)) == ("535.216.03", "12.2", 8)
    assert [gpu.ecc_uncorrectable for gpu in found.gpus] == [0, 0, 0, 2, 0, 0, 0, 0]
    assert [gpu.remap_pending for gpu in found.gpus] == [False] * 5 + [True] + [False] * 2
    assert {gpu.memory_mib for gpu in found.gpus} == {97871}


def test_proc_files_of_the_drivers(tmp_path: Path) -> None:
    sysfs.write_proc_driver(tmp_path)
    assert "Kernel Module  535.216.03  " in (tmp_path / "nvidia/version").read_text()
    text = sysfs.proc_modules("nvidia 1 1 - Live 0x0\nloop 1 0 - Live 0x0\n")
    names = [line.split()[0] for line in text.splitlines()]
    assert names.count("nvidia") == 1
    assert {"loop", "nvidia_peermem", "mlx5_ib"} <= set(names)


def test_nvidia_smi_loops_as_the_telemetry_asks_it_to(tmp_path: Path) -> None:
    """The stand-in is what a lab's node runs under load."""
    text = command(every_s=1)
    script = tmp_path / "telemetry.sh"
    script.write_text(text)
    env = {"PATH": f"{STANDINS}:/usr/bin:/bin", "HOME": "/"}
    process = subprocess.Popen(["/bin/sh", str(script)], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    told = Telemetry("node01")
    try:
        assert process.stdout is not None
        while sum(isinstance(s, GpuSample) for _, s in told.samples) < 9:  # into the second round
            told.feed(process.stdout.readline().rstrip("\n"), 0.0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
    assert told.notes == []
    assert len(told.gpus) == 8
    gpus = [sample for _, sample in told.samples if isinstance(sample, GpuSample)]
    assert gpus[8] == gpus[0]
    assert all(not s.memory for _, s in told.samples if isinstance(s, HostSample)), "no container was asked for"


def test_systemctl_knows_one_unit_and_says_where_there_is_no_dockerd() -> None:
    other = tool("systemctl", "is-active", "firewalld")
    assert (other.returncode, other.stdout, other.stderr) == (4, "", "Unit firewalld could not be found.\n")
    assert tool("systemctl", "sing", "docker").returncode == 1
