"""What one transaction changes: its rows, then counters, then sums and totals, each in one order everywhere, so that two
instances cannot wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from errors import LedgerUnavailable
from store.budgets import Crossing, Wish
from store.rows import (
    COLUMNS,
    Row,
    closing_values_of,
    extending_values_of,
    given_up,
    is_open,
    name_of,
    place_of,
    row_from,
    values_of,
)
from store.statements import Statements
from store.sums import Sums
from store.tables import SETTLED
from store.writes import CLOSES, EXTENDS, NEW, WITHDRAWS, Write


class Batch:
    """Made anew for each attempt: what was noted in one that is rolled back must not count."""

    def __init__(self, cursor: Any, sql: Statements, writes: Sequence[Write] = ()) -> None:
        self._cursor, self._sql, self._writes = cursor, sql, writes
        self._sums = Sums()
        # Each with what its row held until then; None of a row that is new.
        self._wishes: list[tuple[Write, Wish, int | None]] = []

    def at_once(self) -> bool:
        """Whether every row went in as it came: nothing was there before, nothing was missing."""
        rows: dict[str, list[Row]] = {NEW: [], EXTENDS: [], CLOSES: [], WITHDRAWS: []}
        for write in self._writes:
            rows[write.kind].append(write.row)
            self._note(write)
        return (
            not rows[WITHDRAWS]
            and self._ran(self._sql.insert, [values_of(row) for row in rows[NEW]])
            and self._ran(self._sql.extend, [extending_values_of(row) for row in rows[EXTENDS]])
            and self._ran(self._sql.close, [closing_values_of(row) for row in rows[CLOSES]])
        )

    def _note(self, write: Write) -> None:
        """What a write changes beside its row, while the row is as it was before."""
        row = write.row
        known = self._find(row) if row.holds and write.kind != NEW else None
        if is_open(row):
            self._wish(write, (known.reserved_nano or 0) if known else None)
            return
        self._sums.add(row)
        if known is not None and is_open(known):
            self._sums.give_back(known)

    def _wish(self, write: Write, before_nano: int | None = None) -> None:
        """A soft limit alone reserves nothing: it is looked at, and refuses nobody."""
        holds = tuple(hold for hold in write.holds if hold.limit_nano is not None)
        if holds:
            whole = write.row.reserved_nano or 0
            self._wishes.append((write, Wish(holds, whole - (before_nano or 0), whole), before_nano))

    # Where some of it may have been written before.

    def one_by_one(self) -> None:
        """Look at each row first: one that is there already changes nothing."""
        for write in self._writes:
            known = self._find(write.row)
            if write.kind == WITHDRAWS:
                self._withdraw(known)
            else:
                self._put(write, known)

    def _withdraw(self, known: Row | None) -> None:
        if known is not None and is_open(known):
            self._cursor.execute(self._sql.remove, name_of(known))
            self._sums.give_back(known)

    def _put(self, write: Write, known: Row | None) -> None:
        row = write.row
        if known is None and not self._insert(row):
            known = self._find(row)  # another instance drains the same spool
            if known is None:
                # A caller who sends the same X-Request-ID twice makes two requests, and both have rows.
                row.request_id = _other_name(row)
                self._insert(row)
        if known is not None:
            self._change(known, write)
        elif is_open(row):
            self._wish(write)
        else:
            self._sums.add(row)

    def _change(self, known: Row, write: Write) -> None:
        """A late bill replaces what was given up, and nothing is written twice."""
        row = write.row
        row.request_id = known.request_id
        if is_open(row):
            self._change_open(known, write)
            return
        if known.state == SETTLED or known == row:
            return
        self._ran(self._sql.close_any, [closing_values_of(row)])
        if is_open(known):
            self._sums.give_back(known)
        else:
            self._sums.add(known, -1)
        self._sums.add(row)

    def _change_open(self, known: Row, write: Write) -> None:
        if is_open(known):
            self._ran(self._sql.extend, [extending_values_of(write.row)])
            self._wish(write, known.reserved_nano or 0)
        elif write.row.holds:  # given up by others, and what it held may be somebody else's by now
            write.failure = LedgerUnavailable()

    # What nobody will close.

    def give_up(self, stale: Iterable[Row]) -> int:
        """Open rows become unknown; how many of them still were open."""
        return sum([self._give_up_row(row) for row in sorted(stale, key=place_of)])

    def _give_up_row(self, seen: Row) -> bool:
        """Its own process may be alive after all, and closing it, or reserving more, at this moment."""
        row = self._find(seen) if seen.holds else seen
        if row is None or not is_open(row):
            return False
        given = self._ran(self._sql.close, [closing_values_of(given_up(row))])
        if given:
            self._sums.give_back(row)
            self._sums.add(row)
        return given

    # Once all rows are as they shall be.

    def settle(self) -> tuple[list[Crossing], dict[str, int]]:
        """Write the counters, sums and totals: the soft limits that were reached, and the totals of the tenants concerned."""
        return self._settle_counters(), self._settle_sums()

    def _settle_counters(self) -> list[Crossing]:
        """Budgets: what was spent, what is reserved. A row whose wish is refused is as it was before."""
        wishes = [wish for _, wish, _ in self._wishes]
        changed = self._sql.counters.change(self._cursor, self._sums.budgets, wishes)
        for write, wish, before_nano in self._wishes:
            write.failure = wish.refusal
            if wish.refusal is not None and before_nano is None:
                self._cursor.execute(self._sql.remove, name_of(write.row))
            elif wish.refusal is not None:
                self._cursor.execute(self._sql.extend, (before_nano, *name_of(write.row)))
        holds = [hold for write in self._writes if write.failure is None for hold in write.holds]
        return self._sql.counters.look(self._cursor, holds, changed)

    def _settle_sums(self) -> dict[str, int]:
        sums = self._sums
        for statement, changes in (
            (self._sql.hours, sums.hours),
            (self._sql.days, sums.days),
            (self._sql.languages, sums.languages),
        ):
            self._ran(statement, [(*key, *changes[key]) for key in sorted(changes)])
        overall = {}
        for tenant in sorted(sums.totals):
            self._cursor.execute(self._sql.totals, (tenant, *sums.totals[tenant]))
            overall[tenant] = int(self._cursor.fetchone()[0])
        return overall

    # One statement.

    def _find(self, row: Row) -> Row | None:
        self._cursor.execute(self._sql.find, (row.tenant, row.mark, row.request_id, _other_name(row)))
        found = self._cursor.fetchone()
        return row_from(dict(zip(COLUMNS, found, strict=True))) if found else None

    def _insert(self, row: Row) -> bool:
        return self._ran(self._sql.insert, [values_of(row)])

    def _ran(self, statement: str, rows: Sequence[Any]) -> bool:
        """Whether the statement changed exactly one row for each of these."""
        if not rows:
            return True
        if len(rows) == 1:
            self._cursor.execute(statement, rows[0])
        else:
            self._cursor.executemany(statement, rows)
        return bool(self._cursor.rowcount == len(rows))


def _other_name(row: Row) -> str:
    """For the row of a request under an id that another row has: `~` stands in no id that a caller can send."""
    return f"{row.request_id}~{row.mark:x}"
