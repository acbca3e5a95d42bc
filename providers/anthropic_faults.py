"""What went wrong with a Claude call: the fault behind an exception of its client library."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from errors import (
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
    import anthropic

# Two requests of one account got into each other's way.
CONFLICT = 409
# An error inside of a stream comes with status 200, and has the one of its type.
STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
SPENT = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})


@functools.cache
def client_failures() -> tuple[type[Exception], ...]:
    """What `invoke` raises when the wire, the service or its reply is at fault."""
    import anthropic

    return (anthropic.AnthropicError, *wire_failures())


def fault_of(error: Exception) -> UpstreamFault:
    """The fault behind a client library's exception: by class, status and structured code, never by text."""
    import anthropic

    if isinstance(error, anthropic.APIStatusError):
        return _fault_of_status(error)
    return fault_of_wire(error)


def _fault_of_status(error: anthropic.APIStatusError) -> UpstreamFault:
    from langchain_core.exceptions import ContextOverflowError

    streamed = error.status_code == 200
    status = STATUS_OF.get(str(error.type), 500) if streamed else error.status_code
    detail = f"anthropic answered {status}"
    if status == 413 or isinstance(error, ContextOverflowError):
        return PromptTooLong(detail=detail)
    if status == 429 and streamed:
        return UpstreamRateLimited(transient=True, delay=None, detail=detail)
    if status in (402, 429):
        return _fault_of_limit(error, detail)
    if status == 404:
        return ModelGone(detail=detail)
    if status in REFUSED_KEY:
        return KeyRefused(detail=detail)
    fault = UpstreamFault(transient=status in TRANSIENT_STATUS or status == CONFLICT, detail=detail)
    fault.unexplained = status == 400 and error.error_code is None
    return fault


def _fault_of_limit(error: anthropic.APIStatusError, detail: str) -> UpstreamFault:
    """A limit on the rate says when to come back; a limit on spending does not, or says so by its code."""
    delay = told_delay(error.response.headers)
    unexplained = error.error_code is None and "Retry-After" not in error.response.headers
    if error.status_code == 402 or error.error_code in SPENT or unexplained:
        return UpstreamQuotaExhausted(delay=QUOTA_RESETS_SECONDS if delay is None else delay, detail=detail)
    return UpstreamRateLimited(transient=True, delay=delay, detail=detail)


def refused_option(error: Exception, sent: Mapping[str, Any]) -> str | None:
    """The option among those sent that the model may not take: a 400 names none, and few know the schema."""
    import anthropic

    refused = isinstance(error, anthropic.BadRequestError) and error.error_code is None
    return "output_config" if refused and "output_config" in sent else None
