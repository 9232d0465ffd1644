"""Bring-up and tear-down of the cluster: a state machine that breaks once and says why."""

from __future__ import annotations
