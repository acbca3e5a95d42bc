"""Batches of rows into the database: one transaction each, with the sums and totals that they change.

Above 300 lines: each statement stands beside the code that runs it, and both are read together.
"""

from __future__ import annotations

import functools
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Insert, Table, bindparam, case, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from errors import LedgerUnavailable
from store.account_tables import budgets
from store.budgets import Counters, Crossing, Hold, Wish
from store.rows import (
    CLOSING,
    COLUMNS,
    NAME,
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
from store.sums import Sums
from store.tables import (
    KEYS,
    OPEN,
    SETTLED,
    SUMS,
    language_days,
    requests,
    totals,
    usage_days,
    usage_hours,
)

# PostgreSQL that has not answered for so long is taken for gone. Where no request waits it may take longer: a batch
# that was partly written before is looked at row by row.
PATIENCE_SECONDS, LONG_PATIENCE_SECONDS = 3.0, 60.0


# The last: a row that was refused, and that a commit of unknown outcome may have written all the same.
NEW, EXTENDS, CLOSES, WITHDRAWS = "new", "extends", "closes", "withdraws"

# Keeps SQLite from walking the whole ledger in its order, where the index of open rows has a handful.
_ZERO: Any = literal_column("0")


class Write:
    """One row on its way into the ledger: new (open, or closed at once), reserving more, or closing.

    holds: the counters to look at; while it is open it reserves in those that have a limit.
    """

    __slots__ = ("done", "failure", "holds", "kind", "latch", "overall_nano", "row")

    def __init__(self, row: Row, kind: str = NEW, holds: tuple[Hold, ...] = ()) -> None:
        self.row, self.kind, self.holds = row, kind, holds
        self.latch = threading.Lock()
        self.latch.acquire()
        self.done = False
        self.failure: BaseException | None = None
        self.overall_nano = 0


@dataclass(slots=True)
class Changes:
    """What a batch changes beside its rows. before_nano: what a row that wishes for more held until then; None of a
    row that is new."""

    sums: Sums = field(default_factory=Sums)
    wishes: list[tuple[Write, Wish, int | None]] = field(default_factory=list)

    def wish(self, write: Write, before_nano: int | None = None) -> None:
        """A soft limit alone reserves nothing: it is looked at, and refuses nobody."""
        holds = tuple(hold for hold in write.holds if hold.limit_nano is not None)
        if holds:
            whole = write.row.reserved_nano or 0
            self.wishes.append((write, Wish(holds, whole - (before_nano or 0), whole), before_nano))


class Writer:
    """Writes on one connection of its own, kept open. One thread at a time: the caller holds a lock."""

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float = PATIENCE_SECONDS,
        on_soft_limit: Callable[[Crossing], None] = lambda _: None,
    ) -> None:
        self._engine, self._patience, self._on_soft_limit = engine, patience, on_soft_limit
        self._sqlite = engine.dialect.name == "sqlite"
        kind: Any = type(engine.dialect)  # mypy does not take a class with a metaclass for hashable
        self._sql = statements(kind)
        self._connection: Any = None

    # A batch.

    def write(self, writes: Sequence[Write]) -> dict[str, int]:
        """Commit all or nothing; the totals of the tenants concerned. Raises the driver's errors.

        A write that is already in the ledger changes nothing: after a commit of unknown outcome the same
        batch may come again.
        """
        for write in writes:
            write.failure = None
        with self._transaction() as cursor:
            changes = Changes()
            if not self._at_once(cursor, writes, changes):
                cursor.execute("ROLLBACK")
                cursor.execute(self._begin)
                changes = Changes()
                for write in writes:
                    self._careful(cursor, write, changes)
            crossed = self._settle_counters(cursor, writes, changes)
            overall = self._finish(cursor, changes.sums)
        for crossing in crossed:
            self._on_soft_limit(crossing)
        return overall

    def _at_once(self, cursor: Any, writes: Sequence[Write], changes: Changes) -> bool:
        """Whether every row went in as it came: nothing was there before, nothing was missing."""
        rows: dict[str, list[Row]] = {NEW: [], EXTENDS: [], CLOSES: [], WITHDRAWS: []}
        for write in writes:
            rows[write.kind].append(write.row)
            self._note(cursor, write, changes)
        return (
            not rows[WITHDRAWS]
            and _ran(cursor, self._sql.insert, [values_of(row) for row in rows[NEW]])
            and _ran(cursor, self._sql.extend, [extending_values_of(row) for row in rows[EXTENDS]])
            and _ran(cursor, self._sql.close, [closing_values_of(row) for row in rows[CLOSES]])
        )

    def _note(self, cursor: Any, write: Write, changes: Changes) -> None:
        """What a write changes beside its row, while the row is as it was before."""
        row = write.row
        known = self._find(cursor, row) if row.holds and write.kind != NEW else None
        if is_open(row):
            changes.wish(write, (known.reserved_nano or 0) if known else None)
            return
        changes.sums.add(row)
        if known is not None and is_open(known):
            changes.sums.give_back(known)

    def _careful(self, cursor: Any, write: Write, changes: Changes) -> None:
        row = write.row
        known = self._find(cursor, row)
        if write.kind == WITHDRAWS:
            self._withdraw(cursor, known, changes)
            return
        if known is None and not self._insert(cursor, row):
            known = self._find(cursor, row)  # another instance drains the same spool
            if known is None:
                # A caller who sends the same X-Request-ID twice makes two requests, and both have rows.
                row.request_id = _other_name(row)
                self._insert(cursor, row)
        if known is not None:
            self._change_known(cursor, known, write, changes)
        elif is_open(row):
            changes.wish(write)
        else:
            changes.sums.add(row)

    def _withdraw(self, cursor: Any, known: Row | None, changes: Changes) -> None:
        if known is not None and is_open(known):
            cursor.execute(self._sql.remove, name_of(known))
            changes.sums.give_back(known)

    def _change_known(self, cursor: Any, known: Row, write: Write, changes: Changes) -> None:
        """A late bill replaces what was given up, and nothing is written twice."""
        row = write.row
        row.request_id = known.request_id
        if is_open(row):
            self._change_open(cursor, known, write, changes)
            return
        if known.state == SETTLED or known == row:
            return
        _ran(cursor, self._sql.close_any, [closing_values_of(row)])
        if is_open(known):
            changes.sums.give_back(known)
        else:
            changes.sums.add(known, -1)
        changes.sums.add(row)

    def _change_open(self, cursor: Any, known: Row, write: Write, changes: Changes) -> None:
        if is_open(known):
            _ran(cursor, self._sql.extend, [extending_values_of(write.row)])
            changes.wish(write, known.reserved_nano or 0)
        elif write.row.holds:  # given up by others, and what it held may be somebody else's by now
            write.failure = LedgerUnavailable()

    def _settle_counters(self, cursor: Any, writes: Sequence[Write], changes: Changes) -> list[Crossing]:
        """Budgets: what was spent, what is reserved. A row whose wish is refused is as it was before."""
        wishes = [wish for _, wish, _ in changes.wishes]
        changed = self._sql.counters.change(cursor, changes.sums.budgets, wishes)
        for write, wish, before_nano in changes.wishes:
            write.failure = wish.refusal
            if wish.refusal is not None and before_nano is None:
                cursor.execute(self._sql.remove, name_of(write.row))
            elif wish.refusal is not None:
                cursor.execute(self._sql.extend, (before_nano, *name_of(write.row)))
        holds = [hold for write in writes if write.failure is None for hold in write.holds]
        return self._sql.counters.look(cursor, holds, changed)

    def _find(self, cursor: Any, row: Row) -> Row | None:
        cursor.execute(self._sql.find, (row.tenant, row.mark, row.request_id, _other_name(row)))
        found = cursor.fetchone()
        return row_from(dict(zip(COLUMNS, found, strict=True))) if found else None

    def _insert(self, cursor: Any, row: Row) -> bool:
        return _ran(cursor, self._sql.insert, [values_of(row)])

    def _finish(self, cursor: Any, sums: Sums) -> dict[str, int]:
        for table, changes in (
            (self._sql.hours, sums.hours),
            (self._sql.days, sums.days),
            (self._sql.languages, sums.languages),
        ):
            # In one order everywhere, so that two instances cannot wait for each other in a circle.
            _ran(cursor, table, [(*key, *changes[key]) for key in sorted(changes)])
        overall = {}
        for tenant in sorted(sums.totals):
            cursor.execute(self._sql.totals, (tenant, *sums.totals[tenant]))
            overall[tenant] = int(cursor.fetchone()[0])
        return overall

    # What is done on the same connection besides.

    def probe(self) -> None:
        """Write, and change nothing: raises as long as the database or its disk take no row."""
        if self._sqlite:  # a disk may be full of nothing but its journal
            self._cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._transaction() as cursor:
            cursor.execute(self._sql.totals, ("anonymous", 0, 0, 0))

    def totals(self) -> dict[str, int]:
        with self._transaction() as cursor:
            cursor.execute("SELECT tenant, cost_nano FROM totals")
            return {tenant: int(nano) for tenant, nano in cursor.fetchall()}

    def give_up(self, instances: Iterable[str], before_us: int, own: str) -> int:
        """Rows that dead instances, or anybody but `own` for too long, left open become unknown; how many."""
        with self._transaction() as cursor:
            cursor.execute(self._sql.all_open)
            left = [row_from(dict(zip(COLUMNS, found, strict=True))) for found in cursor.fetchall()]
            dead = set(instances)
            stale = [row for row in left if row.instance in dead or _is_late(row, before_us, own)]
            sums = Sums()
            gone = [self._give_up_row(cursor, row, sums) for row in sorted(stale, key=place_of)]
            self._sql.counters.change(cursor, sums.budgets, ())
            self._finish(cursor, sums)
            return sum(gone)

    def _give_up_row(self, cursor: Any, seen: Row, sums: Sums) -> bool:
        """Its own process may be alive after all, and closing it, or reserving more, at this moment."""
        row = self._find(cursor, seen) if seen.holds else seen
        if row is None or not is_open(row):
            return False
        given = _ran(cursor, self._sql.close, [closing_values_of(given_up(row))])
        if given:
            sums.give_back(row)
            sums.add(row)
        return given

    # The connection.

    @property
    def _begin(self) -> str:
        return "BEGIN IMMEDIATE" if self._sqlite else "BEGIN"

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor in a transaction. After any error the connection is given up: its state is not known."""
        with self._in_time():
            try:
                cursor = self._cursor()
                cursor.execute(self._begin)
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                self.close()
                raise

    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            driver = self._connection.driver_connection
            if self._sqlite:
                driver.isolation_level = None
            else:
                driver.autocommit = True
        return self._connection.cursor()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Nothing in psycopg ends a wait for a server that has frozen; cutting the socket does."""
        if self._sqlite:
            yield
            return
        watch = threading.Timer(self._patience, self._cut)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _cut(self) -> None:
        connection = self._connection
        if connection is not None:
            with socket.socket(fileno=os.dup(connection.driver_connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if (
                self._sqlite
            ):  # closing alone keeps the lock, as long as a statement is remembered by a traceback
                with suppress(sqlite3.Error):
                    connection.driver_connection.rollback()
            connection.invalidate()


@functools.cache
def statements(dialect: type[Dialect]) -> Statements:
    """They are the same for all writers of a process, and take 15 ms to compile."""
    return Statements(_positional(dialect))


class Statements:
    """The SQL, compiled once: SQLAlchemy's own way to a statement costs more than a cached hit may."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        insert = self._insert_into(requests).values({name: bindparam(name) for name in COLUMNS})
        by_id, by_tenant, by_mark = (requests.c[column] == bindparam(f"b_{column}") for column in NAME)
        name = tuple(f"b_{column}" for column in NAME)
        whole: dict[str, Any] = {column: bindparam(column) for column in CLOSING}
        more: dict[str, Any] = {"reserved_nano": bindparam("reserved_nano")}
        named = update(requests).where(by_id, by_tenant, by_mark)
        still_open = named.where(requests.c.state == _literal(OPEN))
        either = requests.c.request_id.in_([bindparam("b_request_id"), bindparam("b_other")])
        columns = [requests.c[column] for column in COLUMNS]
        found = select(*columns).where(by_tenant, by_mark, either)
        self.insert = self._text(insert.on_conflict_do_nothing(), COLUMNS)
        self.close = self._text(still_open.values(whole), (*CLOSING, *name))
        self.extend = self._text(still_open.values(more), ("reserved_nano", *name))
        self.close_any = self._text(named.values(whole), (*CLOSING, *name))
        self.find = self._text(found.with_for_update(), ("b_tenant", "b_mark", "b_request_id", "b_other"))
        self.all_open = self._text(
            select(*columns).where(requests.c.state == _literal(OPEN)).order_by(requests.c.seq + _ZERO), ()
        )
        self.hours = self._adding(usage_hours, ("start", *KEYS), SUMS)
        self.days = self._adding(usage_days, ("start", *KEYS), SUMS)
        self.languages = self._adding(language_days, ("start", "tenant", "language"), ("answers", "lines"))
        self.totals = self._adding(totals, ("tenant",), ("requests", "cost_nano", "saved_nano"))
        self.remove = self._text(delete(requests).where(by_id, by_tenant, by_mark), name)
        self.counters = Counters(
            self._text, self._insert_into(budgets), in_arrays=self._dialect.name != "sqlite"
        )

    def _insert_into(self, table: Table) -> Any:
        return (sqlite if self._dialect.name == "sqlite" else postgresql).insert(table)

    def _adding(self, table: Table, keys: Sequence[str], sums: Sequence[str]) -> str:
        """Insert, or add to what is there; of the totals it returns the new cost."""
        slowest = ("slowest_us",) if "slowest_us" in table.c else ()
        names = (*keys, *sums, *slowest)
        insert = self._insert_into(table).values({name: bindparam(name) for name in names})
        changed: dict[str, Any] = {name: table.c[name] + insert.excluded[name] for name in sums}
        for name in slowest:
            new, old = insert.excluded[name], table.c[name]
            changed[name] = case((new > old, new), else_=old)
        adding = insert.on_conflict_do_update(index_elements=list(keys), set_=changed)
        return self._text(adding.returning(totals.c.cost_nano) if table is totals else adding, names)

    def _text(self, statement: Insert | ClauseElement, order: Sequence[str]) -> str:
        """The statement as its driver takes it, with parameters by position."""
        compiled = cast(SQLCompiler, statement.compile(dialect=self._dialect))
        assert tuple(compiled.positiontup or ()) == tuple(order), (compiled.positiontup, order)
        return str(compiled)


def _positional(dialect: Any) -> Dialect:
    """A dialect with its parameters by position: psycopg's default is by name."""
    return cast(Dialect, dialect(paramstyle="qmark" if dialect.name == "sqlite" else "format"))


def _literal(value: str) -> Any:
    return literal_column(f"'{value}'")


def _ran(cursor: Any, statement: str, rows: Sequence[Any]) -> bool:
    """Whether the statement changed exactly one row for each of these."""
    if not rows:
        return True
    if len(rows) == 1:
        cursor.execute(statement, rows[0])
    else:
        cursor.executemany(statement, rows)
    return bool(cursor.rowcount == len(rows))


def _other_name(row: Row) -> str:
    """For the row of a request under an id that another row has: `~` stands in no id that a caller can send."""
    return f"{row.request_id}~{row.mark:x}"


def _is_late(row: Row, before_us: int, own: str) -> bool:
    return row.instance != own and row.expires_us is not None and row.expires_us < before_us


def overall_of(writes: Sequence[Write], after: Mapping[str, int]) -> None:
    """Each write's own running total, as if the batch had been written one after the other."""
    left = dict(after)
    for write in reversed(writes):
        tenant = write.row.tenant
        write.overall_nano = left.get(tenant, 0)
        if not is_open(write.row) and tenant in left:
            left[tenant] -= write.row.cost_nano or 0
