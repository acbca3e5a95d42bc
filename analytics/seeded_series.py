"""Made-up daily costs of many kinds, the same for the same seed: what the forecast is measured on."""

from __future__ import annotations

import math
from random import Random

KINDS = ("weekly", "trend", "idle weekends", "bursts", "noisy", "step", "flat")


def seeded_series(seed: int, days: int) -> list[int]:
    """Nano-dollars a day, of the kind KINDS[seed % 7]; the mean lies between 0.1 and 300 dollars."""
    rng, kind = Random(seed), KINDS[seed % len(KINDS)]  # noqa: S311 - made-up figures, no secret
    base = 10 ** rng.uniform(8, 11.5)
    weekdays = _weekdays(rng, kind)
    noise = rng.uniform(0.3, 0.6) if kind == "noisy" else rng.uniform(0.08, 0.3)
    growth = rng.uniform(-0.004, 0.012) if kind == "trend" else rng.uniform(-0.002, 0.002)
    step, step_day = rng.uniform(0.4, 2.5) if kind == "step" else 1, rng.randrange(days // 4, 3 * days // 4)
    costs = []
    for day in range(days):
        cost = base * weekdays[day % 7] * math.exp(growth * day + rng.gauss(0, noise))
        cost *= rng.uniform(2, 6) if kind == "bursts" and rng.random() < 0.04 else 1
        costs.append(round(cost * (step if day >= step_day else 1)))
    return costs


def _weekdays(rng: Random, kind: str) -> list[float]:
    working = [rng.uniform(0.8, 1.2) for _ in range(5)]
    weekend = [rng.uniform(0.1, 0.6) for _ in range(2)]
    if kind == "flat":
        return [1.0] * 7
    return working + ([0.0, 0.0] if kind == "idle weekends" else weekend)
