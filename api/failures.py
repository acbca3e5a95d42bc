"""What becomes of a failed request: its log lines, its metrics, its reply."""

from __future__ import annotations

from flask import Response, request
from werkzeug.exceptions import HTTPException

from addresses import caller_of
from api.limiting import RateLimited, counted_as
from api.replies import render_bug, render_failure, render_refusal
from api.visit import current_request, current_visit
from enhanced_logging import RequestLogger
from errors import (
    BudgetExceeded,
    Forbidden,
    Overloaded,
    PlatformError,
    SwitchedOff,
    Unpriced,
    UpstreamFault,
)
from lru_cache import RateLimitCache
from services import Services


class Failures:
    """Flask's error handlers of one app."""

    def __init__(self, house: Services) -> None:
        self._house = house
        # Its own store: audit marks must not mix with the callers that are being limited.
        self._notes = RateLimitCache(1000)

    def failed(self, failure: PlatformError) -> Response:
        """A failure that the house knows."""
        if isinstance(failure, Overloaded):
            self._house.metrics.shed()
            self._note_once("LOAD_SHED", "MEDIUM", "platform")
        elif isinstance(failure, RateLimited):
            counted = counted_as(current_visit().identity, current_request())
            self._note_once("RATE_LIMITED", "LOW", caller_of(request.remote_addr or "unknown"), counted)
        elif isinstance(failure, Forbidden) and not isinstance(failure, SwitchedOff):
            self._house.logger.log_security_event("AUTHZ_DENIED", "MEDIUM", _denied())
        elif isinstance(failure, BudgetExceeded | Unpriced):
            self._note_refusal(failure)
        else:
            log_failure(self._house.logger, failure)
        return render_failure(failure)

    def _note_refusal(self, failure: BudgetExceeded | Unpriced) -> None:
        scope = failure.scope if isinstance(failure, BudgetExceeded) else failure.code
        busy = isinstance(failure, BudgetExceeded) and failure.busy
        self._house.metrics.budget_refused("busy" if busy else failure.code)
        # Logs take what follows on `key:` for a secret.
        self._note_once("BUDGET_REFUSED", "LOW", scope.replace(":", " "))

    def refused(self, refusal: HTTPException) -> Response:
        """A refusal by Flask or Werkzeug."""
        if refusal.code == 413:
            self._house.logger.log_security_event("BODY_TOO_LARGE", "LOW", {"length": request.content_length})
        return render_refusal(refusal)

    def bug(self, error: Exception) -> Response:
        """The outermost 500: a defect of ours."""
        self._house.logger.log_error(error)
        return render_bug()

    def _note_once(self, event: str, severity: str, who: str, counted: str = "") -> None:
        """One audit line a minute for what would otherwise write one for each refused request."""
        if self._notes.increment_count((event, counted or who)) == 1:
            self._house.logger.log_security_event(event, severity, {"who": who})


def _denied() -> dict[str, str]:
    """Who tried what; the line has its route."""
    visit = current_visit()
    return visit.signature() | {"role": visit.identity.role or "", "method": current_request().method}


def log_failure(logger: RequestLogger, failure: PlatformError, **context: object) -> None:
    """For the error log, where it is not the caller's own."""
    if failure.status >= 500 and isinstance(failure, UpstreamFault):
        # Our own words only: the exception behind it quotes the provider, who quotes the prompt.
        logger.log_error(f"{type(failure).__name__}: {failure.detail}", code=failure.code, **context)
    elif failure.status >= 500:
        logger.log_error(failure, **context)
