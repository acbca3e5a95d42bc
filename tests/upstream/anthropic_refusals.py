"""Error replies in the shape of Anthropic's API."""

from __future__ import annotations

import math
from typing import Any

from .faults import REFUSED, Fault
from .refusals import CANARY, bad_gateway
from .replies import json_reply
from .wire import Reply

FOLLOWED = "/v1/moved/messages"
INVALID = "invalid_request_error"
SPENT = "This request would exceed your organization's monthly spend limit."

# name: status, type, message
STATUSES = {
    "rate_limited": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
    "quota_per_day": (429, "rate_limit_error", SPENT),
    "spend_limit": (429, "rate_limit_error", SPENT),
    # No status and no code of its own: only its words tell it from a caller's mistake.
    "no_credit": (400, INVALID, "Your credit balance is too low to access the Anthropic API."),
    "internal": (500, "api_error", "Internal server error"),
    "unavailable": (503, "api_error", "Service unavailable"),
    "gateway_timeout": (504, "timeout_error", "Request timed out"),
    "request_timeout": (408, "timeout_error", "Request timed out"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "bad_request": (400, INVALID, "max_tokens: Field required"),
    "no_temperature": (400, INVALID, "`temperature` is deprecated for this model."),
    "recitation": (400, INVALID, "Output blocked by content filtering policy"),
    "too_long": (400, INVALID, "prompt is too long: 1200000 tokens > 200000 maximum"),
    "bad_key": (401, "authentication_error", "invalid x-api-key"),
    "unauthorized": (401, "authentication_error", "x-api-key header is required"),
    "forbidden": (
        403,
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
    ),
}


def is_refused(fault: Fault) -> bool:
    """Whether the reply is an error status: nothing was generated, nothing is billed."""
    return fault.name in (*REFUSED, "overloaded", "no_credit", "spend_limit", "no_temperature", "recitation")


def refusal(fault: Fault, model: str, number: int) -> Reply:
    request_id = f"req_loopback{number}"
    headers = (("request-id", request_id), *_delays(fault), *fault.headers)
    if fault.name == "bad_gateway":
        return bad_gateway(fault)
    if fault.name == "redirect":
        # 307 has the client ask again with all of its body.
        return Reply(307, (b"",), headers=(("Location", FOLLOWED), *headers))
    status, kind, message = STATUSES.get(fault.name, (404, "not_found_error", f"model: {model}"))
    inner: dict[str, Any] = {"type": kind, "message": f"{message} [{CANARY}]"}
    if fault.name == "spend_limit":
        inner["details"] = {"error_code": "enforced_spend_limit_reached"}
    return json_reply({"type": "error", "error": inner, "request_id": request_id}, status, headers)


def _delays(fault: Fault) -> tuple[tuple[str, str], ...]:
    """A spent limit says nothing about when to come back: that is how it is told from a rate limit."""
    if fault.name != "rate_limited" or not fault.delay:
        return ()
    seconds = str(math.ceil(float(fault.delay.removesuffix("s"))))
    return (("retry-after", seconds), ("anthropic-ratelimit-requests-remaining", "0"))
