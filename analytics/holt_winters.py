"""Damped Holt-Winters with a season of one week, fitted on a grid; one wild day does not carry it away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from statistics import fmean, median
from typing import NamedTuple

WEEK = 7
LEAST_DAYS = 3 * WEEK
DAMPING = 0.9
# Seven weekdays, level, trend and three smoothings are fitted: the errors are that much too small.
FITTED = 12
# The level itself is known from noisy days only; without twice that doubt the sums of months came too narrow.
DOUBT = 2
# How many usual differences from one week to the next may move the state in one day.
REACH = 3


class Smoothing(NamedTuple):
    """How much of an error goes into the level, the trend and the weekday."""

    level: float
    trend: float
    weekday: float


GRID = tuple(
    Smoothing(level, level * trend, weekday)
    for level, trend, weekday in product((0.02, 0.05, 0.1, 0.2, 0.4), (0, 0.1), (0, 0.05, 0.3))
)


@dataclass(frozen=True, slots=True)
class State:
    """Level, trend and what each weekday adds; weekdays[0] is that of the next day."""

    level: float
    trend: float
    weekdays: list[float]


@dataclass(frozen=True, slots=True)
class HoltWinters:
    """A fitted series: where it stands after its last day, and the errors from which its future is drawn."""

    smoothing: Smoothing
    state: State
    reach: float
    doubt: float
    errors: list[float]

    def path(self, days: int, rng: Random) -> list[float]:
        """One possible future: one draw of what the level truly is, then one for each day."""
        trend, weekdays = self.state.trend, self.state.weekdays.copy()
        doubted, *errors = rng.choices(self.errors, k=days + 1)
        level = self.state.level + self.doubt * doubted
        reach, smoothing, values = self.reach, self.smoothing, []
        for day, error in enumerate(errors):
            weekday = day % WEEK
            trend *= DAMPING
            level += trend
            values.append(level + weekdays[weekday] + error)
            error = min(max(error, -reach), reach)
            level += smoothing.level * error
            trend += smoothing.trend * error
            weekdays[weekday] += smoothing.weekday * error
        return values


def fit(values: Sequence[float]) -> HoltWinters:
    """The smoothing of the grid with the least squared one-step errors; at least LEAST_DAYS values."""
    start = _start(values)
    reach = REACH * fmean(abs(after - before) for before, after in zip(values, values[WEEK:], strict=False))
    smoothing = min(GRID, key=lambda smoothing: _squares(_smooth(values, smoothing, start, reach)[1], reach))
    state, errors = _smooth(values, smoothing, start, reach)
    # The first week still learns its level.
    warm = errors[WEEK:] if len(errors) > LEAST_DAYS + WEEK else errors
    widen = math.sqrt(len(warm) / (len(warm) - FITTED))
    doubt = math.sqrt(DOUBT * (smoothing.level / (2 - smoothing.level) + 1 / len(warm)))
    return HoltWinters(smoothing, state, reach, doubt, [error * widen for error in _tamed(warm)])


def _tamed(errors: Sequence[float]) -> list[float]:
    """The largest on each side cut to the next: what happened once is no pattern. Their mean stays: it is growth."""
    inner = sorted(errors)
    inner[0], inner[-1] = inner[1], inner[-2]
    return inner


def _start(values: Sequence[float]) -> State:
    """Weekdays from the whole series, against the week around each day; the level from the first two weeks."""
    apart: list[list[float]] = [[] for _ in range(WEEK)]
    for day in range(3, len(values) - 3):
        apart[day % WEEK].append(values[day] - fmean(values[day - 3 : day + 4]))
    weekdays = [_trimmed_mean(days) for days in apart]
    middle = fmean(weekdays)
    weekdays = [weekday - middle for weekday in weekdays]
    level = median(value - weekdays[day % WEEK] for day, value in enumerate(values[: 2 * WEEK]))
    return State(level, 0.0, weekdays)


def _trimmed_mean(values: list[float]) -> float:
    return fmean(sorted(values)[1:-1] if len(values) > 4 else values)


def _smooth(
    values: Sequence[float], smoothing: Smoothing, start: State, reach: float
) -> tuple[State, list[float]]:
    """The state after the last value and every one-step error. The hot loop of a fit: plain names only."""
    level, trend, weekdays = start.level, start.trend, start.weekdays.copy()
    to_level, to_trend, to_weekday = smoothing
    weekday, errors = 0, []
    for value in values:
        trend *= DAMPING
        level += trend
        error = value - level - weekdays[weekday]
        errors.append(error)
        if not -reach <= error <= reach:
            error = math.copysign(reach, error)
        level += to_level * error
        trend += to_trend * error
        weekdays[weekday] += to_weekday * error
        weekday = weekday + 1 if weekday < WEEK - 1 else 0
    return State(level, trend, weekdays[weekday:] + weekdays[:weekday]), errors


def _squares(errors: Sequence[float], reach: float) -> float:
    return sum(min(error * error, reach * reach) for error in errors)
