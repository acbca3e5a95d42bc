"""Short looks into the database and changes to it, none of which waits for a server that has frozen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from errors import LedgerUnavailable
from store.db import open_engine
from store.frozen import PATIENCE_SECONDS, cut_after

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection

log = logging.getLogger("llm_platform")


class Patient:
    """Connections of its own. Raises LedgerUnavailable where the database is away.

    ready: makes sure that the tables are there; it may raise LedgerUnavailable too.
    """

    def __init__(self, url: URL, ready: Callable[[], object], patience: float = PATIENCE_SECONDS) -> None:
        self._engine = open_engine(url, pings=False)
        self._sqlite = url.get_backend_name() == "sqlite"
        self._ready, self._patience = ready, patience

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """A connection for reading."""
        with self._told(), self._connected() as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """A transaction in which nobody else writes what it has read. Raises IntegrityError where a name is taken."""
        with self._told(), self._connected() as connection, connection.begin():
            if self._sqlite:  # else the lock would come with the first write, after what it goes by was read
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        self._ready()
        try:
            yield
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as failure:
            log.warning("accounts cannot be read or written: %s", type(failure).__name__)
            raise LedgerUnavailable() from failure

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection = self._live()
        try:
            with self._in_time(connection):
                yield connection
        finally:
            connection.close()

    def _live(self) -> Connection:
        """A connection that answers. The first of a pool that does not takes the others with it."""
        connection = self._engine.connect()
        if self._sqlite:
            return connection
        begun = time.monotonic()
        try:
            with self._in_time(connection):
                connection.exec_driver_sql("SELECT 1")
                connection.rollback()
        except DBAPIError:
            connection.close()
            if time.monotonic() - begun >= self._patience:
                raise  # it has frozen, and so would the next
            return self._engine.connect()
        return connection

    def _in_time(self, connection: Connection) -> AbstractContextManager[None]:
        driver = connection.connection.driver_connection
        return nullcontext() if self._sqlite else cut_after(self._patience, lambda: driver)
