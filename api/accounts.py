"""Keys and users over HTTP: a developer manages their own keys, an administrator all of the organisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flask import Response
from flask_restx import Namespace, Resource, fields

from api.account_bodies import MOST_PAGE_SIZE, PAGE_SIZE, read_fields, read_page, read_seconds
from api.examples import with_example
from api.house import services
from api.replies import json_reply
from api.visit import current_visit
from errors import InvalidInput
from identity import PERIODS, Role, Scope
from store.account_pages import keys_page, users_page
from store.account_rows import Key, Thing, key_from, user_from
from store.accounts import GRACE_SECONDS, MOST_GRACE_SECONDS

View = TypeVar("View", bound=Callable[..., Response])

keys = Namespace(
    "keys", description="API keys: one's own, or with the scope `admin` all of the organisation", path="/keys"
)
users = Namespace("users", description="Users of the organisation; with the scope `admin`", path="/users")

KEY_FIELDS = ("name", "role", "scopes", "expires", "rate_limit", "models", "budget")
NEW_USER_FIELDS = ("name", "role", "password", "budget")
USER_FIELDS = ("role", "active", "password", "budget")
KEY_EXAMPLE, USER_EXAMPLE = '{"name": "reports"}', '{"name": "ada", "role": "developer"}'


class Dollars(fields.Raw):  # type: ignore[misc]  # Flask-RESTX ships no types
    """Text or a number; Swagger 2.0 has no word for either of two."""

    __schema_type__ = None


budget = keys.model(
    "Budget",
    {
        "period": fields.String(required=True, enum=list(PERIODS), description="in which it may be spent"),
        "limit_usd": Dollars(
            example="12.50", description="dollars as text or number, beyond which calls are refused"
        ),
        "soft_usd": Dollars(
            example="10",
            description="dollars below limit_usd, beyond which there are warnings; 0 or null: none",
        ),
        "spent_usd": fields.String(
            readonly=True,
            description="in replies: spent in the current period, dollars of nine decimals; sent back, it changes nothing",
        ),
        "reserved_usd": fields.String(readonly=True, description="in replies: held by calls in flight"),
        "left_usd": fields.String(
            readonly=True,
            description="in replies: what neither of them has taken of limit_usd; null without one",
        ),
    },
    strict=True,
)
_key_fields = {
    "role": fields.String(enum=[*Role], default=Role.DEVELOPER.value),
    "scopes": fields.List(
        fields.String(enum=[*Scope]), description="of those of the role; all of them if empty"
    ),
    "expires": fields.DateTime(description="when it ends, with an offset; null: never"),
    "rate_limit": fields.String(
        example="100 per minute",
        description="of all its POSTs together, in place of RATE_LIMIT; within a year at most",
    ),
    "models": fields.List(fields.String, description="the only ones that it may use; any if empty"),
    "budget": fields.Nested(budget, allow_null=True),
}
new_key = keys.model(
    "NewKey",
    {
        "name": fields.String(required=True, min_length=1, max_length=100, example="reports"),
        **_key_fields,
        "user_id": fields.String(description="whose key it is: you, unless an administrator says otherwise"),
    },
    strict=True,
)
new_key = with_example(
    keys,
    new_key,
    name="reports",
    role="developer",
    budget={"period": "month", "limit_usd": "20", "soft_usd": "15"},
)
changed_key = keys.model(
    "ChangedKey",
    {
        "name": fields.String(min_length=1, max_length=100),
        **_key_fields,
        "role": fields.String(
            enum=[*Role], description="without `scopes` beside it the key gets all scopes of this role"
        ),
    },
    strict=True,
)
changed_key = with_example(keys, changed_key, name="reports")
rotation = keys.model(
    "Rotation",
    {
        "grace_seconds": fields.Float(
            default=GRACE_SECONDS,
            min=0,
            max=MOST_GRACE_SECONDS,
            description="how long the old secret stays good; it asks and reads, and manages no keys or users",
        )
    },
    strict=True,
)
_user_fields = {
    "role": fields.String(enum=[*Role]),
    "password": fields.String(
        description="at least 12 characters; empty: they have keys, and do not sign in"
    ),
    "budget": fields.Nested(budget, allow_null=True),
}
new_user = users.model(
    "NewUser",
    {"name": fields.String(required=True, min_length=1, max_length=100), **_user_fields},
    strict=True,
)
new_user = with_example(users, new_user, name="ada", role="developer")
changed_user = users.model(
    "ChangedUser",
    {**_user_fields, "active": fields.Boolean(description="false: neither they nor their keys are served")},
    strict=True,
)
changed_user = with_example(users, changed_user, role="viewer")
PAGING = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_PAGE_SIZE, "default": PAGE_SIZE},
    "after": {"type": "string", "description": "the `next` of the page before"},
}
REFUSALS = {
    400: "a field is not as it must be",
    401: "no valid key",
    403: "more than the caller may",
    404: "nothing of that id in this organisation",
    409: "the name is taken, or the key was revoked",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests",
    503: "the database is away",
}


def documented(space: Namespace, body: Any = None, **more: Any) -> Callable[[View], View]:
    """Swagger's view of a route; what is checked stands in api/account_bodies and account_rules."""

    def decorate(view: View) -> View:
        space.doc(responses=REFUSALS, **more)(view)
        if body is not None:
            space.expect(body)(view)
        return view

    return decorate


@keys.route("")
class Keys(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(keys, params=PAGING)
    def get(self) -> Response:
        """List the keys that you may see, without their secrets, in the order in which they were made."""
        found, following = keys_page(services().database, current_visit().identity, *read_page())
        return _page("keys", [key_from(row) for row in found], following)

    @documented(keys, new_key)
    def post(self) -> Response:
        """Make a key. Its text is in this one reply only; it can have nothing that you lack."""
        body = read_fields((*KEY_FIELDS, "user_id"), ("name",), KEY_EXAMPLE)
        name, role, owner = body.pop("name"), body.pop("role", Role.DEVELOPER), _owner(body)
        made = services().accounts.create_key(name, role, current_visit().identity, user_id=owner, **body)
        return _with_secret(*made, 201)


@keys.route("/<string:key_id>")
class OneKey(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(keys)
    def get(self, key_id: str) -> Response:
        """Show a key without its secret."""
        return _reply(services().accounts.reach(key_id, current_visit().identity))

    @documented(keys, changed_key)
    def patch(self, key_id: str) -> Response:
        """Change a key. Without the scope admin: its name, and its scopes, fewer or more, as far as you and its role have
        them; none of its limits.

        A `role` that comes without `scopes` gives the key all scopes of that role, whatever it had before: send both.
        """
        body = read_fields(KEY_FIELDS, example=KEY_EXAMPLE)
        return _reply(services().accounts.change_key(key_id, current_visit().identity, **body))

    @documented(keys)
    def delete(self, key_id: str) -> Response:
        """Revoke a key: nobody is served with it any more, within a second in every process."""
        return _reply(services().accounts.revoke_key(key_id, current_visit().identity))


@keys.route("/<string:key_id>/rotate")
class RotatedKey(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(keys, rotation)
    def post(self, key_id: str) -> Response:
        """Give a key a new secret, shown in this one reply only. For a grace period the old one asks and reads on, but it
        manages nothing: not keys, not users, not exports."""
        grace = read_seconds(read_fields(("grace_seconds",)), "grace_seconds", GRACE_SECONDS)
        made = services().accounts.rotate_key(key_id, current_visit().identity, grace_seconds=grace)
        return _with_secret(*made, 200)


@users.route("")
class Users(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(users, params=PAGING)
    def get(self) -> Response:
        """List the users of the organisation, in the order in which they were made."""
        found, following = users_page(services().database, current_visit().identity, *read_page())
        return _page("users", [user_from(row) for row in found], following)

    @documented(users, new_user)
    def post(self) -> Response:
        """Make a user. Without a password they cannot sign in."""
        body = read_fields(NEW_USER_FIELDS, ("name", "role"), USER_EXAMPLE)
        name, role = body.pop("name"), body.pop("role")
        made = services().accounts.create_user(name, role, current_visit().identity, **body)
        return _reply(made, 201)


@users.route("/<string:user_id>")
class OneUser(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(users, changed_user)
    def patch(self, user_id: str) -> Response:
        """Change a user. A new password ends their sessions."""
        body = read_fields(USER_FIELDS, example='{"role": "viewer"}')
        return _reply(services().accounts.change_user(user_id, current_visit().identity, **body))

    @documented(users)
    def delete(self, user_id: str) -> Response:
        """Lock a user out, and their keys with them. Their rows stay in the ledger; `active: true` lets them in again."""
        gone = services().accounts.change_user(user_id, current_visit().identity, active=False)
        return _reply(gone)


def _owner(body: dict[str, Any]) -> str | None:
    """Whose key is to be made; None for the caller's own."""
    if "user_id" not in body:
        return None
    owner = body.pop("user_id")
    if not isinstance(owner, str):
        raise InvalidInput("`user_id` must be the id of a user, as a string.", field="user_id")
    return owner


def _reply(thing: Thing, status: int = 200, **more: str) -> Response:
    (facts,) = services().accounts.shown(thing)
    return json_reply(facts | more, status)


def _with_secret(key: Key, text: str, status: int) -> Response:
    return _reply(key, status, key=text)


def _page(name: str, things: Sequence[Thing], following: str) -> Response:
    page: Mapping[str, Any] = {name: services().accounts.shown(*things), "next": following or None}
    return json_reply(dict(page))
