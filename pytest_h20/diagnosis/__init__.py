"""Known failures as data, and the judgement of engine logs: ready, waiting, failed or undetermined. No I/O but the CLI."""

from __future__ import annotations

from pytest_h20.diagnosis.judge import diagnose, primary
from pytest_h20.diagnosis.result import Diagnosis
from pytest_h20.diagnosis.signatures import BY_ID, SIGNATURES, Signature
from pytest_h20.diagnosis.watch import FatalWatch

__all__ = ["BY_ID", "SIGNATURES", "Diagnosis", "FatalWatch", "Signature", "diagnose", "primary"]
