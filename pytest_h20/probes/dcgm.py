"""What NVIDIA's DCGM tells that nvidia-smi does not keep: NVLink errors of each GPU, its last Xid, and what the health watches found.

Read only: no watch is switched on, no group is made, no diagnostic runs. Where an administrator switched on no health watch, none is told.
Columns and words: ``dcgmi/DeviceMonitor.cpp`` and ``dcgmi/Health.cpp`` of NVIDIA/DCGM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_h20.probes.script import Probe, ProbeError, integer

FIELDS = {
    "xid": 230,
    "NVLink replays": 429,
    "NVLink recoveries": 439,
    "NVLink flit CRC errors": 409,
    "NVLink data CRC errors": 419,
}
"""What is asked of each GPU, by DCGM's number of the field (``dcgm_fields.h``): dmon prints the columns in this order."""


@dataclass(frozen=True)
class Dcgm:
    """``gpus``: index to what it told (a figure that DCGM does not have is left out). ``health``: Healthy, Warning or Failure; empty where
    no watch is on. ``incidents``: the words of the report."""

    gpus: Mapping[int, Mapping[str, int]]
    health: str = ""
    incidents: str = ""


def parse_dcgm(text: str) -> Dcgm:
    """``dcgmi dmon``: rows ``GPU 0  0  0 ...``, the last of each GPU counts; after ``--- health`` the table of ``dcgmi health``."""
    table, _, report = text.partition("--- health\n")
    gpus: dict[int, dict[str, int]] = {}
    for line in table.splitlines():
        words = line.split()
        if len(words) == 2 + len(FIELDS) and words[0] == "GPU" and (index := integer(words[1])) is not None:
            gpus[index] = {name: value for name, word in zip(FIELDS, words[2:], strict=True) if (value := integer(word)) is not None}
    if not any(gpus.values()):
        raise ProbeError(f"dcgmi dmon told no figure: {' '.join(table.split())[-160:]!r}")
    health = re.search(r"Overall Health\W{1,80}(Healthy|Warning|Failure)", report)
    cells = [cell.strip() for line in report.splitlines() if line.startswith("|") for cell in line.strip("|").split("|")[1:]]
    incidents = " ".join(cell for cell in cells if cell and cell not in ("Healthy", "Warning", "Failure"))
    return Dcgm(gpus, health[1] if health else "", incidents[:600] if health else "")


# Two rounds: of the first one DCGM may have no sample yet.
DCGM = Probe(
    "dcgm",
    rf"""
command -v dcgmi >/dev/null || {{ echo "dcgmi is not installed" >&2; exit 127; }}
d=`dcgmi dmon -e {",".join(map(str, FIELDS.values()))} -c 2 2>&1` || {{ printf '%s\n' "$d" | tail -n 1 >&2; exit 126; }}
printf '%s\n' "$d"
echo '--- health'
dcgmi health -g 0 -c 2>&1
true
""",
    parse_dcgm,
    seconds=30,
    hint="systemctl status nvidia-dcgm",
)
