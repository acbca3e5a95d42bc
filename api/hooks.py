"""What happens to every request before its view and after it: id, detection, limits, headers, log lines, metrics."""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flask import Flask, Request, Response, g

from api.failures import log_failure
from api.guard import Guard, admit
from api.idempotency import ENVIRON as KEY_SENT
from api.idempotency import Once
from api.limiting import Limits, RateLimited, build_limits
from api.replies import JSON
from api.sse import shown
from api.sunset import sunset_headers
from api.visit import VISIT, Visit, current_request, current_visit
from errors import Blocked, Overloaded, PlatformError, UnknownHost
from security.familiar import Familiar, envelope_of
from services import Services
from tasks import Answer

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# The doors of operators and Swagger's assets are free of limits.
UNLIMITED = frozenset({"ops", "restx_doc"})
# Its own generator: a seed that somebody sets for the shared one would make ids repeat.
_IDS = random.Random()  # noqa: S311  ids name requests and guard nothing
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
# Scripts come from files of ours alone; Plotly sets styles on what it draws.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger's pages hold one inline script each.
SWAGGERS = ("ops.swagger", "ops.swagger_v2")
SWAGGERS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)


def add_hooks(app: Flask, house: Services) -> None:
    """Hang the hooks into the app, in the order in which they must run."""
    hooks = Hooks(house, build_limits(app, house))
    app.before_request(hooks.receive)
    app.after_request(hooks.finish)
    app.teardown_request(hooks.close)


class Hooks:
    """The hooks of one app."""

    def __init__(self, house: Services, limits: Limits) -> None:
        self._house, self._limits, self._familiar = house, limits, Familiar()
        self._once = Once(house)
        self._guard = Guard(house.auth, required=house.settings.auth == "required")
        self._hosts = house.settings.accepted_hosts
        self._sunset = sunset_headers(house.settings.api_v1_sunset)

    def receive(self) -> Response | None:
        """An id, a clock, an identity and a START line for the request; then refuse what must not go further, and
        answer what was answered before."""
        asked = current_request()
        given = asked.environ.get("HTTP_X_REQUEST_ID")
        kept = given if given and REQUEST_ID.fullmatch(given) else new_request_id()
        visit = g.visit = asked.environ[VISIT] = Visit(kept, time.monotonic())
        refusal = self._identify(visit, asked)
        self._house.logger.log_request_start(kept)
        if self._hosts and host_name(asked.environ.get("HTTP_HOST", self._hosts[0])) not in self._hosts:
            raise UnknownHost()
        if self._looks_bad(asked) and self._house.settings.threat_mode == "block":
            raise Blocked()
        if refusal is not None:
            raise refusal
        admit(asked, visit.identity)
        rule = asked.url_rule
        if rule is not None and _is_limited(rule.endpoint) and asked.method != "OPTIONS":
            self._admit(visit, asked, rule.rule)
        return self._once.meet(visit, asked) if KEY_SENT in asked.environ else None

    def _identify(self, visit: Visit, asked: Request) -> PlatformError | None:
        """Who it is, for every log line of the request, the first one too; or what to refuse them with."""
        g.request_id = visit.request_id
        try:
            visit.identity = self._guard.identity(asked)
        except PlatformError as refusal:
            return refusal
        g.tenant, g.key_id = visit.identity.tenant, visit.identity.key_id or None
        return None

    def _looks_bad(self, asked: Request) -> bool:
        envelope = envelope_of(asked.environ)
        if self._familiar.knows(envelope):
            return False
        findings = self._house.logger._check_security_issues(_parts(asked))
        if not findings:
            self._familiar.remember(envelope)
        return bool(findings)

    def _admit(self, visit: Visit, asked: Request, route: str) -> None:
        if self._house.load.queue_length() > self._house.settings.max_queue:
            raise Overloaded()
        visit.allowance = self._limits.charge(visit.identity, asked, route)

    def finish(self, response: Response) -> Response:
        """Headers, the END line and the metrics."""
        visit = current_visit()
        kind = response.content_type or ""
        if kind == "application/json":  # Flask-RESTX leaves the charset out
            response.content_type = JSON
        if visit.claim is not None:
            self._once.part(visit, response)
        visit.headers += _common_headers(visit, response)
        if self._sunset and current_request().path.startswith("/api/v1/"):
            visit.headers += self._sunset
        if kind.startswith("text/html"):
            visit.headers += _page_headers(current_request().endpoint)
        self._account(visit, response.status_code)
        return response

    def _account(self, visit: Visit, status: int) -> None:
        visit.ended = True
        asked = current_request()
        route = asked.url_rule.rule if asked.url_rule else "<unmatched>"
        method = asked.method if asked.method in METHODS else "OTHER"
        note = functools.partial(self._note, visit, method, route)
        if visit.stream is None:
            note(self._house.logger.log_request_end, status)
        else:
            end = self._house.logger.defer_request_end()
            visit.stream.when_over(lambda over: note(end, self._outcome(visit, over)))

    def _outcome(self, visit: Visit, over: Future[Answer]) -> int:
        """What became of a stream, as a status; the 200 went out before."""
        failure = over.exception()
        if failure is None:
            visit.answer = over.result()
            return 200
        told = shown(failure)
        visit.error_code = told.code
        if told is failure:
            log_failure(self._house.logger, told, request_id=visit.request_id)
        else:
            self._house.logger.log_error(failure, request_id=visit.request_id)
        return told.status

    def _note(self, visit: Visit, method: str, route: str, end: Callable[..., None], status: int) -> None:
        answer, house = visit.answer, self._house
        texts = house.settings.prompt_log != "off"
        end(
            (answer.text if texts else None) if answer else {"code": visit.error_code},
            status,
            cached=bool(answer and answer.cached),
            cost_info=_cost_info(visit),
            prompt=visit.prompt if texts else None,
        )
        house.metrics.request(method, route, status, time.monotonic() - visit.started)
        if visit.error_code == RateLimited.code:
            house.metrics.limited(route)

    def close(self, _: BaseException | None) -> None:
        """END for a request whose reply failed in the hooks themselves."""
        visit: Visit | None = g.get("visit")
        if visit is not None and visit.ended:
            return
        self._house.logger.log_request_end({"code": "internal_error"}, 500)


def host_name(header: str) -> str:
    """The name in a Host header, without its port. Werkzeug's own list knows neither capitals nor IPv6."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).lower()


@functools.cache
def _is_limited(endpoint: str) -> bool:
    return endpoint.rpartition(".")[0] not in UNLIMITED


def new_request_id() -> str:
    """A moment in microseconds and 72 random bits: a ledger of millions finds the place of its next row at its end.

    They name a request and guard nothing, so the fast generator will do.
    """
    return f"{time.time_ns() // 1000:014x}{_IDS.getrandbits(72):018x}"


def _parts(asked: Request) -> dict[str, Any]:
    headers = asked.headers
    return {
        "path": asked.path,
        "query": asked.query_string.decode("latin-1"),
        "headers": headers,
        "user_agent": headers.get("User-Agent", ""),
    }


def _common_headers(visit: Visit, response: Response) -> list[tuple[str, str]]:
    headers = [("X-Request-ID", visit.request_id), ("X-Content-Type-Options", "nosniff")]
    if "Cache-Control" not in response.headers:
        headers.append(("Cache-Control", "no-store"))
    if visit.allowance is not None:
        headers += visit.allowance.headers()
    return headers


def _page_headers(endpoint: str | None) -> list[tuple[str, str]]:
    policy = SWAGGERS_POLICY if endpoint in SWAGGERS else POLICY
    return [
        ("Content-Security-Policy", policy),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
    ]


def _cost_info(visit: Visit) -> dict[str, Any] | None:
    answer = visit.answer
    if answer is None:
        return None if visit.replay_of is None else {"replay_of": visit.replay_of}
    return {"cost_nanodollars": answer.bill.total_nano, "cache_status": answer.cache_status}
