"""What past usage costs at today's prices, and what the same usage will cost on days to come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from tasks import Usage

if TYPE_CHECKING:
    from prices import PriceBook, Rates

# Above every step of every price list.
HUGE_CALL = 2**40


@dataclass(frozen=True, slots=True)
class ModelDay:
    """What one model was paid for on one UTC day: tokens and nano-dollars of its paid calls."""

    day: date
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From this day on the model costs `factor` times as much as the day before; None: it was free."""

    day: date
    provider: str
    model: str
    factor: float | None


class PriceCalendar:
    """One price book, seen from one day. A price that is unknown on some day is taken to be today's."""

    def __init__(self, book: PriceBook, today: date) -> None:
        self._book, self._today = book, today
        self._known: dict[tuple[str, str, date, int, int], Rates | None] = {}

    def todays_cost(self, row: ModelDay) -> int:
        """That day's usage at today's price; what was recorded where today's price is unknown."""
        rates = self._rates(row, self._today)
        if rates is None:
            return row.cost_nano
        cost = rates.cost(_usage(row)).total_nano
        if rates == self._rates(row, self._today, HUGE_CALL):
            return cost
        # Long calls cost more per token, and the day's sum does not tell how many were long: keep their share.
        return _scaled(row.cost_nano, cost, self._cost(row, row.day) or 0)

    def mix(self, rows: Iterable[ModelDay]) -> list[ModelDay]:
        """The usage of all these days as if it were today's: one entry per model, at today's price."""
        models: dict[tuple[str, str], tuple[Usage, int]] = {}
        for row in rows:
            usage, cost = models.get((row.provider, row.model), (Usage(0, 0), 0))
            models[row.provider, row.model] = (usage + _usage(row), cost + self.todays_cost(row))
        return [_row(self._today, *model, *used) for model, used in sorted(models.items())]

    def factors(self, mix: Sequence[ModelDay], days: Iterable[date]) -> list[float]:
        """What the mix costs on each of these days, today's cost being 1."""
        today = sum(row.cost_nano for row in mix)
        return [sum(self._cost_on(day, row) for row in mix) / today if today else 1.0 for day in days]

    def changes(self, mix: Iterable[ModelDay], days: Sequence[date]) -> list[PriceChange]:
        """Every day of these, which follow each other, from which a model of the mix has another price."""
        found = []
        for row in mix:
            for day_before, day in pairwise(days):
                before, after = self._cost(row, day_before), self._cost(row, day)
                if before is not None and after is not None and before != after:
                    found.append(
                        PriceChange(day, row.provider, row.model, after / before if before else None)
                    )
        return sorted(found, key=lambda change: (change.day, change.provider, change.model))

    def _cost_on(self, day: date, row: ModelDay) -> int:
        now, then = self._cost(row, self._today), self._cost(row, day)
        if now is None or then is None:
            return row.cost_nano
        return _scaled(row.cost_nano, then, now) if now else then

    def _cost(self, row: ModelDay, day: date) -> int | None:
        rates = self._rates(row, day)
        return rates.cost(_usage(row)).total_nano if rates else None

    def _rates(self, row: ModelDay, day: date, input_tokens: int = 1) -> Rates | None:
        """The rates for one call of that size: the day's sum could reach a step that no call of it reached."""
        # A model without a price for output has one as long as it gives none.
        call = Usage(input_tokens, min(row.output_tokens, 1))
        key = (row.provider, row.model, day, call.input_tokens, call.output_tokens)
        if key not in self._known:
            cost = self._book.cost(row.provider, row.model, call, _noon(day))
            self._known[key] = cost.rates if cost else None
        return self._known[key]


def _usage(row: ModelDay) -> Usage:
    return Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens)


def _row(day: date, provider: str, model: str, usage: Usage, cost_nano: int) -> ModelDay:
    return ModelDay(
        *(day, provider, model, usage.input_tokens, usage.output_tokens),
        *(usage.cached_tokens, usage.reasoning_tokens, cost_nano),
    )


def _scaled(cost: int, numerator: int, denominator: int) -> int:
    return round(Fraction(cost * numerator, denominator)) if denominator else cost


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
