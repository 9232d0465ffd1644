"""Acceptance of GPU clusters for LLM serving, as a pytest plugin with its suite.

Nothing heavy is imported here: the plugin is loaded in every pytest run of every environment it is installed in.
"""

from __future__ import annotations

__version__ = "0.1.0"
