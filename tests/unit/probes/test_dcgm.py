"""DCGM as its tools print it (dcgmi/DeviceMonitor.cpp, dcgmi/Health.cpp of NVIDIA/DCGM), run as it goes to a node."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_h20.probes.dcgm import DCGM, Dcgm
from pytest_h20.probes.script import Missing, build, split

DMON = """\
#Entity   XIDER                       NVLRPL                      NVLRCV                      NVLFEC                      NVLDEC
ID
GPU 0     N/A                         N/A                         N/A                         N/A                         N/A
GPU 1     0                           0                           0                           0                           0
GPU 0     0                           2                           0                           0                           11
GPU 1     0                           0                           0                           N/A                         0
"""
WARNING = """\
+---------------------------+----------------------------------------------------------+
| Health Monitor Report                                                                |
+===========================+==========================================================+
| Overall Health            | Warning                                                  |
| GPU                       |                                                          |
| -> 0                      | Warning                                                  |
|    -> Errors              |                                                          |
|       -> PCIe system      | Warning                                                  |
|                           | Detected more than 8 PCIe replays per minute for GPU 0   |
|                           | : 13 Reconnect PCIe card. Run system side PCIE           |
+---------------------------+----------------------------------------------------------+
"""
OFF = "Error: Health watches not enabled. Please enable watches. "


def ask(folder: Path, dmon: str, health: str = OFF, rc: int = 0) -> Dcgm | Missing:
    """What the probe reads with a dcgmi that prints this."""
    wanted = "-e 230,429,439,409,419 -c 2"
    script = f'#!/bin/sh\ncase $1 in\ndmon) [ "$*" = "dmon {wanted}" ] || exit 9; cat <<\'END\'\n{dmon}END\nexit {rc};;\n'
    (folder / "dcgmi").write_text(f"{script}health) cat <<'END'\n{health}\nEND\n;;\nesac\n")
    (folder / "dcgmi").chmod(0o755)
    done = subprocess.run(["sh", "-c", build([DCGM])], env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return DCGM.read(split(done.stdout))


def test_the_last_row_of_each_gpu_counts_and_what_dcgm_has_not_is_left_out(tmp_path: Path) -> None:
    found = ask(tmp_path, DMON)
    assert isinstance(found, Dcgm), found
    assert found.gpus[0] == {
        "xid": 0,
        "NVLink replays": 2,
        "NVLink recoveries": 0,
        "NVLink flit CRC errors": 0,
        "NVLink data CRC errors": 11,
    }
    assert "NVLink flit CRC errors" not in found.gpus[1]
    assert (found.health, found.incidents) == ("", ""), "no watch is on: nothing was looked at"


def test_what_the_health_watches_found(tmp_path: Path) -> None:
    found = ask(tmp_path, DMON, WARNING)
    assert isinstance(found, Dcgm)
    assert found.health == "Warning"
    assert found.incidents.startswith("Detected more than 8 PCIe replays per minute for GPU 0")
    healthy = ask(tmp_path, DMON, "| Overall Health            | Healthy    |")
    assert isinstance(healthy, Dcgm)
    assert (healthy.health, healthy.incidents) == ("Healthy", "")


@pytest.mark.parametrize(
    ("dmon", "rc", "words"),
    [
        ("Error: unable to establish a connection to the specified host: localhost\n", 1, "unable to establish a connection"),
        ("#Entity   XIDER\nID\n", 0, "told no figure"),
        ("GPU 0  N/A  N/A  N/A  N/A  N/A\n", 0, "told no figure"),
        ("GPU 0  0\n", 0, "told no figure"),
    ],
)
def test_a_dcgm_that_tells_nothing_is_missing(tmp_path: Path, dmon: str, rc: int, words: str) -> None:
    found = ask(tmp_path, dmon, rc=rc)
    assert isinstance(found, Missing)
    assert words in found.reason


def test_a_node_without_it_is_told(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", build([DCGM])], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    found = DCGM.read(split(done.stdout))
    assert isinstance(found, Missing)
    assert "not installed" in found.reason
