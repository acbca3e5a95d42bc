"""What went wrong with a Gemini call: the fault behind an exception of its client library."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

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
    seconds_in,
    told_delay,
    wire_failures,
)

# Of a 400: Google does not say 401.
BAD_KEY = "API_KEY_INVALID"


@functools.cache
def client_failures() -> tuple[type[Exception], ...]:
    """What `invoke` raises when the wire, the service or its reply is at fault."""
    from google.genai.errors import APIError
    from langchain_google_genai.chat_models import ChatGoogleGenerativeAIError

    return (APIError, ChatGoogleGenerativeAIError, *wire_failures())


def fault_of(error: Exception) -> UpstreamFault:
    """The fault behind a client library's exception: by class, status and structured code, never by text."""
    status, details, headers = _status_and_details(error)
    if status is not None:
        return _fault_of_status(error, status, details, headers)
    return fault_of_wire(error)


def _status_and_details(
    error: BaseException,
) -> tuple[int | None, list[Mapping[str, Any]], Mapping[str, str]]:
    for source in (error, error.__cause__):  # some of the library's errors keep the status on their cause
        status = getattr(source, "code", None)
        if isinstance(status, int):
            headers = getattr(getattr(source, "response", None), "headers", None) or {}
            return status, list(_google_details(getattr(source, "details", None))), headers
    return None, [], {}


def _google_details(body: Any) -> Iterator[Mapping[str, Any]]:
    inner = body.get("error") if isinstance(body, dict) else None
    listed = inner.get("details") if isinstance(inner, dict) else None
    for detail in listed if isinstance(listed, list) else ():
        if isinstance(detail, dict):
            yield detail


def _fault_of_status(
    error: Exception, status: int, details: list[Mapping[str, Any]], headers: Mapping[str, str]
) -> UpstreamFault:
    from langchain_core.exceptions import ContextOverflowError

    said = f"gemini answered {status}"
    if isinstance(error, ContextOverflowError):
        return PromptTooLong(detail=said)
    if status == 429:
        return _fault_of_limit(details, _retry_delay(details, headers), said)
    if status == 404:
        return ModelGone(detail=said)
    if status in REFUSED_KEY or any(detail.get("reason") == BAD_KEY for detail in details):
        return KeyRefused(detail=said)
    return UpstreamFault(transient=status in TRANSIENT_STATUS, detail=said)


def _fault_of_limit(details: list[Mapping[str, Any]], delay: float | None, detail: str) -> UpstreamFault:
    if any("PerDay" in quota for quota in _quota_violations(details)):
        return UpstreamQuotaExhausted(delay=QUOTA_RESETS_SECONDS if delay is None else delay, detail=detail)
    return UpstreamRateLimited(transient=True, delay=delay, detail=detail)


def _quota_violations(details: list[Mapping[str, Any]]) -> Iterator[str]:
    for detail in details:
        violations = detail.get("violations")
        if _is(detail, "QuotaFailure") and isinstance(violations, list):
            yield from (str(one.get("quotaId", "")) for one in violations if isinstance(one, dict))


def _retry_delay(details: list[Mapping[str, Any]], headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait, in its details or else in the header, or None."""
    told = [detail.get("retryDelay") for detail in details if _is(detail, "RetryInfo")]
    in_details = (seconds_in(str(delay or "").removesuffix("s")) for delay in told)
    return next((seconds for seconds in in_details if seconds is not None), told_delay(headers))


def _is(detail: Mapping[str, Any], kind: str) -> bool:
    return str(detail.get("@type", "")).endswith(f"google.rpc.{kind}")
