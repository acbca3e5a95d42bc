"""Callers that never stop asking and keep every reply: its request id and what its headers say it cost."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from chaos.plan import PATHS, Wanted

NANO = 10**9


@dataclass(frozen=True, slots=True)
class Reply:
    """What a caller has in hand. Money in nano-dollars; None where the header says `unknown`."""

    status: int
    code: str
    billed: bool
    cost_nano: int | None
    saved_nano: int | None
    overall_nano: int
    cache_status: str
    whole: bool = True
    attempts: int = 0
    retry_after: int = 0


@dataclass(slots=True)
class Asked:
    """One ask that was sent, and its reply if one came: `trouble` says why none did."""

    request_id: str
    wanted: Wanted
    place: int
    began: float
    seconds: float = 0.0
    reply: Reply | None = None
    trouble: str = ""

    @property
    def acknowledged(self) -> bool:
        return self.reply is not None


class Caller:
    """One keep-alive connection. Nothing is ever sent twice: that would be another request."""

    def __init__(self, port: int, timeout: float) -> None:
        self.port, self._timeout = port, timeout
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, request_id: str, wanted: Wanted, place: int = 0, planned: float | None = None) -> Asked:
        """planned: when it was to be sent; its seconds count from there, however late it is."""
        asked = Asked(request_id, wanted, place, time.monotonic() if planned is None else planned)
        try:
            asked.reply = self._send(request_id, wanted)
        except (OSError, http.client.HTTPException) as trouble:
            asked.trouble = type(trouble).__name__
        if asked.reply is None or not asked.reply.whole:
            self.close()
        asked.seconds = time.monotonic() - asked.began
        return asked

    def _send(self, request_id: str, wanted: Wanted) -> Reply:
        headers = {"Content-Type": "application/json", "X-Request-ID": request_id}
        if wanted.bypass:
            headers["Cache-Control"] = "no-cache"
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        self._connection.request("POST", PATHS[wanted.task], json.dumps(wanted.body()), headers)
        response = self._connection.getresponse()
        try:
            body = response.read()
        except (OSError, http.client.HTTPException):
            body = None  # Its head has arrived: what that says is promised.
        return read_reply(request_id, response, body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read_reply(request_id: str, response: http.client.HTTPResponse, body: bytes | None) -> Reply:
    headers = response.headers
    if headers.get("X-Request-ID") != request_id:
        raise http.client.HTTPException(f"The reply to {request_id} is {headers.get('X-Request-ID')}'s.")
    facts: Any = {}
    with contextlib.suppress(ValueError):
        facts = json.loads(body or b"{}")
    return Reply(
        response.status,
        str(facts.get("code", "")),
        "X-Cost-Total" in headers,
        nano(headers.get("X-Cost-Total", "0")),
        nano(headers.get("X-Cost-Saved", "0")),
        nano(headers.get("X-Cost-Overall", "0")) or 0,
        headers.get("X-Cache-Status", ""),
        body is not None,
        int(headers.get("X-Upstream-Attempts", "0")),
        int(headers.get("Retry-After", "0")),
    )


def nano(dollars: str) -> int | None:
    return None if dollars == "unknown" else int(Decimal(dollars) * NANO)


def ask_once(port: int, request_id: str, wanted: Wanted) -> Asked:
    caller = Caller(port, 60)
    try:
        return caller.ask(request_id, wanted)
    finally:
        caller.close()


class Load:
    """Callers in threads, spread over the ports; a context manager that ends with the last of them.

    total: so many asks, then no more. name: the start of every request id. rest: seconds between a caller's asks. plan, caller:
    others with the same methods will do.
    """

    def __init__(
        self,
        ports: Sequence[int],
        callers: int,
        plan: Any,
        *,
        timeout: float,
        total: int | None = None,
        name: str = "ask",
        rest: float = 0.0,
        caller: Callable[[int, float], Any] = Caller,
    ) -> None:
        self.asked: list[Asked] = []
        self.answered = 0
        self._plan, self._timeout, self._name, self._rest = plan, timeout, name, rest
        self._left, self._caller = total, caller
        self._going, self._over, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._numbers = 0
        self.epoch = self.in_air = 0
        self._threads = [
            threading.Thread(target=self._call, args=(ports[place % len(ports)], place), daemon=True)
            for place in range(callers)
        ]

    def __enter__(self) -> Load:
        self._going.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """No more asks; those in the air are still awaited."""
        self._over.set()
        self._going.set()
        for thread in self._threads:
            thread.join(self._timeout + 30)

    def pause(self) -> None:
        """No new asks until `go_on`."""
        self._going.clear()

    def land(self) -> None:
        """Pause, and wait until nothing that was sent is still in the air."""
        self.pause()
        while self.in_air:
            time.sleep(0.005)

    def go_on(self) -> None:
        """A new epoch: request ids say in which one they were sent."""
        self.epoch += 1
        self._going.set()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _call(self, port: int, place: int) -> None:
        caller = self._caller(port, self._timeout)
        for request_id in self._ids(place):
            asked = caller.ask(request_id, self._plan.next(), place)
            with self._lock:
                self.in_air -= 1
                self.asked.append(asked)
                self.answered += asked.acknowledged
            # A dead server refuses thousands of times a second.
            time.sleep(self._rest if asked.acknowledged else max(self._rest, 0.05))
        caller.close()

    def _ids(self, place: int) -> Iterator[str]:
        while True:
            self._going.wait()
            with self._lock:
                if not self._going.is_set():
                    continue
                if self._over.is_set() or self._left == 0:
                    return
                self._numbers += 1
                self.in_air += 1
                self._left = None if self._left is None else self._left - 1
                request_id = f"{self._name}-{self.epoch}-{place}-{self._numbers}"
            yield request_id
