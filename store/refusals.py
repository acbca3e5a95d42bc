"""Why PostgreSQL takes nobody in where waiting would be for ever: in our words for an operator, none of the server's."""

from __future__ import annotations

import re

from config import ConfigError

_RIGHTS = (
    "DATABASE_URL names a user who may not do there what the platform needs. Make it the owner of the database, or grant "
    "it CONNECT, and USAGE and CREATE on the schema and all rights on its tables."
)
# A schema without USAGE is passed over by the search path as if it were not there.
_SCHEMA = (
    "DATABASE_URL leads to no schema that its user may use. Grant the user USAGE and CREATE on it, or put the search_path "
    "right."
)
# A server names no code when it refuses a connection, only words. Where it is set to another language than English, it
# looks like one that is away.
_REFUSALS = (
    (
        r"password authentication failed|no password supplied|role \".*\" does not exist|not permitted to log in"
        r"|(?:Peer|Ident|LDAP|PAM|GSSAPI|certificate|RADIUS) authentication failed",
        "DATABASE_URL names a user or a password that PostgreSQL refuses. Put the right ones there.",
    ),
    (
        r"database \".*\" does not exist",
        "DATABASE_URL names a database that does not exist. Create it, or name another one.",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "DATABASE_URL names a user whom PostgreSQL does not let in from this machine in this way. Allow it in its "
        "pg_hba.conf, or set sslmode as that asks for.",
    ),
    (r"permission denied for database", _RIGHTS),
    (
        r"invalid connection option|invalid \w+ value|SSL, but SSL was required",
        "DATABASE_URL has an option that does not work here, such as sslmode. Put it right, or leave it out.",
    ),
)


def refusal_of(failure: BaseException) -> str:
    """What somebody has to put right; empty where the database may come back by itself, or was none of PostgreSQL."""
    import psycopg

    if isinstance(failure, ConfigError):
        return str(failure)
    cause = getattr(failure, "orig", None) or failure
    if not isinstance(cause, psycopg.Error):
        return ""
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return _RIGHTS
    if isinstance(cause, psycopg.errors.InvalidSchemaName):
        return _SCHEMA
    if cause.sqlstate is not None:  # it was let in; what a statement came to is not told by its words
        return ""
    words = str(cause).partition("\n")[0]
    return next((told for pattern, told in _REFUSALS if re.search(pattern, words)), "")
