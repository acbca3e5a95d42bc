"""Signed events to an address of the operator's, sent by a thread of their own: whoever tells one never waits."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import orjson

log = logging.getLogger("llm_platform")

# The whole of one attempt, from connecting to the head of the reply; and the waits before the next ones.
SECONDS = 5.0
WAITS = (1.0, 5.0, 25.0)
# Events that may wait; a newer one is dropped, and counted.
MOST_WAITING = 100
# At the end of the process events that wait get so long.
END_SECONDS = 2.0
SIGNATURE = "X-Webhook-Signature"

# Posts a body with its headers; the status of the reply. Raises OSError, with a word why, where there is none.
Post = Callable[[bytes, dict[str, str]], int]


class Events(Protocol):
    """Where events go. Telling one never waits and never fails."""

    dropped: int
    failed: int

    def tell(self, kind: str, data: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoEvents:
    """Where no address is set."""

    dropped = failed = 0

    def tell(self, kind: str, data: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Webhook:
    """One address. An event is tried at once and then after each of WAITS, until a reply is a 2xx."""

    def __init__(
        self,
        secret: str,
        post: Post,
        *,
        waits: tuple[float, ...] = WAITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret, self._post, self._waits, self._clock = secret.encode(), post, waits, clock
        self._queue: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
        self._starting, self._ending = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self.dropped = self.failed = self.sent = 0

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        event = {"id": uuid.uuid4().hex, "type": kind, "created": int(self._clock()), "data": data}
        try:
            self._queue.put_nowait(orjson.dumps(event))
        except queue.Full:
            self.dropped += 1
        self._start()

    def close(self) -> None:
        """Give what waits a moment; what is not sent by then is lost, and the log has it."""
        self._ending.set()
        with self._starting:
            thread = self._thread
        if thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return  # as a daemon it ends with the process
            thread.join(END_SECONDS)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            try:
                self._deliver(body)
            except Exception:  # the thread must live: nobody else sends the next one
                self.failed += 1
                log.exception("an event could not be sent")

    def _deliver(self, body: bytes) -> None:
        said = ""
        for wait in (0.0, *self._waits):
            if wait and self._ending.wait(wait):
                break
            said = self._attempt(body)
            if not said:
                self.sent += 1
                return
        self.failed += 1
        log.error("an event was not taken (%s)", said)

    def _attempt(self, body: bytes) -> str:
        """Empty where it was taken, else why not, without the address: it may hold a secret."""
        stamp = int(self._clock())
        headers = {"Content-Type": "application/json", SIGNATURE: signature(self._secret, stamp, body)}
        try:
            status = self._post(body, headers)
        except OSError as failure:
            return str(failure)
        return "" if 200 <= status < 300 else f"status {status}"


def signature(secret: bytes, stamp: int, body: bytes) -> str:
    """`t=<seconds since 1970>,v1=<hex>`: HMAC-SHA256 of the stamp, a dot and the body."""
    mac = hmac.new(secret, b"%d.%b" % (stamp, body), hashlib.sha256)
    return f"t={stamp},v1={mac.hexdigest()}"


def http_post(url: str, seconds: float = SECONDS) -> Post:
    """Posts to one address: in bounded time, without redirects and without proxies of the environment."""

    @functools.cache
    def client() -> Any:
        import httpx  # on first use, not on import

        from providers.transport import BoundedTransport

        return httpx.Client(transport=BoundedTransport(1), trust_env=False, timeout=seconds)

    def post(body: bytes, headers: dict[str, str]) -> int:
        import httpcore

        from providers.transport import ReplyTooLarge

        wire = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ReplyTooLarge)
        try:
            with client().stream("POST", url, content=body, headers=headers) as reply:
                return int(reply.status_code)
        except wire as failure:
            raise OSError(type(failure).__name__) from failure

    return post
