"""Feedback: callers say which category was right, and the statistics say how often it was the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Response
from flask_restx import Namespace, Resource, fields

import rules
from api.examples import with_example
from api.hooks import REQUEST_ID
from api.house import services
from api.replies import json_reply
from api.schemas import read_body
from api.visit import current_tenant
from errors import InvalidInput, LedgerUnavailable
from store.feedback import WHOLE, Score, keep, scores
from store.rows import MICRO

View = TypeVar("View", bound=Callable[..., Response])

FIELDS = frozenset({"request_id", "correct_category"})

feedback = Namespace("feedback", description="Which category was right", path="/classify/feedback")

verdict = feedback.model(
    "Feedback",
    {
        "request_id": fields.String(
            required=True, pattern=f"^{REQUEST_ID.pattern}$", description="X-Request-ID of a classification"
        ),
        "correct_category": fields.String(
            required=True,
            min_length=1,
            max_length=rules.MAX_CATEGORY_CHARS,
            description="one of the categories that were sent; where it was with multi_label the list of all that "
            "are right, which may be empty",
        ),
    },
    strict=True,
)
verdict = with_example(feedback, verdict, request_id="case-1", correct_category="positive")
noted = feedback.model(
    "FeedbackNoted", {"request_id": fields.String, "correct": fields.Boolean(description="of the answer")}
)
REPLIES = {
    400: "a field is not as it must be, or the request was no classification",
    404: "there is no such request of yours",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests",
    503: "the ledger cannot be written just now",
}


def documented(view: View) -> View:
    """Swagger's view of the route; what is checked stands in the method."""
    feedback.doc(responses=REPLIES)(view)
    feedback.response(200, "noted, in place of what was said before", noted)(view)
    feedback.expect(verdict)(view)
    return view


@feedback.route("")
class ClassifyFeedback(Resource):  # type: ignore[misc]  # Flask-RESTX ships no types
    @documented
    def post(self) -> Response:
        """Say which category was right for a request of yours; the last word counts."""
        house, body = services(), read_body(FIELDS)
        request_id, said = _request_id(body), rules.correct_category(body.get("correct_category"))
        now_us = round(time.time() * MICRO)
        correct = keep(house.ledger.writable, current_tenant(), request_id, said, now_us)
        house.metrics.judged(correct)
        return json_reply({"request_id": request_id, "correct": correct})


def _request_id(body: dict[str, Any]) -> str:
    sent = body.get("request_id")
    if not isinstance(sent, str) or not REQUEST_ID.fullmatch(sent):
        raise InvalidInput(
            "`request_id` must be the X-Request-ID of a classification, as a string.", field="request_id"
        )
    return sent


def accuracy_stats(tenant: str | None) -> dict[str, Any] | None:
    """How often feedback found an answer right, whole and by the category that was right; None: not known now."""
    try:
        found = scores(services().ledger.reader, tenant)
    except LedgerUnavailable:
        return None
    told = _told(found.pop(WHOLE, Score()))
    return told | {"categories": {name: _told(score) for name, score in found.items()}}


def _told(score: Score) -> dict[str, Any]:
    share = round(score.correct / score.feedback, 6) if score.feedback else None
    return {"feedback": score.feedback, "correct": score.correct, "accuracy": share}
