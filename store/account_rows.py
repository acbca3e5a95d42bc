"""Organisations, users, keys and sessions as objects: from their rows, into their rows, and as others are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from identity import SCOPES_OF, Budget, Role, Scope
from prices import format_dollars
from store.rows import MICRO


@dataclass(frozen=True, slots=True)
class Organisation:
    id: str
    name: str
    active: bool
    created_us: int
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class User:
    id: str
    organisation: str
    name: str
    role: Role
    active: bool
    created_us: int
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. old_until_us: the secret of before its rotation is good until then."""

    id: str
    organisation: str
    user_id: str
    name: str
    role: Role
    scopes: frozenset[Scope]
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None
    old_until_us: int | None = None
    last_used_us: int | None = None
    rate_limit: str = ""
    models: tuple[str, ...] = ()
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class Session:
    id: str
    user_id: str
    refresh_id: str
    created_us: int
    expires_us: int
    revoked_us: int | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who stands behind a credential. user: None for a key of no user."""

    organisation: Organisation
    user: User | None

    @property
    def is_active(self) -> bool:
        return self.organisation.active and (self.user is None or self.user.active)


@dataclass(frozen=True, slots=True)
class KeyFound:
    """A key as it was looked up, with the digests of its secrets."""

    key: Key
    mac: bytes
    old_mac: bytes | None
    holder: Holder


Thing = Organisation | User | Key


def organisation_from(row: Mapping[str, Any]) -> Organisation:
    allowed = _budget_from(f"tenant:{row['id']}", row)
    return Organisation(row["id"], row["name"], bool(row["active"]), row["created_us"], allowed)


def user_from(row: Mapping[str, Any]) -> User:
    return User(
        row["id"],
        row["organisation"],
        row["name"],
        Role(row["role"]),
        bool(row["active"]),
        row["created_us"],
        _budget_from(f"user:{row['id']}", row),
    )


def key_from(row: Mapping[str, Any]) -> Key:
    role = Role(row["role"])
    return Key(
        row["id"],
        row["organisation"],
        row["user_id"],
        row["name"],
        role,
        frozenset(map(Scope, row["scopes"].split())) or SCOPES_OF[role],
        row["created_us"],
        row["expires_us"],
        row["revoked_us"],
        row["old_until_us"],
        row["last_used_us"],
        row["rate_limit"],
        tuple(row["models"].split()),
        _budget_from(f"key:{row['id']}", row),
    )


def session_from(row: Mapping[str, Any]) -> Session:
    return Session(
        *(row[name] for name in ("id", "user_id", "refresh_id", "created_us", "expires_us", "revoked_us"))
    )


def _budget_from(owner: str, row: Mapping[str, Any]) -> Budget | None:
    return Budget(owner, row["period"], row["limit_nano"], row["soft_nano"]) if row["period"] else None


def columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields, checked by their rules, as columns of a row."""
    columns = dict(fields)
    for name in ("scopes", "models"):
        if name in columns:
            columns[name] = " ".join(sorted(columns[name]))
    if "budget" in columns:
        allowed: Budget | None = columns.pop("budget")
        columns |= {
            "period": allowed.period if allowed else "",
            "limit_nano": allowed.limit_nano if allowed else None,
            "soft_nano": allowed.soft_nano if allowed else None,
        }
    return columns


def told(thing: Thing) -> dict[str, Any]:
    """As JSON for people and audit lines: no secret is in it."""
    if isinstance(thing, Organisation):
        facts: dict[str, Any] = {"id": thing.id, "name": thing.name, "active": thing.active}
    elif isinstance(thing, User):
        facts = {"id": thing.id, "organisation": thing.organisation, "name": thing.name}
        facts |= {"role": thing.role.value, "active": thing.active}
    else:
        facts = _key_told(thing)
    return facts | {"created": _at(thing.created_us), "budget": _budget_told(thing.budget)}


def _key_told(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "organisation": key.organisation,
        "user_id": key.user_id,
        "name": key.name,
        "role": key.role.value,
        "scopes": sorted(scope.value for scope in key.scopes),
        "models": list(key.models),
        "rate_limit": key.rate_limit,
        "expires": _at(key.expires_us),
        "revoked": _at(key.revoked_us),
        "old_secret_until": _at(key.old_until_us),
        "last_used": _at(key.last_used_us),
    }


def _budget_told(budget: Budget | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    money = {"limit_usd": budget.limit_nano, "soft_usd": budget.soft_nano}
    return {
        "period": budget.period,
        **{name: None if nano is None else format_dollars(nano) for name, nano in money.items()},
    }


def _at(us: int | None) -> str | None:
    return None if us is None else datetime.fromtimestamp(us / MICRO, UTC).isoformat(timespec="seconds")
