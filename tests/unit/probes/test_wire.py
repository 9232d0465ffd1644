"""The probes of the wires run as they go to a node, with tools that print what ethtool and lldpctl print."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_h20.probes.mlxlink import READINGS, ModuleFigure, PortTold, port_told
from pytest_h20.probes.script import Missing, Probe, build, split
from pytest_h20.probes.wire import NCCL_SETTINGS, WIRES, NcclSettings, NetDevice, parse_wires

# ethtool -m of a QSFP28 module with one dark lane; the words are ethtool's (qsfp.c, sff-common.c).
ETHTOOL = r"""#!/bin/sh
case "$1" in
-m) printf '\tIdentifier                                : 0x11 (QSFP28)\n'
    printf '\tLaser tx bias current (Channel 1)         : 6.750 mA\n'
    printf '\tRcvr signal avg optical power(Channel 1)  : 0.0004 mW / -33.98 dBm\n'
    printf '\tRcvr signal avg optical power(Channel 2)  : 0.8000 mW / -0.97 dBm\n'
    printf '\tLaser rx power low alarm   (Channel 1)    : On\n\tLaser rx power low warning (Channel 1)    : On\n'
    printf '\tModule temperature high alarm             : Off\n\tLaser bias current high alarm threshold   : 11.8 mA\n';;
--show-fec) printf 'FEC parameters for %s:\nConfigured FEC encodings: Auto\nActive FEC encoding: RS\n' "$2";;
-S) printf 'NIC statistics:\n     rx_symbol_err_phy: 0\n     rx_pcs_symbol_err_phy: 12\n     rx_prio3_pause: 5\n';;
esac
"""
MLXLINK = r"""#!/bin/sh
[ "$*" = "-d mlx5_7 -m -c" ] || exit 9
cat <<'END'

Operational Info
----------------
State                              : Active
Physical state                     : LinkUp
Speed                              : 400G
FEC                                : Standard RS-FEC - RS(544,514)

Supported Info
--------------
Enabled Link Speed (Ext.)          : 0x000017f2 (200G_4X,100G_2X)

Troubleshooting Info
--------------------
Status Opcode                      : 0
Recommendation                     : ESC[32mNo issue was observedESC[0m

Module Info
-----------
Temperature [C]                    : 54 [-5..75]
Voltage [mV]                       : 3261.2 [2970..3630]
Bias Current [mA]                  : 8.380,8.380,8.380,8.380 [2..15]
Rx Power Current [dBm]             : 1.886,1.989,2.281,1.976 [-10.41..6]
Tx Power Current [dBm]             : N/A
Identifier                         : OSFP
Vendor Name                        : CLT
Tx Fault [per lane]                : 0,0,0,0
Rx LOS [per lane]                  : 0,0,1,0

Physical Counters and BER Info
------------------------------
Time Since Last Clear [Min]        : 348349.5
Effective Physical Errors          : 0
Effective Physical BER             : ESC[32m15E-255ESC[0m
Raw Physical Errors Per Lane       : 3946476397,5120336064,7692183445,3026261414
Link Down Counter                  : 0
Link Error Recovery Counter        : 0
Raw Physical BER                   : ESC[32m2E-9ESC[0m

END
"""
"""In the order and words of mlxlink_commander.cpp (Mellanox/mstflint), with the figures of scitix/sichek#125."""
LLDPCTL = """#!/bin/sh
cat <<'END'
lldp.lo.chassis.name=leaf-3
lldp.lo.port.ifname=Ethernet1/7
lldp.lo.port.descr=x
lldp.lo.unknown-tlvs.unknown-tlv.oui=00,01,42
lldp.lo.unknown-tlvs.unknown-tlv.subtype=1
lldp.lo.unknown-tlvs.unknown-tlv.len=1
lldp.lo.unknown-tlvs.unknown-tlv=01
lldp.lo.unknown-tlvs.unknown-tlv.oui=00,80,C2
lldp.lo.unknown-tlvs.unknown-tlv.subtype=11
lldp.lo.unknown-tlvs.unknown-tlv.len=2
lldp.lo.unknown-tlvs.unknown-tlv=08,28
END
"""


def run(probe: Probe[object], script: str, **env: str) -> object:
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=30, env={**os.environ, **env})
    return probe.read(split(done.stdout))


def on_loopback() -> str:
    """The script of the probe, asking for the one device that every machine has."""
    script = build([WIRES])
    assert "/sys/class/infiniband/*; do" in script
    start = script.index("for p in `for c in")
    end = script.index("; do\n", script.index("tr ' ' /", start))
    return script[:start] + "for p in lo/mlx5_7" + script[end:]


def test_what_ethtool_and_lldp_say(tmp_path: Path) -> None:
    for name, text in (("ethtool", ETHTOOL), ("lldpctl", LLDPCTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    found = run(WIRES, on_loopback(), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert isinstance(found, dict)
    wire = found["lo"]
    assert isinstance(wire, NetDevice)
    assert wire.alarms == ("Laser rx power low alarm (Channel 1)",)
    assert wire.warnings == ("Laser rx power low warning (Channel 1)",)
    assert (wire.module, wire.rx_dbm, wire.fec, wire.neighbour) == ("0x11 (QSFP28)", (-33.98, -0.97), "RS", "leaf-3 Ethernet1/7")
    assert wire.switch_pfc == (3, 5)
    assert wire.counters == {"rx_symbol_err_phy": 0, "rx_pcs_symbol_err_phy": 12}
    assert set(wire.sysctls) == {"arp_ignore", "arp_announce", "rp_filter"}


@pytest.mark.parametrize("tool", ["mlxlink", "mstlink"])
def test_what_mlxlink_says(tmp_path: Path, tool: str) -> None:
    (tmp_path / tool).write_text(MLXLINK.replace("ESC", "\x1b"))
    (tmp_path / tool).chmod(0o755)
    found = run(WIRES, on_loopback(), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert isinstance(found, dict)
    told = found["lo"].told
    assert isinstance(told, PortTold)
    assert (told.module, told.fec, told.recommendation) == ("OSFP", "Standard RS-FEC - RS(544,514)", "No issue was observed")
    assert (told.raw_ber, told.effective_ber, told.minutes) == (2e-9, 15e-255, 348349.5)
    assert told.counts == (("Effective Physical Errors", 0), ("Link Down Counter", 0), ("Link Error Recovery Counter", 0))
    assert told.flags == ("Rx LOS on lane 3",)
    light = told.reading("Rx Power Current [dBm]")
    assert light == ModuleFigure((1.886, 1.989, 2.281, 1.976), -10.41, 6.0)
    assert [name for name, _ in told.readings] == [n for n in READINGS if "Tx" not in n], "N/A is no reading"
    assert told.looked_at == 4 + 3 + 2 + 2


def test_a_module_without_thresholds_tells_no_readings_and_its_flags_mean_nothing() -> None:
    copper = port_told([("Temperature [C]", "0 [0..0]"), ("Rx Power Current [dBm]", "0,0,0,0 [0..0]"), ("Rx LOS [per lane]", "1,0,1,1")])
    assert (copper.readings, copper.flags, copper.looked_at) == ((), (), 0)


def test_why_mlxlink_told_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlxlink").write_text("#!/bin/sh\necho '-E- Unsupported device'; echo 'a: b'; exit 1\n")
    (tmp_path / "mlxlink").chmod(0o755)
    found = run(WIRES, on_loopback(), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert isinstance(found, dict)
    assert found["lo"].told == PortTold(refused="Unsupported device")


def test_the_larger_of_two_settings_is_in_effect() -> None:
    assert parse_wires("wire\teth1\nsysctl\teth1\tarp_ignore\t0\t1\nsysctl\teth1\trp_filter\t2\t\n")["eth1"].sysctls == {
        "arp_ignore": 1,
        "rp_filter": 2,
    }


@pytest.mark.parametrize("text", ["", "stat\teth1\tx\t1\n", "lldp\teth1\ta\tb\n"])
def test_lines_of_no_wire_are_none(text: str) -> None:
    assert parse_wires(text) == {}


def test_the_environment_wins_over_the_users_file_and_that_over_the_machines(tmp_path: Path) -> None:
    conf = tmp_path / "x.conf"
    conf.write_text('NCCL_IB_TC=3\n  NCCL_IB_SL = "4"\n# NCCL_IB_TIMEOUT=1\n')
    found = run(NCCL_SETTINGS, build([NCCL_SETTINGS]), NCCL_IB_TC="106", NCCL_CONF_FILE=str(conf))
    assert not isinstance(found, Missing)
    assert isinstance(found, NcclSettings)
    assert found.number("NCCL_IB_TC", 0) == (106, "environment")
    assert found.number("NCCL_IB_SL", 0) == (4, str(conf))
    assert found.number("NCCL_IB_TIMEOUT", 20) == (20, "NCCL's default")
