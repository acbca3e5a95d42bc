"""Engines for SQLite and PostgreSQL, and the migrations that bring a database up to date."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from config import ConfigError
from store.tables import REVISION

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LEDGER_FILE = "ledger.db"
# The journal is written back every 50 pages, so that a small disk is not eaten by it, and cut only where it has grown
# beyond that: to write over it again is half the price of letting it grow.
SQLITE_PRAGMAS = (
    *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"),
    *("wal_autocheckpoint=50", "journal_size_limit=262144"),
)
# What the header of its file says of WAL mode: the versions that write and read it.
WAL_FORMAT = b"\x02\x02"
# Any number will do that no other program on the same database takes.
MIGRATION_LOCK = 0x11ED6E12
# Whoever writes queues up behind a migration that waits for a long reader, such as pg_dump: not for so long that they take
# the database for gone. It is tried again.
TABLE_LOCK_SECONDS = 2
# A connection that PostgreSQL does not answer counts as lost after so many seconds.
CONNECT_SECONDS = 3
# PostgreSQL takes a transaction back, and its locks with it, that has said nothing for so long: whoever made it has frozen,
# or its machine is gone without a word, and all others wait for the counters of their budgets.
IDLE_SECONDS = 10
_MIGRATIONS = Path(__file__).with_name("migrations")


def ledger_url(database_url: str, data_dir: str) -> URL:
    """Where the ledger lives. Raises ValueError, in words for an operator, where the address is none."""
    if not database_url:
        return URL.create("sqlite", database=str(Path(data_dir) / LEDGER_FILE))
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # whose words hold a part of the address, and so of the password
        raise ValueError("is not a database address") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or url.database in (None, "", ":memory:"):
        raise ValueError("must name a database of PostgreSQL or a file of SQLite")
    return url


def open_engine(url: URL, *, reads_only: bool = False, pings: bool = True) -> Engine:
    """An engine that connects when first used. pings: it asks PostgreSQL, without bound, whether a connection still works."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, pool_size=16, max_overflow=0, pool_timeout=5)
        event.listen(engine, "connect", _prepare_reader if reads_only else _prepare_sqlite)
        return engine
    told = {"connect_timeout": CONNECT_SECONDS, "application_name": "llm_platform"}
    if reads_only:
        # A connection of its own for each read: only connecting is bounded where the server has frozen.
        return create_engine(url, poolclass=NullPool, connect_args=told)
    sizes = {"pool_size": 4, "max_overflow": 0, "pool_timeout": 5}
    engine = create_engine(url, pool_pre_ping=pings, connect_args=told, **sizes)
    event.listen(engine, "connect", _bound_idleness)
    return engine


def _bound_idleness(connection: Any, _: object) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.commit()


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=10000")
    # Before the first table, so that `vacuum` can give space back in small steps.
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    for pragma in SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _prepare_reader(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA query_only=ON")


def migrate(engine: Engine) -> None:
    """Bring the database to this version's tables; several processes may try at once."""
    if _is_there(engine):
        with engine.connect() as connection:
            if is_current(connection):
                return
    _upgrade(engine)


def _is_there(engine: Engine) -> bool:
    """Whether it may be looked at without the lock. A new file of SQLite is made, and put into WAL mode, under it only:
    whoever connects meanwhile makes that fail at once, however long it would wait for a lock."""
    if engine.dialect.name != "sqlite":
        return True
    try:
        with Path(engine.url.database or "").open("rb") as file:
            return file.read(20)[18:] == WAL_FORMAT
    except OSError:
        return False


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with _one_at_a_time(engine), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET lock_timeout = '5s'"))
            connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            connection.execute(text(f"SET lock_timeout = '{TABLE_LOCK_SECONDS}s'"))
            connection.commit()
        else:  # its driver begins none before it changes tables, and whoever is killed would leave half of them
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
            connection.commit()
        except CommandError:
            raise ConfigError(
                "The ledger was written by a newer version of the platform. Start that one, or set another DATA_DIR or DATABASE_URL."
            ) from None
        finally:
            if connection.dialect.name == "postgresql":
                connection.rollback()
                connection.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
                connection.execute(text("RESET lock_timeout"))  # the pool gives it to whoever writes next
                connection.commit()


def _one_at_a_time(engine: Engine) -> Any:
    """SQLite's own locks do not hold a second process back until the first has made its tables."""
    database = engine.url.database
    if engine.dialect.name != "sqlite" or not database or database == ":memory:":
        return nullcontext()
    return _locked(Path(database))


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with database.with_name("migrate.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        database.touch(mode=0o600)  # texts may be in it; its journal gets the same mode
        yield


def is_current(connection: Connection) -> bool:
    """Whether the database has the tables of this version."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return bool(connection.scalar(text("SELECT version_num FROM alembic_version")) == REVISION)
