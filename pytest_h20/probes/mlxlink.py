"""What ``mlxlink -d HCA -m -c`` (mstflint's ``mstlink``, the same program) says of a port: light, FEC, bit errors, its own opinion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_h20.probes.script import integer, number

_COLOUR = re.compile(r"\x1b\[[0-9;]{0,9}m")
_READING = re.compile(r"(?P<values>[-0-9.,eE]{1,200}) \[(?P<low>-?[0-9.]{1,12})\.\.(?P<high>-?[0-9.]{1,12})\]$")
READINGS = ("Temperature [C]", "Voltage [mV]", "Bias Current [mA]", "Rx Power Current [dBm]", "Tx Power Current [dBm]")
LANE_FLAGS = ("Tx Fault [per lane]", "Tx LOS [per lane]", "Rx LOS [per lane]", "Rx CDR LOL [per lane]")
COUNTS = ("Symbol Errors", "Effective Physical Errors", "Link Down Counter", "Link Error Recovery Counter")
SOUND = "No issue was observed"


@dataclass(frozen=True)
class ModuleFigure:
    """A figure of the module, per lane where it has lanes, and between which values its maker wants it: the alarm thresholds in the module
    (``rx_power_high_th`` of the register PDDR: "Alarm high RX Power threshold")."""

    values: tuple[float, ...]
    low: float
    high: float

    @property
    def outside(self) -> tuple[float, ...]:
        """Those beyond the thresholds."""
        return tuple(v for v in self.values if not self.low <= v <= self.high)


@dataclass(frozen=True)
class PortTold:
    """One port. ``readings``: of a module that has thresholds; a passive copper cable tells ``0 [0..0]`` or ``N/A``, and then the flags of
    its lanes mean nothing either. ``raw_ber``: before FEC; ``effective_ber``: what FEC left (15E-255: nothing). ``counts`` since
    ``minutes`` ago. ``refused``: why the tool told nothing."""

    module: str = ""
    fec: str = ""
    recommendation: str = ""
    readings: tuple[tuple[str, ModuleFigure], ...] = ()
    flags: tuple[str, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    raw_ber: float | None = None
    effective_ber: float | None = None
    minutes: float | None = None
    refused: str = ""

    @property
    def looked_at(self) -> int:
        """How many things it told."""
        bers = sum(x is not None for x in (self.raw_ber, self.effective_ber))
        return len(self.readings) + len(self.counts) + bers + bool(self.fec) + bool(self.recommendation)

    def reading(self, name: str) -> ModuleFigure | None:
        """One of ``READINGS``."""
        return dict(self.readings).get(name)

    def count(self, name: str) -> int:
        """One of ``COUNTS``; 0 where it is not told."""
        return dict(self.counts).get(name, 0)


def port_told(lines: Iterable[tuple[str, str]]) -> PortTold:
    """From the tool's ``KEY : VALUE`` lines, in any order; ``N/A`` and what is not known is left out. A key ``-E-``: the tool's error."""
    said = {key.strip(): _COLOUR.sub("", value).strip() for key, value in lines}
    said = {key: value for key, value in said.items() if value and value != "N/A"}
    readings = tuple((name, r) for name in READINGS if (r := _reading(said.get(name, ""))) is not None)
    flags = tuple(
        f"{name.removesuffix(' [per lane]')} on lane {lane}"
        for name in (LANE_FLAGS if readings else ())
        for lane, flag in enumerate(said.get(name, "").split(","), 1)
        if flag.strip() == "1"
    )
    return PortTold(
        module=said.get("Identifier", ""),
        fec=said.get("FEC", ""),
        recommendation=said.get("Recommendation", ""),
        readings=readings,
        flags=flags,
        counts=tuple((name, n) for name in COUNTS if (n := integer(said.get(name, ""))) is not None),
        raw_ber=_ber(said.get("Raw Physical BER", "")),
        effective_ber=_ber(said.get("Effective Physical BER", "")),
        minutes=number(said.get("Time Since Last Clear [Min]", "")),
        refused=said.get("-E-", ""),
    )


def _ber(text: str) -> float | None:
    found = re.fullmatch(r"([0-9.]{1,12})[eE](-?[0-9]{1,3})", text)
    return float(text) if found else number(text)


def _reading(text: str) -> ModuleFigure | None:
    found = _READING.match(text)
    if not found:
        return None
    values = tuple(x for word in found["values"].split(",") if (x := number(word)) is not None)
    low, high = number(found["low"]), number(found["high"])
    return ModuleFigure(values, low, high) if values and low is not None and high is not None and low < high else None
