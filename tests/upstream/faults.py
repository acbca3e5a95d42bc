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
# Every provider fails in these ways.
NAMES = frozenset(REFUSED + BROKEN + ANSWERED)
PROVIDERS = ("gemini", "openai", "anthropic")
# These stand beside the menu above, each with the providers that know it.
OWN = {
    "overloaded": ("anthropic",),  # 529
    "spend_limit": ("openai", "anthropic"),
    "no_credit": ("openai", "anthropic"),
    "no_temperature": ("openai", "anthropic"),
    "refusal": ("openai", "anthropic"),
    "stream_error": PROVIDERS,  # an error event inside a stream
    "stream_garbage": PROVIDERS,  # an event that nobody can read
    "stream_stops": PROVIDERS,  # a polite end that comes too early
    "half_close": PROVIDERS,  # the body ends early, though the connection stays
    "reset_body": PROVIDERS,
}
# What a plain call meets in place of a fault that only a stream can have.
PLAIN = {"stream_error": "unavailable", "stream_garbage": "garbage", "stream_stops": "cut_body"}
UNREADABLE = ("garbage", "html", "wrong_schema")
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
SECONDS = {"hang": 60.0, "slow": 2.0, "drip": 1.0, "half_close": 60.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call; `Fault("ok")` is a good answer.

    provider the only one that it meets; empty for all
    delay    what a 429 says about when to come back; empty leaves that out altogether
    text     what a good answer says, or the body of `garbage`, `wrong_schema` and `html`
    usage    the tokens billed and sent, in place of the counted ones
    seconds  bound of `hang` and `half_close`, latency of `slow`, time per byte of `drip`
    pause    seconds between two chunks of a stream
    after    chunks of a stream that come before it is cut or its error; half of them where None
    bite     bytes in each chunk of a good stream, wherever its events end; its lines end in CR LF then. 0: whole events
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
    provider: str = ""
    after: int | None = None
    bite: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES and self.name not in OWN:
            known = ", ".join(sorted({*NAMES, *OWN}))
            raise ValueError(f"Unknown fault {self.name!r}: choose one of {known}.")
        if self.provider and not self.meets(self.provider):
            raise ValueError(f"{self.provider!r} is not a provider that knows {self.name!r}.")

    def meets(self, provider: str) -> bool:
        """Whether a call of this provider can come upon it."""
        return provider in OWN.get(self.name, PROVIDERS) and self.provider in ("", provider)

    @property
    def wait(self) -> float:
        return SECONDS.get(self.name, 0.0) if self.seconds is None else self.seconds

    @classmethod
    def of(cls, given: str | Fault | Mapping[str, Any]) -> Fault:
        """A fault from a name, from provider:name, or from JSON with the fields of this class."""
        if isinstance(given, Fault):
            return given
        if isinstance(given, str):
            provider, _, name = given.rpartition(":")
            return cls(name, provider=provider)
        facts = dict(given)
        if facts.get("usage"):
            facts["usage"] = Tokens(**facts["usage"])
        facts["headers"] = tuple((name, value) for name, value in facts.get("headers", ()))
        return cls(**facts)


OK = Fault("ok")


class Choice:
    """Picks the fault of each call among those that its provider knows.

    The menu's pick depends on the seed, the call's number and its provider alone.
    """

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
        self._menus = {name: [fault for fault in self._menu if fault.meets(name)] for name in PROVIDERS}

    def script(self, faults: Iterable[str | Fault | Mapping[str, Any]]) -> None:
        with self._lock:
            self._script.extend([Fault.of(fault) for fault in faults])

    def pick(self, number: int, model: str, provider: str = "gemini") -> Fault:
        """A retired model answers 404 and leaves the script as it stands."""
        if model in self.retired:
            return Fault("not_found")
        return self._scripted(provider) or self._drawn(number, self._menus[provider])

    def _scripted(self, provider: str) -> Fault | None:
        """The first fault that this provider knows; those of other providers wait for theirs."""
        with self._lock:
            for place, fault in enumerate(self._script):
                if fault.meets(provider):
                    del self._script[place]
                    return fault
        return None

    def _drawn(self, number: int, menu: Sequence[Fault]) -> Fault:
        if not menu or self.rate <= 0:
            return OK
        digest = hashlib.blake2b(f"{self.seed}:{number}".encode(), digest_size=16).digest()
        if int.from_bytes(digest[:8], "big") >= self.rate * 2**64:
            return OK
        return menu[int.from_bytes(digest[8:], "big") % len(menu)]

    def reset(self) -> None:
        with self._lock:
            self._script.clear()
            self.retired.clear()
