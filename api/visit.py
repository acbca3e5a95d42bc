"""One HTTP request in the house: what it has come to so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from flask import Request, g, request
from werkzeug.local import LocalProxy

from tasks import Answer

if TYPE_CHECKING:
    from api.limiting import Allowance


@dataclass(slots=True)
class Visit:
    """Lives in flask.g from the first hook to the last."""

    request_id: str
    started: float
    answer: Answer | None = None
    error_code: str | None = None
    allowance: Allowance | None = None
    # Set on the reply in one go: each touch of its headers looks through all of them.
    headers: list[tuple[str, str]] = field(default_factory=list)


def current_visit() -> Visit:
    visit: Visit = g.visit
    return visit


def current_request() -> Request:
    """The request itself: each look through Flask's proxy costs as much as the attribute behind it."""
    return cast(LocalProxy[Request], request)._get_current_object()
