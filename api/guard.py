"""Who may call which endpoint: one table, and what does not stand in it is refused."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from flask import Request

from auth import Authenticator
from errors import Forbidden, Unauthorized
from identity import ANONYMOUS, Identity, Scope


@dataclass(frozen=True, slots=True)
class Need:
    """What a caller needs: one of the scopes, or none where there are none.

    anonymous: callers without a key are served too, where AUTH=open.
    """

    scopes: frozenset[Scope] = frozenset()
    anonymous: bool = True


# Nobody is asked who they are.
PUBLIC = None
KNOWN = Need()
TASKS = Need(frozenset({Scope.TASKS}))
REPORTS = Need(frozenset({Scope.REPORTS}))
EXPORTS = Need(frozenset({Scope.ADMIN}))
METRICS = Need(frozenset({Scope.METRICS}))
KEYS = Need(frozenset({Scope.KEYS, Scope.ADMIN}), anonymous=False)
ADMIN = Need(frozenset({Scope.ADMIN}), anonymous=False)

# Endpoint, method, need. HEAD is a GET; OPTIONS is answered by Flask and shows no more than the methods.
TABLE: Mapping[str, Mapping[str, Need | None]] = {
    "ops.live": {"GET": PUBLIC},
    "ops.health": {"GET": KNOWN},
    "ops.ready": {"GET": KNOWN},
    "ops.index": {"GET": KNOWN},
    "ops.metrics": {"GET": METRICS},
    "ops.swagger": {"GET": KNOWN},
    "ops.swagger_v2": {"GET": KNOWN},
    "restx_doc.static": {"GET": KNOWN},
    "api_v1.root": {"GET": KNOWN},
    "api_v1.specs": {"GET": KNOWN},
    "api_v1.generate_generate_text": {"POST": TASKS},
    "api_v1.generate_generate_code": {"POST": TASKS},
    "api_v1.classify_classify_text": {"POST": TASKS},
    "api_v1.feedback_classify_feedback": {"POST": TASKS},
    "api_v1.reports_stats": {"GET": REPORTS},
    "api_v1.reports_usage": {"GET": REPORTS},
    "api_v1.reports_usage_export": {"GET": EXPORTS},
    "api_v1.reports_usage_forecast": {"GET": REPORTS},
    "api_v1.reports_usage_forecast_quality": {"GET": REPORTS},
    "api_v1.keys_keys": {"GET": KEYS, "POST": KEYS},
    "api_v1.keys_one_key": {"GET": KEYS, "PATCH": KEYS, "DELETE": KEYS},
    "api_v1.keys_rotated_key": {"POST": KEYS},
    "api_v1.users_users": {"GET": ADMIN, "POST": ADMIN},
    "api_v1.users_one_user": {"PATCH": ADMIN, "DELETE": ADMIN},
    "api_v1.auth_token": {"POST": PUBLIC},
    "api_v1.auth_revoked": {"POST": PUBLIC},
    "api_v1.auth_bootstrapped": {"POST": PUBLIC},
    "api_v2.root": {"GET": KNOWN},
    "api_v2.specs": {"GET": KNOWN},
    "api_v2.chat_chat_completions": {"POST": TASKS},
    "api_v2.embeddings_embeddings": {"POST": TASKS},
    "api_v2.models_models": {"GET": KNOWN},
    "api_v2.models_model": {"GET": KNOWN},
    "dashboard.page": {"GET": REPORTS},
    "dashboard.data": {"GET": REPORTS},
    "dashboard.forecast": {"GET": REPORTS},
    "dashboard.bundle": {"GET": REPORTS},
    "dashboard.cards_js": {"GET": REPORTS},
    "dashboard.charts_js": {"GET": REPORTS},
    "dashboard.dashboard_css": {"GET": REPORTS},
    "dashboard.dashboard_js": {"GET": REPORTS},
    "dashboard.figures_js": {"GET": REPORTS},
    "dashboard.icon_svg": {"GET": REPORTS},
    "dashboard.tables_js": {"GET": REPORTS},
}
# What people open in a browser, which asks for a password. Each of these only shows something.
PAGES = frozenset(
    {"ops.swagger", "ops.swagger_v2", "restx_doc.static", "api_v1.specs", "api_v2.specs"}
    | {endpoint for endpoint in TABLE if endpoint.startswith("dashboard.")}
)
BEARER = 'Bearer realm="llm-platform"'
BASIC = 'Basic realm="llm-platform: the API key is the password", charset="UTF-8"'


class Guard:
    """Finds out who calls and whether they may. It goes by the endpoint that was matched, never by an address."""

    def __init__(self, auth: Authenticator, *, required: bool) -> None:
        self._auth, self._required = auth, required

    def identity(self, asked: Request) -> Identity:
        """The caller. Raises Unauthorized, LockedOut, LedgerUnavailable."""
        if asks_nobody(asked):
            return ANONYMOUS
        environ = asked.environ
        authorization, api_key = environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_X_API_KEY")
        if authorization is not None and authorization[:6].lower() == "basic ":
            authorization = self._of_browser(authorization, api_key, is_page(asked))
        return self._auth.identify(authorization, api_key, asked.remote_addr or "unknown")

    def _of_browser(self, basic: str, api_key: str | None, shows: bool) -> str | None:
        """A browser sends a password to all addresses of a server, wanted or not. It counts where something is shown,
        and nowhere else: so no page of others can have it do anything."""
        password = _password_of(basic) if shows else ""
        if password.startswith(("llm_", "eyJ")):
            return f"Bearer {password}"
        is_anothers = api_key is not None or not self._required  # or that of a proxy in front
        return None if is_anothers else basic


def admit(asked: Request, identity: Identity) -> None:
    """Let the caller through to the matched endpoint. Raises Unauthorized, Forbidden."""
    if asks_nobody(asked) or asked.url_rule is None:
        return
    need = TABLE.get(asked.url_rule.endpoint, {}).get(_method(asked))
    if identity.is_anonymous:
        if need is None or not need.anonymous:
            raise Unauthorized()
    elif need is None or (need.scopes and not need.scopes & identity.scopes):
        raise Forbidden()


def asks_nobody(asked: Request) -> bool:
    """Whether the door is open to strangers. An address that leads nowhere is none."""
    rule = asked.url_rule
    if rule is None:
        return False
    needs = TABLE.get(rule.endpoint, {})
    return asked.method == "OPTIONS" or needs.get(_method(asked), KNOWN) is PUBLIC


def is_page(asked: Request) -> bool:
    return asked.url_rule is not None and asked.url_rule.endpoint in PAGES and _method(asked) == "GET"


def challenges(asked: Request) -> list[str]:
    """What a 401 asks for. Only where something is shown a browser shall ask for a password."""
    return [BASIC, BEARER] if is_page(asked) else [BEARER]


def _method(asked: Request) -> str:
    return "GET" if asked.method == "HEAD" else asked.method


def _password_of(basic: str) -> str:
    """The password of HTTP Basic; the name before it may be any."""
    try:
        return base64.b64decode(basic[6:].strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
