"""RDMA devices from /sys/class/infiniband, read with the shell alone; OFED's scripts where they exist; QoS and PCIe hints."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_h20.probes.gid import Gid
from pytest_h20.probes.script import Probe, ProbeError, integer, number, pairs, rows, whole


@dataclass(frozen=True)
class Port:
    """One port. ``state``/``phys``: without the kernel's number (``ACTIVE``, ``LinkUp``). ``rate_gbps`` Gbit/s, ``width``
    lanes."""

    device: str
    port: int
    state: str
    phys: str
    link_layer: str
    rate_gbps: float | None
    width: int | None
    rate_text: str


@dataclass(frozen=True)
class Hca:
    """One RDMA device."""

    name: str
    firmware: str
    board: str
    type: str
    node_guid: str
    pci: str
    numa: int | None


@dataclass(frozen=True)
class RdmaFacts:
    """Everything of /sys/class/infiniband that matters. ``virtual``: names of the devices that are virtual functions (SR-IOV)."""

    hcas: tuple[Hca, ...]
    ports: tuple[Port, ...]
    gids: tuple[Gid, ...]
    virtual: frozenset[str] = frozenset()

    def hca(self, name: str) -> Hca | None:
        """A device by name."""
        return next((h for h in self.hcas if h.name == name), None)

    def port(self, device: str, port: int = 1) -> Port | None:
        """A port of a device."""
        return next((p for p in self.ports if (p.device, p.port) == (device, port)), None)

    def port_gids(self, device: str, port: int = 1) -> tuple[Gid, ...]:
        """The used slots of one port's GID table."""
        return tuple(g for g in self.gids if (g.device, g.port) == (device, port))


def _word(text: str) -> str:
    return text.split(":", 1)[-1].strip()


def parse_rdma(text: str) -> RdmaFacts:
    """Four kinds of tab-separated lines:

    ``hca NAME FW BOARD TYPE NODE_GUID PCI NUMA``; ``port NAME PORT STATE PHYS LINK_LAYER RATE`` as the kernel prints them
    (``4: ACTIVE``, ``5: LinkUp``, ``Ethernet``, ``200 Gb/sec (4X HDR)``); ``gid NAME PORT INDEX GID TYPE NETDEV``, used slots
    only; ``virtual NAME`` for a virtual function.
    """
    hcas = [Hca(r[0], r[1], r[2], r[3], r[4], r[5], integer(r[6])) for r in rows(text, "hca", 7)]
    ports = []
    for r in rows(text, "port", 6):
        rate = re.match(r"([0-9]{1,9}(?:\.[0-9]+)?)\s*Gb/sec(?:\s*\(([0-9]{1,3})X)?", r[5])
        ports.append(
            Port(
                r[0],
                whole(r[1], f"port of {r[0]}"),
                _word(r[2]),
                _word(r[3]),
                r[4],
                float(rate[1]) if rate else None,
                int(rate[2]) if rate and rate[2] else None,
                r[5],
            )
        )
    gids = []
    for r in rows(text, "gid", 6):
        try:
            gid = Gid(r[0], whole(r[1], "port"), whole(r[2], "index"), r[3], r[4], r[5])
            gid.address  # noqa: B018 - refuses what is not an address
        except ValueError as error:
            raise ProbeError(f"gid line {r}: {error}") from None
        gids.append(gid)
    return RdmaFacts(tuple(hcas), tuple(ports), tuple(gids), frozenset(r[0] for r in rows(text, "virtual", 1)))


# One grep for all slots: a port of a software device has 1024; a process per slot takes a minute on a slow machine, and the
# shell's own read (one byte per system call) 20 s on a busy one.
# Reading gid_attrs of an unused slot is an error (EINVAL) by design.
RDMA = Probe(
    "rdma",
    r"""
[ -d /sys/class/infiniband ] || { echo "/sys/class/infiniband is not there: no RDMA driver is loaded" >&2; exit 127; }
g() { v=; { read -r v <"$1"; } 2>/dev/null; }
for c in /sys/class/infiniband/*; do
  [ -d "$c/ports" ] || continue
  n=${c##*/}
  g $c/fw_ver; f=$v; g $c/board_id; b=$v; g $c/hca_type; t=$v; g $c/node_guid; u=$v; g $c/device/numa_node; m=$v
  p=`readlink -f $c/device 2>/dev/null`; p=${p##*/}; case $p in ????:??:??.?) ;; *) p=;; esac
  printf 'hca\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$n" "$f" "$b" "$t" "$u" "$p" "$m"
  [ -e $c/device/physfn ] && printf 'virtual\t%s\n' "$n"
  for P in $c/ports/*; do
    i=${P##*/}
    g $P/state; s=$v; g $P/phys_state; h=$v; g $P/link_layer; l=$v; g $P/rate; r=$v
    printf 'port\t%s\t%s\t%s\t%s\t%s\t%s\n' "$n" "$i" "$s" "$h" "$l" "$r"
    grep -Hv -e '^\(0000\|fe80\)\(:0000\)\{7\}$' -e '^$' $P/gids/* 2>/dev/null | while IFS= read -r x; do
      q=${x#*:}; k=${x%%:*}; k=${k##*/}
      g $P/gid_attrs/types/$k; y=$v; g $P/gid_attrs/ndevs/$k
      printf 'gid\t%s\t%s\t%s\t%s\t%s\t%s\n' "$n" "$i" "$k" "$q" "$y" "$v"
    done
  done
done
""",
    parse_rdma,
    seconds=60,
    hint="load the driver (modprobe mlx5_ib) or install the OFED",
)


def parse_ibdev2netdev(text: str) -> dict[tuple[str, int], tuple[str, bool]]:
    """``mlx5_1 port 1 ==> xgbe1 (Up)`` -> {(device, port): (net device, up)}."""
    found = re.findall(r"^(\S+) port ([0-9]{1,9}) ==> (\S+) \((\w+)\)", text, re.M)
    return {(d, int(p)): (n, s == "Up") for d, p, n, s in found}


IBDEV2NETDEV = Probe(
    "ibdev2netdev",
    'command -v ibdev2netdev >/dev/null || { echo "ibdev2netdev is not installed" >&2; exit 127; }\nibdev2netdev',
    parse_ibdev2netdev,
    hint="part of the OFED (mlnx-tools); optional: /sys/class/infiniband is read anyway",
)


def parse_show_gids(text: str) -> tuple[Gid, ...]:
    """Columns DEV PORT INDEX GID [IPv4] VER DEV; the header and the line of dashes are left out; a last column may be
    missing."""
    line_form = re.compile(
        r"^(\S+)\s+([0-9]{1,9})\s+([0-9]{1,9})\s+((?:[0-9a-f]{4}:){7}[0-9a-f]{4})\s+"
        r"(?:\d+\.\d+\.\d+\.\d+\s+)?(v1|v2)(?:\s+(\S+))?\s*$"
    )
    return tuple(
        Gid(m[1], int(m[2]), int(m[3]), m[4], "RoCE v2" if m[5] == "v2" else "IB/RoCE v1", m[6] or "")
        for line in text.splitlines()
        if (m := line_form.match(line))
    )


SHOW_GIDS = Probe(
    "show_gids",
    'command -v show_gids >/dev/null || { echo "show_gids is not installed" >&2; exit 127; }\nshow_gids',
    parse_show_gids,
    hint="part of the OFED (mlnx-tools); optional: /sys/class/infiniband is read anyway",
)


@dataclass(frozen=True)
class Qos:
    """Flow control of one net device: what could be read, key to value (``trust``, ``pfc``, ``ecn_np``, ``tos``, ``pause_rx``
    ...)."""

    netdev: str
    settings: tuple[tuple[str, str], ...]


def parse_qos(text: str) -> dict[str, Qos]:
    """``qos<TAB>NETDEV<TAB>KEY<TAB>VALUE`` lines."""
    found: dict[str, dict[str, str]] = {}
    for netdev, key, value in rows(text, "qos", 3):
        found.setdefault(netdev, {})[key] = re.sub(r"\s+", " ", value)
    return {n: Qos(n, tuple(sorted(s.items()))) for n, s in found.items()}


QOS = Probe(
    "qos",
    r"""
e() { [ -n "$3" ] && printf 'qos\t%s\t%s\t%s\n' "$1" "$2" "$3"; }
for c in /sys/class/infiniband/*; do
  [ -d $c/ports ] || continue
  n=${c##*/}; d=
  { read -r d <$c/ports/1/gid_attrs/ndevs/0; } 2>/dev/null
  [ -n "$d" ] || continue
  if command -v mlnx_qos >/dev/null; then
    q=`priv mlnx_qos -i $d 2>/dev/null`
    e $d trust "`printf '%s\n' "$q" | sed -n 's/^ *Priority trust state: *//p'`"
    e $d dscp2prio "`printf '%s\n' "$q" | sed -n 's/^[ \t]*prio:\([0-7]\) dscp:\([0-9,]*\).*/\1=\2/p' | tr '\n' ' '`"
    e $d pfc "`printf '%s\n' "$q" | sed -n 's/^[ \t]*enabled[ \t]*//p' | head -n 1 | tr '\t' ' '`"
  elif command -v dcb >/dev/null; then
    e $d pfc "`dcb pfc show dev $d prio-pfc 2>/dev/null | tr '\t\n' '  '`"
    e $d trust "`dcb app show dev $d 2>/dev/null | tr '\t\n' '  '`"
  fi
  for r in np rp; do
    f=`cat /sys/class/net/$d/ecn/roce_$r/enable/[0-7] 2>/dev/null | tr '\n' ' '`; e $d ecn_$r "$f"
  done
  e $d tos "`cat /sys/kernel/config/rdma_cm/$n/ports/1/default_roce_tos 2>/dev/null`"
  e $d traffic_class "`cat $c/tc/1/traffic_class 2>/dev/null | tr '\n' ' '`"
  if command -v ethtool >/dev/null; then
    p=`ethtool -a $d 2>/dev/null`
    e $d pause_rx "`printf '%s\n' "$p" | sed -n 's/^RX:[ \t]*//p'`"
    e $d pause_tx "`printf '%s\n' "$p" | sed -n 's/^TX:[ \t]*//p'`"
  fi
done
true
""",
    parse_qos,
    seconds=60,
)


@dataclass(frozen=True)
class PcieHints:
    """ACS and IOMMU: both send GPU-NIC traffic through the root complex. ``acs`` None = could not be read (lspci or rights
    missing). ``acs_at``: PCI addresses of the bridges that redirect requests. ``virtual``: a virtual machine, which needs ACS."""

    iommu_groups: int
    cmdline: str
    acs_bridges: int | None
    acs_enabled: int | None
    acs_at: tuple[str, ...] = ()
    virtual: bool = False

    @property
    def passthrough(self) -> bool:
        """True when the kernel was told to let devices through (``iommu=pt``)."""
        return "iommu=pt" in self.cmdline


def parse_pcie_hints(text: str) -> PcieHints:
    """``iommu_groups=N``, ``cmdline=``, ``acs_bridges=N`` (bridges whose ACS control was readable), ``acs_enabled=N`` of them
    redirecting or validating, ``acs_at=ADDRESS ADDRESS`` of those that redirect requests, ``virtual=yes``."""
    p = pairs(text)
    groups = integer(p.get("iommu_groups"))
    if groups is None:
        raise ProbeError("no iommu_groups= line")
    bridges = integer(p.get("acs_bridges"))
    return PcieHints(
        groups,
        p.get("cmdline", ""),
        bridges or None,
        integer(p.get("acs_enabled")) if bridges else None,
        tuple(p.get("acs_at", "").split()),
        p.get("virtual") == "yes",
    )


PCIE_HINTS = Probe(
    "pcie_hints",
    r"""
n=0; for x in /sys/kernel/iommu_groups/*; do [ -d "$x" ] && n=$((n + 1)); done; echo "iommu_groups=$n"
echo "cmdline=`cat /proc/cmdline 2>/dev/null`"
if command -v lspci >/dev/null; then
  l=`priv lspci -D -vvv 2>/dev/null | grep -E '^[0-9a-f]{4}:|ACSCtl'`
  echo "acs_bridges=`printf '%s\n' "$l" | grep -c ACSCtl`"
  echo "acs_enabled=`printf '%s\n' "$l" | grep -cE 'ReqRedir\+|SrcValid\+'`"
  a=; d=
  while read -r w r; do case "$w $r" in *ReqRedir+*) a="$a $d";; ACSCtl*) ;; *) d=$w;; esac; done <<H20_ACS
$l
H20_ACS
  echo "acs_at=${a# }"
fi
grep -q '^flags.* hypervisor' /proc/cpuinfo 2>/dev/null && echo virtual=yes
true
""",
    parse_pcie_hints,
    seconds=60,
    hint="install pciutils and log in as root",
)


@dataclass(frozen=True)
class PciDevice:
    """A GPU (class 0x03) or network device (class 0x02) on PCIe. Speeds in GT/s, widths in lanes."""

    address: str
    vendor: str
    device: str
    cls: str
    driver: str
    numa: int | None
    speed: float | None
    speed_max: float | None
    width: int | None
    width_max: int | None
    path: tuple[str, ...]

    @property
    def gpu(self) -> bool:
        """An NVIDIA GPU."""
        return self.cls.startswith("0x03") and self.vendor == "0x10de"


def parse_pci(text: str) -> dict[str, PciDevice]:
    """``pci<TAB>ADDRESS<TAB>VENDOR<TAB>DEVICE<TAB>CLASS<TAB>DRIVER<TAB>NUMA<TAB>SPEED<TAB>MAX<TAB>WIDTH<TAB>MAX<TAB>SYSFS_PATH``.

    Speeds as the kernel prints them (``32.0 GT/s PCIe``); ``path``: the PCI addresses from the root down to the device.
    """

    def speed(value: str) -> float | None:
        return number(value)

    found = {}
    for r in rows(text, "pci", 11):
        path = tuple(re.findall(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", r[10]))
        found[r[0]] = PciDevice(r[0], r[1], r[2], r[3], r[4], integer(r[5]), speed(r[6]), speed(r[7]), integer(r[8]), integer(r[9]), path)
    return found


PCI = Probe(
    "pci",
    r"""
g() { v=; { read -r v <"$1"; } 2>/dev/null; }
for d in /sys/bus/pci/devices/*; do
  g $d/class; c=$v
  case $c in 0x02*|0x0300*|0x0302*) ;; *) continue;; esac
  g $d/vendor; a=$v; g $d/device; b=$v; g $d/numa_node; n=$v; g $d/current_link_speed; s=$v; g $d/max_link_speed; S=$v
  g $d/current_link_width; w=$v; g $d/max_link_width; W=$v
  r=`readlink $d/driver`; p=`readlink -f $d`
  printf 'pci\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${d##*/}" "$a" "$b" "$c" "${r##*/}" "$n" "$s" "$S" "$w" "$W" "$p"
done
""",
    parse_pci,
    seconds=60,
)


def pci_distance(a: PciDevice, b: PciDevice) -> str:
    """How two devices are connected, in nvidia-smi's words: PIX (one bridge), PXB (several), NODE (same NUMA node), SYS
    (other node).

    From the sysfs paths: devices that share a bridge below the root port do not need the CPU to talk to each other.
    """
    shared = 0
    for x, y in zip(a.path, b.path, strict=False):
        if x != y:
            break
        shared += 1
    if shared and a.path and b.path and shared < min(len(a.path), len(b.path)):
        return "PIX" if len(a.path) - shared <= 2 and len(b.path) - shared <= 2 else "PXB"
    if a.numa is None or b.numa is None or a.numa < 0 or b.numa < 0:
        return "unknown"
    return "NODE" if a.numa == b.numa else "SYS"
