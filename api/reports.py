"""What was used and what it cost: stats, usage, exports and forecasts, read from the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from flask import Response, current_app
from flask_restx import Namespace, Resource

from addresses import caller_of
from analytics.export import COLUMNS, FORMATS, Export
from analytics.forecast import HORIZON_DAYS, MOST_HORIZON_DAYS
from analytics.outlook import QualityDesk, forecast_report
from analytics.usage import GROUP_BY, MOST_GROUPED, usage_report, usage_stats_of
from api.feedback import accuracy_stats
from api.house import services
from api.queries import one_of, read_query, some_of, whole_number
from api.replies import JSON, json_reply
from api.visit import current_request, current_tenant, current_visit
from errors import LedgerUnavailable, Overloaded
from store import reading

View = TypeVar("View", bound=Callable[..., Response])

reports = Namespace("reports", description="What was used, what it cost, and what it will cost", path="/")

HOURS, MOST_HOURS = 24, 87_600
DESK = "llm_platform.reports"

HOURS_TOLD = {
    "description": "from the start of the hour so many hours ago until now",
    "type": "integer",
    "minimum": 1,
    "maximum": MOST_HOURS,
    "default": HOURS,
}
GROUP_BY_TOLD = {
    "description": f"up to {MOST_GROUPED} of these with a comma between them, as in `day,model`; left out: one total",
    "type": "array",
    "items": {"type": "string", "enum": list(GROUP_BY)},
    "collectionFormat": "csv",
    "uniqueItems": True,
    "maxItems": MOST_GROUPED,
}
FORMAT_TOLD = {
    "description": "json: one document; ndjson: a JSON object a line; csv: safe to open in a spreadsheet",
    "type": "string",
    "enum": list(FORMATS),
    "default": "json",
}
DAYS_TOLD = {
    "description": "days to look ahead, today among them",
    "type": "integer",
    "minimum": 1,
    "maximum": MOST_HORIZON_DAYS,
    "default": HORIZON_DAYS,
}
REPLIES = {
    200: "the report",
    400: "a parameter is not as it must be",
    429: "too many requests",
    503: "the ledger cannot be read just now",
}


def documented(
    params: dict[str, Any], responses: dict[int, str] | None = None, kinds: Iterable[str] = (JSON,)
) -> Callable[[View], View]:
    """Swagger's view of a report; what is checked stands in the method."""

    def decorate(view: View) -> View:
        reports.doc(params=params, responses=REPLIES | (responses or {}))(view)
        reports.produces(list(kinds))(view)
        return view

    return decorate


MOST_EXPORTS = 4
TOO_MANY_EXPORTS = (
    "Too many exports are being read just now. Wait as long as Retry-After says, then try again."
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the reports of one app have beside its services."""

    clock: Callable[[], float] = time.time
    # Each holds a thread for as long as its reader likes; the others are for everybody else.
    exports: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_EXPORTS))
    quality: QualityDesk = field(default_factory=QualityDesk)


def desk() -> Desk:
    return cast(Desk, current_app.extensions.setdefault(DESK, Desk()))


@reports.route("/stats")
class Stats(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    def get(self) -> dict[str, Any]:
        """What the cache, the costs of the last 24 hours, feedback on classifications and the limits look like now."""
        tenant = current_tenant()
        used = _usage_stats(tenant)
        return {
            "cache_stats": _cache_stats(used),
            "usage_stats": used | {"classification_accuracy": accuracy_stats(tenant)},
            "rate_limit_stats": _limit_stats(),
        }


def _usage_stats(tenant: str) -> dict[str, Any]:
    """From the ledger; while that is away, what this process remembers."""
    house = services()
    try:
        return usage_stats_of(house.ledger.reader, _now_us(), tenant=tenant) | {"source": "ledger"}
    except LedgerUnavailable:
        return house.tracker.get_usage_stats(tenant=tenant) | {"source": "this process"}


def _cache_stats(used: dict[str, Any]) -> dict[str, Any]:
    """What the cache of this process counts; to a tenant only its own hits of the usage stats' hours are told."""
    stats = services().cache.get_stats()
    if current_visit().identity.is_anonymous:
        return stats
    asked, hits = used["total_requests"], used["cached_requests"]
    own = dict.fromkeys(stats) | {name: stats[name] for name in ("max_size", "max_bytes", "default_ttl")}
    own |= {"hits": hits, "misses": asked - hits, "hit_count": hits, "miss_count": asked - hits}
    ratio = used["cache_hit_rate"]
    return own | {"total_requests": asked, "hit_ratio": ratio, "cache_hit_ratio": ratio}


def _limit_stats() -> dict[str, Any]:
    house, identity = services(), current_visit().identity
    stats = house.limits.get_stats()
    if not identity.is_anonymous:
        stats = dict.fromkeys(stats)
    return {**stats, "limit": identity.rate_limit or house.settings.rate_limit}


@reports.route("/usage")
class Usage(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented({"hours": HOURS_TOLD, "group_by": GROUP_BY_TOLD})
    def get(self) -> Response:
        """What was asked, spent and saved, whole and in groups.

        Money is whole nano-dollars, and dollars with nine decimals as text. Costs that are unknown, because a call
        was lost on its way, stand in the unknown fields as their upper bound and are part of no other sum.
        """
        query = read_query("hours", "group_by")
        hours = whole_number(query, "hours", HOURS, 1, MOST_HOURS)
        group_by = some_of(query, "group_by", GROUP_BY, MOST_GROUPED)
        return json_reply(
            usage_report(services().ledger.reader, hours, group_by, _now_us(), current_tenant())
        )


@reports.route("/usage/export")
class UsageExport(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented(
        {"hours": HOURS_TOLD, "format": FORMAT_TOLD}, kinds=[form.content_type for form in FORMATS.values()]
    )
    def get(self) -> Response:
        """Every request of the same window as a row, with the rates of each call that was billed for it.

        Neither prompts nor answers are in it. A cost of null is unknown: its model had no price.
        """
        query = read_query("hours", "format")
        hours = whole_number(query, "hours", HOURS, 1, MOST_HOURS)
        return _download(hours, one_of(query, "format", "json", FORMATS))


def _download(hours: int, form: str) -> Response:
    now_us, reader, exports = _now_us(), services().ledger.reader, desk().exports
    window = reading.Window.of_hours(hours, now_us)
    if not exports.acquire(blocking=False):
        raise Overloaded(TOO_MANY_EXPORTS, retry_after=10)
    try:
        pages = reading.pages(reader, window, COLUMNS, current_tenant())
        export = Export(pages, form, _ending(exports.release, _audit(hours, form)))
    except BaseException:
        exports.release()
        raise
    until = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    name = f"usage-{until:%Y%m%dT%H%M%SZ}-{hours}h.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(export, headers=headers, content_type=FORMATS[form].content_type)


def _ending(release: Callable[[], None], note: Callable[[int, bool], None]) -> Callable[[int, bool], None]:
    def ended(rows: int, whole: bool) -> None:
        release()
        note(rows, whole)

    return ended


def _audit(hours: int, form: str) -> Callable[[int, bool], None]:
    """Notes who took how much; by then the request itself has gone."""
    address = current_request().remote_addr or "unknown"
    told = {
        **current_visit().signature(),
        "from": caller_of(address),
        "request_id": current_visit().request_id,
        "hours": hours,
        "format": form,
    }
    return partial(_note_export, partial(services().logger.log_security_event, address=address), told)


def _note_export(note: Callable[..., None], told: dict[str, Any], rows: int, whole: bool) -> None:
    note("EXPORT_WRITTEN", "LOW", told | {"rows": rows, "whole": whole})


@reports.route("/usage/forecast")
class UsageForecast(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented({"days": DAYS_TOLD}, {409: "too few days of usage for a forecast"})
    def get(self) -> Response:
        """What the coming days and this month will cost, with 80 % and 95 % intervals, at the prices of those days."""
        days = whole_number(read_query("days"), "days", HORIZON_DAYS, 1, MOST_HORIZON_DAYS)
        house = services()
        return json_reply(
            forecast_report(house.ledger.reader, house.prices, desk().clock(), days, current_tenant())
        )


@reports.route("/usage/forecast/quality")
class UsageForecastQuality(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented({})
    def get(self) -> Response:
        """How often the intervals of past forecasts held what then came; worked out at most once an hour."""
        read_query()
        house, room = services(), desk()
        return json_reply(
            room.quality.report(house.ledger.reader, house.prices, room.clock(), current_tenant())
        )


def _now_us() -> int:
    return int(desk().clock() * 1_000_000)
