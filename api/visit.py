"""One HTTP request in the house: what it has come to so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flask import Request, g, request
from werkzeug.local import LocalProxy

from identity import ANONYMOUS, Identity
from tasks import Answer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from api.limiting import Allowance
    from store.replays import Claim
    from streams import Stream


VISIT = "llm_platform.visit"
# A server that writes the headers of a visit by itself says so under this name.
WRITTEN_BY_SERVER = "llm_platform.headers_written_by_server"


@dataclass(slots=True)
class Visit:
    """Lives in flask.g from the first hook to the last."""

    request_id: str
    started: float
    identity: Identity = ANONYMOUS
    answer: Answer | None = None
    # An answer that is still on its way when the reply begins.
    stream: Stream | None = None
    prompt: str | None = None
    error_code: str | None = None
    # Parameters of the request that no provider is told.
    left_out: tuple[str, ...] = ()
    allowance: Allowance | None = None
    # The right to serve what was sent with an Idempotency-Key, and the id of the request whose reply is given again.
    claim: Claim | None = None
    replay_of: str | None = None
    # Whether a failure may have been billed by a provider.
    may_cost: bool = False
    # What the reply says beside its body; add_headers puts it there.
    headers: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False

    def signature(self) -> dict[str, str]:
        """Who it is, for audit lines. Kind and id are apart: what follows `key:` would be taken for a secret."""
        caller = self.identity
        return {"by": caller.name.partition(":")[0], "by_id": caller.key_id or caller.user_id}

    def header_lines(self) -> bytes:
        """The headers as they stand on the wire. Their values are ours and hold no line breaks."""
        return "".join([f"{name}: {value}\r\n" for name, value in self.headers]).encode("latin-1")


def add_headers(wsgi_app: WSGIApplication) -> WSGIApplication:
    """Puts a visit's headers on its reply as they leave: Werkzeug would check and copy each of them twice."""

    def with_headers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if WRITTEN_BY_SERVER in environ:
            return wsgi_app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], *failed: Any) -> Any:
            visit: Visit | None = environ.get(VISIT)
            return start_response(status, headers + visit.headers if visit else headers, *failed)

        return wsgi_app(environ, start)

    return with_headers


def current_visit() -> Visit:
    visit: Visit = g.visit
    return visit


def current_tenant() -> str:
    """Whose requests, costs and keys the caller may see."""
    return current_visit().identity.tenant


def current_request() -> Request:
    """The request itself: each look through Flask's proxy costs as much as the attribute behind it."""
    return cast(LocalProxy[Request], request)._get_current_object()
