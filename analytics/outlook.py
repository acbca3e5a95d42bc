"""The forecast and its quality, as the API tells them."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from analytics.backtest import own_quality, seeded_quality
from analytics.forecast import DayForecast, MonthForecast, forecast
from analytics.usage import model_days
from errors import HistoryTooShort
from lru_cache import LRUCache
from prices import format_dollars

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from prices import PriceBook

QUALITY_SECONDS = 3600


def forecast_report(
    engine: Engine, book: PriceBook, now: float, days: int, tenant: str | None = None
) -> dict[str, Any]:
    """Today, the days after it and this month. Raises HistoryTooShort."""
    today = _day(now)
    ahead = forecast(model_days(engine, today, tenant), today, book, days=days)
    return {
        "method": ahead.method,
        "history_start": str(ahead.history_start),
        "history_days": ahead.history_days,
        "level_nanodollars": ahead.level_nano,
        "level": format_dollars(ahead.level_nano),
        "month": _month(ahead.month),
        "days": [
            {"day": str(each.day), **_expected(each), "price_factor": each.price_factor}
            for each in ahead.days
        ],
        "price_changes": [asdict(change) | {"day": str(change.day)} for change in ahead.price_changes],
    }


def _month(month: MonthForecast) -> dict[str, Any]:
    return {
        "first_day": str(month.first_day),
        "last_day": str(month.last_day),
        "spent_nanodollars": month.spent_nano,
        "spent": format_dollars(month.spent_nano),
        **_expected(month),
    }


def _expected(what: DayForecast | MonthForecast) -> dict[str, Any]:
    return {
        "cost_nanodollars": what.cost_nano,
        "cost": format_dollars(what.cost_nano),
        **{f"{edge}_nanodollars": getattr(what, edge) for edge in ("low80", "high80", "low95", "high95")},
    }


class QualityDesk:
    """Works out how good forecasts are, at most once an hour for each tenant: it takes a second."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._kept = LRUCache(max_size=64, default_ttl=QUALITY_SECONDS, timer=timer)
        self._working = threading.Lock()

    def report(
        self, engine: Engine, book: PriceBook, now: float, tenant: str | None = None
    ) -> dict[str, Any]:
        """On made-up series, and on the ledger's own history where it is long enough."""
        with self._working:
            known: dict[str, Any] | None = self._kept.get(tenant)
            if known is None:
                known = _quality_report(engine, book, now, tenant)
                self._kept.put(tenant, known)
            return known


def _quality_report(engine: Engine, book: PriceBook, now: float, tenant: str | None) -> dict[str, Any]:
    today, missing = _day(now), None
    try:
        own = asdict(own_quality(model_days(engine, today, tenant), today, book))
    except HistoryTooShort as short:
        own, missing = None, str(short)
    return {
        "made_at": datetime.fromtimestamp(now, UTC).isoformat(),
        "seeded": _seeded(),
        "own": own,
        "own_missing": missing,
    }


@functools.cache
def _seeded() -> dict[str, Any]:
    return asdict(seeded_quality())


def _day(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()
