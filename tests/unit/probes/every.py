"""Every probe of the package."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest_h20.probes
from pytest_h20.probes.script import Probe


def probes() -> dict[str, Probe[Any]]:
    """By name."""
    found: dict[str, Probe[Any]] = {}
    for module in pkgutil.iter_modules(pytest_h20.probes.__path__):
        for value in vars(importlib.import_module(f"pytest_h20.probes.{module.name}")).values():
            if isinstance(value, Probe):
                found.setdefault(value.name, value)
    return found
