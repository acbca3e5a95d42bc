"""Error replies in the shape of Google's API."""

from __future__ import annotations

import json
from typing import Any

from .faults import Fault
from .wire import Reply

TYPE = "type.googleapis.com/google.rpc."
# Part of every error message: whoever finds it in a client's reply has found a leak.
CANARY = "upstream-detail-7d1f"
FOLLOWED = "/v1beta/moved/"
HELP = {
    "@type": TYPE + "Help",
    "links": [{"description": "Learn more", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}],
}

# name: HTTP status, canonical status, message
STATUSES = {
    "internal": (500, "INTERNAL", "An internal error has occurred. Please retry."),
    "unavailable": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "gateway_timeout": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    "request_timeout": (408, "DEADLINE_EXCEEDED", "The request took too long to arrive."),
    "bad_request": (400, "INVALID_ARGUMENT", "Invalid value at 'generation_config'."),
    "too_long": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "forbidden": (
        403,
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers. Please use API Key to call this API.",
    ),
    "unauthorized": (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "bad_key": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "rate_limited": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "quota_per_day": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
}


def refusal(fault: Fault, model: str) -> Reply:
    if fault.name == "bad_gateway":
        return bad_gateway(fault)
    if fault.name == "redirect":
        place = ("Location", f"{FOLLOWED}{model}")
        return Reply(302, (b"",), "text/html; charset=UTF-8", (place, *fault.headers))
    if fault.name == "not_found":
        return error(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
    code, status, message = STATUSES[fault.name]
    return error(code, status, message, details(fault, model), fault.headers)


def bad_gateway(fault: Fault) -> Reply:
    """What a proxy in front of any provider says."""
    body = f"<html><title>502 Bad Gateway</title><body>{CANARY}</body></html>"
    return Reply(502, (body.encode(),), "text/html; charset=UTF-8", fault.headers)


def error(
    code: int,
    status: str,
    message: str,
    details: list[dict[str, Any]] | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Reply:
    inner: dict[str, Any] = {"code": code, "message": f"{message} [{CANARY}]", "status": status}
    if details:
        inner["details"] = details
    return Reply(code, (json.dumps({"error": inner}, indent=2).encode(),), headers=headers)


def details(fault: Fault, model: str) -> list[dict[str, Any]]:
    if fault.name == "bad_key":
        facts = {"service": "generativelanguage.googleapis.com"}
        reason = {"reason": "API_KEY_INVALID", "domain": "googleapis.com", "metadata": facts}
        return [{"@type": TYPE + "ErrorInfo", **reason}]
    if fault.name not in ("rate_limited", "quota_per_day") or not fault.delay:
        # Google sometimes sends a 429 without any details; a daily quota is known by them alone.
        return [quota("Day", model)] if fault.name == "quota_per_day" else []
    period = "Day" if fault.name == "quota_per_day" else "Minute"
    # A daily quota carries a delay too: who trusts it comes back in vain.
    return [quota(period, model), HELP, {"@type": TYPE + "RetryInfo", "retryDelay": fault.delay}]


def quota(period: str, model: str) -> dict[str, Any]:
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": "20",
    }
    return {"@type": TYPE + "QuotaFailure", "violations": [violation]}
