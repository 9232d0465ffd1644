"""What the vendor says a GPU can do: the one table, by the PCI id that the card reports. Data, each row with where it stands.

Figures are of dense matrices: data sheets print BF16 and FP8 of Hopper "with sparsity", twice as much. One direction of NVLink and of
PCIe, where data sheets print both together. A GPU that is not here is measured, held against its siblings, and told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuModel:
    """One model. GB/s (1e9) and TFLOP/s, dense; 0: it has none, or nobody says. ``product``: as nvidia-smi names it."""

    name: str
    product: str
    hbm: float
    bf16: float
    fp8: float
    nvlink: float
    nvlinks: int
    pcie: float
    source: str

    @property
    def weights_tflops(self) -> float:
        """Of products with FP8 weights: in BF16 where the GPU has no FP8."""
        return self.fp8 or self.bf16


PCIE_5, PCIE_4 = 63.0, 31.5
"""x16, one direction, after the 128b/130b code: 32 and 16 GT/s a lane."""

LINK = "links of 50 GB/s both ways (NVLink 3 and 4)"
_H20 = f"H20-96G: 4.0 TB/s, BF16 148, FP8 296 TFLOPS, NVLink 900 GB/s (the SGLang article on H20-96G, lmsys.org 2025-09-26), {LINK}"
_H20_3E = f"H20-3e: an H20 with 141 GB of HBM3e at 4.8 TB/s (H200's memory); the rest as the H20, {LINK}"
_SPARSE = f"NVIDIA's data sheet; its TFLOPS are with sparsity, twice; {LINK}"
_H100 = f"H100 SXM: 3.35 TB/s, BF16 989.5, FP8 1,979 TFLOPS, NVLink 900 GB/s ({_SPARSE})"
_H200 = f"H200 SXM: 4.8 TB/s, BF16 989.5, FP8 1,979 TFLOPS, NVLink 900 GB/s ({_SPARSE})"
_H800 = f"H800 SXM: 3.35 TB/s, BF16 989, FP8 1,979 TFLOPS, NVLink 400 GB/s (the SGLang article on H20-96G, lmsys.org 2025-09-26), {LINK}"
_NVL16 = "H20 NVL16: named in NVIDIA DCGM's table of SKUs, whose floors are in thresholds/h20-skus.yaml; no data sheet"


def _a100(memory: str) -> str:
    return f"A100 SXM: {memory} GB/s, BF16 312 TFLOPS, NVLink 600 GB/s (NVIDIA's data sheet), {LINK}"


GPUS: dict[str, GpuModel] = {
    "10de:2329": GpuModel("H20 96 GB", "H20", 4000, 148, 296, 450, 18, PCIE_5, _H20),
    "10de:2328": GpuModel("H20B 96 GB", "H20B", 4000, 148, 296, 450, 18, PCIE_5, _H20),
    "10de:232c": GpuModel("H20-3e 141 GB", "H20-3e", 4800, 148, 296, 450, 18, PCIE_5, _H20_3E),
    "10de:230e": GpuModel("H20 NVL16", "", 0, 0, 0, 0, 0, 0, _NVL16),
    "10de:230c": GpuModel("H20 NVL16 (600 W)", "", 0, 0, 0, 0, 0, 0, _NVL16),
    "10de:2330": GpuModel("H100 SXM 80 GB", "H100 80GB HBM3", 3350, 989.5, 1979, 450, 18, PCIE_5, _H100),
    "10de:2335": GpuModel("H200 SXM 141 GB", "H200", 4800, 989.5, 1979, 450, 18, PCIE_5, _H200),
    "10de:2324": GpuModel("H800 SXM 80 GB", "H800", 3350, 989.5, 1979, 200, 8, PCIE_5, _H800),
    "10de:20b0": GpuModel("A100 SXM 40 GB", "A100-SXM4-40GB", 1555, 312, 0, 300, 12, PCIE_4, _a100("1,555")),
    "10de:20b2": GpuModel("A100 SXM 80 GB", "A100-SXM4-80GB", 2039, 312, 0, 300, 12, PCIE_4, _a100("2,039")),
}


def is_a(product: str, written: str) -> bool:
    """Whether a GPU that reports ``product`` is what a person calls ``written``: ``NVIDIA H100 80GB HBM3`` is an H100 and
    ``A100-SXM4-80GB`` an A100, but an H200 or H20-3e is no H20, and an L40S no L40."""
    name = re.escape(written.lower().removeprefix("nvidia").strip())
    return re.search(rf"(?<!\w){name}(?!\w|-\d)", product.lower()) is not None


def gpu_model(pci_id: str, product: str = "") -> GpuModel | None:
    """The model with this PCI device id (``2329`` or ``10de:2329``); where none is known, with exactly this product name (``NVIDIA
    H20``)."""
    if pci_id:
        return GPUS.get(pci_id if ":" in pci_id else f"10de:{pci_id}")
    named = product.lower().removeprefix("nvidia").strip()
    return next((gpu for gpu in GPUS.values() if named and gpu.product.lower() == named), None)
