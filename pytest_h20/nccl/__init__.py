"""NCCL logs -> evidence -> judgement: does this job really run over RDMA? Pure, streaming, standard library only."""

from __future__ import annotations

from pytest_h20.nccl.job import judge_job
from pytest_h20.nccl.labels import labels
from pytest_h20.nccl.model import (
    Address,
    Channel,
    Communicator,
    Device,
    Expected,
    Job,
    LogEvidence,
    NcclError,
    Process,
    RankInit,
    Where,
)
from pytest_h20.nccl.reader import parse_log

__all__ = [
    "Address",
    "Channel",
    "Communicator",
    "Device",
    "Expected",
    "Job",
    "LogEvidence",
    "NcclError",
    "Process",
    "RankInit",
    "Where",
    "judge_job",
    "labels",
    "parse_log",
]
