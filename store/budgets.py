"""Counters of what is spent and reserved, changed in the transaction of the rows that spend and reserve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, literal_column, select, update

from errors import BudgetExceeded
from identity import Budget, period_start
from prices import format_dollars
from store.account_tables import budgets

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Counter = tuple[str, int]
# Compiles a statement, whose parameters stand in the given order.
Compile = Callable[[Any, Sequence[str]], str]


@dataclass(slots=True)
class Hold:
    """A reservation in one counter, or the wish for one. used_nano: spent and reserved there, once that is known."""

    counter: Counter
    limit_nano: int | None
    soft_nano: int | None
    used_nano: int | None = None

    @property
    def text(self) -> str:
        return f"{self.counter[0]}@{self.counter[1]}"


def holds_for(wanted: Iterable[Budget], at_us: int) -> tuple[Hold, ...]:
    """The reservations that these budgets ask of a row; in the order of their counters."""
    holds = (
        Hold((budget.scope, period_start(budget.period, at_us)), budget.limit_nano, budget.soft_nano)
        for budget in wanted
    )
    return tuple(sorted(holds, key=lambda hold: hold.counter))


@dataclass(slots=True)
class Wish:
    """So much to be reserved in all of these counters, or in none."""

    holds: tuple[Hold, ...]
    nano: int
    refusal: BudgetExceeded | None = None
    granted: list[Hold] = field(default_factory=list)


class Counters:
    """The statements on counters. Every transaction touches them in one order, so that none waits in a circle."""

    def __init__(self, compile_: Compile, insert: Any) -> None:
        here = (budgets.c.scope == bindparam("b_scope")) & (budgets.c.start == bindparam("b_start"))
        added = insert.values(
            {name: bindparam(name) for name in ("scope", "start", "spent_nano", "reserved_nano")}
        )
        both = {name: budgets.c[name] + added.excluded[name] for name in ("spent_nano", "reserved_nano")}
        fits = budgets.c.spent_nano + budgets.c.reserved_nano + added.excluded.reserved_nano <= bindparam(
            "b_limit"
        )
        keys = {"index_elements": ["scope", "start"], "set_": both}
        columns = ("scope", "start", "spent_nano", "reserved_nano")
        self._add = compile_(added.on_conflict_do_update(**keys), columns)
        self._reserve = compile_(added.on_conflict_do_update(**keys, where=fits), (*columns, "b_limit"))
        self._look = compile_(
            select(budgets.c.spent_nano, budgets.c.reserved_nano).where(here), ("b_scope", "b_start")
        )
        unwarned = here & ~budgets.c.warned & (budgets.c.spent_nano >= bindparam("b_soft"))
        told = update(budgets).where(unwarned).values(warned=literal_column("true"))
        self._warn = compile_(told, ("b_scope", "b_start", "b_soft"))

    def change(self, cursor: Any, spent: Mapping[Counter, Sequence[int]], wishes: Sequence[Wish]) -> None:
        """Add what was spent, give back what was held, then reserve what fits.

        A wish that does not fit is undone as a whole, and has its refusal.
        """
        wanted: dict[Counter, list[tuple[Wish, Hold]]] = {}
        for wish in wishes:
            for hold in wish.holds:
                wanted.setdefault(hold.counter, []).append((wish, hold))
        for counter in sorted({*spent, *wanted}):
            if counter in spent:
                paid, freed = spent[counter]
                cursor.execute(self._add, (*counter, paid, -freed))
            for wish, hold in wanted.get(counter, ()):
                self._grant(cursor, wish, hold)

    def _grant(self, cursor: Any, wish: Wish, hold: Hold) -> None:
        if wish.refusal is not None:
            return
        if self._fits(cursor, wish, hold):
            wish.granted.append(hold)
            return
        wish.refusal = self._refusal(cursor, wish, hold)
        for granted in wish.granted:
            cursor.execute(self._add, (*granted.counter, 0, -wish.nano))

    def _fits(self, cursor: Any, wish: Wish, hold: Hold) -> bool:
        if hold.limit_nano is None:
            cursor.execute(self._add, (*hold.counter, 0, wish.nano))
            return True
        if wish.nano > hold.limit_nano:  # where the counter is new, nothing is compared
            return False
        cursor.execute(self._reserve, (*hold.counter, 0, wish.nano, hold.limit_nano))
        return bool(cursor.rowcount == 1)

    def _refusal(self, cursor: Any, wish: Wish, hold: Hold) -> BudgetExceeded:
        spent, reserved = self.look(cursor, hold.counter)
        limit = hold.limit_nano or 0
        busy = spent + wish.nano <= limit
        left = format_dollars(max(0, limit - spent - reserved))
        period = hold.counter[0].rpartition(":")[2]
        of = {"day": "today's budget", "month": "this month's budget"}.get(period, "the budget")
        sentence = f"This may cost up to {format_dollars(wish.nano)} $, and {left} $ of {of} are left. "
        step = (
            "Calls in flight hold the rest: wait as long as Retry-After says, then try again."
            if busy
            else "Ask for less with max_tokens, or ask your administrator to raise the budget."
        )
        return BudgetExceeded(sentence + step, busy=busy, scope=hold.counter[0])

    def look(self, cursor: Any, counter: Counter) -> tuple[int, int]:
        """Spent and reserved."""
        cursor.execute(self._look, counter)
        found = cursor.fetchone()
        return (int(found[0]), int(found[1])) if found else (0, 0)

    def watch(self, cursor: Any, holds: Iterable[Hold]) -> list[Hold]:
        """Note what is left under each; those whose soft limit is passed, and nobody has told of it yet."""
        crossed = []
        for hold in holds:
            spent, reserved = self.look(cursor, hold.counter)
            hold.used_nano = spent + reserved
            if hold.soft_nano is not None and spent >= hold.soft_nano:
                cursor.execute(self._warn, (*hold.counter, hold.soft_nano))
                if cursor.rowcount == 1:
                    crossed.append(hold)
        return crossed


def used_nano(connection: Connection, counter: Counter) -> int:
    """Spent and reserved in a counter, as the database has it."""
    used = budgets.c.spent_nano + budgets.c.reserved_nano
    here = (budgets.c.scope == counter[0]) & (budgets.c.start == counter[1])
    return int(connection.scalar(select(used).where(here)) or 0)
