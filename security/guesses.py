"""Wrong keys and passwords: what is raised and told of each, and the lock against those who try many."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from addresses import caller_of
from errors import LockedOut, Unauthorized
from lru_cache import EvictingCounts, LRUCache
from security.api_keys import prefix_of

# So many wrong ones in so many seconds, and the next is not looked at.
MOST_GUESSES, WINDOW_SECONDS = 10, 60.0
# Of each kind. Who has more addresses than this makes the oldest of their locks go, and nobody else's count grow.
MOST_NAMES = 10_000
# From where a name signed in within so long, it is not held by the lock that strangers can put on it; so many addresses
# for each name, so that nobody can sign in often enough to have those of another forgotten.
LATELY_SECONDS, MOST_HOMES = 30 * 86_400.0, 8
# Only what might be a key is a guess: neither noise nor a forged token comes any nearer to a right one.
_GUESS = re.compile(r"llm_[A-Za-z0-9]+_[A-Za-z0-9_-]+")

KINDS = ("address", "prefix", "name", "told")
_WAIT = "Wait as long as Retry-After says, then try again."
SENTENCES = {
    "address": LockedOut.sentence,
    "prefix": f"There were too many wrong keys that begin as this one does. {_WAIT}",
    "name": f"There were too many wrong passwords for this name. {_WAIT} An API key is not held up by this.",
}

# Event, severity, details: a line of the audit log.
Audit = Callable[[str, str, dict[str, Any]], None]


def unheard(_event: str, _severity: str, _details: dict[str, Any]) -> None:
    """An audit that nobody keeps."""


class Guesses:
    """Counted by address, by key prefix and by the name that signs in."""

    def __init__(self, audit: Audit = unheard, timer: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        # A store each: a flood of addresses or prefixes must not end the lock of a name.
        self._counts = {kind: EvictingCounts(MOST_NAMES, timer=timer) for kind in KINDS}
        self._homes = LRUCache(MOST_NAMES, LATELY_SECONDS, timer=timer)

    def check(self, address: str, name: str = "") -> None:
        """Raises LockedOut."""
        caller = caller_of(address)
        self._stop_at("address", caller)
        if name and caller not in self._homes_of(name):
            self._stop_at("name", name)

    def signed_in(self, name: str, address: str) -> None:
        """Remember from where: ten wrong passwords from elsewhere must not keep the name out there."""
        caller = caller_of(address)
        others = [each for each in self._homes_of(name) if each != caller]
        self._homes.put(name, (caller, *others[: MOST_HOMES - 1]))

    def refusal(
        self, reason: str, address: str, credential: str = "", *, name: str = "", counts: bool = True
    ) -> Unauthorized | LockedOut:
        """What to raise for a credential that is not good. A right key is never asked whether its prefix is locked."""
        prefix, caller = prefix_of(credential), caller_of(address)
        try:
            self._stop_at("prefix", prefix)
        except LockedOut as locked:
            return locked
        self._audit("AUTH_FAILURE", "MEDIUM", {"reason": reason, "prefix": prefix, "from": address})
        if counts and (name or _GUESS.fullmatch(credential)):
            for kind, what in (("address", caller), ("prefix", prefix), ("name", name)):
                self._count(kind, what)
        return Unauthorized(reason)

    def _homes_of(self, name: str) -> tuple[str, ...]:
        homes: tuple[str, ...] | None = self._homes.get(name)
        return homes or ()

    def _count(self, kind: str, what: str) -> None:
        if not what:
            return
        count = self._counts[kind].increment_count(what, WINDOW_SECONDS)
        if count >= MOST_GUESSES and self._counts["told"].admit((kind, what), 1, WINDOW_SECONDS):
            self._audit("AUTH_LOCKOUT", "HIGH", {"locked": kind, "which": what})

    def _stop_at(self, kind: str, what: str) -> None:
        age, count = self._counts[kind].window(what, WINDOW_SECONDS)
        if count >= MOST_GUESSES:
            raise LockedOut(SENTENCES[kind], retry_after=WINDOW_SECONDS - age)
