"""The dashboard's doors: its page, its scripts and styles, Plotly's bundle, the figures and the forecast."""

from __future__ import annotations

import functools
import gzip
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from flask import Blueprint, Response, render_template, request, send_from_directory

from analytics.month_ahead import MonthAhead
from analytics.summary import STEPS, summary
from errors import InvalidInput

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from prices import PriceBook

PAGES = Path(__file__).with_name("pages")
# Nothing else in that folder is served; types as told here, not as some machine's registry has them.
ASSETS = {
    "cards.js": "text/javascript",
    "charts.js": "text/javascript",
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "figures.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "tables.js": "text/javascript",
}
HTML, JSON, SCRIPT = (
    f"{kind}; charset=utf-8" for kind in ("text/html", "application/json", "text/javascript")
)
FOR_A_YEAR = "public, max-age=31536000, immutable"


def build_dashboard(
    ledger: Callable[[], Engine],
    book: PriceBook,
    events: Callable[[str | None], list[dict[str, Any]]],
    *,
    tenant: Callable[[], str | None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> Blueprint:
    """The blueprint, new for each app. `ledger` is asked with each look, and `tenant` says whose; `events` gives the
    last security events of one, None being all of them."""
    blueprint = Blueprint("dashboard", __name__, url_prefix="/dashboard", template_folder=PAGES)
    plotly = f"plotly-{version('plotly')}.min.js"
    ahead = MonthAhead(book, clock)

    def page() -> Response:
        return Response(render_template("index.html", plotly=plotly), content_type=HTML)

    def data() -> Response:
        whose = tenant()
        return _json({**summary(ledger(), _hours(), tenant=whose, clock=clock), "events": events(whose)})

    def forecast() -> Response:
        return _json(ahead.figures(ledger(), tenant()))

    blueprint.add_url_rule("/", view_func=page)
    blueprint.add_url_rule("/data", view_func=data)
    blueprint.add_url_rule("/forecast", view_func=forecast)
    blueprint.add_url_rule(f"/{plotly}", view_func=bundle)
    # An address each, so that the rate limit counts a look at the page once for each.
    for name in ASSETS:
        blueprint.add_url_rule(f"/{name}", name.replace(".", "_"), asset, defaults={"name": name})
    return blueprint


def asset(name: str) -> Response:
    """A file of the page; the browser asks each time whether it has changed."""
    return send_from_directory(PAGES, name, mimetype=ASSETS[name])


def bundle() -> Response:
    """Plotly's script, whose address names its version: a browser keeps it for good."""
    packed = plotly_gzipped()
    if request.accept_encodings["gzip"]:
        response = Response(packed, content_type=SCRIPT)
        response.content_encoding = "gzip"
    else:
        response = Response(gzip.decompress(packed), content_type=SCRIPT)
    response.headers["Cache-Control"] = FOR_A_YEAR
    response.vary.add("Accept-Encoding")
    return response


@functools.cache
def plotly_gzipped() -> bytes:
    """The bundle of the installed package; packed once, which takes 0.15 s, and kept."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # plotly ships no types

    return gzip.compress(get_plotlyjs().encode(), mtime=0)


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), content_type=JSON)


def _hours() -> int:
    asked = request.args.get("hours", "24")
    if asked not in map(str, STEPS):
        raise InvalidInput(f"hours must be one of: {', '.join(map(str, STEPS))}.", field="hours")
    return int(asked)
