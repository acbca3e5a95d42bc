"""The doors for those who have no key yet: a password or a refresh token for tokens, their end, and the first key of all."""

from __future__ import annotations

import json

from flask import Response
from flask_restx import Namespace, Resource, fields

from api.account_bodies import read_text
from api.examples import with_example
from api.house import services
from api.replies import json_reply
from api.schemas import read_body
from api.visit import current_request
from errors import InvalidInput
from security.sign_ins import Tokens
from store.account_rows import told

auth = Namespace("auth", description="Signing in, and the first key", path="/auth")

TOKEN_EXAMPLE, EXAMPLE = '{"name": "ada", "password": "..."}', '{"token": "..."}'

credentials = auth.model(
    "Credentials",
    {
        "name": fields.String(description="of a user, with the password"),
        "password": fields.String(format="password"),
        "refresh_token": fields.String(description="in place of both; it is good once"),
    },
    strict=True,
)
credentials = with_example(auth, credentials, **json.loads(TOKEN_EXAMPLE))
tokens = auth.model(
    "Tokens",
    {
        "access_token": fields.String(description="for the header `Authorization: Bearer`"),
        "refresh_token": fields.String(description="good once, for the next pair"),
        "token_type": fields.String(example="Bearer"),
        "expires_in": fields.Integer(description="seconds"),
    },
)
a_token = auth.model("AToken", {"token": fields.String(required=True)}, strict=True)
REFUSALS = {
    400: "a field is not as it must be",
    401: "the credentials are not good, whatever is wrong with them",
    403: "signing in is switched off here",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests, or too many wrong credentials",
    503: "the database is away, or too many sign in just now",
}


@auth.route("/token")
class Token(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @auth.doc(responses=REFUSALS)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    @auth.response(200, "signed in", tokens)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    @auth.expect(credentials)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    def post(self) -> Response:
        """Sign in with a password, or go on with a refresh token."""
        body = read_body(("name", "password", "refresh_token"), TOKEN_EXAMPLE)
        if "refresh_token" not in body:
            name, password = read_text(body, "name"), read_text(body, "password")
            return _reply(services().auth.sign_in(name, password, _address()))
        if len(body) > 1:
            raise InvalidInput("Send `refresh_token` alone, or `name` and `password`.", field="refresh_token")
        return _reply(services().auth.refresh(read_text(body, "refresh_token"), _address()))


@auth.route("/revoke")
class Revoked(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @auth.doc(responses=REFUSALS)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    @auth.expect(a_token)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    def post(self) -> Response:
        """End the session of an access or refresh token: none of its tokens is good any more."""
        services().auth.revoke(read_text(read_body(("token",), EXAMPLE), "token"), _address())
        return json_reply({"revoked": True})


@auth.route("/bootstrap")
class Bootstrapped(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @auth.doc(responses=REFUSALS)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    @auth.expect(a_token)  # type: ignore[untyped-decorator]  # Flask-RESTX ships no types
    def post(self) -> Response:
        """The first administrator's key, for the ADMIN_BOOTSTRAP_TOKEN of the settings, which works once."""
        key, text = services().auth.bootstrap(read_text(read_body(("token",), EXAMPLE), "token"), _address())
        return json_reply(told(key) | {"key": text}, 201)


def _reply(signed_in: Tokens) -> Response:
    return json_reply(
        {
            "access_token": signed_in.access,
            "refresh_token": signed_in.refresh,
            "token_type": "Bearer",
            "expires_in": signed_in.expires_in,
        }
    )


def _address() -> str:
    return current_request().remote_addr or "unknown"
