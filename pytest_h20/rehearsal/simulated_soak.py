"""Soaks made by dice, for tests and for benchmarks/soak_power.py."""

from __future__ import annotations

import math
import random

POINTS = 108
"""Of an hour's 120 bins, without the warm-up."""


def soak(
    seed: int,
    *,
    noise: float = 0.01,
    rho: float = 0.3,
    per_hour: float = 0.0,
    ever_faster: float = 0.0,
    shift: float = 0.0,
    at: float = 0.7,
    hours: float = 1.0,
    points: int = POINTS,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(hours, values) around 100: AR(1) noise of this part with first autocorrelation ``rho``, one value in fifty far out, a slope
    (part per hour), a slope that grows with the cube of time (part at the end), a level shift (part) at a part of the time."""
    dice = random.Random(seed)
    moments = tuple(hours * (0.1 + 0.9 * (i + 0.5) / points) for i in range(points))
    state, values = dice.gauss(0, 1), []
    for moment in moments:
        state = rho * state + math.sqrt(1 - rho * rho) * dice.gauss(0, 1)
        out = dice.choice((-6, 6)) if dice.random() < 0.02 else 0
        level = 1 + per_hour * moment + ever_faster * (moment / hours) ** 3 + (shift if moment >= at * hours else 0.0)
        values.append(100 * (level + noise * (state + out)))
    return moments, tuple(values)
