"""Every failure that a caller may see: its status, its code and a sentence that says the next step."""

# Above 300 lines, because it is one list: what a code means is looked up here and nowhere else.

from __future__ import annotations

from typing import ClassVar

from tasks import Bill, Usage


class PlatformError(Exception):
    """A failure with a status, a stable code and a sentence of our own, safe to show to a caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Something broke on our side. Try again; if it stays, report the request_id."
    retryable: ClassVar[bool] = False

    def __init__(
        self, sentence: str | None = None, *, field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(sentence or self.sentence)
        self.field = field
        self.retry_after = retry_after
        # Set by the road: upstream calls that were made, their bill where some were billed, and whether any may have been.
        self.attempts = 0
        self.may_cost = False
        self.bill: Bill | None = None
        self.overall_nano = 0
        self.left_nano: int | None = None


class InvalidInput(PlatformError):
    status, code = 400, "invalid_input"


class UnsupportedMedia(PlatformError):
    status, code = 415, "unsupported_media_type"
    sentence = "Send JSON: set the header Content-Type: application/json and no Content-Encoding."


class ModelNotListed(PlatformError):
    """The address of a model that is not configured; as a parameter it is a ModelUnknown."""

    status, code = 404, "model_not_found"
    sentence = "There is no such model here. Use one of those that GET /api/v2/models lists."


class Blocked(PlatformError):
    status, code = 400, "blocked"
    sentence = "This request looks like an attack and was refused. Remove unusual characters from path, query and headers."


class UnknownHost(PlatformError):
    status, code = 400, "unknown_host"
    sentence = "This Host is not served here. Use the address that your operator gave you, or add this one to TRUSTED_HOSTS."


class Overloaded(PlatformError):
    status, code = 503, "overloaded"
    sentence = "The platform is at its capacity. Wait as long as Retry-After says, then try again."
    retryable = True

    def __init__(self, sentence: str | None = None, *, retry_after: float = 1) -> None:
        super().__init__(sentence, retry_after=retry_after)


class UnknownRequest(PlatformError):
    """Feedback on a request that its sender has not made, or that is not in the ledger."""

    status, code = 404, "unknown_request"
    sentence = (
        "There is no answered request of yours with this `request_id`. Send the X-Request-ID of a classification; "
        "where it was answered a moment ago, try again in a minute."
    )


class HistoryTooShort(PlatformError):
    """A forecast was asked for and there are too few days to make one from."""

    status, code = 409, "history_too_short"
    sentence = "There are too few days of usage yet to make a forecast. Try again when there are more."


class LedgerUnavailable(PlatformError):
    status, code = 503, "ledger_unavailable"
    sentence = "The ledger cannot be written just now, so no request is served. Try again in a few seconds; if it stays, tell your operator."
    retryable = True

    def __init__(self, sentence: str | None = None, *, retry_after: float = 2) -> None:
        super().__init__(sentence, retry_after=retry_after)


class Unauthorized(PlatformError):
    """One reply for whatever is wrong with a key or token. reason: for the audit log only."""

    status, code = 401, "unauthorized"
    sentence = "Send a valid key: the header Authorization: Bearer <key>, or X-API-Key. Ask your administrator for one."

    def __init__(self, reason: str = "missing") -> None:
        super().__init__()
        self.reason = reason


class LockedOut(PlatformError):
    status, code = 429, "locked_out"
    sentence = "There were too many wrong keys or passwords from here. Wait as long as Retry-After says, then try again."


class Forbidden(PlatformError):
    status, code = 403, "forbidden"
    sentence = "Your key or role does not allow this. Ask an administrator of your organisation."


class ModelNotAllowed(Forbidden):
    """The caller's key is for other models; the sentence names them."""


class SwitchedOff(Forbidden):
    """Something that the operator has not set up; the sentence names the setting."""


class IssuerUnavailable(PlatformError):
    """Another issuer's tokens cannot be checked, because its keys cannot be had."""

    status, code = 503, "issuer_unavailable"
    sentence = "The issuer of your token cannot be asked for its keys just now. Try again in a minute, or use an API key."
    retryable = True

    def __init__(self) -> None:
        super().__init__(retry_after=60)


class NotThere(PlatformError):
    """Unknown, or another tenant's: nobody is told which."""

    status, code = 404, "not_found"
    sentence = "There is nothing of that name here. Check it, or ask for the list."


class Conflict(PlatformError):
    status, code = 409, "conflict"


class KeyReused(PlatformError):
    """An Idempotency-Key that stands for another request already."""

    status, code = 422, "idempotency_key_reused"
    sentence = "This Idempotency-Key was sent with another body before. Send that body again, byte for byte, or take a new key."


class StillAtWork(PlatformError):
    """The first request under an Idempotency-Key has no reply yet."""

    status, code = 409, "idempotency_key_in_use"
    sentence = "The first request with this Idempotency-Key is still at work. Wait as long as Retry-After says, then send it again."


class ReplyLost(PlatformError):
    """A reply is kept, and no encryption key at hand opens it, or it is not the one that was kept there."""

    status, code = 503, "reply_lost"
    sentence = (
        "The reply that is kept for this Idempotency-Key cannot be opened here. Tell your operator: before they have acted "
        "no retry helps. Another key makes a new request, which may cost again."
    )

    def __init__(self) -> None:
        super().__init__(retry_after=3600)  # people act in hours; every earlier try fails in the same way


class BudgetExceeded(PlatformError):
    """A call does not fit into what is left. busy: it would, if calls in flight turned out to cost nothing. scope: the
    budget that refuses it."""

    status, code = 402, "budget_exceeded"
    sentence = "This does not fit into what is left of the budget. Ask your administrator to raise it, or wait for its next period."

    def __init__(self, sentence: str | None = None, *, busy: bool = False, scope: str = "") -> None:
        super().__init__(sentence)
        self.busy, self.scope = busy, scope


class Unpriced(PlatformError):
    """A call of unknown cost, under a budget."""

    status, code = 402, "model_without_price"
    sentence = "This model has no known price, so no budget can cover it. Use another model, or ask your operator for a price."


class CallerLeft(PlatformError):
    """The caller hung up while the answer came; nobody sees this but the ledger and the logs."""

    status, code = 499, "caller_left"
    sentence = "The caller hung up before the answer was complete. Try again to get all of it."
    retryable = True  # by those who wait for the same answer


class UpstreamFault(PlatformError):
    """One failed upstream call. What the provider said stays in `detail`, for our log only.

    transient: the same call may succeed later. delay: seconds the provider asked to wait. usage: what the
    failed reply was billed for. unknown: it may have been billed without our having seen the reply. begun: a part of
    the reply went out to the caller before, so that no other attempt can take its place. unexplained: a 400 whose reason
    stands in words alone: spent credit, a content filter, or the caller's own mistake.
    """

    status, code = 502, "upstream_error"
    sentence = "The model provider answered with an error. Try again; if it stays, tell your operator."

    def __init__(
        self,
        sentence: str | None = None,
        *,
        transient: bool = False,
        delay: float | None = None,
        usage: Usage | None = None,
        model: str = "",
        unknown: bool = False,
        detail: str = "",
        field: str | None = None,
    ) -> None:
        super().__init__(sentence, field=field)
        self.transient, self.delay = transient, delay
        self.usage, self.model, self.unknown = usage, model, unknown
        self.detail = detail
        self.begun = self.unexplained = False

    @property
    def retryable(self) -> bool:  # type: ignore[override]  # a class fact elsewhere, the provider's word here
        return self.transient


class UpstreamRateLimited(UpstreamFault):
    status, code = 429, "upstream_rate_limited"
    sentence = "The model provider limits our calls. Wait as long as Retry-After says, then try again."


class UpstreamQuotaExhausted(UpstreamFault):
    status, code = 503, "upstream_quota_exhausted"
    sentence = "The quota or credit at the model provider is used up. Tell your operator, or try again later."


class ProviderUnreachable(UpstreamFault):
    status, code = 503, "no_provider"
    sentence = (
        "No model provider can be reached. Try again as Retry-After says; if it stays, tell your operator."
    )


class TurnedAway(ProviderUnreachable):
    """No call was made: the provider's circuit breaker is open. `delay` says when the next one may go."""


class KeyRefused(UpstreamFault):
    """401, 403 or their like: the provider does not take our key. No call will do better until it is set anew.

    of_model: it may only be the model that is not for us, which a caller named.
    """

    of_model = False


class OptionDeclined(UpstreamFault):
    """The service is well and takes no such option with this model; the same ask goes again at once, without it."""


class DeadlineExceeded(UpstreamFault):
    status, code = 504, "deadline"
    sentence = "The model provider took too long. Try again, or ask for a shorter answer with max_tokens."


class InvalidReply(UpstreamFault):
    status, code = 502, "upstream_invalid_response"
    sentence = (
        "The model provider sent a reply that cannot be used. Try again, or word the request differently."
    )


class EmptyReply(UpstreamFault):
    status, code = 502, "upstream_empty"
    sentence = "The model answered with no text. Raise max_tokens, or word the request differently."


class ContentBlocked(UpstreamFault):
    status, code = 422, "content_blocked"
    sentence = "The model provider refused this content. Word the request differently."


class PromptTooLong(UpstreamFault):
    status, code = 400, "invalid_input"
    sentence = "The prompt is longer than the model can read. Shorten it."


class AskRefused(UpstreamFault):
    """A 400 for what a caller wrote in the provider's own terms: messages, tools, a schema."""

    status, code = 400, "invalid_input"
    sentence = "The model provider does not take this conversation. Send other `messages`, `tools` or `response_format`."


class ModelGone(UpstreamFault):
    """404 from the provider: a retired or unknown model id."""

    sentence = "The configured model is not available at the provider. Tell your operator."


class ModelUnknown(UpstreamFault):
    status, code = 400, "invalid_input"
    sentence = "There is no such model. Leave out `model`, or name one that the provider has."
