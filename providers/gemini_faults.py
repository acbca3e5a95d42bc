"""What went wrong with a Gemini call: the fault behind an exception of its client library."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from errors import (
    DeadlineExceeded,
    InvalidReply,
    ModelGone,
    PromptTooLong,
    ProviderUnreachable,
    UpstreamFault,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)

TRANSIENT_STATUS = frozenset({408, 500, 502, 503, 504, 529})
QUOTA_RESETS_SECONDS = 3600.0
LONGEST_DELAY_SECONDS = 86_400.0


@functools.cache
def client_failures() -> tuple[type[Exception], ...]:
    """What `invoke` raises when the wire, the service or its reply is at fault."""
    import httpcore
    from google.genai.errors import APIError
    from langchain_google_genai.chat_models import ChatGoogleGenerativeAIError

    from providers.transport import ReplyTooLarge

    wire = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ReplyTooLarge)
    # The client assumes the shape of a reply, so one of another shape fails wherever it is first touched.
    shape = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
    return (*wire, APIError, ChatGoogleGenerativeAIError, *shape)


def fault_of(error: Exception) -> UpstreamFault:
    """The fault behind a client library's exception: by class, status and structured code, never by text."""
    status, details, headers = _status_and_details(error)
    if status is not None:
        return _fault_of_status(error, status, details, headers)
    return _fault_of_wire(error)


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

    detail = f"gemini answered {status}"
    if isinstance(error, ContextOverflowError):
        return PromptTooLong(detail=detail)
    if status == 429:
        return _fault_of_limit(details, _retry_delay(details, headers), detail)
    if status == 404:
        return ModelGone(detail=detail)
    return UpstreamFault(transient=status in TRANSIENT_STATUS, detail=detail)


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
    for text in (*told, headers.get("Retry-After")):
        seconds = _seconds(str(text or "").removesuffix("s"))
        if seconds is not None:
            return seconds
    return None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, LONGEST_DELAY_SECONDS) if seconds >= 0 and math.isfinite(seconds) else None


def _is(detail: Mapping[str, Any], kind: str) -> bool:
    return str(detail.get("@type", "")).endswith(f"google.rpc.{kind}")


def _fault_of_wire(error: Exception) -> UpstreamFault:
    import httpcore

    from providers.transport import ReplyTooLarge

    detail = type(error).__name__
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout | httpcore.PoolTimeout):
        return ProviderUnreachable(transient=True, delay=None, detail=detail)
    if isinstance(error, httpcore.TimeoutException):
        return DeadlineExceeded(transient=True, unknown=True, detail=detail)
    if isinstance(error, httpcore.NetworkError | httpcore.ProtocolError):
        return UpstreamFault(transient=True, unknown=True, detail=detail)
    return InvalidReply(transient=not isinstance(error, ReplyTooLarge), unknown=True, detail=detail)
