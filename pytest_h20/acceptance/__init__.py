"""The acceptance suite. It runs without a path: ``pytest --engine=sglang --nodes=inventory.yaml``."""

from __future__ import annotations
