"""create_app(): settings and services in, a Flask application out. Importing it opens and starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

from api.hooks import add_hooks
from api.limiting import RateLimited, caller_of
from api.ops import build_ops
from api.replies import EXPOSED_HEADERS, render_bug, render_failure, render_refusal
from api.v1 import build_v1
from api.visit import add_headers
from config import Settings, disarm_libraries, load_settings
from errors import Overloaded, PlatformError
from services import Services, build_services

MAX_BODY_BYTES = 1024 * 1024


class Platform(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself: none of ours is a coroutine, and Flask would look at five of them per request."""
        return func


def create_app(settings: Settings | None = None, services: Services | None = None) -> Flask:
    """The application on these services, or on new ones built from the settings."""
    house = services or build_services(settings or load_settings())
    disarm_libraries()
    app = Platform(__name__, static_folder=None)
    app.wsgi_app = add_headers(app.wsgi_app)  # type: ignore[assignment,method-assign]  # Flask's documented way to wrap an app
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY_BYTES, RESTX_MASK_SWAGGER=False, RESTX_ERROR_404_HELP=False)
    app.extensions["llm_platform"] = house
    add_hooks(app, house)
    _allow_origins(app, house.settings)
    _shape_errors(app, house)
    blueprint, api_v1 = build_v1()
    app.register_blueprint(blueprint)
    app.register_blueprint(build_ops(api_v1))
    return app


def _allow_origins(app: Flask, settings: Settings) -> None:
    if settings.cors_origins:
        CORS(
            app,
            resources={r"/api/*": {"origins": list(settings.cors_origins)}},
            expose_headers=EXPOSED_HEADERS,
            supports_credentials=False,
        )

        def vary(response: Response) -> Response:
            """Else a cache on the way could hand one origin the reply for another."""
            response.vary.add("Origin")
            return response

        app.after_request(vary)


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
