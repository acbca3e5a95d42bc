"""What a presented credential stands for: keys with their holders, and sessions with their refresh tokens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from errors import LedgerUnavailable
from store.account_rows import (
    Holder,
    KeyFound,
    Organisation,
    Session,
    User,
    key_from,
    organisation_from,
    session_from,
    user_from,
)
from store.account_tables import api_keys, organisations, sessions, users
from store.rows import MICRO

if TYPE_CHECKING:
    from sqlalchemy import Table

    from store.patient import Patient

_OF_USER, _OF_ORGANISATION = "user_", "organisation_"


def _named(table: Table, prefix: str) -> list[Any]:
    return [column.label(prefix + column.name) for column in table.c]


_HOLDER = [*_named(users, _OF_USER), *_named(organisations, _OF_ORGANISATION)]
_KEYS = select(*_named(api_keys, "key_"), *_HOLDER).select_from(
    api_keys.outerjoin(users, api_keys.c.user_id == users.c.id).join(
        organisations, api_keys.c.organisation == organisations.c.id
    )
)
_SESSIONS = select(*_named(sessions, "session_"), *_HOLDER).select_from(
    sessions.join(users, sessions.c.user_id == users.c.id).join(
        organisations, users.c.organisation == organisations.c.id
    )
)


class Credentials:
    """Each look is one query by id, whatever is found. Raises LedgerUnavailable."""

    def __init__(self, database: Patient, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def key(self, key_id: str) -> KeyFound | None:
        found = self._one(_KEYS.where(api_keys.c.id == key_id))
        if found is None:
            return None
        row = _part(found, "key_")
        return KeyFound(key_from(row), row["secret_mac"], row["old_mac"], _holder(found))

    def session(self, session_id: str) -> tuple[Session, Holder] | None:
        found = self._one(_SESSIONS.where(sessions.c.id == session_id))
        return (session_from(_part(found, "session_")), _holder(found)) if found else None

    def password(self, name: str) -> tuple[User, str] | None:
        """A user of that name who may sign in, with the hash of their password."""
        served = select(users).join(organisations, users.c.organisation == organisations.c.id)
        found = self._one(served.where(users.c.name == name, organisations.c.active))
        if found is None or not found["active"] or not found["password_hash"]:
            return None
        return user_from(found), str(found["password_hash"])

    def mark_used(self, key_id: str) -> None:
        """Note that a key is in use; nothing depends on it, so a database that is away is no matter."""
        with suppress(LedgerUnavailable), self._database.change() as connection:
            used = update(api_keys).where(api_keys.c.id == key_id).values(last_used_us=self._now_us())
            connection.execute(used)

    def organisation_named(self, name: str) -> Organisation | None:
        found = self._one(select(organisations).where(organisations.c.name == name))
        return organisation_from(found) if found else None

    def open_session(self, user: User, seconds: float) -> Session:
        """A new session of a user. Sessions that ended by themselves a day ago are forgotten on this occasion."""
        now_us = self._now_us()
        made = Session(
            secrets.token_hex(8), user.id, secrets.token_hex(8), now_us, now_us + round(seconds * MICRO)
        )
        row = {
            name: getattr(made, name) for name in ("id", "user_id", "refresh_id", "created_us", "expires_us")
        }
        with self._database.change() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_us < now_us - 86_400 * MICRO))
            connection.execute(insert(sessions).values(row))
        return made

    def turn_session(self, session_id: str, refresh_id: str) -> str | None:
        """The id of the next refresh token, if this is the one that is good now. If it was once, the session ends."""
        following = secrets.token_hex(8)
        here = (sessions.c.id == session_id) & sessions.c.revoked_us.is_(None)
        with self._database.change() as connection:
            turned = connection.execute(
                update(sessions).where(here, sessions.c.refresh_id == refresh_id).values(refresh_id=following)
            )
            if turned.rowcount == 1:
                return following
            connection.execute(update(sessions).where(here).values(revoked_us=self._now_us()))
        return None

    def end_session(self, session_id: str) -> None:
        here = (sessions.c.id == session_id) & sessions.c.revoked_us.is_(None)
        with self._database.change() as connection:
            connection.execute(update(sessions).where(here).values(revoked_us=self._now_us()))

    def _one(self, query: Any) -> Mapping[str, Any] | None:
        with self._database.look() as connection:
            found = connection.execute(query).mappings().one_or_none()
            return None if found is None else dict(found)

    def _now_us(self) -> int:
        return round(self._clock() * MICRO)


def _holder(found: Mapping[str, Any]) -> Holder:
    user = _part(found, _OF_USER)
    return Holder(
        organisation_from(_part(found, _OF_ORGANISATION)), user_from(user) if user["id"] is not None else None
    )


def _part(found: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
