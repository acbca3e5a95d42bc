"""What is spent, reserved and left of budgets just now, for whoever asks after a key, a user or an organisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from errors import LedgerUnavailable
from identity import Budget, period_start
from prices import format_dollars
from store.account_rows import Thing, told
from store.account_tables import budgets
from store.budgets import Counter

if TYPE_CHECKING:
    from store.patient import Patient

# A page of any size that is asked for over HTTP; lists of commands may be longer.
AT_ONCE = 500
# Of a budget as it is told: answers only, whatever is sent in them.
USE_FIELDS = ("spent_usd", "reserved_usd", "left_usd")


@dataclass(frozen=True, slots=True)
class Use:
    """In nano-dollars, of the period that holds now."""

    spent_nano: int = 0
    reserved_nano: int = 0


def shown(database: Patient, things: Sequence[Thing], now_us: int) -> list[dict[str, Any]]:
    """As JSON for people. What is used of a budget is null where the database has just gone away: what was changed
    before that, a new secret above all, is told all the same."""
    try:
        used = _used(database, [thing.budget for thing in things if thing.budget], now_us)
    except LedgerUnavailable:
        return [_with_use(told(thing), {}) for thing in things]
    return [_with_use(told(thing), _use_told(thing.budget, used, now_us)) for thing in things]


def _with_use(facts: dict[str, Any], use: dict[str, str | None]) -> dict[str, Any]:
    if facts["budget"] is None:
        return facts
    return facts | {"budget": facts["budget"] | {name: use.get(name) for name in USE_FIELDS}}


def _use_told(budget: Budget | None, used: dict[Counter, Use], now_us: int) -> dict[str, str | None]:
    if budget is None:
        return {}
    use, limit = used.get(_counter(budget, now_us), Use()), budget.limit_nano
    left = None if limit is None else format_dollars(max(0, limit - use.spent_nano - use.reserved_nano))
    figures = (format_dollars(use.spent_nano), format_dollars(use.reserved_nano), left)
    return dict(zip(USE_FIELDS, figures, strict=True))


def _used(database: Patient, wanted: Iterable[Budget], now_us: int) -> dict[Counter, Use]:
    """Of counters that have been touched in this period; of an earlier one nothing counts any more."""
    counters = [_counter(budget, now_us) for budget in wanted]
    columns = (budgets.c.scope, budgets.c.start, budgets.c.spent_nano, budgets.c.reserved_nano)
    found: dict[Counter, Use] = {}
    for first in range(0, len(counters), AT_ONCE):
        scopes, starts = zip(*counters[first : first + AT_ONCE], strict=True)
        # Not as pairs: SQLite would look at every counter there is.
        some = budgets.c.scope.in_(scopes) & budgets.c.start.in_(set(starts))
        with database.look() as connection:
            rows = connection.execute(select(*columns).where(some))
            found |= {(row.scope, row.start): Use(row.spent_nano, row.reserved_nano) for row in rows}
    return found


def _counter(budget: Budget, now_us: int) -> Counter:
    return budget.scope, period_start(budget.period, now_us)
