"""Error replies in the shape of OpenAI's API."""

from __future__ import annotations

import math
from typing import Any

from .faults import REFUSED, Fault
from .refusals import CANARY, bad_gateway
from .replies import json_reply
from .wire import Reply

FOLLOWED = "/v1/moved/"
INVALID = "invalid_request_error"
QUOTA = "You exceeded your current quota, please check your plan and billing details."

# name: status, type, code, message
STATUSES: dict[str, tuple[int, str, str | None, str]] = {
    "rate_limited": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for requests per min (RPM).",
    ),
    "quota_per_day": (429, "insufficient_quota", "insufficient_quota", QUOTA),
    "no_credit": (429, "insufficient_quota", "credit_balance_exhausted", QUOTA),
    "spend_limit": (
        429,
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "Your organization has reached its spend limit.",
    ),
    "internal": (500, "server_error", None, "The server had an error while processing your request."),
    "unavailable": (503, "server_error", None, "That model is currently overloaded with other requests."),
    "gateway_timeout": (504, "server_error", None, "The request took too long to process."),
    "request_timeout": (408, INVALID, None, "Timed out reading the request."),
    "bad_request": (400, INVALID, None, "'messages' is a required property."),
    "no_temperature": (
        400,
        INVALID,
        "unsupported_value",
        "Unsupported value: 'temperature' does not support this value with this model.",
    ),
    "blocked_prompt": (
        400,
        INVALID,
        "invalid_prompt",
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
    ),
    "too_long": (
        400,
        INVALID,
        "context_length_exceeded",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 1200000 tokens.",
    ),
    "bad_key": (401, INVALID, "invalid_api_key", "Incorrect API key provided: bad-key."),
    "unauthorized": (401, INVALID, None, "You didn't provide an API key."),
    "forbidden": (
        403,
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
}
PARAMS = {"too_long": "messages", "not_found": "model", "no_temperature": "temperature"}


def is_refused(fault: Fault) -> bool:
    """Whether the reply is an error status: nothing was generated, nothing is billed."""
    return fault.name in (*REFUSED, "no_credit", "spend_limit", "no_temperature", "blocked_prompt")


def refusal(fault: Fault, model: str, number: int, *, url: bool = False) -> Reply:
    headers = (("x-request-id", f"req_loopback{number}"), *_delays(fault), *fault.headers)
    if fault.name == "bad_gateway":
        return bad_gateway(fault)
    if fault.name == "redirect":
        # 307 has the client ask again with all of its body.
        return Reply(307, (b"",), headers=(("Location", FOLLOWED + "chat/completions"), *headers))
    if url:
        return _error(404, INVALID, "unknown_url", f"Unknown request URL: {model}.", None, headers)
    if fault.name == "not_found":
        message = f"The model `{model}` does not exist or you do not have access to it."
        return _error(404, INVALID, "model_not_found", message, "model", headers)
    status, kind, code, message = STATUSES[fault.name]
    return _error(status, kind, code, message, PARAMS.get(fault.name), headers)


def _error(
    status: int,
    kind: str,
    code: str | None,
    message: str,
    param: str | None,
    headers: tuple[tuple[str, str], ...],
) -> Reply:
    inner: dict[str, Any] = {"message": f"{message} [{CANARY}]", "type": kind, "param": param, "code": code}
    return json_reply({"error": inner}, status, headers)


def _delays(fault: Fault) -> tuple[tuple[str, str], ...]:
    if fault.name != "rate_limited" or not fault.delay:
        return ()
    seconds = float(fault.delay.removesuffix("s"))
    told = (("retry-after", str(math.ceil(seconds))), ("retry-after-ms", str(round(seconds * 1000))))
    return (*told, ("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", fault.delay))
