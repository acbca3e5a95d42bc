"""Faults by name, and which one meets the next call: the script first, else the seeded menu."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .journal import Tokens

# A refusal is an error status: nothing was generated, nothing is billed.
REFUSED = (
    "rate_limited",
    "quota_per_day",
    "internal",
    "unavailable",
    "bad_gateway",
    "gateway_timeout",
    "request_timeout",
    "bad_request",
    "bad_key",
    "too_long",
    "forbidden",
    "unauthorized",
    "not_found",
    "redirect",
)
# The model has worked, but what it said is lost or unreadable on the way.
BROKEN = (
    "reset_before",
    "cut_body",
    "garbage",
    "wrong_schema",
    "html",
    "hang",
    "drip",
    "huge",
    "gzip_bomb",
)
# A readable 200 which may still not be an answer.
ANSWERED = (
    "ok",
    "slow",
    "says",
    "other_model",
    "no_usage",
    "max_tokens",
    "empty",
    "no_candidates",
    "blocked_prompt",
    "blocked_answer",
    "recitation",
)
NAMES = frozenset(REFUSED + BROKEN + ANSWERED)
RETRYABLE = (
    "rate_limited",
    "internal",
    "unavailable",
    "bad_gateway",
    "gateway_timeout",
    "request_timeout",
    "reset_before",
    "cut_body",
)
SECONDS = {"hang": 60.0, "slow": 2.0, "drip": 1.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call; `Fault("ok")` is a good answer.

    delay    the retryDelay of a 429; empty leaves the details out altogether
    text     what a good answer says, or the body of `garbage`, `wrong_schema` and `html`
    usage    the tokens billed and sent, in place of the counted ones
    seconds  bound of `hang`, latency of `slow`, time per byte of `drip`
    pause    seconds between two chunks of a stream
    model    the modelVersion of the reply
    headers  more headers for the reply, such as Retry-After
    """

    name: str
    delay: str = "1s"
    text: str | None = None
    usage: Tokens | None = None
    seconds: float | None = None
    pause: float = 0.0
    model: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"Unknown fault {self.name!r}: choose one of {', '.join(sorted(NAMES))}.")

    @property
    def wait(self) -> float:
        return SECONDS.get(self.name, 0.0) if self.seconds is None else self.seconds

    @classmethod
    def of(cls, given: str | Fault | Mapping[str, Any]) -> Fault:
        """A fault from a name, or from JSON with the fields of this class."""
        if isinstance(given, Fault):
            return given
        if isinstance(given, str):
            return cls(given)
        facts = dict(given)
        if facts.get("usage"):
            facts["usage"] = Tokens(**facts["usage"])
        facts["headers"] = tuple((name, value) for name, value in facts.get("headers", ()))
        return cls(**facts)


OK = Fault("ok")


class Choice:
    """Picks the fault of each call. The menu's pick depends on the seed and the call's number alone."""

    def __init__(self, seed: int, rate: float, menu: Sequence[str | Fault]) -> None:
        self.seed = seed
        self.rate = rate
        self.menu = menu
        self.retired: set[str] = set()
        self._script: deque[Fault] = deque()
        self._lock = threading.Lock()

    @property
    def menu(self) -> tuple[Fault, ...]:
        return self._menu

    @menu.setter
    def menu(self, menu: Sequence[str | Fault]) -> None:
        self._menu = tuple(Fault.of(fault) for fault in menu)

    def script(self, faults: Iterable[str | Fault | Mapping[str, Any]]) -> None:
        with self._lock:
            self._script.extend([Fault.of(fault) for fault in faults])

    def pick(self, number: int, model: str) -> Fault:
        """A retired model answers 404 and leaves the script as it stands."""
        if model in self.retired:
            return Fault("not_found")
        with self._lock:
            if self._script:
                return self._script.popleft()
        return self._drawn(number)

    def _drawn(self, number: int) -> Fault:
        if not self._menu or self.rate <= 0:
            return OK
        digest = hashlib.blake2b(f"{self.seed}:{number}".encode(), digest_size=16).digest()
        if int.from_bytes(digest[:8], "big") >= self.rate * 2**64:
            return OK
        return self._menu[int.from_bytes(digest[8:], "big") % len(self._menu)]

    def reset(self) -> None:
        with self._lock:
            self._script.clear()
            self.retired.clear()
