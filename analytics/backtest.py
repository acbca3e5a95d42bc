"""How good the forecast is: made again as of many past days and held against what then came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import TYPE_CHECKING

from analytics.cost_paths import band, cost_paths, day_bands
from analytics.forecast import daily_costs
from analytics.holt_winters import WEEK
from analytics.price_calendar import ModelDay, PriceCalendar
from analytics.seeded_series import seeded_series

if TYPE_CHECKING:
    from prices import PriceBook

HORIZON_DAYS = 4 * WEEK
# The first forecast has so much to learn from, and the last one a week to be held against.
LEARN_DAYS = 4 * WEEK
LEAST_DAYS = LEARN_DAYS + WEEK
MOST_DAYS = 365
# Those by which the method was chosen begin at 1000: no seed is in both.
SEEDS = range(1, 29)
SEEDED_DAYS, SEEDED_EVERY = 180, 35


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of the days, and of the sums of whole forecasts, that came to lie inside their intervals.

    error: the mean absolute error as a share of the mean cost, every series weighing alike; naive_error: that of
    "as on this weekday of the last known week". Both are None where nothing was spent.
    """

    series: int
    forecasts: int
    days: int
    horizon_days: int
    coverage80: float
    coverage95: float
    sum_coverage80: float
    error: float | None
    naive_error: float | None


@dataclass(frozen=True, slots=True)
class _Trial:
    """One forecast and what came of it: counts, and costs in means of its series."""

    days: int
    inside80: int
    inside95: int
    sum_inside80: bool
    missed: float
    naively_missed: float
    cost: float


def own_quality(history: Iterable[ModelDay], today: date, book: PriceBook) -> Quality:
    """On the last year of this ledger at today's prices, one forecast a week; or HistoryTooShort."""
    costs = daily_costs(list(history), today, PriceCalendar(book, today), LEAST_DAYS)
    return quality([costs[-MOST_DAYS:]], every=WEEK)


def seeded_quality(seeds: Iterable[int] = SEEDS) -> Quality:
    """On made-up series of many kinds: the same figures wherever the same code runs, so keep them."""
    return quality([seeded_series(seed, SEEDED_DAYS) for seed in seeds], every=SEEDED_EVERY)


def quality(series: Sequence[Sequence[int]], *, every: int, rng: Random | None = None) -> Quality:
    """Of forecasts made at every `every`th day of series of at least LEAST_DAYS daily costs."""
    rng = rng or Random(0)  # noqa: S311 - statistics, no secret
    trials = [
        _trial(costs, origin, rng)
        for costs in series
        for origin in range(LEARN_DAYS, len(costs) - WEEK + 1, every)
    ]
    days, cost = sum(trial.days for trial in trials), sum(trial.cost for trial in trials)
    return Quality(
        series=len(series),
        forecasts=len(trials),
        days=days,
        horizon_days=HORIZON_DAYS,
        coverage80=sum(trial.inside80 for trial in trials) / days,
        coverage95=sum(trial.inside95 for trial in trials) / days,
        sum_coverage80=sum(trial.sum_inside80 for trial in trials) / len(trials),
        error=sum(trial.missed for trial in trials) / cost if cost else None,
        naive_error=sum(trial.naively_missed for trial in trials) / cost if cost else None,
    )


def _trial(costs: Sequence[int], origin: int, rng: Random) -> _Trial:
    """The forecast knows nothing from `origin` on."""
    known, came = costs[:origin], costs[origin : origin + HORIZON_DAYS]
    paths = cost_paths(known, len(came), rng)
    bands, total = day_bands(paths), band([sum(path) for path in paths])
    naive = [known[day % WEEK - WEEK] for day in range(len(came))]
    unit = sum(costs) / len(costs) or 1.0
    return _Trial(
        days=len(came),
        inside80=sum(day.low80 <= cost <= day.high80 for day, cost in zip(bands, came, strict=True)),
        inside95=sum(day.low95 <= cost <= day.high95 for day, cost in zip(bands, came, strict=True)),
        sum_inside80=total.low80 <= sum(came) <= total.high80,
        missed=_missed([day.mean for day in bands], came) / unit,
        naively_missed=_missed(naive, came) / unit,
        cost=sum(came) / unit,
    )


def _missed(forecast: Sequence[float], came: Sequence[int]) -> float:
    return sum(abs(guess - cost) for guess, cost in zip(forecast, came, strict=True))
