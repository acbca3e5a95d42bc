"""What the loopback provider was asked, what it sent and what it would bill: the oracle of the money tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts as Gemini has them: `cached` is part of `prompt`, `thoughts` stand beside `candidates`.

    `written` is the part of `prompt` that went into a provider's cache, which some bill at a price of its own.
    """

    prompt: int = 0
    cached: int = 0
    candidates: int = 0
    thoughts: int = 0
    written: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.candidates + self.thoughts


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `billed` is what the provider charges, `reported` the usage that left on the wire."""

    number: int
    at: float  # monotonic seconds
    model: str
    method: str  # generate, stream, embed, or followed where a client went after a redirect
    prompt: str
    system: str
    body: dict[str, Any]
    fault: str
    billed: Tokens | None = None
    key_in_url: bool = False
    status: int | None = None  # None until, or unless, a status line leaves
    reported: Tokens | None = None
    delivered: bool = False
    ended: float | None = None  # None while the call runs
    provider: str = "gemini"

    @property
    def usage_sent(self) -> bool:
        """Whether a client that read everything knows exactly what is billed."""
        return self.reported is not None and self.reported == self.billed

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "usage_sent": self.usage_sent}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Call:
        fields = {name: facts[name] for name in cls.__slots__}
        for name in ("billed", "reported"):
            fields[name] = fields[name] and Tokens(**fields[name])
        return cls(**fields)


class Journal:
    """Calls in order of arrival. Written by the server's thread, read by any."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._last = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self._changed = threading.Condition()

    def next_number(self) -> int:
        with self._changed:
            self._last += 1
            return self._last

    def open(self, call: Call) -> None:
        with self._changed:
            self._calls[call.number] = call
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)

    def finish(
        self, call: Call, *, status: int | None, delivered: bool, reported: Tokens | None = None
    ) -> None:
        """Say how a call ended; said again, as when a reset follows a whole reply, the last word holds."""
        ended = replace(call, status=status, delivered=delivered, reported=reported, ended=time.monotonic())
        with self._changed:
            known = self._calls.get(call.number)
            if known is not None and known.at == call.at:  # A call from before a reset has no place any more.
                self._calls[call.number] = ended

    def leave(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def calls(self) -> list[Call]:
        with self._changed:
            return list(self._calls.values())

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def max_in_flight(self) -> int:
        return self._max_in_flight

    def wait_idle(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout)

    def reset(self) -> None:
        with self._changed:
            self._calls.clear()
            self._last = 0
            self._max_in_flight = self._in_flight
