"""This repository's own test options only. The plugin itself is ``pytest_h20/plugin.py``."""

from __future__ import annotations

pytest_plugins = ["pytester"]
