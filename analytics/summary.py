"""What the dashboard shows: one dict, folded from the ledger's sums and its last rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from store.reading import Group, Window, languages, newest, open_now, totals_of, usage, whole
from store.tables import DAY_US, HOUR_US

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Engine

# The windows that can be chosen, in hours, and how many hours one bar of their charts holds.
STEPS = {24: 1, 168: 6, 720: 24}
LAST_ROWS = 20
# So many names in a list; the others are one entry of it, so that each list adds up to the whole.
LISTED = 8
LISTS = {"models": "model", "providers": "provider", "keys": "key", "endpoints": "endpoint"}
# What a row shows of itself: neither its prompt nor its answer.
SHOWN = (
    *("request_id", "at_us", "route", "provider", "model", "state", "status", "cache_status"),
    *("cost_nano", "saved_nano", "reserved_nano", "unknown_nano", "duration_us"),
)
BAR = ("requests", "hits", "coalesced", "failed", "cost_nano", "duration_us", "slowest_us")


def summary(
    engine: Engine,
    hours: int = 24,
    *,
    tenant: str | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """All figures of the last 24, 168 or 720 hours; a tenant of None stands for all of them.

    Money is text of whole nano-dollars, since a browser's numbers hold only 53 bits; None is unknown.
    """
    now_us = int(clock() * 1_000_000)
    window, step = Window.of_hours(hours, now_us), STEPS[hours]
    # Each list of the page is folded from this one look at the window.
    parts = usage(engine, window, tuple(LISTS.values()), tenant)
    opened = open_now(engine, tenant)
    return {
        "now_us": now_us,
        "window": {"hours": hours, "since_us": window.first * HOUR_US, "step_us": step * HOUR_US},
        "spend": _spend(engine, now_us, tenant),
        "sums": rendered(whole(parts).figures),
        "open": rendered({"requests": opened.requests, "reserved_nano": opened.reserved_nano}),
        "series": _series(engine, window, step, tenant),
        **{name: _listed(parts, place) for place, name in enumerate(LISTS)},
        "unpriced_models": _unpriced(parts),
        "languages": _languages(engine, window, tenant),
        "requests": [_row(row) for row in newest(engine, SHOWN, LAST_ROWS, tenant)],
    }


def _spend(engine: Engine, now_us: int, tenant: str | None) -> dict[str, Any]:
    """What was paid in this hour, today, this month, what in the ones before, and what in all."""
    hour, today = now_us // HOUR_US, now_us // DAY_US
    month, month_before = _months(now_us)
    hours = _costs(usage(engine, Window(hour - 1, hour + 1), ("hour",), tenant))
    days = _costs(usage(engine, Window.of_days(month_before, today + 1), ("day",), tenant))
    return {
        "hour": _pair(hours.get(hour, 0), hours.get(hour - 1, 0)),
        "today": _pair(days.get(today, 0), days.get(today - 1, 0)),
        "month": _pair(
            sum(nano for day, nano in days.items() if day >= month),
            sum(nano for day, nano in days.items() if day < month),
        ),
        "overall_nano": str(totals_of(engine, tenant).cost_nano),
    }


def _months(now_us: int) -> tuple[int, int]:
    """The first days of this month and of the one before, counted from 1970."""
    first = now_us // DAY_US + 1 - datetime.fromtimestamp(now_us // 1_000_000, UTC).day
    return first, first - datetime.fromtimestamp((first - 1) * 86_400, UTC).day


def _costs(groups: Iterable[Group]) -> dict[int, int]:
    return {group.keys[0]: group.figures["cost_nano"] for group in groups}


def _pair(nano: int, before: int) -> dict[str, str]:
    return {"cost_nano": str(nano), "before_nano": str(before)}


def _series(engine: Engine, window: Window, step: int, tenant: str | None) -> list[dict[str, Any]]:
    """One entry for each bar of the charts, also where nothing happened."""
    bars = {bar: Group() for bar in range(window.first // step, (window.end - 1) // step + 1)}
    by, per_bar = ("day", 1) if step == 24 else ("hour", step)
    for group in usage(engine, window, (by,), tenant):
        bars[group.keys[0] // per_bar].add(group.figures)
    return [{"start_us": bar * step * HOUR_US, **_bar(group.figures)} for bar, group in bars.items()]


def _bar(figures: Mapping[str, int]) -> dict[str, Any]:
    kept = {name: figures[name] for name in BAR}
    return rendered({**kept, "saved_nano": figures["saved_hit_nano"] + figures["saved_coalesced_nano"]})


def _listed(parts: Iterable[Group], place: int) -> list[dict[str, Any]]:
    """The dearest names, then all others as one entry whose name is None."""
    named: dict[str, Group] = {}
    for part in parts:
        named.setdefault(part.keys[place], Group()).add(part.figures)
    ordered = sorted(named.items(), key=lambda entry: (_weight(entry[1]), entry[0]))
    shown = [{"name": name, "names": 1, **rendered(group.figures)} for name, group in ordered[:LISTED]]
    if others := ordered[LISTED:]:
        rest = whole(group for _, group in others)
        shown.append({"name": None, "names": len(others), **rendered(rest.figures)})
    return shown


def _weight(group: Group) -> tuple[int, int]:
    return -group.figures["cost_nano"], -group.figures["requests"]


def _unpriced(parts: Iterable[Group]) -> list[str]:
    """Models without a price, of which calls were billed."""
    place = list(LISTS).index("models")
    return sorted({part.keys[place] for part in parts if part.figures["unpriced"]})[:LAST_ROWS]


def _languages(engine: Engine, window: Window, tenant: str | None) -> dict[str, Any]:
    """Code answers by language. They are kept by day, so the window's first day counts in full."""
    rows = [
        {"language": one.language, "answers": one.answers, "lines": one.lines}
        for one in languages(engine, window, tenant)
    ]
    return {"since_us": window.first // 24 * DAY_US, "rows": rows[:LAST_ROWS]}


def _row(row: Iterable[Any]) -> dict[str, Any]:
    return rendered(dict(zip(SHOWN, row, strict=False)))  # the column behind them numbers the rows


def rendered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with money as text."""
    return {
        name: str(value) if name.endswith("_nano") and value is not None else value
        for name, value in values.items()
    }
