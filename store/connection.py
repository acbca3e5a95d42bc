"""One connection, kept open: a writer needs no turn among the readers, and no time to connect."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from sqlalchemy.engine import Engine

from store.frozen import cut_after


class OneConnection:
    """Opened when first used, and anew after any error. One thread at a time: the caller holds a lock."""

    def __init__(self, engine: Engine, patience: float) -> None:
        self._engine, self._patience = engine, patience
        self.on_sqlite = engine.dialect.name == "sqlite"
        self._connection: Any = None

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor in a transaction. After any error the connection is given up: its state is not known."""
        with nullcontext() if self.on_sqlite else cut_after(self._patience, self._driver):
            try:
                cursor = self.cursor()
                cursor.execute(self._begin)
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                self.close()
                raise

    def begin_again(self, cursor: Any) -> None:
        """Undo what the transaction has done so far."""
        cursor.execute("ROLLBACK")
        cursor.execute(self._begin)

    @property
    def _begin(self) -> str:
        return "BEGIN IMMEDIATE" if self.on_sqlite else "BEGIN"

    def cursor(self) -> Any:
        """Outside a transaction each statement is one of its own."""
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            if self.on_sqlite:
                self._driver().isolation_level = None
            else:
                self._driver().autocommit = True
        return self._connection.cursor()

    def _driver(self) -> Any:
        connection = self._connection
        return None if connection is None else connection.driver_connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self.on_sqlite:
            # Closing alone keeps the lock, as long as a statement is remembered by a traceback.
            with suppress(sqlite3.Error):
                connection.driver_connection.rollback()
        connection.invalidate()
