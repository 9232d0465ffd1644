"""The one table of GPUs."""

from __future__ import annotations

import pytest

from pytest_h20.config.environments import environments
from pytest_h20.config.limits import load_limits
from pytest_h20.core.gpus import GPUS, gpu_model, is_a


@pytest.mark.parametrize(
    ("pci", "product", "name"),
    [
        ("2329", "", "H20 96 GB"),
        ("10de:232c", "", "H20-3e 141 GB"),
        ("", "NVIDIA H20", "H20 96 GB"),
        ("", "NVIDIA H20-3e", "H20-3e 141 GB"),
        ("2335", "NVIDIA H20", "H200 SXM 141 GB"),
        ("", "NVIDIA H100 80GB HBM3", "H100 SXM 80 GB"),
        ("2324", "NVIDIA H800", "H800 SXM 80 GB"),
        ("", "NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
    ],
)
def test_a_gpu_is_found_by_its_pci_id_or_its_exact_name(pci: str, product: str, name: str) -> None:
    found = gpu_model(pci, product)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("pci", "product"), [("27b6", "NVIDIA L20"), ("", "NVIDIA H20 NVL"), ("", ""), ("", "NVIDIA"), ("2331", "NVIDIA H100 PCIe")]
)
def test_a_look_alike_is_not_taken_for_one(pci: str, product: str) -> None:
    assert gpu_model(pci, product) is None


def test_nvlinks_and_their_bandwidth_agree() -> None:
    """25 GB/s a link and direction, of NVLink 3 and 4."""
    assert {pci for pci, gpu in GPUS.items() if gpu.nvlink != 25 * gpu.nvlinks} == set()


def test_every_gpu_of_the_shipped_limits_is_in_the_table() -> None:
    limits = load_limits(environments() / "thresholds" / "h20-skus.yaml")
    assert set(limits.skus) <= set(GPUS)


@pytest.mark.parametrize(
    ("product", "written", "so"),
    [
        ("NVIDIA H20", "H20", True),
        ("NVIDIA H20", "nvidia h20", True),
        ("NVIDIA H20-3e", "H20", False),
        ("NVIDIA H20-3e", "H20-3e", True),
        ("NVIDIA H200", "H20", False),
        ("NVIDIA GH200 480GB", "H200", False),
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-40GB", False),
        ("NVIDIA L40S", "L40", False),
        ("", "H20", False),
    ],
)
def test_what_people_call_a_gpu(product: str, written: str, so: bool) -> None:
    assert is_a(product, written) is so
