"""The tables of accounts: organisations, users, keys, sessions, what they spent, and what is kept for them.

Moments are microseconds since 1970 in UTC, money is whole nano-dollars, ids are text that we chose.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, String, Table, Text, text

from store.tables import metadata


def _id(column: str = "id", size: int = 32) -> Column[str]:
    return Column(column, String(size), primary_key=True)


def _text(column: str, size: int = 100) -> Column[str]:
    return Column(column, String(size), nullable=False, server_default="")


def _moment(column: str) -> Column[int]:
    """None: it has not come."""
    return Column(column, BigInteger)


def _budget() -> tuple[Column[str], Column[int], Column[int]]:
    """period: day, month, total, or empty where there is no budget. limit_nano refuses, soft_nano warns."""
    limits = Column("limit_nano", BigInteger), Column("soft_nano", BigInteger)
    return (_text("period", 8), *limits)


# Tenants: who shares a cache, a budget and a ledger.
organisations = Table(
    "organisations",
    metadata,
    _id(),
    Column("name", String(100), nullable=False, unique=True),
    # Where it is not, none of its keys and users is served.
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("created_us", BigInteger, nullable=False),
    *_budget(),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("organisation", String(32), nullable=False, index=True),
    # What they sign in with: unique on the platform, compared without regard to case.
    Column("name", String(100), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    # Empty: they cannot sign in.
    Column("password_hash", String(255), nullable=False, server_default=""),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("created_us", BigInteger, nullable=False),
    *_budget(),
)

api_keys = Table(
    "api_keys",
    metadata,
    _id(size=16),
    Column("organisation", String(32), nullable=False, index=True),
    Column("user_id", String(32), nullable=False, index=True),
    # Of a key of no user: the key that made it, and manages it.
    _text("made_by"),
    _text("name"),
    Column("role", String(16), nullable=False),
    # Fewer than those of its role, with spaces between them; empty: all of them.
    _text("scopes"),
    Column("secret_mac", LargeBinary(32), nullable=False),
    # After a rotation the secret before it is good until then.
    Column("old_mac", LargeBinary(32)),
    _moment("old_until_us"),
    _moment("expires_us"),
    _moment("revoked_us"),
    _moment("last_used_us"),
    Column("created_us", BigInteger, nullable=False),
    _text("rate_limit"),
    # Allowed ones with spaces between them; empty: any.
    Column("models", Text, nullable=False, server_default=""),
    *_budget(),
)

# One per sign-in; its refresh token is used once and replaced.
sessions = Table(
    "sessions",
    metadata,
    _id(),
    Column("user_id", String(32), nullable=False, index=True),
    # The one refresh token that is good now; an older one that comes again ends the session.
    Column("refresh_id", String(32), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False, index=True),
    _moment("revoked_us"),
)

# What keys, users and tenants have spent and reserved in each period: kept in the transactions of the rows themselves.
budgets = Table(
    "budgets",
    metadata,
    Column("scope", String(160), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("spent_nano", BigInteger, nullable=False, server_default="0"),
    Column("reserved_nano", BigInteger, nullable=False, server_default="0"),
    # The soft limit that was told of: another one, higher than that, is told of again.
    Column("warned_nano", BigInteger, nullable=False, server_default="0"),
    # One tree in place of two: each page more that a commit touches is a page more to sync.
    sqlite_with_rowid=False,
)

# Replies that are kept for callers who may send the same request again.
replays = Table(
    "replays",
    metadata,
    # A digest of caller, route and Idempotency-Key.
    _id("name", 64),
    _text("caller", 160),
    Column("body_digest", String(64), nullable=False),
    # Of the first request; and a random word by which whoever serves it knows that it still may.
    Column("request_id", String(160), nullable=False),
    Column("claim", String(32), nullable=False),
    # A claim without a reply is over by then.
    Column("claimed_until_us", BigInteger, nullable=False),
    # None while the request is at work.
    Column("status", Integer),
    # Headers and body, sealed where there are keys for it.
    Column("reply", LargeBinary),
    Column("expires_us", BigInteger, nullable=False, index=True),
)

# Things kept under a name, sealed: keys of providers; and marks of what may happen once.
vault = Table(
    "vault",
    metadata,
    _id("name", 100),
    Column("sealed", LargeBinary, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)
