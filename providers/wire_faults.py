"""What is a fault whoever the provider is: the wire, a reply of no readable shape, and delays told in headers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping

from errors import DeadlineExceeded, InvalidReply, ProviderUnreachable, UpstreamFault

REFUSED_KEY = frozenset({401, 403})
TRANSIENT_STATUS = frozenset({408, 500, 502, 503, 504, 529})
QUOTA_RESETS_SECONDS = 3600.0
LONGEST_DELAY_SECONDS = 86_400.0


@functools.cache
def wire_failures() -> tuple[type[Exception], ...]:
    """What a client library lets through when the wire or the shape of a reply is at fault."""
    # The libraries assume the shape of a reply, so one of another shape fails wherever it is first touched.
    shape = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
    return (*_wire(), *shape)


@functools.cache
def _wire() -> tuple[type[Exception], ...]:
    import httpcore

    from providers.transport import ReplyTooLarge

    return (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ReplyTooLarge)


def fault_of_wire(error: Exception) -> UpstreamFault:
    """The fault behind an exception that tells no status: by its class, or by the wire's at the root of it."""
    for link in _causes(error):
        if isinstance(link, _wire()):
            return _fault_of_link(link)
    if isinstance(error, wire_failures()):
        return InvalidReply(transient=True, unknown=True, detail=type(error).__name__)
    return UpstreamFault(transient=True, unknown=True, detail=type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _fault_of_link(error: BaseException) -> UpstreamFault:
    import httpcore

    detail = type(error).__name__
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout | httpcore.PoolTimeout):
        return ProviderUnreachable(transient=True, delay=None, detail=detail)
    if isinstance(error, httpcore.TimeoutException):
        return DeadlineExceeded(transient=True, unknown=True, detail=detail)
    if isinstance(error, httpcore.NetworkError | httpcore.ProtocolError):
        return UpstreamFault(transient=True, unknown=True, detail=detail)
    return InvalidReply(unknown=True, detail=detail)  # too large, and it will be so again


def status_of(error: BaseException) -> int | None:
    """The status that an exception of a client library keeps, or its cause."""
    for source in (error, error.__cause__):
        for name in ("status_code", "code"):
            status = getattr(source, name, None)
            if isinstance(status, int):
                return status
    return None


def told_delay(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider's headers ask to wait, or None."""
    milliseconds = seconds_in(headers.get("Retry-After-Ms") or "")
    if milliseconds is not None:
        return milliseconds / 1000
    return seconds_in(headers.get("Retry-After") or "")


def seconds_in(text: str) -> float | None:
    """A number of seconds that makes sense, or None."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, LONGEST_DELAY_SECONDS) if seconds >= 0 and math.isfinite(seconds) else None
