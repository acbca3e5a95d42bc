"""What the coming days and this month will cost, with the bounds of that, at the prices of those days."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING

from analytics.cost_paths import LEAST_DAYS, band, cost_paths, day_bands, method_for
from analytics.price_calendar import ModelDay, PriceCalendar, PriceChange
from errors import HistoryTooShort

if TYPE_CHECKING:
    from prices import PriceBook

HORIZON_DAYS, MOST_HORIZON_DAYS = 30, 90
# The models of the last four weeks are those whose coming prices count.
MIX_DAYS = 28


@dataclass(frozen=True, slots=True)
class DayForecast:
    """Nano-dollars of one UTC day. price_factor: what the present mix of models costs then, today being 1."""

    day: date
    cost_nano: int
    low80: int
    high80: int
    low95: int
    high95: int
    price_factor: float


@dataclass(frozen=True, slots=True)
class MonthForecast:
    """Nano-dollars of the whole present UTC month, of which `spent_nano` are spent; the bounds are of the sum."""

    first_day: date
    last_day: date
    spent_nano: int
    cost_nano: int
    low80: int
    high80: int
    low95: int
    high95: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`days` begin with today as a whole. level_nano: the mean of the last four weeks' days at today's prices."""

    method: str
    level_nano: int
    history_start: date
    history_days: int
    days: tuple[DayForecast, ...]
    month: MonthForecast
    price_changes: tuple[PriceChange, ...]


def forecast(
    history: Iterable[ModelDay],
    today: date,
    book: PriceBook,
    *,
    days: int = HORIZON_DAYS,
    rng: Random | None = None,
) -> Forecast:
    """From the complete UTC days before today, of which a day without rows cost nothing, or HistoryTooShort.

    Rows of today count as spent: no path ends today below them. Without `rng` a day's forecasts are all alike.
    """
    if not 1 <= days <= MOST_HORIZON_DAYS:
        raise ValueError(f"a forecast is of 1 to {MOST_HORIZON_DAYS} days, not of {days}")
    rows, calendar = list(history), PriceCalendar(book, today)
    costs = daily_costs(rows, today, calendar)
    coming = [today + timedelta(after) for after in range(max(days, _days_left(today)))]
    mix = calendar.mix(row for row in rows if today - timedelta(MIX_DAYS) <= row.day < today)
    factors = calendar.factors(mix, coming)
    drawn = cost_paths(costs, len(coming), rng or Random(today.toordinal()))  # noqa: S311 - statistics, no secret
    paths = _priced(drawn, factors, _spent(rows, today, today))
    forecasts = _days(coming, paths, factors)
    return Forecast(
        method=method_for(len(costs)),
        level_nano=round(sum(costs[-MIX_DAYS:]) / len(costs[-MIX_DAYS:])),
        history_start=today - timedelta(len(costs)),
        history_days=len(costs),
        days=forecasts[:days],
        month=_month(rows, forecasts, paths),
        price_changes=tuple(calendar.changes(mix, coming)),
    )


def daily_costs(
    rows: Sequence[ModelDay], today: date, calendar: PriceCalendar, least: int = LEAST_DAYS
) -> list[int]:
    """Nano-dollars at today's prices of each day from the first with usage to yesterday."""
    first = min((row.day for row in rows if row.day < today), default=today)
    if (today - first).days < least:
        raise _too_short((today - first).days, least, first + timedelta(least))
    costs = [0] * (today - first).days
    for row in rows:
        if row.day < today:
            costs[(row.day - first).days] += calendar.todays_cost(row)
    return costs


def _too_short(days: int, least: int, works_from: date) -> HistoryTooShort:
    return HistoryTooShort(
        f"This needs {least} complete days (UTC) since the first request and has {days} so far. "
        f"Ask again from {works_from} on."
    )


def _priced(
    paths: Iterable[Sequence[float]], factors: Sequence[float], spent_today: int
) -> list[list[float]]:
    priced = [[cost * factor for cost, factor in zip(path, factors, strict=True)] for path in paths]
    for path in priced:
        path[0] = max(path[0], spent_today)
    return priced


def _days(
    coming: Sequence[date], paths: Sequence[Sequence[float]], factors: Sequence[float]
) -> tuple[DayForecast, ...]:
    bands = (band.rounded() for band in day_bands(paths))
    return tuple(
        DayForecast(day, *edges, factor) for day, edges, factor in zip(coming, bands, factors, strict=True)
    )


def _month(
    rows: Sequence[ModelDay], forecasts: Sequence[DayForecast], paths: Sequence[Sequence[float]]
) -> MonthForecast:
    """Its cost is what the days before today cost and what today and the rest of the days are forecast to."""
    today = forecasts[0].day
    left = _days_left(today)
    spent_before = _spent(rows, today.replace(day=1), today - timedelta(1))
    _, *edges = band([sum(path[:left]) for path in paths]).rounded()
    return MonthForecast(
        today.replace(day=1),
        today + timedelta(left - 1),
        spent_before + _spent(rows, today, today),
        spent_before + sum(day.cost_nano for day in forecasts[:left]),
        *(spent_before + edge for edge in edges),
    )


def _spent(rows: Iterable[ModelDay], first: date, last: date) -> int:
    return sum(row.cost_nano for row in rows if first <= row.day <= last)


def _days_left(today: date) -> int:
    """Days from today to the end of its month, both counted."""
    return ((today.replace(day=28) + timedelta(4)).replace(day=1) - today).days
