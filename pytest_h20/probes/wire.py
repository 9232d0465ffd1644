"""What the wires of a node say of themselves: ARP and routing settings, optics, FEC, bit errors, LLDP neighbours; and what NCCL was told
in the container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_h20.probes.mlxlink import PortTold, port_told
from pytest_h20.probes.script import Probe, integer, number, rows


@dataclass(frozen=True)
class NetDevice:
    """One net device of an RDMA port. ``sysctls``: the value in effect, the larger of the device's own and that of ``all``
    (Documentation/networking/ip-sysctl). ``alarms``, ``warnings``: of the transceiver, those that are on. ``rx_dbm``: received power per
    lane. ``counters``: of ``ethtool -S``, since the driver was loaded. ``neighbour``: switch and port, as LLDP tells them. ``told``: what
    mlxlink says; None where it is not installed. ``switch_pfc``: priorities for which the switch port says that it has PFC (the PFC TLV of
    IEEE 802.1Qaz, 00-80-C2 subtype 11, which lldpd passes on as it came); None where it does not say."""

    netdev: str
    sysctls: Mapping[str, int] = field(default_factory=dict)
    module: str = ""
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rx_dbm: tuple[float, ...] = ()
    fec: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    neighbour: str = ""
    told: PortTold | None = None
    switch_pfc: tuple[int, ...] | None = None


_PFC_TLV = re.compile(r"oui=00,80,C2 subtype=11 len=2 =[0-9A-F]{2},([0-9A-F]{2})\b", re.I)


def parse_wires(text: str) -> dict[str, NetDevice]:
    """Tab-separated lines: ``wire NETDEV``; ``sysctl NETDEV NAME OWN ALL``; ``module NETDEV KEY VALUE`` (of ``ethtool -m``); ``fec NETDEV
    WORDS``; ``stat NETDEV NAME VALUE``; ``lldp NETDEV SWITCH PORT``; ``tlvs NETDEV WORDS`` (of LLDP, that
    lldpd does not know); ``mlxlink NETDEV KEY VALUE``."""
    found: dict[str, NetDevice] = {}
    modules: dict[str, list[tuple[str, str]]] = {}
    names = [r[0] for r in rows(text, "wire", 1)]
    sysctls: dict[str, dict[str, int]] = {n: {} for n in names}
    counters: dict[str, dict[str, int]] = {n: {} for n in names}
    for netdev, name, own, everywhere in rows(text, "sysctl", 4):
        values = [v for v in (integer(own), integer(everywhere)) if v is not None]
        if values and netdev in sysctls:
            sysctls[netdev][name] = max(values)
    for netdev, name, value in rows(text, "stat", 3):
        if netdev in counters and (count := integer(value)) is not None:
            counters[netdev][name] = count
    for netdev, key, value in rows(text, "module", 3):
        modules.setdefault(netdev, []).append((key, value))
    fec = {r[0]: r[1] for r in rows(text, "fec", 2)}
    told: dict[str, list[tuple[str, str]]] = {}
    for netdev, key, value in rows(text, "mlxlink", 3):
        told.setdefault(netdev, []).append((key, value))
    lldp = {r[0]: " ".join(r[1:]).strip() for r in rows(text, "lldp", 3)}
    pfc = {r[0]: int(m[1], 16) for r in rows(text, "tlvs", 2) if (m := _PFC_TLV.search(r[1]))}
    for n in names:
        said = modules.get(n, [])
        on = [re.sub(r"\s+", " ", key) for key, value in said if value.lower().startswith("on")]
        power = (re.search(r"(-?[0-9.]{1,9}) dBm", value) for key, value in said if re.match(r"(rcvr|receiver) signal", key, re.I))
        dbm = tuple(x for m in power if m and (x := number(m[1])) is not None)
        kind = next((value for key, value in said if key.lower() == "identifier"), "")
        alarms, warnings = (tuple(k for k in on if re.search(rf"{word}( \(.*\))?$", k, re.I)) for word in ("alarm", "warning"))
        port = port_told(told[n]) if n in told else None
        lossless = tuple(i for i in range(8) if pfc[n] >> i & 1) if n in pfc else None
        found[n] = NetDevice(n, sysctls[n], kind, alarms, warnings, dbm, fec.get(n, ""), counters[n], lldp.get(n, ""), port, lossless)
    return found


def _tabs(snippet: str) -> str:
    """Literal tabs in patterns: neither every sed nor any grep knows ``\\t``. printf does, and keeps its own."""
    lines = (line if "printf" in line and "sed" not in line else line.replace("\\t", "\t") for line in snippet.split("\n"))
    return "\n".join(lines)


# Reading a transceiver takes a second on some NICs: all at once. Every command writes its few lines in one piece.
WIRES = Probe(
    "wires",
    _tabs(r"""
one() {
  printf 'wire\t%s\n' $1
  for k in arp_ignore arp_announce rp_filter; do
    a=; b=; { read -r a </proc/sys/net/ipv4/conf/$1/$k; read -r b </proc/sys/net/ipv4/conf/all/$k; } 2>/dev/null
    printf 'sysctl\t%s\t%s\t%s\t%s\n' $1 $k "$a" "$b"
  done
  if command -v ethtool >/dev/null; then
    priv ethtool -m $1 2>/dev/null | sed -n "s/^[ \t]*\([^:]*[^: \t]\)[ \t]*: *\(.*\)$/module\t$1\t\1\t\2/p" |
      grep -iE '\t(identifier\t|(rcvr|receiver) signal|[^\t]*(alarm|warning)( *\([^)]*\))?\ton)' | head -n 60
    ethtool --show-fec $1 2>/dev/null | sed -n "s/^Active FEC encoding[s]*: */fec\t$1\t/p" | head -n 1
    ethtool -S $1 2>/dev/null | sed -n "s/^ *\([a-z0-9_]*\): *\([0-9]*\)$/stat\t$1\t\1\t\2/p" |
      grep -E '\t(rx_symbol_err_phy|rx_pcs_symbol_err_phy|rx_crc_errors_phy|rx_corrected_bits_phy|link_down_events_phy|rx_discards_phy)\t'
  fi
  m=
  if command -v mlxlink >/dev/null; then m=`priv mlxlink -d $2 -m -c 2>&1`
  elif command -v mstlink >/dev/null; then m=`priv mstlink -d $2 -m -c 2>&1`
  fi
  [ -n "$m" ] && printf '%s\n' "$m" | sed -n -e "s/^\(-E-\) *\(.*\)$/mlxlink\t$1\t\1\t\2/p" \
    -e "s/^ *\([A-Z][^:]*[^: ]\) *: *\(.*\)$/mlxlink\t$1\t\1\t\2/p" | grep -E '\t(-E-|FEC|Recommendation|Identifier|Raw Physical BER)\t
\t(Time Since|Temperature|Voltage|Bias|[RT]x Power C|[RT]x Fault|[RT]x LOS|Rx CDR LOL|Symbol|Effective|Link)[^\t]*\t' | head -n 40
  if command -v lldpctl >/dev/null; then
    l=`priv lldpctl -f keyvalue $1 2>/dev/null`
    s=`printf '%s\n' "$l" | sed -n "s/^lldp\.$1\.chassis\.name=//p" | head -n 1`
    u=`printf '%s\n' "$l" | sed -n "s/^lldp\.$1\.unknown-tlvs\.unknown-tlv\.*\(.*\)$/\1/p" | tr '\n' ' '`
    [ -n "$u" ] && printf 'tlvs\t%s\t%s\n' $1 "$u"
    p=`printf '%s\n' "$l" | sed -n "s/^lldp\.$1\.port\.\(ifname\|descr\|local\)=//p" | head -n 1`
    [ -n "$s$p" ] && printf 'lldp\t%s\t%s\t%s\n' $1 "$s" "$p"
  fi
}
for p in `for c in /sys/class/infiniband/*; do n=; { read -r n <$c/ports/1/gid_attrs/ndevs/0; } 2>/dev/null; echo "$n ${c##*/}"; done |
    sort -u -k 1,1 | tr ' ' /`; do
  [ -n "${p%/*}" ] && one ${p%/*} ${p#*/} &
done
wait
true
"""),
    parse_wires,
    seconds=60,
    hint="install ethtool, mstflint (mstlink) for bit errors, and lldpd for the neighbours",
)


@dataclass(frozen=True)
class NcclSettings:
    """What NCCL finds set in the container: environment (the image's, the profile's and the node's), then its files."""

    values: Mapping[str, tuple[str, str]]
    """Name -> (value, where it was set). The environment wins, then the user's file, then /etc/nccl.conf: none overwrites an earlier."""

    def number(self, name: str, default: int) -> tuple[int, str]:
        """A whole number and where it was set; NCCL's default, said so, where it is not set or is no number."""
        value, where = self.values.get(name, ("", ""))
        found = integer(value)
        return (default, "NCCL's default") if found is None else (found, where)


def parse_nccl_settings(text: str) -> NcclSettings:
    """``nccl<TAB>WHERE<TAB>NAME<TAB>VALUE`` lines, in the order in which NCCL looks."""
    found: dict[str, tuple[str, str]] = {}
    for where, name, value in rows(text, "nccl", 3):
        found.setdefault(name, (value.strip('"'), where))
    return NcclSettings(found)


NCCL_SETTINGS = Probe(
    "nccl_settings",
    _tabs(r"""
env | sed -n 's/^\(NCCL_[A-Z0-9_]*\)=\(.*\)$/nccl\tenvironment\t\1\t\2/p'
for f in "$NCCL_CONF_FILE" "$HOME/.nccl.conf" /etc/nccl.conf; do
  [ -n "$f" ] && [ -r "$f" ] && sed -n "s|^[ \t]*\(NCCL_[A-Z0-9_]*\)[ \t]*=[ \t]*\(.*\)$|nccl\t$f\t\1\t\2|p" "$f"
done
true
"""),
    parse_nccl_settings,
)
"""``nccl_settings`` (image): what is set of NCCL in a container made like the engine's own."""
