"""Counters of what is spent and reserved, changed in the transaction of the rows that spend and reserve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ARRAY, bindparam, func, select, update

from errors import BudgetExceeded
from identity import Budget, period_start
from prices import format_dollars
from store.account_tables import budgets

Counter = tuple[str, int]
# Compiles a statement, whose parameters stand in the given order.
Compile = Callable[[Any, Sequence[str]], str]


@dataclass(slots=True)
class Hold:
    """A budget's counter of one period. used_nano: spent and reserved there, once that is known."""

    counter: Counter
    limit_nano: int | None
    soft_nano: int | None
    used_nano: int | None = None

    @property
    def text(self) -> str:
        return f"{self.counter[0]}@{self.counter[1]}"


def holds_for(wanted: Iterable[Budget], at_us: int) -> tuple[Hold, ...]:
    """The counters of these budgets at that moment, in order."""
    holds = (
        Hold((budget.scope, period_start(budget.period, at_us)), budget.limit_nano, budget.soft_nano)
        for budget in wanted
    )
    return tuple(sorted(holds, key=lambda hold: hold.counter))


def left_nano(holds: Iterable[Hold]) -> int | None:
    """What is left under the tightest limit, never below zero; None without one, or where nobody could look."""
    left = [
        max(0, hold.limit_nano - hold.used_nano)
        for hold in holds
        if hold.limit_nano is not None and hold.used_nano is not None
    ]
    return min(left, default=None)


@dataclass(frozen=True, slots=True)
class Crossing:
    """A soft limit that was reached: told once in each period."""

    counter: Counter
    soft_nano: int
    limit_nano: int | None
    spent_nano: int

    @property
    def owner(self) -> str:
        return self.counter[0].rpartition(":")[0]

    @property
    def period(self) -> str:
        return self.counter[0].rpartition(":")[2]


@dataclass(slots=True)
class Wish:
    """So much more to be reserved in all of these counters, each with a limit, or in none. whole_nano: all that the row
    would hold then."""

    holds: tuple[Hold, ...]
    nano: int
    whole_nano: int
    refusal: BudgetExceeded | None = None
    granted: list[Hold] = field(default_factory=list)


class Counters:
    """The statements on counters. Every transaction touches them in one order, so that none waits in a circle."""

    def __init__(self, compile_: Compile, insert: Any, *, in_arrays: bool) -> None:
        here = (budgets.c.scope == bindparam("b_scope")) & (budgets.c.start == bindparam("b_start"))
        columns = ("scope", "start", "spent_nano", "reserved_nano")
        added = insert.values({name: bindparam(name) for name in columns})
        both = {name: budgets.c[name] + added.excluded[name] for name in ("spent_nano", "reserved_nano")}
        used = budgets.c.spent_nano + budgets.c.reserved_nano
        fits = used + added.excluded.reserved_nano <= bindparam("b_limit")
        keys = {"index_elements": ["scope", "start"], "set_": both}
        self._add = compile_(added.on_conflict_do_update(**keys), columns)
        # PostgreSQL's driver takes five times as long for a statement for each row.
        self._add_many = compile_(_added_many(insert, columns), columns) if in_arrays else ""
        self._reserve = compile_(added.on_conflict_do_update(**keys, where=fits), (*columns, "b_limit"))
        told = (budgets.c.spent_nano, budgets.c.reserved_nano, budgets.c.warned_nano)
        self._look = compile_(select(*told).where(here), ("b_scope", "b_start"))
        warned = update(budgets).where(here).values(warned_nano=bindparam("warned_nano"))
        self._warn = compile_(warned, ("warned_nano", "b_scope", "b_start"))

    def change(
        self, cursor: Any, spent: Mapping[Counter, Sequence[int]], wishes: Sequence[Wish]
    ) -> set[Counter]:
        """Add what was spent, give back what was held, then reserve what fits; the counters that are locked by it.

        A wish that does not fit is undone as a whole, and has its refusal.
        """
        changed = set()
        wanted: dict[Counter, list[tuple[Wish, Hold]]] = {}
        for wish in wishes:
            for hold in wish.holds:
                wanted.setdefault(hold.counter, []).append((wish, hold))
        due: list[tuple[Any, ...]] = []
        for counter in sorted({*spent, *wanted}):
            paid, freed = spent.get(counter, (0, 0))
            if paid or freed:
                due.append((*counter, paid, -freed))
                changed.add(counter)
            if counter in wanted:
                due = self._add_all(cursor, due)
                changed |= {counter for wish, hold in wanted[counter] if self._grant(cursor, wish, hold)}
        self._add_all(cursor, due)
        return changed

    def _add_all(self, cursor: Any, due: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Together: over a network each statement alone would be a journey of its own. Nothing is due then."""
        if len(due) == 1:
            cursor.execute(self._add, due[0])
        elif due and self._add_many:
            cursor.execute(self._add_many, [_array(column) for column in zip(*due, strict=True)])
        elif due:
            cursor.executemany(self._add, due)
        return []

    def _grant(self, cursor: Any, wish: Wish, hold: Hold) -> bool:
        """Whether the counter holds the wish now. Where it cannot, no other one holds it any more either."""
        if wish.refusal is not None or wish.nano <= 0:
            return False
        if self._fits(cursor, wish, hold):
            wish.granted.append(hold)
            return True
        wish.refusal = self._refusal(cursor, wish, hold)
        for granted in wish.granted:
            cursor.execute(self._add, (*granted.counter, 0, -wish.nano))
        return False

    def _fits(self, cursor: Any, wish: Wish, hold: Hold) -> bool:
        if (
            hold.limit_nano is None or wish.nano > hold.limit_nano
        ):  # a new counter has nothing to compare with
            return False
        cursor.execute(self._reserve, (*hold.counter, 0, wish.nano, hold.limit_nano))
        return bool(cursor.rowcount == 1)

    def _refusal(self, cursor: Any, wish: Wish, hold: Hold) -> BudgetExceeded:
        spent, reserved, _ = self._found(cursor, hold.counter)
        limit = hold.limit_nano or 0
        busy = spent + wish.whole_nano <= limit
        left = format_dollars(max(0, limit - spent - reserved))
        sentence = (
            f"This may cost up to {format_dollars(wish.nano)} $, and {left} $ of {_named(hold)} are left. "
        )
        step = (
            "Calls in flight hold the rest until their bills are known: try again in a moment."
            if busy
            else "Ask for less (a shorter input, or a smaller max_tokens, which all but embeddings take), or ask your "
            "administrator to raise this budget."
        )
        return BudgetExceeded(sentence + step, busy=busy, scope=hold.counter[0])

    def _found(self, cursor: Any, counter: Counter) -> tuple[int, int, int]:
        """Spent, reserved, and the soft limit that was told of."""
        cursor.execute(self._look, counter)
        found = cursor.fetchone()
        return (int(found[0]), int(found[1]), int(found[2])) if found else (0, 0, 0)

    def look(self, cursor: Any, holds: Sequence[Hold], changed: set[Counter]) -> list[Crossing]:
        """Note what is used of each; the soft limits that were reached, and that nobody has told of yet.

        Only counters that this transaction has changed, and so holds locked, are marked as told of.
        """
        found = {counter: self._found(cursor, counter) for counter in {hold.counter for hold in holds}}
        crossed: dict[Counter, Crossing] = {}
        for hold in sorted(holds, key=lambda hold: hold.counter):
            spent, reserved, warned = found[hold.counter]
            hold.used_nano, soft = spent + reserved, hold.soft_nano
            if soft is not None and warned < soft <= spent and hold.counter in changed:
                crossed[hold.counter] = Crossing(hold.counter, soft, hold.limit_nano, spent)
        for counter, crossing in crossed.items():
            cursor.execute(self._warn, (crossing.soft_nano, *counter))
        return list(crossed.values())


def _named(hold: Hold) -> str:
    """Whose budget it is: a caller may come under three of them, and only one has to be raised."""
    owner, period = hold.counter[0].partition(":")[0], hold.counter[0].rpartition(":")[2]
    whose = {"key": "the key's", "user": "the user's", "tenant": "the organisation's"}.get(owner, "the")
    return f"{whose} budget" + {"day": " for today", "month": " for this month"}.get(period, "")


def _array(column: Sequence[Any]) -> str:
    """As PostgreSQL reads one: its driver takes far longer over a list."""
    return "{" + ",".join([_element(value) for value in column]) + "}"


def _element(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _added_many(insert: Any, columns: Sequence[str]) -> Any:
    """The rows of several arrays, added in their order."""
    arrays = (bindparam(name, type_=ARRAY(budgets.c[name].type)) for name in columns)
    given = func.unnest(*arrays).table_valued(*columns).render_derived()
    added = insert.from_select(columns, select(*(given.c[name] for name in columns)))
    both = {name: budgets.c[name] + added.excluded[name] for name in ("spent_nano", "reserved_nano")}
    return added.on_conflict_do_update(index_elements=["scope", "start"], set_=both)
