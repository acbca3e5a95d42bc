"""The SQL that batches are written with, compiled once for each dialect."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Insert, Table, bindparam, case, delete, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from store.account_tables import budgets
from store.budgets import Counters
from store.rows import CLOSING, COLUMNS, NAME
from store.tables import KEYS, OPEN, SUMS, language_days, requests, totals, usage_days, usage_hours


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
        self.all_open = self._text(select(*columns).where(requests.c.state == _literal(OPEN)), ())
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
