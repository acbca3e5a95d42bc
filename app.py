"""create_app(): settings and services in, a Flask application out. Importing it opens and starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

from analytics.dashboard import build_dashboard
from api.failures import Failures
from api.hooks import add_hooks
from api.ops import build_ops
from api.replies import EXPOSED_HEADERS
from api.reports import desk
from api.v1 import build_v1
from api.v2 import build_v2
from api.visit import add_headers, current_tenant
from config import Settings, disarm_libraries, load_settings
from errors import PlatformError
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
    blueprint_v1, api_v1 = build_v1()
    blueprint_v2, api_v2 = build_v2()
    for blueprint in (blueprint_v1, blueprint_v2, build_ops(api_v1, api_v2)):
        app.register_blueprint(blueprint)
    app.register_blueprint(
        build_dashboard(
            lambda: house.ledger.reader,
            house.prices,
            house.logger.recent_events,
            tenant=current_tenant,
            clock=lambda: desk().clock(),  # all reports of one app read one clock
        )
    )
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
    failures = Failures(house)
    app.register_error_handler(PlatformError, failures.failed)
    app.register_error_handler(HTTPException, failures.refused)
    app.register_error_handler(Exception, failures.bug)


if __name__ == "__main__":
    from serve import main

    raise SystemExit(main(create_app))

app = create_app()
