"""What replies of version 1 say once its end is set: RFC 9745 and RFC 8594."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from werkzeug.http import http_date

from config import V2_SINCE

SUCCESSOR = '</api/v2/swagger/>; rel="successor-version"'


def sunset_headers(end: date | None) -> list[tuple[str, str]]:
    """Since when version 1 has a successor, the day on which it ends, and where that one is."""
    if end is None:
        return []
    return [
        ("Deprecation", f"@{int(_midnight(V2_SINCE).timestamp())}"),
        ("Sunset", http_date(_midnight(end))),
        ("Link", SUCCESSOR),
    ]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
