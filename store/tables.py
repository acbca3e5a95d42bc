"""The tables: the ledger's rows, the sums that are kept beside them, and the running totals.

Money is whole nano-dollars. Moments are microseconds since 1970 in UTC, hours and days are counted from
there too: plain integers mean the same in SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text, text

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
# The last of the migrations. Alembic itself takes a quarter of a second to load, and is needed only where it is behind.
REVISION = "0005_locked_organisations"
OPEN, SETTLED, UNKNOWN = "open", "settled", "unknown"
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000

metadata = MetaData(naming_convention=NAMES)

# SQLite numbers rows by itself only in a column of type INTEGER.
_sequence = BigInteger().with_variant(Integer, "sqlite")


def _name(column: str, size: int = 100) -> Column[str]:
    return Column(column, String(size), nullable=False, server_default="")


def _count(column: str) -> Column[int]:
    return Column(column, BigInteger, nullable=False, server_default="0")


# One row for every ask. It is open while its answer is bought: then it holds what the answer may cost at most.
requests = Table(
    "requests",
    metadata,
    Column("seq", _sequence, primary_key=True, autoincrement=True),
    Column("request_id", String(160), nullable=False),
    # Tells a row that is written twice from a second request under the same id.
    Column("mark", BigInteger, nullable=False),
    Column("instance", String(32), nullable=False),
    Column("state", String(8), nullable=False),
    Column("at_us", BigInteger, nullable=False, index=True),
    Column("expires_us", BigInteger),
    _name("route"),
    _name("task", 16),
    _name("tenant"),
    _name("address"),
    _name("key_id"),
    _name("user_id"),
    _name("provider", 32),
    _name("requested_model"),
    _name("model"),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("cached_tokens"),
    _count("reasoning_tokens"),
    Column("estimated", Boolean, nullable=False, server_default=text("false")),
    # What each upstream call was billed, with its rates: recost computes the row anew from this alone.
    Column("charges", Text, nullable=False, server_default="[]"),
    # None: a model without a known price.
    Column("cost_nano", BigInteger),
    Column("saved_nano", BigInteger),
    _name("saved_by", 16),
    # What the provider's own prompt cache took off the price: in the cost already, shown and never claimed.
    _count("discount_nano"),
    Column("reserved_nano", BigInteger),
    # At most so much for calls of which it is not known whether they were billed. Never part of a cost.
    _count("unknown_nano"),
    _count("attempts"),
    _count("unknown_attempts"),
    _name("cache_status", 16),
    Column("status", Integer, nullable=False, server_default="0"),
    _count("duration_us"),
    _name("prompt_hash", 64),
    _name("language", 32),
    _count("lines"),
    Column("prompt", Text),
    Column("response", Text),
    # Of a classification that was answered: digests of the categories to choose from, and which were chosen.
    Column("classified", Text),
    # The counters that hold its reservation while it is open, as scope@start, with spaces between them.
    Column("holds", Text, nullable=False, server_default=""),
)
# Callers choose their ids: what one tenant sends must not change what another one's row is called.
Index(None, requests.c.request_id, requests.c.tenant, unique=True)
Index(
    "ix_requests_open",
    requests.c.expires_us,
    sqlite_where=requests.c.state == OPEN,
    postgresql_where=requests.c.state == OPEN,
)

# By what the sums are kept, and so by what usage can be grouped.
KEYS = ("tenant", "route", "task", "provider", "model", "key_id")
SUMS = (
    *("requests", "hits", "coalesced", "failed", "unpriced", "unknown", "attempts", "unknown_attempts"),
    *("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_nano", "saved_hit_nano", "saved_coalesced_nano", "discount_nano", "unknown_nano", "duration_us"),
)


def _sums(name: str) -> Table:
    return Table(
        name,
        metadata,
        # Hours or days since 1970.
        Column("start", BigInteger, primary_key=True, autoincrement=False),
        *(Column(key, String(100), primary_key=True) for key in KEYS),
        *(_count(column) for column in SUMS),
        _count("slowest_us"),
    )


# Kept in the transaction of the rows themselves: always equal to what the closed rows add up to.
usage_hours = _sums("usage_hours")
usage_days = _sums("usage_days")

# Code that was answered, by day and language.
language_days = Table(
    "language_days",
    metadata,
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", String(100), primary_key=True),
    Column("language", String(32), primary_key=True),
    _count("answers"),
    _count("lines"),
)

# What each tenant has spent and saved since the ledger began; pruning rows does not change it.
totals = Table(
    "totals",
    metadata,
    Column("tenant", String(100), primary_key=True),
    _count("requests"),
    _count("cost_nano"),
    _count("saved_nano"),
)

# What callers say of classifications afterwards: a row for each category that is right, and one under no name for the
# answer as a whole.
feedback = Table(
    "feedback",
    metadata,
    Column("request_id", String(160), primary_key=True),
    Column("tenant", String(100), primary_key=True),
    Column("category", String(100), primary_key=True),
    Column("correct", Boolean, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index(None, "tenant", "category", "correct"),
)
