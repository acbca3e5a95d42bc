"""The month's forecast as the dashboard shows it: made anew every few minutes, not for every look."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from analytics.forecast import forecast
from analytics.usage import model_days
from errors import HistoryTooShort

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from prices import PriceBook

# A forecast reads two years of days and draws hundreds of futures; the month does not turn within minutes.
KEPT_SECONDS = 300.0


class MonthAhead:
    """What the whole of this UTC month will cost, or in words from when on that can be told."""

    def __init__(self, book: PriceBook, clock: Callable[[], float] = time.time) -> None:
        self._book, self._clock = book, clock
        self._made: dict[str | None, tuple[float, dict[str, Any]]] = {}

    def figures(self, engine: Engine, tenant: str | None = None) -> dict[str, Any]:
        """Money is text of whole nano-dollars; the range is of 80 %."""
        now = self._clock()
        made_at, figures = self._made.get(tenant, (0.0, {}))
        same_day = made_at // 86_400 == now // 86_400
        if not (same_day and 0 <= now - made_at < KEPT_SECONDS):
            figures = self._forecast(engine, datetime.fromtimestamp(now, UTC), tenant)
            self._made[tenant] = now, figures
        return figures

    def _forecast(self, engine: Engine, now: datetime, tenant: str | None) -> dict[str, Any]:
        history = model_days(engine, now.date(), tenant)
        try:
            month = forecast(history, now.date(), self._book).month
        except HistoryTooShort as too_short:
            return {"state": "short", "words": str(too_short)}
        return {
            "state": "ready",
            "cost_nano": str(month.cost_nano),
            "low_nano": str(month.low80),
            "high_nano": str(month.high80),
            "percent": 80,
        }
