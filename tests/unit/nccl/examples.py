"""Logs of every shape the reader knows."""

from __future__ import annotations

import os

EXAMPLES = int(os.environ.get("H20_NCCL_EXAMPLES", "150"))
