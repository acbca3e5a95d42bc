"""Who may change which account: every rule by which a change is refused, or its object is as if not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errors import Conflict, Forbidden, InvalidInput, NotThere
from identity import OPERATOR, OUTSIDE, SCOPES_OF, Identity, Role, Scope
from store.account_changes import Change
from store.account_rows import Key, User, key_from, user_from
from store.account_tables import api_keys, organisations, users

NO_SUCH_USER = (
    "`user_id` names no user of this organisation. Take the id from the list of users, not the name."
)


def need(*allowed: bool) -> None:
    if not all(allowed):
        raise Forbidden()


def need_there(is_there: bool) -> None:
    if not is_there:
        raise NotThere()


def reached(row: Mapping[str, Any], by: Identity) -> Key:
    """The key of a row, if `by` may see and change it."""
    key = key_from(row)
    if by is not OPERATOR:
        need_there(key.organisation == by.tenant)
        need_there(Scope.ADMIN in by.scopes or (_is_own(row, by) and Scope.KEYS in by.scopes))
    return key


def _is_own(row: Mapping[str, Any], by: Identity) -> bool:
    """One's user's, else the key itself, and those of no user that it made."""
    if by.user_id:
        return bool(row["user_id"] == by.user_id)
    return not row["user_id"] and bool(by.key_id) and by.key_id in (row["id"], row["made_by"])


def own_user(by: Identity) -> str:
    """Whose keys they make by themselves; those of another issuer and the operator are no users of ours."""
    return "" if by is OPERATOR or by.user_id.startswith(OUTSIDE) else by.user_id


def check_maker(change: Change, organisation: str, owner: str, scopes: frozenset[Scope]) -> None:
    """Whether they may make a key of these scopes for that owner."""
    by = change.by
    if by is OPERATOR:
        return
    need(bool({Scope.KEYS, Scope.ADMIN} & by.scopes))
    need_there(organisation == by.tenant)
    if not scopes <= by.scopes:
        raise Forbidden("A key can have no scope that you lack. Name fewer in `scopes`.")
    # A key of somebody from outside would outlive what their issuer says of them.
    own = owner == own_user(by) and not by.user_id.startswith(OUTSIDE)
    need(Scope.ADMIN in by.scopes or own)
    check_unlimited(change)


def check_owner(change: Change, organisation: str, owner: str, scopes: frozenset[Scope]) -> None:
    change.row(organisations, organisation)
    if not owner:
        return
    user = _owner(change, organisation, owner)
    if not scopes <= SCOPES_OF[user.role]:
        raise InvalidInput(f"The user is a {user.role} and can have no key of more.", field="role")


def _owner(change: Change, organisation: str, owner: str) -> User:
    try:
        user = user_from(change.row(users, owner))
        need_there(user.organisation == organisation)
    except NotThere:
        raise NotThere(NO_SUCH_USER, field="user_id") from None
    return user


def check_still_good(key: Key, by: Identity) -> None:
    """To give a key that can do more than oneself a new secret would be to get all that it can do."""
    need(key.scopes <= by.scopes)
    if key.revoked_us is not None:
        raise Conflict("This key was revoked, and stays so. Make a new one.")


def check_unlimited(change: Change) -> None:
    """A key with an end, a limit or a budget could else give itself, or another, what it lacks."""
    if change.by.key_id and _is_limited(key_from(change.row(api_keys, change.by.key_id))):
        raise Forbidden(
            "This key is limited, so it makes and changes no other. Sign in, or ask an administrator."
        )


def _is_limited(key: Key) -> bool:
    return bool(key.expires_us or key.models or key.rate_limit or key.budget)


def check_power(by: Identity, scopes: frozenset[Scope]) -> None:
    """Whoever makes a user, or gives them a password, could sign in as them."""
    if by is not OPERATOR and not scopes <= by.scopes:
        raise Forbidden(
            "A user can have no scope that you lack. Sign in, or use a key with all scopes of that role."
        )


def gained(before: User, columns: Mapping[str, Any]) -> frozenset[Scope]:
    """What a change of a user puts into somebody's hands: with a password all of their role, else what the role adds."""
    after = SCOPES_OF[Role(columns.get("role", before.role))]
    return after if columns.get("password_hash") else after - SCOPES_OF[before.role]
