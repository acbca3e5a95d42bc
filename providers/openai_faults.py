"""What went wrong with a call in OpenAI's protocol: the fault behind an exception of its client library."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import (
    ContentBlocked,
    KeyRefused,
    ModelGone,
    PromptTooLong,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from providers.wire_faults import (
    QUOTA_RESETS_SECONDS,
    REFUSED_KEY,
    TRANSIENT_STATUS,
    fault_of_wire,
    told_delay,
    wire_failures,
)

if TYPE_CHECKING:
    import openai

# Each may stand in `code` or in `type`.
SPENT = frozenset(
    {
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
# The last is llama.cpp's.
TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"})
BLOCKED = frozenset({"content_filter", "content_policy_violation", "invalid_prompt"})
NO_MODEL = "model_not_found"
# An error inside of a stream has no status but what its type, its code or a server of one's own makes of it.
STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
}


@functools.cache
def client_failures() -> tuple[type[Exception], ...]:
    """What `invoke` raises when the wire, the service or its reply is at fault."""
    import openai

    return (openai.OpenAIError, *wire_failures())


def fault_of(error: Exception) -> UpstreamFault:
    """The fault behind a client library's exception: by class, status and structured code, never by text."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _fault_of_status(error.status_code, error, told_delay(error.response.headers))
    beside = openai.APIConnectionError | openai.APIResponseValidationError
    if isinstance(error, openai.APIError) and not isinstance(error, beside):
        return _fault_of_status(_status_of_event(error), error, None)
    return fault_of_wire(error)


def _status_of_event(error: openai.APIError) -> int:
    told = (code for code in (error.code, error.type) if isinstance(code, str))
    known = (int(code) if code.isdecimal() else STATUS_OF.get(code) for code in told)
    return next((status for status in known if status is not None), 500)


def _fault_of_status(status: int, error: openai.APIError, delay: float | None) -> UpstreamFault:
    codes = _codes(error)
    detail = f"openai answered {status}"
    if status == 402 or codes & SPENT:
        return UpstreamQuotaExhausted(delay=QUOTA_RESETS_SECONDS if delay is None else delay, detail=detail)
    if status == 413 or codes & TOO_LONG:
        return PromptTooLong(detail=detail)
    if codes & BLOCKED:
        return ContentBlocked(detail=detail)
    if status == 404 or NO_MODEL in codes:
        return ModelGone(detail=detail)
    if status == 429:
        return UpstreamRateLimited(transient=True, delay=delay, detail=detail)
    if status in REFUSED_KEY:
        return KeyRefused(detail=detail)
    return UpstreamFault(transient=status in TRANSIENT_STATUS, detail=detail)


def _codes(error: openai.APIError) -> frozenset[str]:
    return frozenset(code for code in (error.code, error.type) if isinstance(code, str))


def refused_option(error: Exception, options: Mapping[str, Any]) -> str | None:
    """The option among those sent that the service does not take, or None where it objects to something else.

    Many servers of other people name no parameter; then it is the schema that few of them know.
    """
    import openai

    sent = options.get("extra_body", {})
    if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return None
    if isinstance(error.param, str) and error.param:
        named = re.split(r"[.\[]", error.param)[0]
        return named if named in ("temperature", "stop", "response_format") and named in sent else None
    unnamed = error.code is None or error.code.isdigit()  # some put the status there
    return "response_format" if unnamed and "response_format" in sent else None
