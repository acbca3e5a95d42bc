"""Interleaved rounds, and the figure that they make: the median of the rounds' own ratios."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

_began = time.monotonic()


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. Seconds are of one side of one round."""

    cached_rounds: int
    cached_seconds: float
    uncached_rounds: int
    uncached_seconds: float
    in_flight: tuple[int, ...]
    growth_rounds: int
    histories: tuple[int, ...]
    entries: tuple[int, ...]
    starts: int


WHOLE = Effort(16, 0.5, 6, 1.0, (1, 16, 64), 40, (1_000, 100_000), (1_000, 10_000, 100_000), 5)
QUICK = Effort(4, 0.3, 2, 0.4, (1, 64), 12, (1_000,), (10_000,), 1)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one side gave in one round; CPU in milliseconds per request of the process that is measured."""

    value: float
    cpu_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One candidate against one baseline. The bounds are on the ratio, candidate to baseline, or on what it is more."""

    name: str
    unit: str
    baseline: tuple[Reading, ...]
    candidate: tuple[Reading, ...]
    limit: str
    at_least: float | None = None
    at_most: float | None = None
    more_at_most: float | None = None

    @property
    def more(self) -> float:
        """The median of what the candidate is more than the baseline, in their unit."""
        pairs = zip(self.baseline, self.candidate, strict=True)
        return median(ours.value - theirs.value for theirs, ours in pairs)

    @property
    def ratios(self) -> list[float]:
        return [ours.value / theirs.value for theirs, ours in zip(self.baseline, self.candidate, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def verdict(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}: {'met' if self.ratio >= self.at_least else 'missed'}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}: {'met' if self.ratio <= self.at_most else 'missed'}"
        if self.more_at_most is not None:
            met = "met" if self.more <= self.more_at_most else "missed"
            return f"≤ {self.more_at_most:+,.0f} {self.unit}: {met} ({self.more:+,.0f})"
        return ""


Side = Callable[..., dict[str, Any]]


def interleave(title: str, rounds: int, *sides: Side) -> list[tuple[Reading, ...]]:
    """For each side its readings, taken in turns: A B C, A B C, ... A first turn of all is thrown away."""
    progress(f"{title}: {rounds} rounds")
    turns = [[Reading(**side()) for side in sides] for _ in range(rounds + 1)][1:]
    return list(zip(*turns, strict=True))


def progress(text: str) -> None:
    print(f"{time.monotonic() - _began:4.0f} s  {text}", file=sys.stderr, flush=True)
