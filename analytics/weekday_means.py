"""The method for a history of two weeks: each weekday comes again as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from analytics.holt_winters import WEEK

LEAST_DAYS = 2 * WEEK


@dataclass(frozen=True, slots=True)
class WeekdayMeans:
    """means[0] is that of the next day; each is known from `weeks` days only and therefore uncertain itself."""

    means: list[float]
    weeks: float
    errors: list[float]

    def path(self, days: int, rng: Random) -> list[float]:
        """One possible future: one draw of what the means truly are, then one for each day."""
        doubt = 1 / math.sqrt(self.weeks)
        drawn = zip(self.means, rng.choices(self.errors, k=WEEK), strict=True)
        means = [mean + doubt * error for mean, error in drawn]
        return [means[day % WEEK] + error for day, error in enumerate(rng.choices(self.errors, k=days))]


def fit(values: Sequence[float]) -> WeekdayMeans:
    """At least LEAST_DAYS values."""
    means = [fmean(values[weekday::WEEK]) for weekday in range(WEEK)]
    weeks, following = len(values) / WEEK, len(values) % WEEK
    widen = math.sqrt(weeks / (weeks - 1))
    # Nothing is cut here: of two Mondays nobody can tell which was the odd one.
    errors = [widen * (value - means[day % WEEK]) for day, value in enumerate(values)]
    return WeekdayMeans(means[following:] + means[:following], weeks, errors)
