"""Possible futures of a series of daily costs, and the bands that they fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Protocol

from analytics import holt_winters, weekday_means

LEAST_DAYS = weekday_means.LEAST_DAYS
# What is older says little about next month, and every fit would pay for it.
MOST_DAYS = 16 * holt_winters.WEEK
PATHS = 500


class Fitted(Protocol):
    """A method that has read a history and can draw a future."""

    def path(self, days: int, rng: Random) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class Band:
    """The mean of many futures and the edges that hold 80 and 95 % of them."""

    mean: float
    low80: float
    high80: float
    low95: float
    high95: float

    def rounded(self) -> tuple[int, int, int, int, int]:
        """Whole nano-dollars, in this order."""
        return round(self.mean), round(self.low80), round(self.high80), round(self.low95), round(self.high95)


def method_for(days: int) -> str:
    """The name of the method for a history of so many days."""
    return "damped Holt-Winters" if days >= holt_winters.LEAST_DAYS else "weekday means"


def cost_paths(costs: Sequence[int], days: int, rng: Random, count: int = PATHS) -> list[list[float]]:
    """`count` futures of `days` days, in nano-dollars, never below 0; `costs` are at least LEAST_DAYS."""
    # A busy day varies more than a quiet one: their square roots vary alike, and a quiet Sunday stays one.
    roots = [math.sqrt(cost) for cost in costs[-MOST_DAYS:]]
    fit: Callable[[Sequence[float]], Fitted] = (
        holt_winters.fit if len(roots) >= holt_winters.LEAST_DAYS else weekday_means.fit
    )
    fitted = fit(roots)
    return [[max(root, 0.0) ** 2 for root in fitted.path(days, rng)] for _ in range(count)]


def band(values: Sequence[float]) -> Band:
    ordered = sorted(values)
    edges = (_quantile(ordered, share) for share in (0.1, 0.9, 0.025, 0.975))
    return Band(fmean(ordered), *edges)


def day_bands(paths: Sequence[Sequence[float]]) -> list[Band]:
    return [band(day) for day in zip(*paths, strict=True)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    below, rest = divmod(share * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low + rest * (high - low)
