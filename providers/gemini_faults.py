"""What went wrong with a Gemini call: the fault behind an exception of its client library."""

from __future__ import annotations

import functools
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


@functools.cache
def client_failures() -> tuple[type[Exception], ...]:
    """What `invoke` raises when the wire, the service or its reply is at fault."""
    import httpcore
    from google.genai.errors import APIError
    from langchain_google_genai.chat_models import ChatGoogleGenerativeAIError

    from providers.transport import ReplyTooLarge

    wire = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ReplyTooLarge)
    # The client assumes the shape of a reply, so one of another shape fails wherever it is first touched.
    shape = (ValueError, TypeError, AttributeError, LookupError)
    return (*wire, APIError, ChatGoogleGenerativeAIError, *shape)


def fault_of(error: Exception) -> UpstreamFault:
    """The fault behind a client library's exception: by class, status and structured code, never by text."""
    status, details = _status_and_details(error)
    if status is not None:
        return _fault_of_status(error, status, details)
    return _fault_of_wire(error)


def _status_and_details(error: BaseException) -> tuple[int | None, list[Mapping[str, Any]]]:
    for source in (error, error.__cause__):  # some of the library's errors keep the status on their cause
        status = getattr(source, "code", None)
        if isinstance(status, int):
            return status, list(_google_details(getattr(source, "details", None)))
    return None, []


def _google_details(body: Any) -> Iterator[Mapping[str, Any]]:
    inner = body.get("error") if isinstance(body, dict) else None
    listed = inner.get("details") if isinstance(inner, dict) else None
    for detail in listed if isinstance(listed, list) else ():
        if isinstance(detail, dict):
            yield detail


def _fault_of_status(error: Exception, status: int, details: list[Mapping[str, Any]]) -> UpstreamFault:
    from langchain_core.exceptions import ContextOverflowError

    detail = f"gemini answered {status}"
    if isinstance(error, ContextOverflowError):
        return PromptTooLong(detail=detail)
    if status == 429:
        return _fault_of_limit(details, detail)
    if status == 404:
        return ModelGone(detail=detail)
    return UpstreamFault(transient=status in TRANSIENT_STATUS, detail=detail)


def _fault_of_limit(details: list[Mapping[str, Any]], detail: str) -> UpstreamFault:
    delay = _retry_delay(details)
    if any("PerDay" in str(violation) for violation in _quota_violations(details)):
        return UpstreamQuotaExhausted(delay=QUOTA_RESETS_SECONDS if delay is None else delay, detail=detail)
    return UpstreamRateLimited(transient=True, delay=delay, detail=detail)


def _quota_violations(details: list[Mapping[str, Any]]) -> Iterator[Any]:
    for detail in details:
        if str(detail.get("@type", "")).endswith("google.rpc.QuotaFailure"):
            for violation in detail.get("violations") or ():
                yield violation.get("quotaId", "") if isinstance(violation, dict) else ""


def _retry_delay(details: list[Mapping[str, Any]]) -> float | None:
    for detail in details:
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            try:
                return max(0.0, float(str(detail.get("retryDelay", "")).removesuffix("s")))
            except ValueError:
                return None
    return None


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
