"""What the rehearsal's stand-in node prints, beside recordings of the real commands: the same elements, the same fields filled."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.probes import gpu, host, kernel_log
from pytest_h20.probes.script import Section, build, split
from pytest_h20.rehearsal import all_reduce, standin
from tests.unit.probes.cluster import blog_cluster

RECORDED = Path(__file__).resolve().parents[2] / "corpus" / "recorded"
H200 = "probes-2xh200-r580.txt"
RECORDED_PROBES = {p.name: p for p in (gpu.GPUS, gpu.NVLINKS, gpu.GPU_OWNERS, gpu.DRIVER, gpu.TOPOLOGY, host.LIMITS, kernel_log.KERNEL_LOG)}
R535 = {"/gpu/ecc_errors/volatile/sram_uncorrectable", "/gpu/gpu_power_readings/power_draw"}
"""The stand-in's driver is 535; 580 names two elements otherwise (sram_uncorrectable_parity and _secded, instant_power_draw)."""


def _real() -> dict[str, Section]:
    return split((RECORDED / H200).read_text(encoding="utf-8"))


def _stand_in(name: str) -> dict[str, Section]:
    machine = blog_cluster().nodes["node01"].machine
    machine.gpus[0].processes = ((654, "python3", 630),)
    return split(standin.answer(machine, build([RECORDED_PROBES[name]])))


def _elements(text: str) -> set[str]:
    found: set[str] = set()

    def walk(element: ET.Element, path: str) -> None:
        found.add(path)
        for child in element:
            walk(child, f"{path}/{child.tag}")

    walk(ET.fromstring(text[text.index("<nvidia_smi_log") :]), "")
    return found


def _filled(value: Any, path: str = "") -> set[str]:
    """Where something stands, by field; of many things the first."""
    if dataclasses.is_dataclass(value):
        fields = {f"{path}.{f.name}".lstrip("."): getattr(value, f.name) for f in dataclasses.fields(value)}
        filled = {name: below for name, below in fields.items() if below not in (None, "", (), {})}
        return {*filled, *(n for name, below in filled.items() for n in _filled(below, name))}
    if isinstance(value, dict):
        return _filled(next(iter(value.values()), None), path)
    return _filled(value[0], path) if isinstance(value, tuple | list) and value else set()


def test_nvidia_smi_of_the_stand_in_has_no_element_that_the_real_one_lacks() -> None:
    made, real = _elements(_stand_in("gpus")["gpus"].out), _elements(_real()["gpus"].out)
    assert made - real == R535


@pytest.mark.parametrize("name", RECORDED_PROBES)
def test_the_stand_in_fills_what_the_real_node_fills(name: str) -> None:
    probe = RECORDED_PROBES[name]
    real, made = _filled(probe.read(_real())), _filled(probe.read(_stand_in(name)))
    assert real <= made


def test_the_all_reduce_of_the_stand_in_has_the_keys_of_the_real_one() -> None:
    recorded = (RECORDED / "all-reduce-2xh200-sockets.txt").read_text(encoding="utf-8")
    real = json.loads(next(line for line in recorded.splitlines() if re.match(r'\{"tool"', line)))
    made = json.loads(all_reduce.printed(all_reduce.AllReduceTruth(), ("node01", "node02"), 16, 8, "2.21.5"))
    assert list(made) == list(real)
    assert [r["size"] for r in made["results"]] == [r["size"] for r in real["results"]]
    assert {tuple(r["out_of_place"]) for r in made["results"]} == {tuple(r["out_of_place"]) for r in real["results"]}
