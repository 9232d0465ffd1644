"""This repository's own test options only. The plugin itself is ``pytest_h20/plugin/entry.py``."""

from __future__ import annotations

import contextlib
import os

with contextlib.suppress(ImportError):  # a run of the acceptance suite from this checkout needs no hypothesis
    from hypothesis import settings

    # No deadline: how long an example takes says something about the machine, nothing about the parser.
    settings.register_profile("h20", deadline=None)
    settings.register_profile("thorough", deadline=None, max_examples=2000)
    settings.load_profile(os.environ.get("H20_HYPOTHESIS", "h20"))
