"""Care of a ledger that has grown: computing it anew, letting old rows go, giving their space back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.engine import Connection, Engine

from identity import DAY, MONTH, period_start
from prices import PriceBook
from store.account_tables import budgets
from store.rows import charges_from
from store.tables import DAY_US, OPEN, SETTLED, UNKNOWN, requests, usage_days

PAGE = 2000
# Pages of 4 KiB that go back to the file system in one transaction: requests wait for no more than that.
VACUUM_STEP = 500
MOST_NAMED = 20
# A process that was stopped for long may still bring the bill of a row that was given up.
UNKNOWN_DAYS = 7
SAVED = ("saved_hit_nano", "saved_coalesced_nano")
EPOCH = date(1970, 1, 1).toordinal()

Progress = Callable[[int, int], None]
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
_COLUMNS = (
    *(requests.c.seq, requests.c.request_id, requests.c.at_us, requests.c.provider, requests.c.charges),
    *(requests.c.tenant, requests.c.state),
    *(requests.c.cost_nano, requests.c.saved_nano, requests.c.saved_by, requests.c.discount_nano),
    *(requests.c[name] for name in _TOKENS),
)


@dataclass(slots=True)
class Recosted:
    """What computing rows anew found. `then_nano`: what the paid rows would cost at the other date's prices.

    `days` is what the rows of each day add up to: requests, cost, saved. Of the first day with a settled row some
    may have been pruned, and today is not over: only the days between are compared.
    """

    rows: int = 0
    equal: int = 0
    differing: list[str] = field(default_factory=list)
    cost_nano: int = 0
    saved_nano: int = 0
    then_nano: int = 0
    then_unpriced: int = 0
    days: dict[int, list[int]] = field(default_factory=dict)
    first_day: int | None = None
    days_equal: bool = True

    @property
    def exact(self) -> bool:
        return self.rows == self.equal and self.days_equal


def recost(
    engine: Engine, progress: Progress, prices: PriceBook | None = None, at: datetime | None = None
) -> Recosted:
    """Compute every closed row from its own tokens and rates; with `prices`, also at the prices of `at`."""
    found = Recosted()
    for page, last in pages(engine, progress):
        for row in page:
            _recost_row(row, found)
            if prices is not None and at is not None and not row.saved_by:
                _price_then(row, prices, at, found)
        progress(page[-1].seq, last)
    _compare_days(engine, found)
    return found


def _compare_days(engine: Engine, found: Recosted) -> None:
    """The sums by day against the rows: both were written in one transaction."""
    first, today = found.first_day or 0, time.time_ns() // 1000 // DAY_US
    sums = (func.sum(usage_days.c[name]) for name in ("requests", "cost_nano", *SAVED))
    query = select(usage_days.c.start, *sums).where(usage_days.c.start > first, usage_days.c.start < today)
    with engine.connect() as connection:
        stored = {
            row[0]: [int(row[1]), int(row[2]), int(row[3]) + int(row[4])]
            for row in connection.execute(query.group_by(usage_days.c.start))
        }
    for day in sorted(stored | found.days):
        if first < day < today and stored.get(day) != found.days.get(day):
            found.days_equal = False
            found.differing.append(f"day {date.fromordinal(EPOCH + day)}: {stored.get(day)} in the sums")


def pages(engine: Engine, progress: Progress) -> Iterator[tuple[list[Any], int]]:
    """Closed rows in order, some thousand at a time, up to the last one there was at the start."""
    with engine.connect() as connection:
        last = connection.scalar(select(func.max(requests.c.seq))) or 0
    progress(0, last)
    seen = 0
    while True:
        closed = select(*_COLUMNS).where(requests.c.seq > seen, requests.c.seq <= last)
        with engine.connect() as connection:
            page = list(
                connection.execute(
                    closed.where(requests.c.state != OPEN).order_by(requests.c.seq).limit(PAGE)
                )
            )
        if not page:
            return
        yield page, last
        seen = page[-1].seq


def _recost_row(row: Any, found: Recosted) -> None:
    charges = charges_from(row.charges)
    costs = [charge.rates.cost(charge.usage).total_nano if charge.rates else None for charge in charges]
    whole = None if None in costs else sum(cost for cost in costs if cost is not None)
    discount = sum(charge.rates.discount(charge.usage) for charge in charges if charge.rates)
    tokens = (sum(getattr(charge.usage, name) for charge in charges) for name in _TOKENS)
    expected = (*((0, whole, 0) if row.saved_by else (whole, 0, discount)), *tokens)
    stored = (row.cost_nano, row.saved_nano, row.discount_nano, *(getattr(row, name) for name in _TOKENS))
    found.rows += 1
    found.equal += stored == expected
    if stored != expected and len(found.differing) < MOST_NAMED:
        found.differing.append(f"{row.request_id} of {row.tenant}: {stored} stored, {expected} computed")
    found.cost_nano += expected[0] or 0
    found.saved_nano += expected[1] or 0
    _add_to_day(row, found)


def _add_to_day(row: Any, found: Recosted) -> None:
    number_of_day = row.at_us // DAY_US
    if row.state == SETTLED:
        found.first_day = min(number_of_day, found.first_day or number_of_day)
    day = found.days.setdefault(number_of_day, [0, 0, 0])
    for place, number in enumerate((1, row.cost_nano or 0, row.saved_nano or 0)):
        day[place] += number


def _price_then(row: Any, prices: PriceBook, at: datetime, found: Recosted) -> None:
    costs = [
        prices.cost(charge.provider or row.provider, charge.model, charge.usage, at)
        for charge in charges_from(row.charges)
    ]
    found.then_unpriced += None in costs
    found.then_nano += sum(cost.total_nano for cost in costs if cost is not None)


def count_before(engine: Engine, before_us: int) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(func.count()).where(*_old(before_us))) or 0)


def prune(engine: Engine, before_us: int, progress: Progress) -> int:
    """Delete closed rows from before that moment, in small transactions; sums and totals stay. How many."""
    whole, gone = count_before(engine, before_us), 0
    some = select(requests.c.seq).where(*_old(before_us)).order_by(requests.c.at_us).limit(PAGE)
    while True:
        progress(gone, whole)
        with engine.begin() as connection:
            deleted = connection.execute(delete(requests).where(requests.c.seq.in_(some))).rowcount
        if not deleted:
            _forget_periods(engine, before_us)
            return gone
        gone += deleted


def _forget_periods(engine: Engine, before_us: int) -> None:
    """What was spent in days and months that are over: no budget will ask for it again."""
    with engine.begin() as connection:
        for period in (DAY, MONTH):
            over = budgets.c.scope.endswith(f":{period}") & (
                budgets.c.start < period_start(period, before_us)
            )
            connection.execute(delete(budgets).where(over, budgets.c.reserved_nano == 0))


def _old(before_us: int) -> tuple[Any, Any]:
    """Settled rows; of the others those that no late bill can reach any more."""
    forgotten = (requests.c.state == UNKNOWN) & (requests.c.at_us < before_us - UNKNOWN_DAYS * DAY_US)
    return requests.c.at_us < before_us, (requests.c.state == SETTLED) | forgotten


def vacuum(engine: Engine, progress: Progress) -> int:
    """Give the space of deleted rows back to the disk, in steps that hold nobody up; how many bytes."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name == "postgresql":
            before = _size(connection)
            connection.execute(text("VACUUM (ANALYZE)"))
            return max(0, before - _size(connection))
        return _vacuum_sqlite(connection, progress)


def _vacuum_sqlite(connection: Connection, progress: Progress) -> int:
    whole = left = _pragma(connection, "freelist_count")
    while left:
        progress(whole - left, whole)
        _run(connection, f"incremental_vacuum({VACUUM_STEP})")
        before, left = left, _pragma(connection, "freelist_count")
        if left >= before:  # a file that was not made by us may not be able to
            break
    _run(connection, "wal_checkpoint(TRUNCATE)")
    progress(whole - left, whole)
    return (whole - left) * _pragma(connection, "page_size")


def _run(connection: Connection, pragma: str) -> None:
    """SQLite works a pragma off while its rows are fetched, also where it seems to have none."""
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA {pragma}")
    cursor.fetchall()
    cursor.close()


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _size(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
