"""Organisations, users and API keys. Every change says who, what, from and to in an audit line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

import account_rules
from errors import Conflict, InvalidInput
from identity import OPERATOR, SCOPES_OF, Identity, Role, Scope
from security.api_keys import key_text, mac_of, new_id, new_secret
from security.guesses import Audit, unheard
from security.passwords import hashed
from store.account_changes import Change, row_of
from store.account_powers import (
    check_maker,
    check_owner,
    check_power,
    check_still_good,
    check_unlimited,
    gained,
    need,
    need_there,
    own_user,
    reached,
)
from store.account_rows import (
    Key,
    Organisation,
    Thing,
    User,
    columns_of,
    key_from,
    organisation_from,
    user_from,
)
from store.account_tables import api_keys, organisations, users, vault
from store.budget_use import shown
from store.rows import MICRO

if TYPE_CHECKING:
    from store.patient import Patient

# How long the secret of before a rotation stays good, unless the caller says otherwise; a day, and at most a week.
GRACE_SECONDS, MOST_GRACE_SECONDS = 86_400, 604_800
FIRST_ORGANISATION = "main"
KEY_FIELDS = ("name", "role", "scopes", "expires_us", "rate_limit", "models", "budget")
USER_FIELDS = ("role", "active", "password", "budget")
# What a caller without the scope admin may change of a key of their own: none of its limits, and of its scopes as far as
# they have those themselves.
OWN_KEY_FIELDS = ("name", "scopes")


class Accounts:
    """What is changed here is seen by every process within a second.

    `by` is who makes a change. They reach their own organisation only, and there, without the scope admin, only keys
    of their own: everything else is NotThere. Raises Forbidden, InvalidInput, Conflict, LedgerUnavailable.
    """

    def __init__(
        self,
        database: Patient,
        pepper: Callable[[], bytes],
        *,
        audit: Audit = unheard,
        clock: Callable[[], float] = time.time,
        hash_password: Callable[[str], str] = hashed,
    ) -> None:
        self._database, self._pepper, self._audit, self._clock = database, pepper, audit, clock
        self._hash_password = hash_password

    # Organisations: the operator's.

    def create_organisation(self, name: str, by: Identity, **fields: Any) -> Organisation:
        need(by is OPERATOR)
        columns = columns_of(account_rules.checked({"name": name, **fields}, ("name", "budget")))
        with self._change(by) as change:
            return change.add(organisations, columns, organisation_from)

    def change_organisation(self, organisation_id: str, by: Identity, **fields: Any) -> Organisation:
        """name, active, budget. While it is not active none of its keys, users and tokens is served."""
        need(by is OPERATOR)
        columns = columns_of(account_rules.checked(fields, ("name", "active", "budget")))
        with self._change(by) as change:
            before = organisation_from(change.row(organisations, organisation_id))
            return change.alter(organisations, before, columns, organisation_from)

    def organisations(self) -> list[Organisation]:
        with self._database.look() as connection:
            found = connection.execute(select(organisations).order_by(organisations.c.created_us)).mappings()
            return [organisation_from(dict(row)) for row in found]

    def organisation(self, organisation_id: str) -> Organisation:
        with self._database.look() as connection:
            return organisation_from(row_of(connection, organisations, organisation_id))

    # Users: the administrators' of their organisation.

    def create_user(
        self, name: str, role: str, by: Identity, *, organisation: str = "", password: str = "", **fields: Any
    ) -> User:
        """organisation: that of `by` if empty. Without a password they cannot sign in."""
        organisation = organisation or by.tenant
        need(Scope.ADMIN in by.scopes, by is OPERATOR or organisation == by.tenant)
        given = {"role": role, "password": password, **fields}
        columns = self._user_columns(account_rules.checked(given, USER_FIELDS))
        columns |= {"name": account_rules.user_name(name), "organisation": organisation}
        with self._change(by) as change:
            check_unlimited(change)
            check_power(by, SCOPES_OF[Role(columns["role"])])
            change.row(organisations, organisation)
            return change.add(users, columns, user_from)

    def change_user(self, user_id: str, by: Identity, **fields: Any) -> User:
        """role, active, password, budget. A new password, or none, ends all sessions of the user."""
        columns = self._user_columns(account_rules.checked(fields, USER_FIELDS))
        with self._change(by) as change:
            before = user_from(change.row(users, user_id))
            need_there(by is OPERATOR or before.organisation == by.tenant)
            # A key of theirs could else sign in, and have all the scopes of its user.
            own_password = set(fields) == {"password"} and by.user_id == user_id and not by.key_id
            need(Scope.ADMIN in by.scopes or own_password)
            check_unlimited(change)
            check_power(by, gained(before, columns))
            unseen = "password" if "password" in fields else ""
            if unseen or fields.get("active") is False:
                change.end_sessions(user_id)
            return change.alter(users, before, columns, user_from, unseen=unseen)

    def users(self, tenant: str | None = None) -> list[User]:
        """Those of an organisation, or of all."""
        query = select(users).order_by(users.c.created_us, users.c.id)
        with self._database.look() as connection:
            found = connection.execute(
                query if tenant is None else query.where(users.c.organisation == tenant)
            )
            return [user_from(dict(row)) for row in found.mappings()]

    def user(self, user_id: str, tenant: str | None = None) -> User:
        with self._database.look() as connection:
            found = user_from(row_of(connection, users, user_id))
        need_there(tenant in (None, found.organisation))
        return found

    def user_named(self, name: str) -> User:
        with self._database.look() as connection:
            named = select(users).where(users.c.name == account_rules.user_name(name))
            found = connection.execute(named).mappings().one_or_none()
        need_there(found is not None)
        return user_from(dict(found or {}))

    # Keys.

    def create_key(
        self,
        name: str,
        role: str,
        by: Identity,
        *,
        organisation: str = "",
        user_id: str | None = None,
        **fields: Any,
    ) -> tuple[Key, str]:
        """A key and its text, which is shown this once.

        Its organisation and its user are those of `by` unless said otherwise; user_id "" is a key of no user.
        fields: scopes (a list; all of the role if empty), expires_us, rate_limit, models, budget.
        """
        organisation = organisation or by.tenant
        owner = own_user(by) if user_id is None else user_id
        given = account_rules.checked({"name": name, "role": role, **fields}, KEY_FIELDS)
        scopes = account_rules.scopes_within(given.get("scopes", frozenset()), given["role"])
        secret, key_id = new_secret(), new_id()
        with self._change(by) as change:
            check_maker(change, organisation, owner, scopes)
            check_owner(change, organisation, owner, scopes)
            columns = columns_of(given) | {"id": key_id, "organisation": organisation, "user_id": owner}
            columns["secret_mac"] = mac_of(self._pepper(), key_id, secret)
            columns["made_by"] = "" if owner else by.key_id
            return change.add(api_keys, columns, key_from), key_text(key_id, secret)

    def change_key(self, key_id: str, by: Identity, **fields: Any) -> Key:
        """name, role, scopes, expires_us, rate_limit, models, budget. Without the scope admin: name, and scopes that they
        have themselves and its role has."""
        given = account_rules.checked(fields, KEY_FIELDS)
        with self._change(by) as change:
            before = reached(change.row(api_keys, key_id), by)
            need(Scope.ADMIN in by.scopes or set(fields) <= set(OWN_KEY_FIELDS))
            check_still_good(before, by)
            if key_id != by.key_id or not set(fields) <= set(OWN_KEY_FIELDS):
                check_unlimited(change)
            wanted = given.get("scopes", frozenset() if "role" in given else before.scopes)
            scopes = account_rules.scopes_within(wanted, given.get("role", before.role))
            need(by is OPERATOR or scopes <= by.scopes)
            check_owner(change, before.organisation, before.user_id, scopes)
            if "role" in given:
                given.setdefault("scopes", frozenset())
            return change.alter(api_keys, before, columns_of(given), key_from)

    def rotate_key(
        self, key_id: str, by: Identity, *, grace_seconds: float = GRACE_SECONDS
    ) -> tuple[Key, str]:
        """The key with a new secret, shown this once; the old one stays good for the grace period."""
        if not 0 <= grace_seconds <= MOST_GRACE_SECONDS:
            allowed = f"`grace_seconds` must be a number from 0 to {MOST_GRACE_SECONDS}."
            raise InvalidInput(allowed, field="grace_seconds")
        secret = new_secret()
        with self._change(by) as change:
            before = reached(change.row(api_keys, key_id), by)
            check_still_good(before, by)
            if key_id != by.key_id:
                check_unlimited(change)
            columns: dict[str, Any] = {
                "old_mac": api_keys.c.secret_mac,
                "old_until_us": self._now_us() + round(grace_seconds * MICRO),
                "secret_mac": mac_of(self._pepper(), key_id, secret),
            }
            after = change.alter(api_keys, before, columns, key_from, event="KEY_ROTATED")
            return after, key_text(key_id, secret)

    def revoke_key(self, key_id: str, by: Identity) -> Key:
        """From now on nobody is served with it; to revoke it again changes nothing."""
        with self._change(by) as change:
            before = reached(change.row(api_keys, key_id), by)
            if before.revoked_us is not None:
                return before
            columns = {"revoked_us": self._now_us()}
            return change.alter(api_keys, before, columns, key_from, event="KEY_REVOKED")

    def keys(self, tenant: str | None = None, user_id: str | None = None) -> list[Key]:
        """Those of an organisation, or of all; those of one user of it."""
        query = select(api_keys).order_by(api_keys.c.created_us, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.organisation == tenant)
        if user_id is not None:
            query = query.where(api_keys.c.user_id == user_id)
        with self._database.look() as connection:
            return [key_from(dict(row)) for row in connection.execute(query).mappings()]

    def key(self, key_id: str, tenant: str | None = None) -> Key:
        with self._database.look() as connection:
            found = key_from(row_of(connection, api_keys, key_id))
        need_there(tenant in (None, found.organisation))
        return found

    def reach(self, key_id: str, by: Identity) -> Key:
        """A key that `by` may see and change."""
        with self._database.look() as connection:
            return reached(row_of(connection, api_keys, key_id), by)

    def shown(self, *things: Thing) -> list[dict[str, Any]]:
        """Any of these as JSON for people, with what is used of their budgets now."""
        return shown(self._database, things, self._now_us())

    # The first of them all.

    def bootstrap(self, mark: str) -> tuple[Key, str]:
        """A first administrator's key, in an organisation of its own. Raises Conflict where that mark was used before."""
        given = account_rules.checked({"name": "bootstrap", "role": Role.ADMIN}, KEY_FIELDS)
        secret, key_id = new_secret(), new_id()
        with self._change(OPERATOR) as change:
            change.connection.execute(insert(vault).values(name=mark, sealed=b"", changed_us=change.now_us))
            home = change.named_organisation(FIRST_ORGANISATION)
            columns = columns_of(given) | {"id": key_id, "organisation": home.id, "user_id": ""}
            columns["secret_mac"] = mac_of(self._pepper(), key_id, secret)
            return change.add(api_keys, columns, key_from), key_text(key_id, secret)

    # How it is written.

    def _user_columns(self, fields: dict[str, Any]) -> dict[str, Any]:
        columns = columns_of(fields)
        if "password" in columns:
            password = columns.pop("password")
            columns["password_hash"] = self._hash_password(password) if password else ""
        return columns

    @contextmanager
    def _change(self, by: Identity) -> Iterator[Change]:
        """One transaction; its audit lines are written once it is committed."""
        try:
            with self._database.change() as connection:
                change = Change(connection, by, self._now_us())
                yield change
        except IntegrityError:
            raise Conflict("That name is taken. Choose another.", field="name") from None
        for line in change.lines:
            self._audit(*line)

    def _now_us(self) -> int:
        return round(self._clock() * MICRO)
