"""The usage report: what a window of the ledger adds up to, whole and in groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from analytics.price_calendar import ModelDay
from prices import format_dollars
from store import reading
from store.reading import Group, Window
from store.tables import DAY_US, HOUR_US
from usage_sums import Sum, usage_stats

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

GROUP_BY = (*reading.COLUMN_OF, "day", "hour")
MOST_GROUPED = 2
# A forecast needs no older days than those of two years.
HISTORY_DAYS = 731
_EPOCH, _FIRST_DAY = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1)


def usage_report(
    engine: Engine, hours: int, group_by: Sequence[str], now_us: int, tenant: str | None = None
) -> dict[str, Any]:
    """What was used from the start of the hour so many hours ago until now; a tenant of None is everybody."""
    window = Window.of_hours(hours, now_us)
    groups = reading.usage(engine, window, group_by, tenant)
    still_open = reading.open_now(engine, tenant)
    return {
        "since": _moment(window.first * HOUR_US),
        "until": _moment(now_us),
        "hours": hours,
        "group_by": list(group_by),
        "total": _told(reading.whole(groups).figures),
        "groups": list(_grouped(groups, group_by)),
        "open": {
            "requests": still_open.requests,
            "reserved_nanodollars": still_open.reserved_nano,
        },
    }


def _grouped(groups: Sequence[Group], group_by: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Days and hours as they came; in each of them, or without them, the dearest first."""
    if not group_by:
        return
    times = [place for place, name in enumerate(group_by) if name in ("day", "hour")]

    def order(group: Group) -> tuple[Any, ...]:
        figures, when = group.figures, [group.keys[place] for place in times]
        return (*when, -figures["cost_nano"], -figures["requests"], *map(str, group.keys))

    for group in sorted(groups, key=order):
        keys = {name: _name(name, key) for name, key in zip(group_by, group.keys, strict=True)}
        yield keys | _told(group.figures)


def _name(kind: str, key: Any) -> str:
    if kind == "day":
        return _moment(key * DAY_US)[:10]
    return _moment(key * HOUR_US) if kind == "hour" else str(key)


def _told(figures: dict[str, int]) -> dict[str, Any]:
    """Figures under the names of the API. Unknown costs stand for themselves: they are in no other sum."""
    asked = figures["requests"] or 1
    saved = figures["saved_hit_nano"] + figures["saved_coalesced_nano"]
    return {
        "requests": figures["requests"],
        "hits": figures["hits"],
        "coalesced": figures["coalesced"],
        "failed": figures["failed"],
        "attempts": figures["attempts"],
        "hit_rate": round(figures["hits"] / asked, 6),
        "input_tokens": figures["input_tokens"],
        "output_tokens": figures["output_tokens"],
        "cached_tokens": figures["cached_tokens"],
        "reasoning_tokens": figures["reasoning_tokens"],
        "cost_nanodollars": figures["cost_nano"],
        "cost": format_dollars(figures["cost_nano"]),
        "saved_nanodollars": saved,
        "saved": format_dollars(saved),
        "saved_by_hits_nanodollars": figures["saved_hit_nano"],
        "saved_by_coalescing_nanodollars": figures["saved_coalesced_nano"],
        "discount_nanodollars": figures["discount_nano"],
        "unpriced_requests": figures["unpriced"],
        "unknown_requests": figures["unknown"],
        "unknown_attempts": figures["unknown_attempts"],
        "unknown_nanodollars": figures["unknown_nano"],
        "average_duration_ms": round(figures["duration_us"] / asked / 1000, 3),
        "slowest_duration_ms": figures["slowest_us"] / 1000,
    }


def usage_stats_of(engine: Engine, now_us: int, hours: int = 24, tenant: str | None = None) -> dict[str, Any]:
    """What CostTracker.get_usage_stats tells, of every process on this ledger and across their restarts."""
    window = Window.of_hours(hours, now_us)
    ends = {group.keys[0]: _sum(group) for group in reading.usage(engine, window, ("endpoint",), tenant)}
    written = {
        each.language: {"answers": each.answers, "lines": each.lines}
        for each in reading.languages(engine, window, tenant)
    }
    overall = reading.totals_of(engine, tenant).cost_nano
    return usage_stats(hours, ends, overall) | {"languages": written}


def _sum(group: Group) -> Sum:
    figures = group.figures
    return Sum(
        requests=figures["requests"],
        cached=figures["hits"],
        coalesced=figures["coalesced"],
        failed=figures["failed"],
        unknown_cost=figures["unpriced"],
        input_tokens=figures["input_tokens"],
        output_tokens=figures["output_tokens"],
        nano=figures["cost_nano"],
        saved=figures["saved_hit_nano"] + figures["saved_coalesced_nano"],
        unknown_nano=figures["unknown_nano"],
    )


def _moment(at_us: int) -> str:
    """ISO 8601, UTC."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat()


def model_days(engine: Engine, today: date, tenant: str | None = None) -> list[ModelDay]:
    """What each model was paid for on each of the last days, today among them: what forecasts are made from."""
    end = (today - _FIRST_DAY).days + 1
    window = Window.of_days(end - HISTORY_DAYS, end)
    return [
        _model_day(group) for group in reading.usage(engine, window, ("day", "provider", "model"), tenant)
    ]


def _model_day(group: Group) -> ModelDay:
    (day, provider, model), figures = group.keys, group.figures
    return ModelDay(
        day=_FIRST_DAY + timedelta(day),
        provider=provider,
        model=model,
        input_tokens=figures["input_tokens"],
        output_tokens=figures["output_tokens"],
        cached_tokens=figures["cached_tokens"],
        reasoning_tokens=figures["reasoning_tokens"],
        cost_nano=figures["cost_nano"],
    )
