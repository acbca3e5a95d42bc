"""What calls cost by their own token counts: paid, saved, or at most."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, date, datetime
from datetime import time as clock_time

from bounds import most_nano
from prices import Cost, PriceBook
from providers.asking import Meter
from providers.base import Billed, Call
from tasks import NO_USAGE, Bill, Charge, Usage

MEMO_SIZE = 1024
# Prices hold for whole UTC days.
NOON = clock_time(12, tzinfo=UTC)


class Bills:
    """At the prices of a given day. first: the provider that is named where none was asked."""

    def __init__(self, prices: PriceBook, first: str) -> None:
        self._prices, self._first = prices, first
        # The same answers of a day come again with each hit.
        self.free = functools.lru_cache(MEMO_SIZE)(self._free)

    def paid(self, meter: Meter, day: date, model: str = "") -> Bill:
        priced = self._price(meter.charges, day)
        last = meter.charges[-1].model if meter.charges else ""
        return Bill(
            usage=_sum(meter.charges),
            model=model or last,
            provider=meter.provider or self._first,
            input_nano=_added(priced, "input_nano"),
            output_nano=_added(priced, "output_nano"),
            attempts=meter.attempts,
            unknown_attempts=meter.unknown_attempts,
            unknown_nano=meter.unknown_nano,
            charges=_charges(meter.charges, priced),
        )

    def _free(self, provider: str, model: str, charges: tuple[Billed, ...], today: date) -> Bill:
        """Of an answer that cost nothing: it saved what its calls would cost on that day."""
        priced = self._price(charges, today)
        return Bill(
            usage=_sum(charges),
            model=model,
            provider=provider,
            saved_nano=_added(priced, "total_nano"),
            charges=_charges(charges, priced),
        )

    def most(self, day: date, provider: str, call: Call) -> int | None:
        """What a call costs at most; None where its model has no price."""
        sheet = self._prices.sheet(provider, call.model, datetime.combine(day, NOON))
        return most_nano(sheet, call.wording, call.max_tokens) if sheet else None

    def _price(self, charges: Sequence[Billed], today: date) -> list[Cost | None]:
        """The cost of each upstream call; None where its model has no price."""
        noon = datetime.combine(today, NOON)
        return [self._prices.cost(call.provider, call.model, call.usage, noon) for call in charges]


def _sum(charges: Sequence[Billed]) -> Usage:
    if len(charges) == 1:
        return charges[0].usage
    return sum((call.usage for call in charges), NO_USAGE)


def _added(priced: Sequence[Cost | None], part: str) -> int | None:
    """What the calls cost together; None if the price of one of them is unknown."""
    return None if None in priced else sum(getattr(cost, part) for cost in priced)


def _charges(calls: Sequence[Billed], priced: Sequence[Cost | None]) -> tuple[Charge, ...]:
    return tuple(
        Charge(call.model, call.usage, cost.rates if cost else None, call.provider)
        for call, cost in zip(calls, priced, strict=True)
    )
