"""What a failed write tells: whether the database is away, or the row itself is at fault."""

from __future__ import annotations

import functools
import sqlite3

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from config import ConfigError


@functools.cache
def database_errors() -> tuple[type[Exception], ...]:
    """What SQLAlchemy raises, and the drivers below it."""
    import psycopg

    return SQLAlchemyError, sqlite3.Error, psycopg.Error


def write_errors() -> tuple[type[Exception], ...]:
    """Everything that can keep a row from its disk."""
    return (*database_errors(), OSError)


def waits() -> tuple[type[Exception], ...]:
    """The same, and a newer version's tables: whatever is no row's fault, and passes or is put right by somebody."""
    return (*write_errors(), ConfigError)


def is_outage(failure: BaseException) -> bool:
    """Whether the database is away, as against there and not as it should be: then waiting would be for ever."""
    import psycopg

    cause = getattr(failure, "orig", None) or failure
    away = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.InternalError,
        NoFreeConnection,
        OSError,
    )
    return isinstance(cause, away)


def is_our_mistake(failure: BaseException) -> bool:
    """Whether the row itself cannot be stored, wherever; then nothing is gained by trying again."""
    import psycopg

    about_rows = (sqlite3.DataError, sqlite3.IntegrityError, psycopg.DataError, psycopg.IntegrityError)
    return isinstance(failure, about_rows) or not isinstance(failure, waits())


def first_line(failure: Exception) -> str:
    return str(getattr(failure, "orig", None) or failure).partition("\n")[0]
