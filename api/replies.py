"""From an Answer or a failure to an HTTP reply: bodies, cost headers, the one shape of errors."""

from __future__ import annotations

import math
from typing import Any

import orjson
from flask import Response
from werkzeug.exceptions import HTTPException

from api.error_shapes import is_openais, openai_error, own_error
from api.guard import challenges
from api.limiting import RateLimited
from api.visit import current_request, current_visit
from errors import PlatformError, Unauthorized
from prices import format_dollars
from tasks import Answer, Bill

JSON = "application/json; charset=utf-8"

# Headers that a browser's script may read.
EXPOSED_HEADERS = (
    "X-Request-ID X-Cost-Input X-Cost-Output X-Cost-Total X-Cost-Overall X-Cost-Saved X-Cost-Known "
    "X-Tokens-Input X-Tokens-Output X-Tokens-Estimated X-Cached X-Cache-Status X-Model X-Provider "
    "X-Upstream-Attempts X-Params-Ignored X-Budget-Remaining Idempotent-Replayed Idempotent-Request-ID "
    "RateLimit-Limit RateLimit-Remaining RateLimit-Reset Retry-After Deprecation Sunset Link"
).split()

# What Flask and Werkzeug refuse by themselves, in our words.
REFUSALS = {
    400: ("bad_request", "The request is malformed. Check its address, Host and headers."),
    404: (
        "not_found",
        "There is nothing at this address. GET /swagger/ and /api/v2/swagger/ list what there is.",
    ),
    405: ("method_not_allowed", "This address does not take this method. Use one of the Allow header."),
    408: ("request_timeout", "The request took too long to arrive. Send it again."),
    413: ("too_large", "The body is too large. Send at most 1 MiB."),
    415: ("unsupported_media_type", "Send JSON: set the header Content-Type: application/json."),
}


def render_answer(field: str, answer: Answer, shown: Any = None) -> Response:
    """200 with the answer in `field`, its text unless it is `shown` otherwise, and its bill in the headers."""
    return render_json({field: answer.text if shown is None else shown}, answer)


def render_json(body: dict[str, Any], answer: Answer) -> Response:
    """200 with this body, and the bill of the answer in the headers."""
    visit = current_visit()
    visit.answer = answer
    visit.headers += answer_headers(answer)
    return json_reply(body)


def answer_headers(answer: Answer) -> list[tuple[str, str]]:
    """All that the headers of a whole answer say."""
    headers = [
        *bill_headers(answer.bill, answer.overall_nano),
        ("X-Cached", "true" if answer.cached else "false"),
        ("X-Cache-Status", answer.cache_status),
        ("X-Upstream-Attempts", str(answer.bill.attempts)),
        *budget_headers(answer.left_nano),
    ]
    return headers + ignored_header(answer.ignored + current_visit().left_out)


def ignored_header(ignored: tuple[str, ...]) -> list[tuple[str, str]]:
    """The parameters that changed nothing: those that the model does not take, and those that it was not told."""
    return [("X-Params-Ignored", ", ".join(ignored))] if ignored else []


def budget_headers(left_nano: int | None) -> list[tuple[str, str]]:
    """What is left under the caller's tightest budget, if there is one and it is known."""
    return [] if left_nano is None else [("X-Budget-Remaining", format_dollars(left_nano))]


def bill_headers(bill: Bill, overall_nano: int) -> list[tuple[str, str]]:
    """A bill as headers, in dollars of nine decimals; `unknown` where its model has no price."""
    headers = [
        ("X-Cost-Input", _money(bill.input_nano)),
        ("X-Cost-Output", _money(bill.output_nano)),
        ("X-Cost-Total", _money(bill.total_nano)),
        ("X-Cost-Overall", format_dollars(overall_nano)),
        ("X-Cost-Saved", _money(bill.saved_nano)),
        ("X-Tokens-Input", str(bill.usage.input_tokens)),
        ("X-Tokens-Output", str(bill.usage.output_tokens)),
        ("X-Model", bill.model),
        ("X-Provider", bill.provider),
    ]
    if not bill.known:
        headers.append(("X-Cost-Known", "false"))
    if bill.usage.estimated:
        headers.append(("X-Tokens-Estimated", "true"))
    return headers


def _money(nano: int | None) -> str:
    return "unknown" if nano is None else format_dollars(nano)


def bill_json(bill: Bill, overall_nano: int, left_nano: int | None = None) -> dict[str, Any]:
    """The same bill for a body: dollars of nine decimals as text, null where a model has no price."""
    costs = {
        "input": bill.input_nano,
        "output": bill.output_nano,
        "total": bill.total_nano,
        "overall": overall_nano,
        "saved": bill.saved_nano,
    }
    usage = bill.usage
    tokens = {"input": usage.input_tokens, "output": usage.output_tokens, "estimated": usage.estimated}
    return {
        "cost": {name: None if nano is None else format_dollars(nano) for name, nano in costs.items()},
        "tokens": tokens,
        "provider": bill.provider,
        "model": bill.model,
        "attempts": bill.attempts,
        **({} if left_nano is None else {"budget_remaining": format_dollars(left_nano)}),
    }


def render_failure(failure: PlatformError) -> Response:
    """A failure of our own, with the bill of the upstream calls that it cost."""
    visit = current_visit()
    if isinstance(failure, RateLimited):
        visit.allowance = failure.allowance
    visit.may_cost = failure.may_cost
    if failure.bill is not None:
        visit.headers += bill_headers(failure.bill, failure.overall_nano)
    visit.headers += budget_headers(failure.left_nano)
    if failure.attempts:
        visit.headers.append(("X-Upstream-Attempts", str(failure.attempts)))
    if isinstance(failure, Unauthorized):
        visit.headers += [("WWW-Authenticate", challenge) for challenge in challenges(current_request())]
    wait = _wait(failure)
    if wait is not None:
        visit.headers.append(("Retry-After", str(max(1, math.ceil(wait)))))
    return _error(failure.status, failure.code, str(failure), failure.field)


def _wait(failure: PlatformError) -> float | None:
    """Seconds to wait: what the provider asked for, else what the failure says; on 429 and 503 always some."""
    told = getattr(failure, "delay", None)
    wait = failure.retry_after if told is None else told
    if failure.status in (429, 503):
        return 1.0 if wait is None else wait
    return failure.retry_after


def render_refusal(refusal: HTTPException) -> Response:
    """A refusal by Flask or Werkzeug in the same shape; its own headers, such as Allow, stay."""
    if refusal.response is not None:
        return refusal.response  # type: ignore[return-value]  # only our own code attaches one
    status = refusal.code or 500
    code, sentence = REFUSALS.get(status, _unnamed(status))
    response = _error(status, code, sentence)
    for name, value in refusal.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def _unnamed(status: int) -> tuple[str, str]:
    if status >= 500:
        return PlatformError.code, PlatformError.sentence
    return (
        "bad_request",
        "The request cannot be served as it is. Leave out unusual headers, then send it again.",
    )


def render_bug() -> Response:
    """The outermost 500. What happened stands in our log only."""
    current_visit().may_cost = True  # nobody knows how far it came
    return _error(PlatformError.status, PlatformError.code, PlatformError.sentence)


def _error(status: int, code: str, sentence: str, field: str | None = None) -> Response:
    visit = current_visit()
    visit.error_code = code
    if is_openais(current_request().path):
        return json_reply(openai_error(status, code, sentence, field), status)
    return json_reply(own_error(sentence, code, visit.request_id, field), status)


def json_reply(body: dict[str, Any], status: int = 200) -> Response:
    """JSON with its charset, on one line."""
    return Response(orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE), status, content_type=JSON)
