"""The report people open: parts for pytest-html 4, and whole pages of our own. See ``page`` for what to call."""

from __future__ import annotations
