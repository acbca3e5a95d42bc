"""create_app(): settings and services in, a Flask application out. Importing it opens and starts nothing."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from flask import Flask, Request, Response, g, request
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

from api.limiting import RateLimited, build_limits, caller_of
from api.ops import build_ops
from api.replies import EXPOSED_HEADERS, render_bug, render_failure, render_refusal
from api.v1 import build_v1
from api.visit import VISIT, Visit, add_headers, current_request, current_visit
from config import Settings, disarm_libraries, load_settings
from errors import Blocked, Overloaded, PlatformError
from security.familiar import Familiar, envelope_of
from services import Services, build_services
from tasks import Answer

MAX_BODY_BYTES = 1024 * 1024
# The doors of operators and Swagger's assets are free of limits.
UNLIMITED = frozenset({"ops", "restx_doc"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Swagger's page holds one inline script and inline styles; nothing else here is HTML.
PAGE_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-ancestors 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)


def create_app(settings: Settings | None = None, services: Services | None = None) -> Flask:
    """The application on these services, or on new ones built from the settings."""
    house = services or build_services(settings or load_settings())
    disarm_libraries()
    app = Flask(__name__, static_folder=None)
    app.wsgi_app = add_headers(app.wsgi_app)  # type: ignore[assignment,method-assign]  # Flask's documented way to wrap an app
    _configure(app, house.settings)
    app.extensions["llm_platform"] = house
    _add_hooks(app, house)
    _allow_origins(app, house.settings)
    _shape_errors(app, house)
    blueprint, api_v1 = build_v1()
    app.register_blueprint(blueprint)
    app.register_blueprint(build_ops(api_v1))
    return app


def _configure(app: Flask, settings: Settings) -> None:
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        TRUSTED_HOSTS=None if settings.accepted_hosts is None else list(settings.accepted_hosts),
        RESTX_MASK_SWAGGER=False,
        RESTX_ERROR_404_HELP=False,
    )


def _add_hooks(app: Flask, house: Services) -> None:
    limits, familiar = build_limits(app, house), Familiar()

    def looks_bad(asked: Request) -> bool:
        envelope = envelope_of(asked.environ)
        if familiar.knows(envelope):
            return False
        findings = house.logger._check_security_issues(_envelope(asked))
        if not findings:
            familiar.remember(envelope)
        return bool(findings)

    def receive() -> None:
        """An id, a clock and a START line for the request; then refuse what must not go further."""
        asked = current_request()
        given = asked.headers.get("X-Request-ID")
        kept = given if given and REQUEST_ID.fullmatch(given) else new_request_id()
        g.visit = asked.environ[VISIT] = visit = Visit(house.logger.log_request_start(kept), time.monotonic())
        if looks_bad(asked) and house.settings.threat_mode == "block":
            raise Blocked()
        if asked.url_rule is not None and asked.blueprint not in UNLIMITED and asked.method != "OPTIONS":
            if house.load.queue_length() > house.settings.max_queue:
                raise Overloaded()
            caller = caller_of(asked.remote_addr or "unknown")
            visit.allowance = limits.charge(caller, asked.url_rule.rule, asked.method)

    def finish(response: Response) -> Response:
        visit = current_visit()
        visit.headers += _common_headers(visit, response, house)
        _account(house, visit, response)
        return response

    def close(_: BaseException | None) -> None:
        """END for a request whose reply failed in the hooks themselves; does nothing for all others."""
        house.logger.log_request_end({"code": "internal_error"}, 500)

    app.before_request(receive)
    app.after_request(finish)
    app.teardown_request(close)


def new_request_id() -> str:
    """128 random bits; they name a request and guard nothing, so the fast generator will do."""
    return f"{random.getrandbits(128):032x}"


def _envelope(asked: Request) -> dict[str, Any]:
    headers = asked.headers
    return {
        "path": asked.path,
        "query": asked.query_string.decode("latin-1"),
        "headers": headers,
        "user_agent": headers.get("User-Agent", ""),
    }


def _common_headers(visit: Visit, response: Response, house: Services) -> list[tuple[str, str]]:
    headers = [("X-Request-ID", visit.request_id), ("X-Content-Type-Options", "nosniff")]
    if "Cache-Control" not in response.headers:
        headers.append(("Cache-Control", "no-store"))
    if visit.allowance is not None:
        headers += visit.allowance.headers()
    if house.load.draining:
        headers.append(("Connection", "close"))
    return headers + list(PAGE_HEADERS) if response.mimetype == "text/html" else headers


def _account(house: Services, visit: Visit, response: Response) -> None:
    """The END line and the request's metrics."""
    answer = visit.answer
    house.logger.log_request_end(
        answer.text if answer else {"code": visit.error_code},
        response.status_code,
        cached=bool(answer and answer.cached),
        cost_info=_cost_info(answer) if answer else None,
        prompt=visit.prompt if house.settings.prompt_log != "off" else None,
    )
    rule = request.url_rule
    route = rule.rule if rule else "<unmatched>"
    seconds = time.monotonic() - visit.started
    house.metrics.request(_known_method(), route, response.status_code, seconds)
    if visit.error_code == RateLimited.code:
        house.metrics.limited(route)


def _cost_info(answer: Answer) -> dict[str, Any]:
    return {"cost_nanodollars": answer.bill.total_nano, "cache_status": answer.cache_status}


def _known_method() -> str:
    return (
        request.method
        if request.method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
        else "OTHER"
    )


def _allow_origins(app: Flask, settings: Settings) -> None:
    if settings.cors_origins:
        CORS(
            app,
            resources={r"/api/*": {"origins": list(settings.cors_origins)}},
            expose_headers=EXPOSED_HEADERS,
            supports_credentials=False,
        )


def _shape_errors(app: Flask, house: Services) -> None:
    def note_once(event: str, severity: str, who: str) -> None:
        """One audit line a minute for what would otherwise write one for each refused request."""
        if house.limits.increment_count((event, who)) == 1:
            house.logger.log_security_event(event, severity, {"who": who})

    def refused(refusal: HTTPException) -> Response:
        if refusal.code == 413:
            house.logger.log_security_event("BODY_TOO_LARGE", "LOW", {"length": request.content_length})
        return render_refusal(refusal)

    def failed(failure: PlatformError) -> Response:
        if isinstance(failure, Overloaded):
            house.metrics.shed()
            note_once("LOAD_SHED", "MEDIUM", "platform")
        elif isinstance(failure, RateLimited):
            note_once("RATE_LIMITED", "LOW", caller_of(request.remote_addr or "unknown"))
        if failure.status >= 500:
            house.logger.log_error(failure, detail=getattr(failure, "detail", ""))
        return render_failure(failure)

    def bug(error: Exception) -> Response:
        house.logger.log_error(error)
        return render_bug()

    app.register_error_handler(PlatformError, failed)
    app.register_error_handler(HTTPException, refused)
    app.register_error_handler(Exception, bug)


if __name__ == "__main__":
    from serve import main

    raise SystemExit(main(create_app))

app = create_app()
