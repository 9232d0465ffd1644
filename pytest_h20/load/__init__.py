"""The load generator: cells, prompts, a raw-socket client, metrics with written definitions, and its own proof.

    from pytest_h20.load import Cell, LoadPlan, Target, run_cell
    result = run_cell(Target("http://head:8000", "sglang", vocabulary=Vocabulary.deepseek_r1()), Cell(128, 128, 64))

Standard library only, Python >= 3.8 (so that it can run inside an engine's container); Ray is used where it is given.
"""

from __future__ import annotations

from pytest_h20.load.arrivals import Arrivals
from pytest_h20.load.cells import Cell, matrix, requests_for
from pytest_h20.load.loop import CellProgress
from pytest_h20.load.plan import LoadPlan, Slo
from pytest_h20.load.prompts import Prompt, PromptRecipe
from pytest_h20.load.result import CellResult, Sanity
from pytest_h20.load.run import CellInterrupted, run_cell
from pytest_h20.load.selfcheck_types import SelfCheck
from pytest_h20.load.target import Target, Vocabulary

__all__ = [
    "Arrivals",
    "Cell",
    "CellInterrupted",
    "CellProgress",
    "CellResult",
    "LoadPlan",
    "Prompt",
    "PromptRecipe",
    "Sanity",
    "SelfCheck",
    "Slo",
    "Target",
    "Vocabulary",
    "matrix",
    "requests_for",
    "run_cell",
]
