"""Reading the ledger: what closed rows add up to, pages of rows, running totals, and what is still open."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, func, literal_column, select, union_all
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from errors import LedgerUnavailable
from store.tables import HOUR_US, OPEN, SUMS, language_days, requests, totals, usage_days, usage_hours

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select, Table
    from sqlalchemy.engine import Connection, Engine

    Query = Select[*tuple[Any, ...]]
    Rows = Sequence[Row[*tuple[Any, ...]]]

# A fifth of a megabyte of JSON: larger pages are hardly faster, and each thread keeps the memory of its largest.
log = logging.getLogger("llm_platform")

PAGE_ROWS = 200
CANNOT_READ = (
    "The ledger cannot be read just now. Try again in a few seconds; if it stays, tell your operator."
)
FIGURES = (*SUMS, "slowest_us")
# What usage can be grouped by, beside "day" and "hour".
COLUMN_OF = {"endpoint": "route", "task": "task", "model": "model", "provider": "provider", "key": "key_id"}
# Both are written out: a planner takes no index of open rows, and groups by no hour, for a value to come.
_IS_OPEN = requests.c.state == literal_column(f"'{OPEN}'")
_HOURS_A_DAY = literal_column("24", BigInteger)
_ZERO = literal_column("0", BigInteger)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole UTC hours, counted from 1970: from `first` on and before `end`."""

    first: int
    end: int

    @classmethod
    def of_hours(cls, hours: int, now_us: int) -> Window:
        """From the start of the hour so many hours ago until the end of this hour."""
        this = now_us // HOUR_US
        return cls(this - hours, this + 1)

    @classmethod
    def of_days(cls, first: int, end: int) -> Window:
        """From the first day, counted from 1970, and before the last."""
        return cls(first * 24, end * 24)

    @property
    def days(self) -> tuple[int, int]:
        """The whole days inside: the first, and the first that is not."""
        return -(-self.first // 24), self.end // 24


@dataclass(frozen=True, slots=True)
class Group:
    """What one group adds up to. `keys` are in the order of group_by; days and hours count from 1970."""

    keys: tuple[Any, ...] = ()
    figures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIGURES, 0))

    def add(self, other: dict[str, int]) -> None:
        figures = self.figures
        slowest = max(figures["slowest_us"], other["slowest_us"])
        for name in SUMS:
            figures[name] += other[name]
        figures["slowest_us"] = slowest


@dataclass(frozen=True, slots=True)
class Open:
    """Asks without an outcome yet, and what they may cost at most."""

    requests: int
    reserved_nano: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What was asked, spent and saved since the ledger began."""

    requests: int
    cost_nano: int
    saved_nano: int


@dataclass(frozen=True, slots=True)
class Language:
    """Code that was answered in one language."""

    language: str
    answers: int
    lines: int


def usage(
    engine: Engine, window: Window, group_by: Sequence[str] = (), tenant: str | None = None
) -> list[Group]:
    """The closed rows of a window, in groups and in no order. A tenant of None stands for all of them."""
    with connected(engine) as connection:
        rows = connection.execute(union_all(*_parts(window, group_by, tenant))).all()
    groups: dict[tuple[Any, ...], Group] = {}
    for row in rows:
        keys = tuple(row[: len(group_by)])
        # PostgreSQL adds up to a Decimal, and nothing adds up to None.
        figures = {name: int(value or 0) for name, value in zip(FIGURES, row[len(group_by) :], strict=True)}
        groups.setdefault(keys, Group(keys)).add(figures)
    # Where a bill came after a row had been given up, its first group is left with nothing but zeros.
    return [group for group in groups.values() if any(group.figures[name] for name in SUMS)]


def whole(groups: Iterable[Group]) -> Group:
    """What groups add up to."""
    sum_of_all = Group()
    for group in groups:
        sum_of_all.add(group.figures)
    return sum_of_all


def _parts(window: Window, group_by: Sequence[str], tenant: str | None) -> Iterator[Query]:
    """Whole days from the sums by day, the hours around them from those by hour; one statement sees both alike."""
    first_day, end_day = window.days
    if "hour" in group_by or first_day >= end_day:
        yield _part(usage_hours, window.first, window.end, group_by, tenant)
        return
    yield _part(usage_days, first_day, end_day, group_by, tenant)
    yield _part(usage_hours, window.first, first_day * 24, group_by, tenant)
    yield _part(usage_hours, end_day * 24, window.end, group_by, tenant)


def _part(table: Table, first: int, end: int, group_by: Sequence[str], tenant: str | None) -> Query:
    keys = [_key(table, name) for name in group_by]
    sums = [func.sum(table.c[name]) for name in SUMS]
    query = select(*keys, *sums, func.max(table.c.slowest_us)).group_by(*keys)
    return _of_tenant(query.where(table.c.start >= first, table.c.start < end), table, tenant)


def _key(table: Table, name: str) -> ColumnElement[Any]:
    if name == "day" and table is usage_hours:
        return table.c.start // _HOURS_A_DAY
    return table.c[COLUMN_OF.get(name, "start")]


def open_now(engine: Engine, tenant: str | None = None) -> Open:
    query = select(func.count(), func.sum(requests.c.reserved_nano)).where(_IS_OPEN)
    return Open(*_one(engine, _of_tenant(query, requests, tenant)))


def totals_of(engine: Engine, tenant: str | None = None) -> Totals:
    query = select(*(func.sum(totals.c[name]) for name in ("requests", "cost_nano", "saved_nano")))
    return Totals(*_one(engine, _of_tenant(query, totals, tenant)))


def languages(engine: Engine, window: Window, tenant: str | None = None) -> list[Language]:
    """What code was answered on the days that the window touches, most answers first."""
    table = language_days
    answers, lines = func.sum(table.c.answers), func.sum(table.c.lines)
    query = select(table.c.language, answers, lines).where(
        table.c.start >= window.first // 24, table.c.start < -(-window.end // 24)
    )
    query = query.group_by(table.c.language).order_by(answers.desc(), table.c.language)
    with connected(engine) as connection:
        rows = connection.execute(_of_tenant(query, table, tenant)).all()
    return [Language(name, int(answered), int(written)) for name, answered, written in rows]


def pages(
    engine: Engine,
    window: Window,
    columns: Sequence[str],
    tenant: str | None = None,
    size: int = PAGE_ROWS,
) -> Iterator[Rows]:
    """The rows of a window in the order of the ledger, as far as it goes now; the last column is always seq.

    A page has at most `size` of them and is read in a transaction of its own: no connection is held meanwhile.
    """
    first, last = _span(engine, window, tenant)
    query = _page(window, columns, tenant)
    for start in range(first, last + 1, size):
        with connected(engine) as connection:
            rows = connection.execute(query, {"first": start, "last": min(start + size - 1, last)}).all()
        if rows:
            yield rows


def newest(engine: Engine, columns: Sequence[str], limit: int, tenant: str | None = None) -> Rows:
    """The last rows, newest first; the last column is seq."""
    query = select(*map(_column, columns), requests.c.seq).order_by(requests.c.seq.desc()).limit(limit)
    with connected(engine) as connection:
        return connection.execute(_of_tenant(query, requests, tenant)).all()


def _span(engine: Engine, window: Window, tenant: str | None) -> tuple[int, int]:
    """The first and the last place in the ledger that a row of the window has; nothing is in (1, 0)."""
    # The zeros keep planners from walking the whole ledger in one order until a row fits in the other.
    at, seq = requests.c.at_us, requests.c.seq + _ZERO
    query = select(func.min(seq), func.max(seq)).where(
        at >= window.first * HOUR_US, at < window.end * HOUR_US
    )
    first, last = _one(engine, _of_tenant(query, requests, tenant))
    return max(first, 1), last


def _page(window: Window, columns: Sequence[str], tenant: str | None) -> Query:
    """By places, not by a limit: whatever a planner thinks of it, a page costs no more than the rows in it."""
    at, seq = requests.c.at_us + _ZERO, requests.c.seq
    query = select(*map(_column, columns), seq).where(
        seq.between(bindparam("first"), bindparam("last")),
        at >= window.first * HOUR_US,
        at < window.end * HOUR_US,
    )
    return _of_tenant(query, requests, tenant).order_by(seq)


def _column(name: str) -> ColumnElement[Any]:
    """A column of the ledger; `caller` is the most telling name of who asked."""
    if name != "caller":
        return requests.c[name]
    key, user = func.nullif(requests.c.key_id, ""), func.nullif(requests.c.user_id, "")
    return func.coalesce(key, user, requests.c.address).label("caller")


def _of_tenant(query: Query, table: Table, tenant: str | None) -> Query:
    return query if tenant is None else query.where(table.c.tenant == tenant)


def _one(engine: Engine, query: Query) -> tuple[int, ...]:
    with connected(engine) as connection:
        return tuple(int(value or 0) for value in connection.execute(query).one())


@contextmanager
def connected(engine: Engine) -> Iterator[Connection]:
    """A connection. Raises LedgerUnavailable where the database does not do what is asked of it."""
    try:
        with engine.connect() as connection:
            yield connection
    except (DBAPIError, NoFreeConnection) as error:
        log.warning("the ledger cannot be read: %s", type(error.__cause__ or error).__name__)
        raise LedgerUnavailable(CANNOT_READ) from error
