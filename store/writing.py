"""Batches of rows into the database: one transaction each, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.engine import Engine

from store.batch import Batch
from store.budgets import Crossing
from store.connection import OneConnection
from store.frozen import PATIENCE_SECONDS
from store.rows import COLUMNS, Row, name_of, row_from, values_of
from store.statements import statements
from store.tables import SETTLED
from store.writes import Write

# Where no request waits: a batch that was partly written before is looked at row by row.
LONG_PATIENCE_SECONDS = 60.0
# Nobody ever sees it: it goes in the transaction in which it comes.
_PROBE = Row(request_id="probe", mark=0, instance="", state=SETTLED, at_us=0)


class Writer:
    """Writes on one connection of its own. One thread at a time: the caller holds a lock."""

    def __init__(
        self,
        engine: Engine,
        *,
        patience: float = PATIENCE_SECONDS,
        on_soft_limit: Callable[[Crossing], None] = lambda _: None,
    ) -> None:
        kind: Any = type(engine.dialect)  # mypy does not take a class with a metaclass for hashable
        self._sql = statements(kind)
        self._connection = OneConnection(engine, patience)
        self._on_soft_limit = on_soft_limit

    def write(self, writes: Sequence[Write]) -> dict[str, int]:
        """Commit all or nothing; the totals of the tenants concerned. Raises the driver's errors.

        A write that is already in the ledger changes nothing: after a commit of unknown outcome the same
        batch may come again.
        """
        for write in writes:
            write.failure = None
        with self._connection.transaction() as cursor:
            batch = Batch(cursor, self._sql, writes)
            if not batch.at_once():
                self._connection.begin_again(cursor)
                batch = Batch(cursor, self._sql, writes)
                batch.one_by_one()
            crossed, overall = batch.settle()
        for crossing in crossed:
            self._on_soft_limit(crossing)
        return overall

    def give_up(self, instances: Iterable[str], before_us: int, own: str) -> int:
        """Rows that dead instances, or anybody but `own` for too long, left open become unknown; how many."""
        dead = set(instances)
        with self._connection.transaction() as cursor:
            cursor.execute(self._sql.all_open)
            left = [row_from(dict(zip(COLUMNS, found, strict=True))) for found in cursor.fetchall()]
            batch = Batch(cursor, self._sql)
            gone = batch.give_up(row for row in left if row.instance in dead or _is_late(row, before_us, own))
            batch.settle()
        return gone

    def totals(self) -> dict[str, int]:
        with self._connection.transaction() as cursor:
            cursor.execute("SELECT tenant, cost_nano FROM totals")
            return {tenant: int(nano) for tenant, nano in cursor.fetchall()}

    def probe(self) -> None:
        """Write, and change nothing: raises as long as the database or its disk take no row."""
        if self._connection.on_sqlite:  # a disk may be full of nothing but its journal
            self._connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with self._connection.transaction() as cursor:
            cursor.execute(self._sql.totals, ("anonymous", 0, 0, 0))
            cursor.execute(self._sql.insert, values_of(_PROBE))  # rights may be lacking for rows alone
            cursor.execute(self._sql.remove, name_of(_PROBE))

    def close(self) -> None:
        """What comes next opens a connection anew."""
        self._connection.close()


def _is_late(row: Row, before_us: int, own: str) -> bool:
    return row.instance != own and row.expires_us is not None and row.expires_us < before_us
