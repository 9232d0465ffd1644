"""What the vendor says a GPU can do, by the PCI id that it reports. Data, each row with where it stands.

Figures are of dense matrices: data sheets print BF16 and FP8 of Hopper "with sparsity", twice as much. One direction of NVLink and of
PCIe, where data sheets print both together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sku:
    """One model. GB/s (1e9) and TFLOP/s; 0: it has none."""

    name: str
    hbm: float
    bf16: float
    fp8: float
    nvlink: float
    pcie: float
    source: str


PCIE_5, PCIE_4 = 63.0, 31.5
"""x16, one direction, after the 128b/130b code: 32 and 16 GT/s a lane."""

_H20 = "H20-96G: 4.0 TB/s, BF16 148, FP8 296 TFLOPS, NVLink 900 GB/s (table of the SGLang article on H20-96G, lmsys.org 2025-09-26)"
_H20_3E = "H20-3e: an H20 with 141 GB of HBM3e at 4.8 TB/s (H200's memory); the rest as the H20"
_H100 = "H100 SXM: 3.35 TB/s, BF16 989.5, FP8 1,979 TFLOPS, NVLink 900 GB/s (NVIDIA's data sheet; its TFLOPS are with sparsity, twice)"
_H200 = "H200 SXM: 4.8 TB/s, BF16 989.5, FP8 1,979 TFLOPS, NVLink 900 GB/s (NVIDIA's data sheet; its TFLOPS are with sparsity, twice)"
_H800 = "H800 SXM: 3.35 TB/s, BF16 989, FP8 1,979 TFLOPS, NVLink 400 GB/s (table of the SGLang article on H20-96G, lmsys.org 2025-09-26)"
_A100 = "A100 SXM: {} GB/s, BF16 312 TFLOPS, NVLink 600 GB/s (NVIDIA's data sheet)"

SKUS: dict[str, Sku] = {
    "10de:2329": Sku("H20 96 GB", 4000, 148, 296, 450, PCIE_5, _H20),
    "10de:2328": Sku("H20B 96 GB", 4000, 148, 296, 450, PCIE_5, _H20),
    "10de:232c": Sku("H20-3e 141 GB", 4800, 148, 296, 450, PCIE_5, _H20_3E),
    "10de:2330": Sku("H100 SXM 80 GB", 3350, 989.5, 1979, 450, PCIE_5, _H100),
    "10de:2335": Sku("H200 SXM 141 GB", 4800, 989.5, 1979, 450, PCIE_5, _H200),
    "10de:2324": Sku("H800 SXM 80 GB", 3350, 989.5, 1979, 200, PCIE_5, _H800),
    "10de:20b0": Sku("A100 SXM 40 GB", 1555, 312, 0, 300, PCIE_4, _A100.format("1,555")),
    "10de:20b2": Sku("A100 SXM 80 GB", 2039, 312, 0, 300, PCIE_4, _A100.format("2,039")),
}
