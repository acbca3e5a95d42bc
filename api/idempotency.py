"""The header Idempotency-Key: a request that costs money is served once, and its reply is given again to whoever repeats it."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flask import Request, Response

from api.schemas import body_of
from errors import InvalidInput, LedgerUnavailable, Overloaded, ReplyLost, StillAtWork
from security.sealing import CannotOpen
from store.replays import AtWork, Claim, Kept, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.visit import Visit
    from services import Services

HEADER, ENVIRON = "Idempotency-Key", "HTTP_IDEMPOTENCY_KEY"
# What costs money, and so may be sent under a key. Elsewhere the header says nothing.
COSTLY = frozenset(
    {
        "api_v1.generate_generate_text",
        "api_v1.generate_generate_code",
        "api_v1.classify_classify_text",
        "api_v2.chat_chat_completions",
        "api_v2.embeddings_embeddings",
    }
)
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
NOT_KEPT = (
    "The database that remembers Idempotency-Keys is away, so nothing was asked of a provider. Try again in a few "
    "seconds, or send the request without the header."
)
# How often somebody who waits for another's reply looks for it.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.02, 0.25


class Once:
    """Between the hooks and the views: what was served is given again, what is at work is waited for."""

    def __init__(
        self,
        house: Services,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._house, self._timer, self._sleep = house, timer, sleep
        # They hold threads, and must leave enough of them to those who are waited for.
        self._waiting = threading.BoundedSemaphore(max(1, house.settings.threads // 4))

    def meet(self, visit: Visit, asked: Request) -> Response | None:
        """The reply of before. None: the request is to be served, under a claim if it has a key."""
        rule = asked.url_rule
        if rule is None or rule.endpoint not in COSTLY or asked.method != "POST":
            return None
        wanted = wanted_of(visit, asked, rule.rule)
        try:
            found = self._claim(wanted, visit)
            if isinstance(found, AtWork):
                found = self._wait(wanted, visit, found)
        except LedgerUnavailable:
            raise LedgerUnavailable(NOT_KEPT) from None
        except CannotOpen as lost:
            raise ReplyLost() from lost
        if isinstance(found, Kept):
            return given_again(visit, found)
        visit.claim = found
        return None

    def part(self, visit: Visit, response: Response) -> None:
        """Before the reply goes out: keep it, or let go of the claim where nothing was spent. A stream keeps itself."""
        claim, visit.claim = visit.claim, None
        if claim is None or visit.stream is not None:
            return
        if response.status_code < 400 or visit.may_cost:
            headers = [("Content-Type", response.content_type or ""), *visit.headers]
            self._house.replays.keep(claim, response.status_code, headers, response.get_data())
        else:
            self._house.replays.release(claim)

    def _claim(self, wanted: Wanted, visit: Visit) -> Claim | AtWork | Kept:
        seconds = self._house.settings.llm_timeout_seconds
        return self._house.replays.claim(wanted, visit.request_id, seconds)

    def _wait(self, wanted: Wanted, visit: Visit, found: Claim | AtWork | Kept) -> Claim | Kept:
        """What comes of another's work within our own deadline. Raises StillAtWork."""
        until, pause = visit.started + self._house.settings.llm_timeout_seconds, FIRST_LOOK_SECONDS
        with self._place():
            while isinstance(found, AtWork):
                if self._timer() + pause >= until:
                    raise StillAtWork(retry_after=found.seconds)
                self._sleep(pause)
                pause = min(pause * 1.5, LOOK_SECONDS)
                found = self._house.replays.at_work(wanted) or self._claim(wanted, visit)
        return found

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the threads that may wait; among them all there may be none left for it."""
        if not self._waiting.acquire(blocking=False):
            raise StillAtWork(retry_after=1)
        try:
            with self._house.gate.ask():
                yield
        except Overloaded:
            raise StillAtWork(retry_after=1) from None
        finally:
            self._waiting.release()


def wanted_of(visit: Visit, asked: Request, route: str) -> Wanted:
    """Who asks for what. The body stays to be read. Raises InvalidInput."""
    key = asked.environ[ENVIRON]
    if not _KEY.fullmatch(key):
        raise InvalidInput(
            f"The header {HEADER} must be 1 to 255 printable characters of ASCII; a UUID is good.",
            field=HEADER,
        )
    body = body_of(asked)
    asked.environ["wsgi.input"], asked.environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
    caller = caller_of(visit, asked)
    return Wanted(_digest(caller, f"POST {route}", key), caller, _digest(key, body))


def caller_of(visit: Visit, asked: Request) -> str:
    """Whose keys these are: an API key's, else a user's, else an address's."""
    who = visit.identity
    return f"{who.tenant} {asked.remote_addr or 'unknown' if who.is_anonymous else who.name}"[:160]


def _digest(*parts: str | bytes) -> str:
    """Of all parts, each of which tells where it ends."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%b" % (len(data), data))
    return digest.hexdigest()


def given_again(visit: Visit, kept: Kept) -> Response:
    """The same status, headers and body. X-Request-ID is that of this request; the first one's stands beside it."""
    (_, content_type), *headers = kept.headers
    visit.headers += [*headers, ("Idempotent-Replayed", "true"), ("Idempotent-Request-ID", kept.request_id)]
    visit.replay_of, visit.error_code = kept.request_id, "replayed" if kept.status >= 400 else None
    return Response(kept.body, kept.status, content_type=content_type)
